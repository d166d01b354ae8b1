"""``exec``: run a program with a fresh access token in its environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import click

from zoho_keystore._access import fresh_record
from zoho_keystore._cli.output import escape
from zoho_keystore._cli.settings import Settings, complete_ids, pass_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zoho_keystore._records import TokenRecord

#: As a shell reports them.
NOT_EXECUTABLE, NOT_FOUND = 126, 127

_OURS = re.compile(r"ZOHO_(KEYSTORE_.*|CLIENT_SECRET|REFRESH_TOKEN|GRANT_TOKEN)")


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("id", shell_complete=complete_ids)
@click.argument("arguments", metavar="-- CMD...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "--min-life", metavar="S", type=click.FloatRange(0), default=600.0, help="The token's life at least. Default: 600."
)
@pass_settings
def command(settings: Settings, id: str, arguments: tuple[str, ...], min_life: float) -> None:
    """Run a program with a fresh access token.

    It gets ZOHO_ACCESS_TOKEN, ZOHO_API_DOMAIN and ZOHO_TOKEN_EXPIRES_AT (seconds since the epoch), and none of the
    store's keys. The exit code is the program's; 127 if it is not found, 126 if it cannot be run.
    """
    arguments = arguments[1:] if arguments[:1] == ("--",) else arguments
    if not arguments:
        raise click.UsageError("Give a program after the id.")
    with_keys = settings.open_writable()
    record = fresh_record(with_keys, id, min_life_s=min_life)
    with_keys.close()
    environment = _environment(record, os.environ, settings.key)
    program = shutil.which(arguments[0])
    if program is None:
        is_there = os.path.lexists(arguments[0])
        _fail(arguments[0], "cannot be run" if is_there else "is not found", NOT_EXECUTABLE if is_there else NOT_FOUND)
    sys.stdout.flush()
    try:
        if os.name == "nt":
            # execve on Windows starts another process and lets the shell go on before that one ends.
            raise SystemExit(subprocess.call([program, *arguments[1:]], env=environment))  # noqa: S603 - the user's
        os.execve(program, arguments, environment)  # noqa: S606 - the user's program, without a shell
    except OSError as error:
        _fail(arguments[0], f"cannot be run: {(error.strerror or 'unknown').lower()}", NOT_EXECUTABLE)


def _environment(record: TokenRecord, base: Mapping[str, str], key: str | None) -> dict[str, str]:
    secret_names = {key.removeprefix("env:")} if key is not None and key.startswith("env:") else set()
    kept = {name: value for name, value in base.items() if not _OURS.fullmatch(name) and name not in secret_names}
    # A client secret under any name is no business of the program either.
    kept = {name: value for name, value in kept.items() if not record.client_secret or value != record.client_secret}
    kept["ZOHO_ACCESS_TOKEN"] = record.access_token or ""
    kept["ZOHO_API_DOMAIN"] = record.api_domain or ""
    kept["ZOHO_TOKEN_EXPIRES_AT"] = str((record.expires_at_ms or 0) // 1_000)
    return kept


def _fail(program: str, problem: str, code: int) -> None:
    click.echo(f"zoho-keystore: {escape(program)} {problem}", err=True)
    raise click.exceptions.Exit(code)

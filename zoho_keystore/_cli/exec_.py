"""``exec``: run a program with a fresh access token in its environment."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, NoReturn

import click

from zoho_keystore import _platform as platform
from zoho_keystore._access import MAX_MIN_LIFE_S, fresh_record
from zoho_keystore._cli.output import escape
from zoho_keystore._cli.settings import Settings, complete_ids, pass_settings
from zoho_keystore._keys.spec import RING_VARIABLE, split_spec
from zoho_keystore._open import address_of
from zoho_keystore._sql.password import DRIVERS_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from zoho_keystore._records import TokenRecord
    from zoho_keystore._sql.address import SQLAddress

#: As a shell reports them.
NOT_EXECUTABLE, NOT_FOUND = 126, 127

_SECRET_NAMES = re.compile(r"ZOHO_(KEYSTORE_.*|CLIENT_SECRET|REFRESH_TOKEN|GRANT_TOKEN)")

#: Windows has no call that replaces a process: its execve starts another one and ends this one at once.
_REPLACES_PROCESS = os.name != "nt"


class _Exec(click.Command):
    """The command, with a hint where an option of the program is taken for one of its own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments."""
        separated = "--" in args
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if separated:
                raise
            raise click.UsageError(
                f"{error.format_message()} Put -- before the program: zoho-keystore exec ID -- CMD...", ctx
            ) from None


@click.command("exec", cls=_Exec)
@click.argument("id", shell_complete=complete_ids)
@click.argument("arguments", metavar="-- CMD...", nargs=-1, required=True)
@click.option(
    "--min-life",
    metavar="S",
    type=click.FloatRange(0, MAX_MIN_LIFE_S),
    default=600.0,
    help="For how many seconds the token lives at least: up to 3000. Default: 600.",
)
@pass_settings
def command(settings: Settings, id: str, arguments: tuple[str, ...], min_life: float) -> None:
    """Run a program with a fresh access token.

    It gets ZOHO_ACCESS_TOKEN, ZOHO_API_DOMAIN and ZOHO_TOKEN_EXPIRES_AT (seconds since the epoch). The variables of
    this program, client secrets, refresh tokens and the password of the store's database (PGPASSWORD, MYSQL_PWD) are
    removed from its environment. The exit code is the program's; 127 if it is not found, 126 if it cannot be run.
    """
    keystore = settings.open()
    record = fresh_record(keystore, id, min_life_s=min_life)
    environment = _environment(record, keystore.records(), os.environ, settings.key, address_of(settings.store))
    keystore.close()
    program = shutil.which(arguments[0])
    if program is None:
        is_there = os.sep in arguments[0] and os.path.exists(arguments[0])
        _fail(arguments[0], "cannot be run" if is_there else "is not found", NOT_EXECUTABLE if is_there else NOT_FOUND)
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        _run(program, arguments, environment)
    except OSError as error:
        _fail(arguments[0], f"cannot be run: {(error.strerror or 'unknown').lower()}", NOT_EXECUTABLE)


def _run(program: str, arguments: tuple[str, ...], environment: Mapping[str, str]) -> NoReturn:
    if not _REPLACES_PROCESS:
        raise click.exceptions.Exit(subprocess.call([program, *arguments[1:]], env=environment))  # noqa: S603 - the user's
    # Python ignores these, and a program inherits that: "yes | head" in it would not end.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.execve(program, arguments, environment)  # noqa: S606 - the user's program, without a shell


def _environment(
    record: TokenRecord,
    records: Iterable[TokenRecord],
    base: Mapping[str, str],
    key: str | None,
    address: SQLAddress | None = None,
) -> dict[str, str]:
    scheme, rest = split_spec(base.get(RING_VARIABLE, "") if key is None else key)
    key_name = platform.variable_name(rest) if scheme == "env" else None
    # The program may have a database of its own, so only for the one of the store.
    driver_name = None if address is None else DRIVERS_VARIABLES.get(address.dialect)
    # A script may have them under any name.
    secrets = {value for one in records for value in (one.client_secret, one.refresh_token) if value}
    kept = {
        name: value
        for name, value in base.items()
        if not _SECRET_NAMES.fullmatch(name) and name not in (key_name, driver_name) and value.strip() not in secrets
    }
    domain, expires_at_ms = record.api_domain or "", record.expires_at_ms
    return {
        **kept,
        "ZOHO_ACCESS_TOKEN": record.access_token or "",
        # A reply or another store may have brought anything; no variable can hold a NUL.
        "ZOHO_API_DOMAIN": domain if domain.isprintable() else "",
        "ZOHO_TOKEN_EXPIRES_AT": "" if expires_at_ms is None else str(expires_at_ms // 1_000),
    }


def _fail(program: str, problem: str, code: int) -> NoReturn:
    click.echo(f"zoho-keystore: {escape(program)} {problem}", err=True)
    raise click.exceptions.Exit(code)

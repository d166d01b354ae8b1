"""What the commands share: the store that they were given, how things are put in words, and questions."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import click
from rich.console import Console
from rich.table import Table

from zoho_keystore._leases import Lease
from zoho_keystore._open import open_keystore, store_path
from zoho_keystore._records import CREDENTIAL_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from zoho_keystore._keystore import Keystore
    from zoho_keystore._records import TokenRecord

SECRETS = ("client_secret", "refresh_token", "access_token", "grant_token")

#: So many of a secret's characters are shown, and at most the fourth part of it.
_SHOWN_CHARACTERS = 8

_MINUTE_MS, _HOUR_MS, _DAY_MS = 60_000, 3_600_000, 86_400_000

#: The exit code of a question that was answered with no.
NOT_CONFIRMED = 11


class Settings(NamedTuple):
    """What was given before the command.

    Attributes:
        store: The store's path, or None.
        key: The spec of its keys, or None.
    """

    store: str | None
    key: str | None

    @property
    def path(self) -> Path:
        """The store's file."""
        return store_path(self.store)

    def open(self) -> Keystore:
        """Open the store, which has to be there."""
        return open_keystore(self.store, key=self.key, create=False)


pass_settings = click.make_pass_decorator(Settings)


def console() -> Console:
    """Return where results are printed: plain text of any width where it is no terminal."""
    out = Console(file=sys.stdout, highlight=False, emoji=False, markup=False, soft_wrap=True)
    if not out.is_terminal:
        out.width = 10_000
    return out


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a table; without lines where it is no terminal, so that other programs can cut it up."""
    out = console()
    table = Table(box=None if not out.is_terminal else _lines(), pad_edge=out.is_terminal, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # Control characters in a name would steer the terminal.
        table.add_row(*(printable(cell) for cell in row))
    out.print(table)


def _lines() -> Any:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - only terminals need it

    return SIMPLE_HEAD


def printable(text: str) -> str:
    """Return a text without characters that steer a terminal."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def echo_escaped(text: str, *, err: bool = False) -> None:
    """Print lines in which names from elsewhere may stand: ids, paths, users."""
    click.echo("\n".join(map(printable, text.split("\n"))), err=err)


def print_json(content: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(content, indent=2))


def now_ms() -> int:
    """Return the time, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def tokens(number: int) -> str:
    """Return a number of tokens in words."""
    return "1 token" if number == 1 else f"{number:,} tokens"


def masked(secret: str | None) -> str:
    """Return a secret's first characters and its length."""
    if not secret:
        return "-"
    return f"{_start(secret)}… ({len(secret)})"


def _start(secret: str) -> str:
    return secret[: min(_SHOWN_CHARACTERS, len(secret) // 4)]


def expiry_in_words(record: TokenRecord, now: int) -> str:
    """Return when an access token expires, as people say it."""
    if record.expires_at_ms is None:
        return "unknown" if record.access_token else "-"
    left_ms = record.expires_at_ms - now
    words = _length_in_words(abs(left_ms))
    return f"in {words}" if left_ms > 0 else f"expired {words} ago"


def _length_in_words(length_ms: int) -> str:
    for unit_ms, unit, most in ((1000, "s", 60), (_MINUTE_MS, "min", 60), (_HOUR_MS, "h", 48)):
        if (number := round(length_ms / unit_ms)) < most:
            return f"{number} {unit}"
    return f"{round(length_ms / _DAY_MS)} days"


def lease_in_words(record: TokenRecord, now: int) -> str:
    """Return who refreshes a token just now."""
    lease = Lease.of(record)
    if lease is None or lease.deadline_ms <= now:
        return "-"
    return f"process {lease.owner.pid} on {lease.owner.host}"


def as_json(record: TokenRecord, *, reveal: bool = False) -> dict[str, Any]:
    """Return a token in the documented shape; secrets as their start and length, and whole where that is wanted."""
    lease = Lease.of(record)
    shape: dict[str, Any] = {"id": record.id}
    for name in CREDENTIAL_FIELDS:
        value = getattr(record, name)
        if name in SECRETS and value:
            shape[name] = {"start": _start(value), "length": len(value), **({"value": value} if reveal else {})}
        else:
            shape[name] = value or None
    shape["expires_at"] = None if record.expires_at_ms is None else _as_date(record.expires_at_ms)
    shape["created_at"] = _as_date(record.created_at)
    shape["saved_at"] = _as_date(record.saved_at)
    shape["refresh"] = (
        None
        if lease is None
        else {"host": lease.owner.host, "pid": lease.owner.pid, "until": _as_date(lease.deadline_ms)}
    )
    return shape


def _as_date(ms: int) -> str | None:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return None


def confirm(question: str, *, yes: bool) -> None:
    """Ask, and end the program if the answer is no; without a terminal there is nobody to ask."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("There is no terminal to ask on. Give --yes if you mean it.")
    if not click.confirm(question, err=True):
        click.echo("Nothing was changed.", err=True)
        raise click.exceptions.Exit(NOT_CONFIRMED)


def fail_as_usage(message: str) -> NoReturn:
    """End the program as one that was used wrongly."""
    raise click.UsageError(message)


def complete_ids(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the ids that start as what was typed so far; none when the store does not open."""
    root = ctx.find_root()
    try:
        keystore = open_keystore(root.params.get("store"), key=root.params.get("key"), create=False)
        # The shell gets one a line, and shows it as it is.
        return [id for record in keystore.records() if (id := record.id).startswith(incomplete) and id.isprintable()]
    except Exception:  # noqa: BLE001 - a completion must not print anything into the line that is being typed
        return []

"""Output of the commands: escaped text, tables, JSON; and token records in readable form, with their secrets masked."""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from zoho_keystore._access import is_denied, is_refreshable, is_usable
from zoho_keystore._leases import Lease
from zoho_keystore._oauth.data_centres import by_accounts_url, by_api_url
from zoho_keystore._records import CREDENTIAL_FIELDS, SIGN_IN_FIELDS
from zoho_keystore._storage.file import CREATED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from zoho_keystore._records import TokenRecord

SECRETS = ("client_secret", "refresh_token", "access_token", "grant_token")

#: A mask shows at most this many characters of a secret, and at most a quarter of it.
_SHOWN_CHARACTERS = 8

#: Times that a record may lack.
TIME_FIELDS = ("signed_in_at", "issued_at", "refused_at", "denied_until")

_ID_CHARACTERS = 13

_DURATION_UNITS = ((1000, "s", 60), (60_000, "min", 60), (3_600_000, "h", 48))
_DAY_MS = 86_400_000


def escape(text: str) -> str:
    """Return a text with its control characters escaped, so that a name from elsewhere cannot steer the terminal."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def echo_escaped(text: str, *, err: bool = False) -> None:
    """Print a line, with control characters escaped: a name with a line break must not forge another line."""
    click.echo(escape(text), err=err)


class WarningHandler(logging.Handler):
    """Print the package's warnings as lines on stderr."""

    @classmethod
    def installed(cls) -> Callable[[], None]:
        """Install a handler, and return the function that removes it."""
        handler, logger = cls(logging.WARNING), logging.getLogger("zoho_keystore")
        logger.addHandler(handler)
        return lambda: logger.removeHandler(handler)

    def emit(self, record: logging.LogRecord) -> None:
        """Print a warning, unless the command says it itself."""
        if record.msg != CREATED:
            echo_escaped(f"zoho-keystore: warning: {record.getMessage()}", err=True)


def print_json(content: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(content, indent=2))


def console() -> Console:
    """Return the console for results; on a pipe it prints plain text and never wraps lines."""
    out = Console(file=sys.stdout, highlight=False, emoji=False, markup=False, soft_wrap=True)
    if not out.is_terminal:
        out.width = 10_000
    return out


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a table; on a pipe without rules and padding, so that awk and cut can split it."""
    out = console()
    table = Table(box=SIMPLE_HEAD if out.is_terminal else None, pad_edge=out.is_terminal, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    out.print(table)


def current_time_ms() -> int:
    """Return the time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def mask(secret: str | None) -> str:
    """Return the first characters and the length of a secret."""
    return f"{_start(secret)}… ({len(secret)})" if secret else "-"


def _start(secret: str) -> str:
    return secret[: min(_SHOWN_CHARACTERS, len(secret) // 4)]


def format_expiry(record: TokenRecord, now_ms: int) -> str:
    """Return when an access token expires: "in 42 min", "expired 3 h ago"."""
    if record.expires_at_ms is None:
        return "unknown" if record.access_token else "-"
    left_ms = record.expires_at_ms - now_ms
    duration = _format_duration(abs(left_ms))
    return f"in {duration}" if left_ms > 0 else f"expired {duration} ago"


def _format_duration(duration_ms: int) -> str:
    for unit_ms, unit, limit in _DURATION_UNITS:
        if (number := round(duration_ms / unit_ms)) < limit:
            return f"{number} {unit}"
    return f"{round(duration_ms / _DAY_MS)} days"


def format_status(record: TokenRecord, now_ms: int) -> str:
    """Return what becomes of a token at its next use: "valid for 42 min", "renews on use", "sign in again"."""
    expires_at_ms = record.expires_at_ms
    if is_usable(record, now_ms):
        return "valid" if expires_at_ms is None else f"valid for {_format_duration(expires_at_ms - now_ms)}"
    if record.refused_at or not is_refreshable(record):
        return "sign in again"
    if is_denied(record, now_ms):
        return time.strftime("throttled until %H:%M", time.localtime(record.denied_until / 1_000))
    return "renews on use"


def format_data_centre(record: TokenRecord) -> str:
    """Return where a token is from, as "eu"; outside of Zoho's table the server's name."""
    url = record.api_domain or record.accounts_url or ""
    centre = by_api_url(url) or by_accounts_url(url)
    return url.partition("://")[2] or url or "-" if centre is None else centre.location


def shortened(text: str | None) -> str:
    """Return the first characters of a long text, such as a client id."""
    if not text:
        return "-"
    return text if len(text) <= _ID_CHARACTERS else f"{text[: _ID_CHARACTERS - 1]}…"


def format_lease(record: TokenRecord, now_ms: int) -> str:
    """Return the process that refreshes a token at the moment."""
    lease = Lease.of(record.refresh)
    if lease is None or lease.owner is None or lease.deadline_ms <= now_ms:
        return "-"
    return f"process {lease.owner.pid} on {lease.owner.host}"


def record_as_json(record: TokenRecord, *, reveal: bool = False) -> dict[str, Any]:
    """Return a record in the documented JSON shape; secrets as their start and length, and with reveal in full."""
    lease = Lease.of(record.refresh)
    shape: dict[str, Any] = {"id": record.id}
    for name in CREDENTIAL_FIELDS:
        value = getattr(record, name)
        if name in SECRETS and value:
            shape[name] = {"start": _start(value), "length": len(value), **({"value": value} if reveal else {})}
        else:
            shape[name] = value or None
    shape |= {name: getattr(record, name) for name in SIGN_IN_FIELDS}
    shape["expires_at"] = iso_time(record.expires_at_ms)
    shape["created_at"] = iso_time(record.created_at)
    shape["saved_at"] = iso_time(record.saved_at)
    shape |= {name: iso_time(getattr(record, name) or None) for name in TIME_FIELDS}
    shape["refresh"] = (
        None
        if lease is None or lease.owner is None
        else {"host": lease.owner.host, "pid": lease.owner.pid, "until": iso_time(lease.deadline_ms)}
    )
    return shape


def iso_time(ms: int | None) -> str | None:
    """Return a time in UTC; None for none, and for one that is too far away."""
    if ms is None:
        return None
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return None

"""Conversion of table rows to records, shared by all importers. No error quotes a value, which may be a secret."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoho_keystore._records import CREDENTIAL_FIELDS, MAX_ID_CHARACTERS, TokenRecord
from zoho_keystore._text import plural

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: The fields of a record, in the column order of the SDK's stores.
FIELDS = ("id", *CREDENTIAL_FIELDS)

#: The column names in a table of the SDK's DBStore; older releases lack the last one.
COLUMNS = tuple("expiry_time" if name == "expires_in" else name for name in FIELDS)
_REQUIRED_COLUMNS = COLUMNS[:-1]


class UnreadableError(Exception):
    """A source cannot be read; the caller adds the name of the source.

    Attributes:
        problem: What failed.
        advice: What to do next.
    """

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(problem, advice)
        self.problem = problem
        self.advice = advice


def from_table(table: str, names: Iterable[str], rows: Iterable[Sequence[object]]) -> list[TokenRecord]:
    """Convert the rows of a database table; its columns may be in any order, and it may have additional ones.

    Raises:
        UnreadableError: A column is missing, or a row is not a token.
    """
    positions = {name.lower(): position for position, name in enumerate(names)}
    missing = [name for name in _REQUIRED_COLUMNS if name not in positions]
    if missing:
        raise UnreadableError(
            f"the table {table} lacks the {plural(len(missing), 'column')} {', '.join(missing)}",
            f"A table of the SDK's DBStore has: {', '.join(COLUMNS)}",
        )
    order = [positions[name] for name in COLUMNS if name in positions]
    return to_records((f"row {number}", [row[position] for position in order]) for number, row in enumerate(rows, 1))


def to_records(rows: Iterable[tuple[str, Sequence[object]]]) -> list[TokenRecord]:
    """Convert rows to records.

    Args:
        rows: For each row its name in messages, and its values in the order of FIELDS; the last one may be missing.

    Raises:
        UnreadableError: A row is not a token, or repeats an id.
    """
    records = []
    names: dict[str, str] = {}
    for name, values in rows:
        record = _record(name, values)
        if record.id in names:
            raise UnreadableError(
                f"{name} has the same id as {names[record.id]}", "Give one of them another id, or remove it"
            )
        names[record.id] = name
        records.append(record)
    return records


def _record(row: str, values: Sequence[object]) -> TokenRecord:
    fields: dict[str, Any] = {name: _text(row, name, value) for name, value in zip(FIELDS, values, strict=False)}
    id = fields.pop("id")
    if not id:
        raise UnreadableError(f"{row} has no id", "Give it an id that no other token has, or remove it")
    if len(id) > MAX_ID_CHARACTERS:
        raise UnreadableError(
            f"the id of {row} has {len(id)} characters", f"An id has at most {MAX_ID_CHARACTERS} characters"
        )
    record = TokenRecord(id=id, **fields)
    if record.expires_in is not None and record.expires_at_ms is None:
        raise UnreadableError(
            f"the expiry of {row} is not a whole number",
            "Make it the time in milliseconds since the epoch, or leave it empty",
        )
    return record


def _text(row: str, name: str, value: object) -> str | None:
    if isinstance(value, int):
        return str(value)
    if isinstance(value, bytes | bytearray):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            raise UnreadableError(f"{name} of {row} is not UTF-8 text", "The source may be damaged") from None
    if value is not None and not isinstance(value, str):
        raise UnreadableError(
            f"{name} of {row} is neither text nor a whole number", "Change the column's type to a text type"
        )
    return value or None

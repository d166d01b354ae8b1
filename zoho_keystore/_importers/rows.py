"""What all sources share: rows of values, each in the order of a record's fields, become records or an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoho_keystore._records import CREDENTIAL_FIELDS, MAX_ID_CHARACTERS, TokenRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: The fields of a record in the order in which the SDK's stores have them.
FIELDS = ("id", *CREDENTIAL_FIELDS)

#: What those fields are called in a table of the SDK's DBStore; the last is missing in tables of older releases.
COLUMNS = tuple("expiry_time" if name == "expires_in" else name for name in FIELDS)
_NEEDED_COLUMNS = COLUMNS[:-1]


class UnreadableError(Exception):
    """Says what is wrong with a source and what to do, without a value of it: any of them may be a secret."""

    def __init__(self, problem: str, advice: str) -> None:
        """Take both, for an error of the package that also names the source."""
        super().__init__(problem, advice)
        self.problem = problem
        self.advice = advice


def from_table(table: str, names: Iterable[str], rows: Iterable[Sequence[object]]) -> list[TokenRecord]:
    """Return the records of a database's table, whose columns may be in any order and may be more than ours.

    Raises:
        UnreadableError: A column is missing, or a row is no token.
    """
    places = {name.lower(): place for place, name in enumerate(names)}
    missing = [name for name in _NEEDED_COLUMNS if name not in places]
    if missing:
        raise UnreadableError(
            f"the table {table} lacks {_listed(missing)}", f"A table of the SDK's DBStore has: {', '.join(COLUMNS)}"
        )
    order = [places[name] for name in COLUMNS if name in places]
    return to_records((f"row {number}", [row[place] for place in order]) for number, row in enumerate(rows, 1))


def to_records(rows: Iterable[tuple[str, Sequence[object]]]) -> list[TokenRecord]:
    """Return the records that rows stand for.

    Args:
        rows: Of each what a message calls it, and its values in the order of FIELDS, of which the last may be missing.

    Raises:
        UnreadableError: A row is no token, or has the id of another one.
    """
    records = []
    places: dict[str, str] = {}
    for place, values in rows:
        record = _record(place, values)
        if record.id in places:
            raise UnreadableError(
                f"{place} has the same id as {places[record.id]}", "Give one of them another id, or remove it"
            )
        places[record.id] = place
        records.append(record)
    return records


def _record(place: str, values: Sequence[object]) -> TokenRecord:
    fields: dict[str, Any] = {name: _text(place, name, value) for name, value in zip(FIELDS, values, strict=False)}
    id = fields.pop("id")
    if not id:
        raise UnreadableError(f"{place} has no id", "Give it an id that no other token has, or remove it")
    if len(id) > MAX_ID_CHARACTERS:
        raise UnreadableError(f"the id of {place} has {len(id)} characters", f"An id may have {MAX_ID_CHARACTERS}")
    record = TokenRecord(id=id, **fields)
    if record.expires_in is not None and record.expires_at_ms is None:
        raise UnreadableError(
            f"the expiry of {place} is not a whole number",
            "It is the time in milliseconds since the epoch; empty is right as well",
        )
    return record


def _text(place: str, name: str, value: object) -> str | None:
    if isinstance(value, int):
        return str(value)
    if isinstance(value, bytes | bytearray):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            raise UnreadableError(f"{name} of {place} is not UTF-8 text", "The source may be damaged") from None
    if value is not None and not isinstance(value, str):
        raise UnreadableError(f"{name} of {place} is neither text nor a whole number", "Make the column one of text")
    return value or None


def _listed(names: Sequence[str]) -> str:
    return f"the column{'s' if len(names) > 1 else ''} {', '.join(names)}"

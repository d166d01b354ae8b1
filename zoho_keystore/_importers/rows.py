"""Conversion of table rows to records, shared by all importers. No error quotes a value, which may be a secret."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from zoho_keystore._records import CREDENTIAL_FIELDS, MAX_ID_CHARACTERS, TokenRecord
from zoho_keystore._text import plural

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: The fields of a record, in the column order of the SDK's stores.
FIELDS = ("id", *CREDENTIAL_FIELDS)

#: The column names in a table of the SDK's DBStore; older releases lack the last one.
COLUMNS = tuple("expiry_time" if name == "expires_in" else name for name in FIELDS)
_REQUIRED_FIELDS = FIELDS[:-1]

#: For a database without a table of the SDK's.
ADVICE_ON_ENCRYPTED_STORE: Final = "for an encrypted store, copy it into a file with the command copy, and import that"

#: Other names of columns in Zoho's SDKs for all languages.
_FIELD_OF_COLUMN = {"user_mail": "user_name", "expiry_time": "expires_in", "redirect_uri": "redirect_url"}


class UnreadableError(Exception):
    """A source, or a row of it, cannot be read; the caller adds the name of the source.

    Attributes:
        problem: What failed.
        advice: What to do next.
    """

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(problem, advice)
        self.problem = problem
        self.advice = advice


class Row(NamedTuple):
    """A row of a source.

    Attributes:
        name: What messages call it: "line 3".
        values: The values by field; fields that the source lacks are left out.
    """

    name: str
    values: Mapping[str, object]

    def __repr__(self) -> str:
        """Leave out the values, which hold tokens."""
        return f"<Row {self.name}>"


class Rows(NamedTuple):
    """What was read from a source.

    Attributes:
        records: The tokens, in the order of the source.
        skipped: The problems of the rows that could not be read.
    """

    records: list[TokenRecord]
    skipped: list[str]

    def __repr__(self) -> str:
        """Leave out the records."""
        return f"<{len(self.records)} records, {len(self.skipped)} skipped>"


def columns(names: Iterable[str]) -> dict[str, str]:
    """Return the column of each field, as the source spells it; columns that mean no field are left out."""
    found: dict[str, str] = {}
    for name in names:
        plain = name.strip().lower()
        field = _FIELD_OF_COLUMN.get(plain, plain)
        # Where a table has both user_name and user_mail, the newer release writes user_name.
        if field in FIELDS and (field not in found or plain == field):
            found[field] = name
    return found


def require_columns(source: str, found: Mapping[str, str]) -> None:
    """Refuse a source that lacks a column.

    Args:
        source: What messages call it.
        found: The columns by field.

    Raises:
        UnreadableError: A column is missing.
    """
    missing = [COLUMNS[FIELDS.index(field)] for field in _REQUIRED_FIELDS if field not in found]
    if missing:
        raise UnreadableError(
            f"{source} lacks the {plural(len(missing), 'column')} {', '.join(missing)}",
            f"The SDK from its release 2.1 on has: {', '.join(COLUMNS)}",
        )


def to_records(rows: Iterable[Row], found: Mapping[str, str], skipped: Sequence[UnreadableError] = ()) -> Rows:
    """Convert rows to records; what cannot be read is named.

    Args:
        rows: The rows.
        found: The columns by field, as the source spells them.
        skipped: Problems of rows that could not even be split into fields.

    Raises:
        UnreadableError: There are rows, and none can be read.
    """
    records = []
    problems = []
    for row in rows:
        try:
            records.append(_record(row, found))
        except UnreadableError as problem:
            problems.append(problem)
    problems += skipped
    if problems and not records:
        raise UnreadableError(problems[0].problem, problems[0].advice)
    return Rows(records, [problem.problem for problem in problems])


def _record(row: Row, found: Mapping[str, str]) -> TokenRecord:
    fields: dict[str, Any] = {field: _text(row, found, field) for field in row.values}
    id = fields.pop("id", None) or ""
    if len(id) > MAX_ID_CHARACTERS:
        raise UnreadableError(
            f"the id of {row.name} has {len(id)} characters", f"An id has at most {MAX_ID_CHARACTERS} characters"
        )
    record = TokenRecord(id=id, **fields)
    if record.expires_in is not None and record.expires_at_ms is None:
        raise UnreadableError(
            f"{found.get('expires_in', 'expiry_time')} of {row.name} is not a whole number",
            "Make it the time in milliseconds since the epoch, or leave it empty",
        )
    return record


def _text(row: Row, found: Mapping[str, str], field: str) -> str | None:
    value = row.values[field]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, bytes | bytearray):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            raise UnreadableError(
                f"{found.get(field, field)} of {row.name} is not UTF-8 text", "The source may be damaged"
            ) from None
    if value is not None and not isinstance(value, str):
        raise UnreadableError(
            f"{found.get(field, field)} of {row.name} is neither text nor a whole number",
            "Change the column's type to a text type",
        )
    return value or None

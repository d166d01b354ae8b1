"""The CSV file of the SDK's FileStore: read as the SDK reads it, and written as the SDK writes it."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from zoho_keystore._importers.rows import COLUMNS, FIELDS, UnreadableError, to_records
from zoho_keystore.errors import InvalidTokenError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from zoho_keystore._records import TokenRecord

#: The first line; files of older releases lack the last column.
HEADING = tuple("redirect_uri" if name == "redirect_url" else name for name in COLUMNS)
_HEADINGS = (HEADING, HEADING[:-1])

_RESTORE = "Check the path; restore a damaged file from a backup, or take the line out"


def parse(content: bytes) -> list[TokenRecord]:
    """Return the records of a file.

    Line ends of all kinds mean the same, inside of values too, since that is how the SDK reads its file.

    Raises:
        UnreadableError: It is no such file, or a damaged one.
    """
    text = _decoded(content)
    rows = _rows(text)
    _, heading = next(rows, (0, None))
    if heading is None:
        raise UnreadableError("the file is empty", "Check the path: a FileStore file has a heading at least")
    if tuple(heading) not in _HEADINGS:
        raise UnreadableError(
            "this is neither a file of the SDK's FileStore nor a keystore nor an SQLite database",
            f"Check the path: line 1 of a FileStore file is {','.join(HEADING)}",
        )
    found = []
    for line, row in rows:
        if len(row) != len(heading):
            raise UnreadableError(f"line {line} has {len(row)} fields instead of {len(heading)}", _RESTORE)
        found.append((f"line {line}", row))
    # The SDK ends every line. What a killed or running save has cut off would be another server, or another secret.
    if found and found[-1][1][-1] and not text.endswith(("\n", "\r")):
        raise UnreadableError(
            f"{found[-1][0]}, the last one, has no line end, so it may have been cut off",
            "If it is whole, add a line end",
        )
    return to_records(found)


def export(records: Iterable[TokenRecord]) -> bytes:
    """Return the file that the SDK's FileStore would have written on Linux, had it these tokens.

    Raises:
        InvalidTokenError: A token has text that no UTF-8 file can hold.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(HEADING)
    for number, record in enumerate(records, 1):
        row = [getattr(record, name) for name in FIELDS]
        if not all(map(_is_writable, row)):
            del row
            raise InvalidTokenError(
                f"token {number} has half of a character, which a file cannot hold; nothing was exported",
                "Look at the token: it came to the store with it, and Zoho does not use such characters",
            )
        writer.writerow(row)
    return text.getvalue().encode("utf-8")


def _is_writable(value: str | None) -> bool:
    # Asked beforehand: the exception of a failing encode() would carry the whole text with it.
    return not any("\ud800" <= character <= "\udfff" for character in value or "")


def _decoded(content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UnreadableError(
            f"line {line} is not UTF-8 text: this is no file of the SDK's FileStore, or one in another encoding",
            "Check the path, or convert the file to UTF-8",
        ) from None
    place = text.find("\0")
    if place >= 0:
        line = text.count("\n", 0, place) + 1
        raise UnreadableError(
            f"line {line} has a NUL in it: this is no file of the SDK's FileStore, or a damaged one", _RESTORE
        )
    return text


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, each with the number of the line on which it begins.

    The SDK makes blank rows itself: one for each line that it ends with CR CR LF on Windows, which becomes one of a
    single empty field when it widens a file of nine columns.
    """
    reader = csv.reader(io.StringIO(text, newline=None), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error:
            raise UnreadableError(
                f"from line {line} on this is not CSV: a quote is missing, or a field is far too long", _RESTORE
            ) from None
        if row is None:
            return
        if len(row) > 1 or "".join(row).strip():
            yield line, row

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
HEADER = tuple("redirect_uri" if name == "redirect_url" else name for name in COLUMNS)
_HEADERS = (HEADER, HEADER[:-1])

_RESTORE = "Check the path; restore a damaged file from a backup, or remove the line"


def parse(content: bytes) -> list[TokenRecord]:
    """Return the records of a file.

    As in the SDK, all kinds of line ends are equal, inside of values too.

    Raises:
        UnreadableError: The file is damaged, or not a FileStore file.
    """
    text = _decode(content)
    rows = _rows(text)
    _, header = next(rows, (0, None))
    if header is None:
        raise UnreadableError("the file is empty", "Check the path: a FileStore file has at least a header")
    if tuple(header) not in _HEADERS:
        raise UnreadableError(
            "this is not a file of the SDK's FileStore, nor a keystore, nor an SQLite database",
            f"Check the path: line 1 of a FileStore file is {','.join(HEADER)}",
        )
    found = []
    for line, row in rows:
        if len(row) != len(header):
            raise UnreadableError(f"line {line} has {len(row)} fields instead of {len(header)}", _RESTORE)
        found.append((f"line {line}", row))
    # The SDK ends every line. A killed save may have cut the last value off: that would be a wrong server.
    if found and found[-1][1][-1] and not text.endswith(("\n", "\r")):
        raise UnreadableError(
            f"{found[-1][0]}, the last one, has no line end and may have been cut off",
            "If the line is complete, add a line end",
        )
    return to_records(found)


def export(records: Iterable[TokenRecord]) -> bytes:
    """Return the file that the SDK's FileStore would write on Linux for these tokens.

    Raises:
        InvalidTokenError: A field has a lone surrogate, which UTF-8 cannot encode.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(HEADER)
    for number, record in enumerate(records, 1):
        row = [getattr(record, name) for name in FIELDS]
        if any(map(_has_surrogate, row)):
            del row  # Secrets must not be in a frame of the traceback (see zoho_keystore.errors).
            raise InvalidTokenError(
                f"token {number} has a lone surrogate character, which UTF-8 cannot encode; nothing was exported",
                "Look at the token with: zoho-keystore list; Zoho does not use such characters",
            )
        writer.writerow(row)
    return text.getvalue().encode("utf-8")


def _has_surrogate(value: str | None) -> bool:
    # Checked before encode(): a UnicodeEncodeError would carry the whole text.
    return any("\ud800" <= character <= "\udfff" for character in value or "")


def _decode(content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UnreadableError(
            f"line {line} is not UTF-8 text: this is not a FileStore file, or it has another encoding",
            "Check the path, or convert the file to UTF-8",
        ) from None
    position = text.find("\0")
    if position >= 0:
        line = text.count("\n", 0, position) + 1
        raise UnreadableError(f"line {line} contains a NUL: this is not a FileStore file, or it is damaged", _RESTORE)
    return text


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, each with the number of its first line.

    The SDK writes blank rows itself: on Windows it ends lines with CR CR LF, and when it widens such a file of nine
    columns, it turns each blank line into a row of one empty field.
    """
    reader = csv.reader(io.StringIO(text, newline=None), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error:
            raise UnreadableError(
                f"from line {line} on this is not CSV: a quote is missing, or a field is too long", _RESTORE
            ) from None
        if row is None:
            return
        if len(row) > 1 or "".join(row).strip():
            yield line, row

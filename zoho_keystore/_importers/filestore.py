"""The CSV file of the SDK's FileStore: read by the meaning of its columns, and written as the SDK writes it.

Zoho's SDKs for other languages write such files too. Spreadsheets, and two FileStores that write at once, leave files
that are damaged while most of their rows are whole: those rows are read, and the others are named.
"""

from __future__ import annotations

import codecs
import csv
import io
from typing import TYPE_CHECKING

from zoho_keystore._importers.rows import (
    COLUMNS,
    FIELDS,
    Row,
    Rows,
    UnreadableError,
    columns,
    require_columns,
    to_records,
)
from zoho_keystore.errors import InvalidTokenError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from zoho_keystore._records import TokenRecord

#: The first line; files of older releases lack the last column.
HEADER = tuple("redirect_uri" if name == "redirect_url" else name for name in COLUMNS)

_DELIMITERS = ",;\t"
_EXPIRY_DIGITS = 13
_RESTORE = "Correct the line, or restore the file from a backup"


def parse(content: bytes) -> Rows:
    """Return the records of a file.

    As in the SDK, all kinds of line ends are equal, inside of values too.

    Raises:
        UnreadableError: It is not a FileStore file, or none of its rows can be read.
    """
    text = _decode(content)
    skipped: list[UnreadableError] = []
    rows = list(_rows(text, skipped))
    if not rows and not skipped:
        raise UnreadableError("the file is empty", "Check the path: a FileStore file has at least a header")
    header = rows[0][1] if rows else []
    if _is_whole(header):
        header = list(HEADER)  # A FileStore that lost a race, or was truncated, has no header: all order columns so.
    found = columns(header)
    if not {"refresh_token", "access_token"} <= found.keys():
        raise UnreadableError(
            "this is not a file of the SDK's FileStore, nor a keystore, nor an SQLite database",
            f"Check the path: line 1 of a FileStore file is {','.join(HEADER)}",
        )
    require_columns("the file", found)
    # The Python SDK ends every line. A killed save may have cut the last value off: that would be a wrong server.
    last = rows[-1][1]
    has_end = text.endswith(("\n", "\r")) or (len(last) == len(header) and not last[-1])
    if "redirect_uri" in header and last is not header and not has_end:
        skipped.append(
            UnreadableError(
                f"line {rows.pop()[0]}, the last one, has no line end and may have been cut off",
                "If the line is complete, add a line end",
            )
        )
    return to_records(_named_rows(rows, header, found, skipped), found, skipped)


def _named_rows(
    rows: Iterable[tuple[int, list[str]]],
    header: list[str],
    found: dict[str, str],
    skipped: list[UnreadableError],
) -> Iterator[Row]:
    positions = {field: header.index(name) for field, name in found.items()}
    in_order = sorted(positions, key=positions.__getitem__) == list(FIELDS[: len(header)])
    for line, row in rows:
        if columns(row).keys() >= found.keys():
            continue  # A header; the second one of a file that two FileStores wrote.
        width = len(header)
        while len(row) > width and not row[-1]:
            row.pop()  # Spreadsheets pad rows.
        if len(row) != width and in_order and _is_whole(row):
            yield Row(f"line {line}", dict(zip(FIELDS, row, strict=False)))  # Written by another release.
        elif len(row) != width:
            skipped.append(UnreadableError(f"line {line} has {len(row)} fields instead of {width}", _RESTORE))
        elif problem := _bad_text(row):
            skipped.append(UnreadableError(f"line {line} {problem}", _RESTORE))
        else:
            yield Row(f"line {line}", {field: row[position] for field, position in positions.items()})


def _is_whole(row: list[str]) -> bool:
    """Tell whether a row can only be one of the SDK for Python, of nine or ten fields."""
    if len(row) not in (len(HEADER), len(HEADER) - 1) or _bad_text(row):
        return False
    expiry, *addresses = row[7:]
    is_time = len(expiry) == _EXPIRY_DIGITS and expiry.isascii() and expiry.isdecimal()
    return is_time and all(not address or "://" in address for address in addresses)


def _bad_text(row: list[str]) -> str:
    if any("\0" in value for value in row):
        return "contains a NUL"
    return "is not UTF-8 text" if any(map(_has_surrogate, row)) else ""


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
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")  # "Unicode text" of a spreadsheet.
    # A line that is no UTF-8 is told by its surrogates.
    return content.decode("utf-8-sig", "surrogateescape")


def _rows(text: str, skipped: list[UnreadableError]) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, each with the number of its first line.

    The SDK writes blank rows itself: on Windows it ends lines with CR CR LF, and when it widens such a file of nine
    columns, it turns each blank line into a row of one empty field.
    """
    lines = io.StringIO(text, newline=None)
    first = next(filter(str.strip, lines), "")
    lines.seek(0)
    # A spreadsheet takes the delimiter of its user's language.
    reader = csv.reader(lines, delimiter=max(_DELIMITERS, key=first.count), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error:
            skipped.append(
                UnreadableError(
                    f"from line {line} on this is not CSV: a quote is missing, or a field is too long", _RESTORE
                )
            )
            return
        if row is None:
            return
        if "".join(row).strip():
            yield line, row

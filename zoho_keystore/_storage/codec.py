"""Records and bytes: the JSON document that a keystore file holds inside its seal.

Pure: nothing here reads a file or knows of encryption. The format is described in ARCHITECTURE and README; a golden
file of each version stays in the tests.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from zoho_keystore._records import MAX_COUNTER, TEXT_FIELDS, TokenRecord
from zoho_keystore.errors import DocumentError, NewerVersionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

FORMAT = "zoho-keystore"
VERSION = 1

#: The largest sealed file that is read or written, in bytes: some 400,000 tokens.
MAX_SEALED_BYTES = 256 * 1024 * 1024

_HEADER_FIELDS = {"format", "version", "store_id", "generation", "next_id", "tokens"}
#: How deep a field that this release does not know may be nested. Python's own limit depends on who calls.
_DEEPEST = 100

#: What stands before the first record, between two, and after the last, as :func:`encode` writes it. None of it is ever
#: inside of a text, where a quotation mark has a backslash before it.
_FIRST = ',"tokens":[{"id":"'
_NEXT = '},{"id":"'
_LAST = "}]}"
_NO_TOKENS = ',"tokens":[]}'
_ID_BEGINS = len('{"id":"')

#: From so many records on it takes less time to compare than to parse them.
_MANY = 10

_WHITE_SPACE = " \t\n\r"
_NOT_JSON = object()
_TOO_DEEP = object()
_TEXT_TYPES = {str, type(None)}
_LEASE_TYPES = {dict, type(None)}
_RESTORE = "It was left as it is: restore the store from a backup"
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class Header(NamedTuple):
    """What the document says besides the records.

    Attributes:
        store_id: Tells one store from another, for as long as it lives.
        generation: Counts the writes; it never falls, unless somebody puts an old file back.
        next_id: The number that the next new record gets as its id.
        unknown: Fields of the document that this release does not know, kept as they are.
    """

    store_id: str
    generation: int = 0
    next_id: int = 1
    unknown: Mapping[str, Any] = {}

    def __repr__(self) -> str:
        """Leave out what is unknown, which may be a secret."""
        return f"Header(store_id={self.store_id!r}, generation={self.generation}, next_id={self.next_id})"


def encode(header: Header, records: Iterable[TokenRecord], *, path: Path | None = None) -> bytes:
    """Return the document as UTF-8 JSON; the records keep their order.

    Args:
        header: What it says besides the records.
        records: The records.
        path: The file that it is for, for the message of an error.

    Raises:
        DocumentError: It could not be read again: a count is too great, or a field that this release does not know is
            nested too deeply.
    """
    if max(header.generation, header.next_id) >= MAX_COUNTER:
        raise DocumentError("its count of writes or of ids has come to its end", _RESTORE, path)
    parts = [
        f'"format":"{FORMAT}","version":{VERSION},"store_id":{_encode(header.store_id)}',
        f'"generation":{header.generation},"next_id":{header.next_id}',
    ]
    with suppress(RecursionError):
        if header.unknown:
            parts.append(_encode(dict(header.unknown))[1:-1])
        parts.append(f'"tokens":[{",".join([record.as_json for record in records])}]')
        return f"{{{','.join(parts)}}}".encode("ascii")
    raise DocumentError("a field of an unknown kind is nested too deeply to be written", _RESTORE, path)


def decode(
    data: bytes, known: Mapping[str, TokenRecord] | None = None, *, path: Path | None = None
) -> tuple[Header, dict[str, TokenRecord]]:
    """Return the header and the records by id, in their order.

    Args:
        data: The document, already known to come from a holder of the key.
        known: The records of another state by id. Those that have not changed are taken from there.
        path: The file that it came from, for the message of an error.

    Raises:
        NewerVersionError: The document is of a later version than this release writes.
        DocumentError: It is not a keystore document, or a malformed one.
    """
    # The errors are raised where no plain text is within reach of whoever prints the variables of a traceback.
    try:
        return (_decode_changes(data, known) if known and len(known) >= _MANY else None) or _decode(data)
    except _MalformedError as problem:
        error = DocumentError(f"the file opens with the key, but {problem}", _RESTORE, path)
    except _NewerError as version:
        error = NewerVersionError(
            f"the keystore has format version {version}, and this release knows versions up to {VERSION}",
            "It was left as it is: upgrade zoho_keystore",
            path,
        )
    del data, known
    raise error


class _MalformedError(Exception):
    """Says what is wrong, without a value of the document: any of them may be a secret."""


class _NewerError(Exception):
    """Says which version it is."""


def _decode(data: bytes) -> tuple[Header, dict[str, TokenRecord]]:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = ""  # Which is no JSON either.
    document = _parsed(text)
    header = _header(document)
    tokens = document.get("tokens")
    if type(tokens) is not list:
        msg = "its tokens are not a list"
        raise _MalformedError(msg)
    records = {record.id: record for record in _records(tokens)}
    if len(records) != len(tokens):
        msg = "two of its tokens have the same id"
        raise _MalformedError(msg)
    return header, records


def _decode_changes(data: bytes, known: Mapping[str, TokenRecord]) -> tuple[Header, dict[str, TokenRecord]] | None:
    """Decode a document without parsing the records again that are known; most saves change but one of them.

    They are told apart by what :func:`encode` writes between two of them, and each is taken only if it would be written
    just as it stands there. So nothing depends on how another program may have written them.

    Returns:
        None if it has to be decoded as a whole: written in another way, newer or malformed.
    """
    found: list[TokenRecord | None] = []
    changed: list[str] = []
    try:
        ends = data.decode("ascii").split(_NEXT)
        head, _, ends[0] = ends[0].partition(_FIRST)
        ends[-1] = ends[-1].removesuffix(_LAST)
        header = _header(_parsed(head + _NO_TOKENS))
        for text in (f'{{"id":"{end}}}' for end in ends):
            record = known.get(text[_ID_BEGINS : text.index('"', _ID_BEGINS)])
            if record is None or record.as_json != text:
                changed.append(text)
                record = None
            found.append(record)
        tokens = _parsed(f"[{','.join(changed)}]")
        parsed = _records(tokens) if type(tokens) is list else []
        if [record.as_json for record in parsed] != changed:
            return None
    except (_MalformedError, _NewerError, ValueError, RecursionError):
        return None
    rest = iter(parsed)
    records = {record.id: record for record in (old or next(rest) for old in found)}
    return (header, records) if len(records) == len(found) else None


def _header(document: Any) -> Header:
    if document is _NOT_JSON or document is _TOO_DEEP:
        msg = "what is inside is " + (
            "not valid JSON" if document is _NOT_JSON else "nested too deeply to be read here"
        )
        raise _MalformedError(msg)
    if type(document) is not dict or document.get("format") != FORMAT:
        msg = f"what is inside is not a {FORMAT} document"
        raise _MalformedError(msg)
    version = document.get("version")
    if type(version) is int and version > VERSION:
        raise _NewerError(version)
    _whole_number(document, "version", least=1)
    store_id = document.get("store_id")
    if type(store_id) is not str or not store_id:
        msg = "its store_id is not a text"
        raise _MalformedError(msg)
    unknown = {name: value for name, value in document.items() if name not in _HEADER_FIELDS}
    return Header(
        store_id=store_id,
        generation=_whole_number(document, "generation", least=0),
        next_id=_whole_number(document, "next_id", least=1),
        unknown=_kept(unknown) if unknown else unknown,
    )


def _parsed(text: str) -> Any:
    # A number or a depth that JSON's grammar or Python's limits do not allow must not surface as an exception of
    # another kind: ValueError covers JSONDecodeError and the digit limit. And those carry the document with them, so
    # none of them may hang on an error of ours: they end here.
    try:
        document = text.strip(_WHITE_SPACE)
        value, end = _decoder.raw_decode(document)
    except ValueError:
        return _NOT_JSON
    except RecursionError:
        return _TOO_DEEP
    return value if end == len(document) else _NOT_JSON


def _records(tokens: list[Any]) -> list[TokenRecord]:
    # One loop, and whole-record set operations: this runs for every record at every reading.
    records = []
    for number, fields in enumerate(tokens, 1):
        if type(fields) is not dict or not fields.get("id"):
            msg = f"token {number} is not an object with an id"
            raise _MalformedError(msg)
        created_at = fields.pop("created_at", 0)
        saved_at = fields.pop("saved_at", 0)
        if (
            type(created_at) is not int
            or type(saved_at) is not int
            or created_at >= MAX_COUNTER
            or saved_at >= MAX_COUNTER
        ):
            msg = f"created_at or saved_at of token {number} is not a whole number, or far too great"
            raise _MalformedError(msg)
        more = None if TEXT_FIELDS.issuperset(fields) else _more(fields, number)
        if not _TEXT_TYPES.issuperset(map(type, fields.values())):
            name = next(name for name, value in fields.items() if type(value) not in _TEXT_TYPES)
            msg = f"{name} of token {number} is not a text"
            raise _MalformedError(msg)
        fields["created_at"] = created_at
        fields["saved_at"] = saved_at
        if more:
            fields.update(more)
        records.append(TokenRecord.adopt(fields))
    return records


def _more(fields: dict[str, Any], number: int) -> dict[str, Any]:
    """Take the fields that are no texts out, and return them as those of a record."""
    unknown = _kept({name: fields.pop(name) for name in list(fields) if name not in TEXT_FIELDS})
    refresh = unknown.pop("refresh", None)
    if type(refresh) not in _LEASE_TYPES:
        msg = f"refresh of token {number} is not an object"
        raise _MalformedError(msg)
    return {"refresh": refresh, "unknown": unknown or None}


def _kept(unknown: dict[str, Any]) -> dict[str, Any]:
    """Return fields that this release does not know, if they can be written again wherever a save may happen."""
    level: list[Any] = [unknown]
    for _ in range(_DEEPEST):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return unknown
    msg = "a field of an unknown kind is nested too deeply"
    raise _MalformedError(msg)


def _whole_number(document: dict[str, Any], name: str, *, least: int) -> int:
    number = document.get(name)
    if type(number) is not int or not least <= number < MAX_COUNTER:
        msg = f"its {name} is not a whole number of at least {least}, or far too great"
        raise _MalformedError(msg)
    return number


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        msg = "NaN and Infinity are not JSON, and could not be written again"
        raise ValueError(msg)
    return number


_decoder = json.JSONDecoder(parse_constant=_finite, parse_float=_finite)

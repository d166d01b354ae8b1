"""Records and bytes: the JSON document that a keystore file holds inside its seal.

Pure: nothing here reads a file or knows of encryption. The format is described in ARCHITECTURE and README; a golden
file of each version stays in the tests.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zoho_keystore.errors import DocumentError, NewerVersionError
from zoho_keystore.records import TEXT_FIELDS, TOO_GREAT, TokenRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

FORMAT = "zoho-keystore"
VERSION = 1

#: The largest sealed file that is read or written, in bytes: some 400,000 tokens.
MAX_SEALED_BYTES = 256 * 1024 * 1024

_HEADER_FIELDS = ("format", "version", "store_id", "generation", "next_id", "tokens")
#: How deep a field that this release does not know may be nested. Python's own limit depends on who calls.
_DEEPEST = 100

_NOT_JSON = object()
_TOO_DEEP = object()
_TEXT_TYPES = {str, type(None)}
_LEASE_TYPES = {dict, type(None)}
_RESTORE = "It was left as it is: restore the store from a backup"
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, kw_only=True)
class Header:
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
    unknown: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)


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
    if max(header.generation, header.next_id) >= TOO_GREAT:
        raise DocumentError("its count of writes or of ids has come to its end", _RESTORE, path)
    own = {
        "format": FORMAT,
        "version": VERSION,
        "store_id": header.store_id,
        "generation": header.generation,
        "next_id": header.next_id,
    }
    with suppress(RecursionError):
        head = _encode({**own, **header.unknown})
        tokens = ",".join([record.as_json for record in records])
        return f'{head[:-1]},"tokens":[{tokens}]}}'.encode("ascii")
    raise DocumentError("a field of an unknown kind is nested too deeply to be written", _RESTORE, path)


def decode(data: bytes, *, path: Path | None = None) -> tuple[Header, dict[str, TokenRecord]]:
    """Return the header and the records by id, in their order.

    Args:
        data: The document, already known to come from a holder of the key.
        path: The file that it came from, for the message of an error.

    Raises:
        NewerVersionError: The document is of a later version than this release writes.
        DocumentError: It is not a keystore document, or a malformed one.
    """
    # The errors are raised where no plain text is within reach of whoever prints the variables of a traceback.
    try:
        return _decode(data)
    except _MalformedError as problem:
        error = DocumentError(f"the file opens with the key, but {problem}", _RESTORE, path)
    except _NewerError as version:
        error = NewerVersionError(
            f"the keystore has format version {version}, and this release knows versions up to {VERSION}",
            "It was left as it is: upgrade zoho_keystore",
            path,
        )
    del data
    raise error


class _MalformedError(Exception):
    """Says what is wrong, without a value of the document: any of them may be a secret."""


class _NewerError(Exception):
    """Says which version it is."""


def _decode(data: bytes) -> tuple[Header, dict[str, TokenRecord]]:
    document = _parsed(data)
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
    header = Header(
        store_id=store_id,
        generation=_whole_number(document, "generation", least=0),
        next_id=_whole_number(document, "next_id", least=1),
        unknown=_kept({name: value for name, value in document.items() if name not in _HEADER_FIELDS}),
    )
    tokens = document.get("tokens")
    if type(tokens) is not list:
        msg = "its tokens are not a list"
        raise _MalformedError(msg)
    records = {}
    for number, fields in enumerate(tokens, 1):
        record = _record(fields, number)
        records[record.id] = record
    if len(records) != len(tokens):
        msg = "two of its tokens have the same id"
        raise _MalformedError(msg)
    return header, records


def _parsed(data: bytes) -> Any:
    # A number, a depth or an encoding that JSON's grammar or Python's limits do not allow must not surface as an
    # exception of another kind: ValueError covers JSONDecodeError, UnicodeDecodeError and the digit limit. And those
    # carry the document with them, so none of them may hang on an error of ours: they end here.
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_finite, parse_float=_finite)
    except ValueError:
        return _NOT_JSON
    except RecursionError:
        return _TOO_DEEP


def _record(fields: Any, number: int) -> TokenRecord:
    if type(fields) is not dict or not fields.get("id"):
        msg = f"token {number} is not an object with an id"
        raise _MalformedError(msg)
    created_at = fields.pop("created_at", 0)
    saved_at = fields.pop("saved_at", 0)
    if type(created_at) is not int or type(saved_at) is not int or created_at >= TOO_GREAT or saved_at >= TOO_GREAT:
        msg = f"created_at or saved_at of token {number} is not a whole number, or far too great"
        raise _MalformedError(msg)
    # Whole-record set operations, since this runs for every record at every reading.
    more = None if TEXT_FIELDS.issuperset(fields) else _more(fields, number)
    if not _TEXT_TYPES.issuperset(map(type, fields.values())):
        name = next(name for name, value in fields.items() if type(value) not in _TEXT_TYPES)
        msg = f"{name} of token {number} is not a text"
        raise _MalformedError(msg)
    fields["created_at"] = created_at
    fields["saved_at"] = saved_at
    if more:
        fields |= more
    return TokenRecord.adopt(fields)


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
    if type(number) is not int or not least <= number < TOO_GREAT:
        msg = f"its {name} is not a whole number of at least {least}, or far too great"
        raise _MalformedError(msg)
    return number


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        msg = "NaN and Infinity are not JSON, and could not be written again"
        raise ValueError(msg)
    return number

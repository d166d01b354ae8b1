"""Records and bytes: the JSON payload that a keystore file holds inside its seal (format 1).

Pure: nothing here reads a file or encrypts. A golden file of each version stays in the tests.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from zoho_keystore._records import COUNTER_FIELDS, FIELDS, MAX_COUNTER, SIGN_IN_FIELDS, record_of
from zoho_keystore.errors import DocumentError, NewerVersionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from zoho_keystore._records import TokenRecord

FORMAT = "zoho-keystore"
VERSION = 1

#: The largest encrypted file that is read or written, in bytes: some 400,000 tokens.
MAX_SEALED_BYTES = 256 * 1024 * 1024

#: How deep an unknown field may be nested: how deep json can write depends on the depth of the call stack.
_MAX_DEPTH = 100

_HEADER_FIELDS = {"format", "version", "store_id", "generation", "next_id", "exchanges", "retired", "tokens"}
_TEXT_FIELDS = frozenset((*FIELDS, *SIGN_IN_FIELDS))
_TEXT_TYPES = frozenset((str, type(None)))
_RESTORE = "It was left as it is: restore the store from a backup"
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class Header(NamedTuple):
    """What the payload says besides the records.

    Attributes:
        store_id: Identifies the store for as long as it lives.
        generation: Counts the writes; it falls only when an old file is put back.
        next_id: The number that the next new record gets as its id.
        exchanges: The leases on first exchanges, by :func:`zoho_keystore._records.exchange_keys`.
        retired: Fingerprints of ids with refresh tokens that were deleted or replaced, oldest first: a process that has
            one must not bring it back.
        unknown: Fields of the payload that this release does not know, kept on every rewrite.
    """

    store_id: str
    generation: int = 0
    next_id: int = 1
    exchanges: Mapping[str, Any] = {}
    retired: tuple[str, ...] = ()
    unknown: Mapping[str, Any] = {}

    def __repr__(self) -> str:
        """Leave out the unknown fields, which may be secret."""
        return f"Header(store_id={self.store_id!r}, generation={self.generation}, next_id={self.next_id})"


def encode(
    header: Header,
    records: Iterable[TokenRecord],
    *,
    encoded: dict[str, str] | None = None,
    path: Path | None = None,
) -> bytes:
    """Return the payload as UTF-8 JSON, with the records in their order.

    Args:
        header: What it says besides the records.
        records: The records.
        encoded: JSON of records by id, from an earlier call; those that are missing are added. Most records do not
            change between two saves, and encoding them takes as long as encrypting them.
        path: The file that it is for, for error messages.

    Raises:
        DocumentError: It could not be read again: a counter is too great, or an unknown field is no JSON or nested too
            deeply.
    """
    if max(header.generation, header.next_id) >= MAX_COUNTER:
        raise DocumentError("its counter of writes or of ids has reached its limit", _RESTORE, path)
    payload = {
        "format": FORMAT,
        "version": VERSION,
        "store_id": header.store_id,
        "generation": header.generation,
        "next_id": header.next_id,
        **({"exchanges": dict(header.exchanges)} if header.exchanges else {}),
        **({"retired": list(header.retired)} if header.retired else {}),
        **header.unknown,
    }
    encoded = {} if encoded is None else encoded
    tokens: list[str] = []
    try:
        tokens = [encoded.get(one.id) or encoded.setdefault(one.id, _encode(_fields_of(one))) for one in records]
        return f'{_encode(payload)[:-1]},"tokens":[{",".join(tokens)}]}}'.encode("ascii")
    except (RecursionError, TypeError, ValueError):
        problem = "a field that this release does not know is nested too deeply, or is no JSON"
    # Raised out here: the traceback of json's error leads to frames with plain text (see zoho_keystore.errors).
    del payload, records, encoded, tokens
    raise DocumentError(problem, _RESTORE, path)


def _fields_of(record: TokenRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {
        name: value for name in (*FIELDS, *SIGN_IN_FIELDS) if (value := getattr(record, name)) is not None
    }
    fields["created_at"] = record.created_at
    fields["saved_at"] = record.saved_at
    fields |= {name: value for name in COUNTER_FIELDS[2:] if (value := getattr(record, name))}
    if record.refresh is not None:
        fields["refresh"] = record.refresh
    return {**fields, **record.unknown} if record.unknown else fields


def decode(data: bytes, *, path: Path | None = None) -> tuple[Header, dict[str, TokenRecord]]:
    """Return the header, and the records by id, in their order.

    Args:
        data: The payload, from a file that a key of its store has decrypted.
        path: The file that it came from, for error messages.

    Raises:
        NewerVersionError: The payload is of a later version than this release writes.
        DocumentError: It is not a keystore payload, or a malformed one.
    """
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
    # Raised out here, without the frames that hold plain text (see zoho_keystore.errors).
    del data
    raise error


class _MalformedError(Exception):
    """Says what is wrong, without a value of the payload: each of them may be a secret."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)


class _NewerError(Exception):
    """Says which version the payload has."""


def _decode(data: bytes) -> tuple[Header, dict[str, TokenRecord]]:
    payload = _parsed(data)
    header = _header(payload)
    tokens = payload.get("tokens")
    if type(tokens) is not list:
        raise _MalformedError("its tokens are not a list")
    records = {record.id: record for record in map(_record, tokens, range(1, len(tokens) + 1))}
    if len(records) != len(tokens):
        raise _MalformedError("two of its tokens have the same id")
    return header, records


def _parsed(data: bytes) -> dict[str, Any]:
    # json's errors carry the text that they could not parse, so they end here.
    try:
        payload = _decoder.decode(data.decode())
    except ValueError:  # Also UnicodeDecodeError, JSONDecodeError, and the limit on the digits of a number.
        problem = "what is inside is not valid JSON"
    except RecursionError:
        problem = "what is inside is nested too deeply to be read here"
    else:
        if type(payload) is dict and payload.get("format") == FORMAT:
            return payload
        problem = f"what is inside is not a {FORMAT} document"
    raise _MalformedError(problem)


def _header(payload: dict[str, Any]) -> Header:
    version = payload.get("version")
    if type(version) is int and version > VERSION:
        raise _NewerError(version)
    _whole_number(payload, "version", least=1)
    store_id = payload.get("store_id")
    if type(store_id) is not str or not store_id:
        raise _MalformedError("its store_id is not a text")
    exchanges = payload.get("exchanges", {})
    if type(exchanges) is not dict or not {dict}.issuperset(map(type, exchanges.values())):
        raise _MalformedError("its exchanges are not an object of objects")
    retired = payload.get("retired", [])
    if type(retired) is not list or not {str}.issuperset(map(type, retired)):
        raise _MalformedError("its retired fingerprints are not a list of texts")
    return Header(
        store_id=store_id,
        generation=_whole_number(payload, "generation", least=0),
        next_id=_whole_number(payload, "next_id", least=1),
        exchanges=_writable(exchanges),
        retired=tuple(retired),
        unknown=_writable({name: value for name, value in payload.items() if name not in _HEADER_FIELDS}),
    )


def _record(fields: Any, number: int) -> TokenRecord:
    if type(fields) is not dict or not fields.get("id"):
        raise _MalformedError(f"token {number} is not an object with an id")
    counters = {name: fields.pop(name) for name in COUNTER_FIELDS if name in fields}
    for name, value in counters.items():
        if type(value) is not int or value >= MAX_COUNTER:
            raise _MalformedError(f"{name} of token {number} is not a whole number, or too great")
    refresh = unknown = None
    if not _TEXT_FIELDS.issuperset(fields):
        unknown = _writable({name: fields.pop(name) for name in list(fields) if name not in _TEXT_FIELDS})
        refresh = unknown.pop("refresh", None)
        if type(refresh) is not dict and refresh is not None:
            raise _MalformedError(f"refresh of token {number} is not an object")
    if not _TEXT_TYPES.issuperset(map(type, fields.values())):
        name = next(name for name, value in fields.items() if type(value) not in _TEXT_TYPES)
        raise _MalformedError(f"{name} of token {number} is not a text")
    fields |= counters
    if refresh is not None:
        fields["refresh"] = refresh
    if unknown:
        fields["unknown"] = unknown
    return record_of(fields)


def _writable(unknown: dict[str, Any]) -> dict[str, Any]:
    """Return fields that this release does not know, once they are known not to be nested too deeply to be written."""
    level: list[Any] = [unknown]
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return unknown
    raise _MalformedError("a field that this release does not know is nested too deeply")


def _whole_number(payload: dict[str, Any], name: str, *, least: int) -> int:
    number = payload.get(name)
    if type(number) is not int or not least <= number < MAX_COUNTER:
        raise _MalformedError(f"its {name} is not a whole number of at least {least}, or too great")
    return number


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        msg = "NaN and Infinity are not JSON, and could not be written again"
        raise ValueError(msg)
    return number


_decoder = json.JSONDecoder(parse_constant=_finite, parse_float=_finite)

"""The fuzzer's inputs: valid payloads and tokens with parts replaced, removed, repeated or nested."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from zoho_keystore._records import CREDENTIAL_FIELDS
from zoho_keystore._storage.codec import FORMAT

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

_HEAD = {"format": FORMAT, "version": 1, "store_id": "s", "generation": 12, "next_id": 6}
_TOKEN = {"id": "1", "refresh_token": "r", "created_at": 1763780000000, "saved_at": 1763786400000}
#: Valid payloads, small ones, since the time goes into reading them.
_PAYLOAD_VALUES: tuple[dict[str, Any], ...] = (
    {**_HEAD, "tokens": []},
    {**_HEAD, "tokens": [{**_TOKEN, **{name: f"the {name}" for name in CREDENTIAL_FIELDS}, "expires_in": "17637"}]},
    {**_HEAD, "tokens": [_TOKEN, {"id": "x", "user_name": "\u00e9\U0001f511 \\ \"'\ud800", "client_id": None}]},
    {
        **_HEAD,
        "x": {"a": [1.5, None]},
        "tokens": [{**_TOKEN, "refresh": {"owner": "h:1", "deadline": 17}, "y": [True]}],
    },
)


class _Span(NamedTuple):
    """A part of a payload's text: a "value", the "name" of an object's member, or the whole "member"."""

    kind: str
    start: int
    end: int


class _Grammar:
    """The text of a payload, and where its parts are."""

    def __init__(self, value: Any) -> None:
        self.text = ""
        self.spans: list[_Span] = []
        self._write(value)

    def _write(self, value: Any) -> None:
        start = len(self.text)
        if isinstance(value, dict):
            self.text += "{"
            for number, (name, content) in enumerate(value.items()):
                self.text += "," if number else ""
                member = len(self.text)
                self.text += json.dumps(name)
                self.spans.append(_Span("name", member, len(self.text)))
                self.text += ":"
                self._write(content)
                self.spans.append(_Span("member", member, len(self.text)))
            self.text += "}"
        elif isinstance(value, list):
            self.text += "["
            for number, item in enumerate(value):
                self.text += "," if number else ""
                self._write(item)
            self.text += "]"
        else:
            self.text += json.dumps(value)
        self.spans.append(_Span("value", start, len(self.text)))


_GRAMMARS = [_Grammar(value) for value in _PAYLOAD_VALUES]
PAYLOADS = [grammar.text for grammar in _GRAMMARS]

# With a value a line these would be three pages.
# fmt: off
_NAMES = tuple(json.dumps(name) for name in (
    *_HEAD, "tokens", *_TOKEN, *CREDENTIAL_FIELDS, "refresh", "unknown", "as_json", "__dict__", "", "\0", "\ud800",
))
_VALUES = (
    "null", "true", "false", "0", "-0", "-1", "1", "2", "1.0", "0.1", "1e3", "1e308", "1e999", "-1e999", "1e-999",
    "NaN", "Infinity", "-Infinity", "01", "+1", "0x1", "1_0", ".5", "1.", "--1", "9" * 18, "9" * 19, "9" * 256,
    "9223372036854775806", "9223372036854775807", "9223372036854775808",
    '""', '"1"', '"zoho-keystore"', '"007"', '"\u0661"', '"' + "9" * 255 + '"', r'"\ud800"', r'"\udc00\ud800"',
    r'"\ud83d\udd11"', r'"\u0000"', r'"\u2028"', r'"\x41"', r'"\"', '"\0"', '"\n"', '"\ud800"', "'1'", '"', "", "[]",
    "{}", "[[]]", '[{"id":"1"}]', '{"id":"1"}', '{"id":"9"},{"id":"9"}', "//", "/**/", "\ufeff",
)
_LARGE_VALUES = (
    "9" * 4299, "9" * 4300, "9" * 4301, "-" + "9" * 4300, "1" * 4200 + ".5", "9" * 100_000, '"' + "9" * 4300 + '"',
    '"' + "x" * 70_000 + '"', '"' + "\U0001f511" * 20_000 + '"', "[" + "0," * 20_000 + "0]", " " * 50_000,
)
_BRACKETS = (("[", "]"), ('{"x":', "}"), ('[{"id":"1","x":', "}]"))
TEXTS = (
    b" ", b"\n", b"\r\n", b"\t", b"\0", b"=", b"==", b"====", b"-", b"_", b"+", b"/", b"gAAAAA", b"AAAA", b"\xff\xfe",
    b"\xef\xbb\xbf", b"# a comment\n", b"\x1f\x8b\x08", b"SQLite format 3\0", b"-----BEGIN", b"\x80\x04]", b"id,user\n",
    b"{}", b"[]", b"null", b"=" * 1000, b"A" * 4096, bytes(4096),
)
# fmt: on
JSON_BYTES = b'{}[]":,\\/ \n\t\0eE+-.0159nulltrefasid\x7f\x80\xc0\xed\xa0\xef\xbb\xbf\xf0\xff'
BASE64_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/ \n\0\xff"


def one_of(rng: random.Random, choices: Sequence[Any]) -> Any:
    """Return one of some choices."""
    # A fifth of the time that choice() takes, and most of an input's time goes here.
    return choices[int(rng.random() * len(choices))]


def chance(rng: random.Random, share: float) -> bool:
    """Return True in a share of the calls."""
    return rng.random() < share


def malformed(rng: random.Random) -> bytes:
    """Return a payload with some of its parts replaced, removed, repeated or nested."""
    grammar = one_of(rng, _GRAMMARS)
    text = grammar.text
    end = len(text)
    spans = [one_of(rng, grammar.spans) for _ in range(1 + int(rng.random() ** 3 * 4))]
    # From the end, and none that another is in, so that the places of the others stay right.
    for span in sorted(spans, key=lambda span: span.start, reverse=True):
        if span.end <= end:
            text = text[: span.start] + _edited(rng, grammar, span) + text[span.end :]
            end = span.start
    data = text.encode("utf-8", "surrogatepass")
    return _reencoded(rng, text, data) if chance(rng, 0.05) else data


def _edited(rng: random.Random, grammar: _Grammar, span: _Span) -> str:
    """Return the replacement of a part of the payload."""
    text = grammar.text[span.start : span.end]
    if chance(rng, 0.2):
        return "" if chance(rng, 0.5) else f"{text},{text}"
    if span.kind == "name":
        return str(one_of(rng, _NAMES))
    new = _value(rng, grammar, text)
    if span.kind == "member":
        # The same name twice, with another value before or after; or another name.
        name = text.partition(":")[0]
        return str(one_of(rng, (f"{text},{name}:{new}", f"{name}:{new},{text}", f"{one_of(rng, _NAMES)}:{new}")))
    return new


def _value(rng: random.Random, grammar: _Grammar, text: str) -> str:
    """Return a value, mostly one of a kind that does not belong there."""
    if chance(rng, 0.1):
        opening, closing = one_of(rng, _BRACKETS)
        # About as deep as Python goes, or any depth.
        limit = sys.getrecursionlimit() - int(rng.random() * 200)
        depth = limit if chance(rng, 0.5) else int(10 ** (rng.random() * 4))
        return str(opening * depth + text + closing * depth)
    if chance(rng, 0.1):
        other = one_of(rng, grammar.spans)
        return grammar.text[other.start : other.end]
    return str(one_of(rng, _LARGE_VALUES if chance(rng, 0.01) else _VALUES))


def _reencoded(rng: random.Random, text: str, data: bytes) -> bytes:
    match int(rng.random() * 6):
        case 0:
            return b"\xef\xbb\xbf" + data
        case 1:
            return text.encode("utf-16", "surrogatepass")
        case 2:
            return text.encode("utf-32-le", "surrogatepass")
        case 3:
            return text.encode("latin-1", "replace")
        case 4:
            return data + data
        case _:
            return mangle(rng, data, JSON_BYTES)


def mangle(rng: random.Random, data: bytes, alphabet: bytes) -> bytes:
    """Return bytes with some of them changed, inserted, removed, repeated or cut off."""
    mangled = bytearray(data)
    for _ in range(1 + int(rng.random() ** 3 * 8)):
        at = int(rng.random() * len(mangled))
        length = 1 + int(rng.random() ** 4 * 64)
        match int(rng.random() * 7):
            case 0 if mangled:
                mangled[at] ^= 1 << int(rng.random() * 8)
            case 1 if mangled:
                mangled[at] = one_of(rng, alphabet)
            case 2:
                mangled[at:at] = bytes([one_of(rng, alphabet)]) * length
            case 3:
                del mangled[at : at + length]
            case 4:
                mangled[at:at] = mangled[at : at + length]
            case 5:
                mangled[at:at] = one_of(rng, TEXTS)[:64]
            case _:
                del mangled[at + len(mangled) // 2 :]
    return bytes(mangled)

"""The text of a key ring: a key a line, newest first, with ``#`` comments; retired keys below a line that says so.

::

    # Keys of zoho-keystore, newest first. …
    <the key that encrypts>
    # retired 2026-11-25
    <a key that only decrypts>

A comment to every release before, which decrypts with each key. Pure: no I/O, and no knowledge of where a text is kept.
"""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING, Self

from zoho_keystore._keys.fernet_key import HOW_TO_MAKE_A_KEY, validate_key
from zoho_keystore.errors import key_missing

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from pathlib import Path

_RETIRED = re.compile(rb"#\s*retired (\d{4}-\d\d-\d\d)\s*")


class RingKeys(tuple[bytes, ...]):  # noqa: SLOT001 - slots cannot be added to a tuple
    """The keys of a ring: those that are not retired, newest first, then the retired ones. The first key encrypts.

    Attributes:
        retired: The date on which each of the retired keys was retired, in their order.
    """

    retired: Mapping[bytes, str]

    def __new__(cls, active: Iterable[bytes], retired: Mapping[bytes, str] | None = None) -> Self:
        """Take the keys that are not retired, newest first, and the others with their dates."""
        keys = super().__new__(cls, (*active, *(retired or {})))
        keys.retired = retired or {}
        return keys

    @property
    def active(self) -> tuple[bytes, ...]:
        """The keys that are not retired, newest first."""
        return self[: len(self) - len(self.retired)]

    def __repr__(self) -> str:
        """Leave out the keys."""
        return f"<{len(self.active)} active and {len(self.retired)} retired keys>"


def parse(text: bytes, name: str, path: Path | None = None) -> RingKeys:
    """Return the keys in a text, on lines of their own or several on a line with commas between them.

    Args:
        text: The text.
        name: What messages call it.
        path: The file that it comes from.

    Raises:
        KeyUnavailableError: The text holds no key, or none that is not retired.
        MalformedKeyError: Something in it is not a key.
    """
    keys: dict[bytes, str] = {}
    date = ""
    lines = as_utf8(text).splitlines()
    for number, line in enumerate(lines, 1):
        if match := _RETIRED.fullmatch(line.strip()):
            date = match[1].decode()
        elif not is_comment(line):
            parts = line.split(b",")
            for place, part in enumerate(parts, 1):
                where = f"line {number} of {name}" if len(lines) > 1 else f"key {place} of {len(parts)} in {name}"
                keys.setdefault(validate_key(part, where, path), date)
    active = tuple(key for key, date in keys.items() if not date)
    if not active:
        problem = "holds no key that is not retired" if keys else "holds no key"
        raise key_missing(f"{name} {problem}", f"{HOW_TO_MAKE_A_KEY} and add it as the first line", path)
    return RingKeys(active, {key: date for key, date in keys.items() if date})


def with_primary(text: bytes, key: bytes, *, retire: str | None = None) -> bytes:
    """Return a text with a key above the others, and above the comment that belongs to the first of them.

    Args:
        text: The text, which holds a key.
        key: The key; it may be in the text already.
        retire: The date on which all other keys are retired that are not; None leaves them active.
    """
    lines = list(_lines(text))
    if next(line.strip() for line in lines if not is_comment(line)) != key:
        lines = [line for line in lines if line.strip() != key]
        first = next((number for number, line in enumerate(lines) if not is_comment(line)), len(lines))
        while first and lines[first - 1].lstrip().startswith(b"#"):
            first -= 1
        lines.insert(first, key + b"\n")
    place = next(number for number, line in enumerate(lines) if line.strip() == key) + 1
    if retire and any(not is_comment(line) for line in _active(lines[place:])):
        lines.insert(place, b"# retired %b\n" % retire.encode())
    return b"".join(lines)


def without(text: bytes, keys: Collection[bytes]) -> bytes:
    """Return a text without some keys, and without the headings of retired keys of which none is left."""
    kept: list[bytes] = []
    for line in _lines(text):
        if line.strip() in keys:
            continue
        if _RETIRED.fullmatch(line.strip()):
            _drop_empty_heading(kept)
        kept.append(line)
    _drop_empty_heading(kept)
    return b"".join(kept)


def is_comment(line: bytes) -> bool:
    """Return whether a line is blank or a comment."""
    return not line.strip() or line.lstrip().startswith(b"#")


def as_utf8(text: bytes) -> bytes:
    """Return a text without the byte order mark and the UTF-16 that editors and shells of Windows write."""
    if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif text[1:4:2] == b"\0\0":
        encoding = "utf-16-le"
    elif text[:3:2] == b"\0\0":
        encoding = "utf-16-be"
    else:
        return text.removeprefix(codecs.BOM_UTF8)
    # What is no text in the end is refused by its lines, like other files that were named by mistake.
    return text.decode(encoding, "replace").encode()


def _lines(text: bytes) -> Iterator[bytes]:
    """Give the lines of a text with their line ends, those with several keys as a line for each."""
    for line in as_utf8(text).splitlines(keepends=True):
        if b"," in line and not is_comment(line):
            yield from (part.strip() + b"\n" for part in line.split(b","))
        else:
            yield line


def _active(lines: list[bytes]) -> list[bytes]:
    end = next((number for number, line in enumerate(lines) if _RETIRED.fullmatch(line.strip())), len(lines))
    return lines[:end]


def _drop_empty_heading(lines: list[bytes]) -> None:
    """Drop the last heading of retired keys if no key follows it; notes of the user stay."""
    for number in range(len(lines) - 1, -1, -1):
        if not is_comment(lines[number]):
            return
        if _RETIRED.fullmatch(lines[number].strip()):
            del lines[number]
            return

"""The format of a Fernet key, and the parsing of keys from text.

Pure: no I/O, and no knowledge of where a text comes from.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING

from zoho_keystore.errors import KeyUnavailableError, MalformedKeyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

#: The largest text that is parsed for keys: room for more than a thousand keys with comments.
MAX_TEXT_BYTES = 64 * 1024

HOW_TO_MAKE_A_KEY = "Make one with: zoho-keystore key new --print"

_KEY_CHARACTERS = 44
_KEY_BYTES = 32
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
# Fernet also accepts the standard base64 alphabet, and the padding is easily lost when a key is copied.
_KEY_LIKE = re.compile(r"[A-Za-z0-9_+/-]{43}=|[A-Za-z0-9_+-]{43}")
_KEY_AS_FILE_NAME = re.compile(r"(.*=)?[A-Za-z0-9_-]{43}=")


def looks_like_key(text: str) -> bool:
    """Return whether a text may contain a key, so that no message may repeat the text."""
    parts = re.split(r"[:,\s'\"]", text)
    return any(_KEY_LIKE.fullmatch(part) or _KEY_AS_FILE_NAME.fullmatch(re.split(r"[/\\]", part)[-1]) for part in parts)


def is_canonical(text: bytes, decoded_bytes: int | None = None) -> bool:
    """Return whether a text is canonical URL-safe base64, with nothing that decoders skip.

    Args:
        text: The text.
        decoded_bytes: The length of the decoded text, if the caller knows it; otherwise the text is decoded.
    """
    if decoded_bytes is None:
        try:
            decoded_bytes = len(base64.urlsafe_b64decode(text))
        except binascii.Error:
            return False
    # Python's decoder skips unknown characters (the length shows it), accepts "+" and "/" for "-" and "_", and ignores
    # the unused bits of the last character.
    padding = -decoded_bytes % 3
    return (
        0 < len(text) == (decoded_bytes + padding) // 3 * 4
        and b"+" not in text
        and b"/" not in text
        and text[-1 - padding] in _ALPHABET[:: 4**padding]
    )


def is_comment(line: bytes) -> bool:
    """Return whether a line of a key ring is blank or a comment."""
    return not line.strip() or line.lstrip().startswith(b"#")


def parse_keys(text: bytes, name: str) -> list[bytes]:
    """Return the keys in a text that messages call ``name``: on lines or between commas, with ``#`` comments.

    Raises:
        KeyUnavailableError: The text holds no key.
        MalformedKeyError: Something in it is not a key.
    """
    lines = [line for line in text.splitlines() if not is_comment(line)]
    if not lines:
        raise KeyUnavailableError(f"{name} is empty", HOW_TO_MAKE_A_KEY)
    return validate_keys([key for line in lines for key in line.split(b",")], name)


def validate_keys(keys: Sequence[bytes], name: str) -> list[bytes]:
    """Return the keys of a text that messages call ``name``, each once; raise MalformedKeyError for a malformed one."""
    return dedupe(validate_key(key, f"key {number} of {len(keys)} in {name}") for number, key in enumerate(keys, 1))


def dedupe(keys: Iterable[bytes]) -> list[bytes]:
    """Return keys in their order, each once."""
    return list(dict.fromkeys(keys))


def validate_key(key: bytes, name: str, path: Path | None = None) -> bytes:
    """Return a key that is exactly a Fernet key; Fernet itself accepts white space and stray characters.

    Raises:
        MalformedKeyError: It is not a Fernet key, or something stands around it; the message says ``name`` instead.
    """
    if problem := _key_problem(key):
        raise MalformedKeyError(
            f"{name} {problem}",
            f"A Fernet key is exactly {_KEY_CHARACTERS} characters, the URL-safe base64 of {_KEY_BYTES} bytes: compare "
            "it with your copy of the key",
            path,
        )
    return key


def _key_problem(key: bytes) -> str:
    if not key:
        return "is empty"
    if key.strip() != key:
        return "has white space around it"
    if len(key) != _KEY_CHARACTERS:
        return f"has {len(key)} characters instead of {_KEY_CHARACTERS}"
    if not is_canonical(key):
        return "is not canonical URL-safe base64"
    if len(base64.urlsafe_b64decode(key)) != _KEY_BYTES:
        return f"does not decode to {_KEY_BYTES} bytes"
    return ""

"""What a key looks like, and how keys are told in a text.

Pure: nothing here knows where a text comes from.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from typing import TYPE_CHECKING

from zoho_keystore.errors import KeyUnavailableError, MalformedKeyError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_KEY_CHARACTERS = 44
_KEY_BYTES = 32
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
# Fernet takes keys in the usual alphabet too, and people lose the padding.
_KEY_LIKE = re.compile(r"[A-Za-z0-9_+/-]{43}=|[A-Za-z0-9_+-]{43}")
_KEY_AS_NAME = re.compile(r"(.*=)?[A-Za-z0-9_-]{43}=")
HOW_TO_MAKE = "Make one with: zoho-keystore key new --print"


def looks_like_key(text: str) -> bool:
    """Tell whether a text that was given as something else may be a key, so that it must not be repeated."""
    parts = re.split(r"[:,\s'\"]", text)
    return any(_KEY_LIKE.fullmatch(part) or _KEY_AS_NAME.fullmatch(os.path.basename(part)) for part in parts)


def is_canonical(text: bytes, decoded_bytes: int | None = None) -> bool:
    """Tell whether a text is URL-safe base64 to the letter, which decoding it does not.

    Args:
        text: The text.
        decoded_bytes: How many bytes the decoder makes of it; None if that is not known.
    """
    if decoded_bytes is None:
        try:
            decoded_bytes = len(base64.urlsafe_b64decode(text))
        except binascii.Error:
            return False
    # The decoder skips what it does not know, which the length shows; takes "+" and "/" for "-" and "_"; and does not
    # look at the bits of the last character that stand for nothing.
    padding = -decoded_bytes % 3
    return (
        0 < len(text) == (decoded_bytes + padding) // 3 * 4
        and b"+" not in text
        and b"/" not in text
        and text[-1 - padding] in _ALPHABET[:: 4**padding]
    )


def is_comment(line: bytes) -> bool:
    """Tell whether a line of a key ring holds no key: a comment, or nothing."""
    return not line.strip() or line.lstrip().startswith(b"#")


def keys_in_text(text: bytes, what: str) -> Sequence[bytes]:
    """Return the keys in a text, one a line or several with commas between them."""
    lines = [line for line in text.splitlines() if not is_comment(line)]
    keys = [key for line in lines for key in line.split(b",")]
    if not keys:
        raise KeyUnavailableError(f"{what} is no key: it is empty", HOW_TO_MAKE)
    return dedupe(
        validate_key(key, f"key {number} of {len(keys)} in {what}", None) for number, key in enumerate(keys, 1)
    )


def dedupe(keys: Iterable[bytes]) -> list[bytes]:
    """Return keys in their order, each once."""
    return list(dict.fromkeys(keys))


def validate_key(key: bytes, name: str, path: Path | None) -> bytes:
    """Return the key if it is one to the letter: Fernet itself is content with white space and stray characters."""
    if problem := _key_problem(key):
        raise MalformedKeyError(
            f"{name} {problem}",
            f"A Fernet key is {_KEY_CHARACTERS} characters, the URL-safe base64 of {_KEY_BYTES} bytes, and nothing "
            "else: compare it with the copy that you keep",
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
        return f"does not stand for {_KEY_BYTES} bytes"
    return ""

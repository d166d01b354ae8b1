"""The format of a Fernet key.

Pure: no I/O.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
from typing import TYPE_CHECKING

from zoho_keystore._keys.spec import RING_VARIABLE
from zoho_keystore.errors import MalformedKeyError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

#: The largest text that is parsed for keys: room for more than a thousand keys with comments.
MAX_TEXT_BYTES = 64 * 1024

HOW_TO_MAKE_A_KEY = "Make one with: zoho-keystore key new --print"

_KEY_CHARACTERS = 44
_KEY_BYTES = 32
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
# Fernet also accepts the standard base64 alphabet, and the padding is easily lost when a key is copied.
_KEY_LIKE = re.compile(r"[A-Za-z0-9_+/-]{43}=|[A-Za-z0-9_+-]{43}")
_KEY_AS_FILE_NAME = re.compile(r"(.*=)?[A-Za-z0-9_-]{43}=")


def looks_like_key(text: str) -> bool:
    """Return whether a text may contain a key, so that no message may repeat the text."""
    parts = re.split(r"[:,~\s'\"]", text)
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


def validate_key(key: bytes, name: str, path: Path | None = None) -> bytes:
    """Return a key without the white space and the byte order mark around it, if it is exactly a Fernet key.

    Fernet itself accepts stray characters.

    Raises:
        MalformedKeyError: It is not a Fernet key, or something else stands around it.
    """
    key = key.strip().removeprefix(codecs.BOM_UTF8).strip()
    for problem, advice, is_found in _MISTAKES:
        if is_found(key):
            raise MalformedKeyError(f"{name} {problem}", advice, path)
    if problem := _key_problem(key):
        raise MalformedKeyError(
            f"{name} {problem}",
            f"A Fernet key is exactly {_KEY_CHARACTERS} characters, the URL-safe base64 of {_KEY_BYTES} bytes: compare "
            "it with your copy of the key",
            path,
        )
    return key


#: What users write in the place of a key: the problem, what to do, and what tells it from other mistakes.
_MISTAKES: Sequence[tuple[str, str, Callable[[bytes], object]]] = (
    (
        "is in quotes",
        "Remove the quotes: write the 44 characters alone",
        re.compile(rb"b?(['\"]).*\1", re.DOTALL).fullmatch,
    ),
    (
        "has a name before it",
        "Write the key alone, without NAME= before it",
        re.compile(rb"(export\s+)?[A-Za-z_]\w*=\s*['\"]?[A-Za-z0-9_+/-]{42,43}=?['\"]?").fullmatch,
    ),
    (
        "has + or /, as in the standard base64 alphabet",
        "Write - for + and _ for /: it is the same key then",
        lambda key: len(key) == _KEY_CHARACTERS and is_canonical(key.translate(_URL_SAFE)) and not is_canonical(key),
    ),
    (
        "looks like a path",
        f"Put the path of a key ring into {RING_VARIABLE}, or give it as file:PATH",
        re.compile(rb"(~|\.{0,2}/|[A-Za-z]:[\\/]).*").fullmatch,
    ),
)


def _key_problem(key: bytes) -> str:
    if not key:
        return "is empty"
    if len(key) != _KEY_CHARACTERS:
        return f"has {len(key)} characters instead of {_KEY_CHARACTERS}"
    if not is_canonical(key):
        return "is not canonical URL-safe base64"
    if len(base64.urlsafe_b64decode(key)) != _KEY_BYTES:
        return f"does not decode to {_KEY_BYTES} bytes"
    return ""

"""Keys: where they come from, and the ring that seals and opens with them.

The only module that knows of cryptography. A key is named by its fingerprint wherever it has to be named.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from typing import TYPE_CHECKING, NoReturn, Protocol

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from zoho_keystore import trust
from zoho_keystore.errors import (
    CannotOpenError,
    ConfigurationError,
    KeyUnavailableError,
    MalformedKeyError,
    UnsafeFileError,
    os_error_text,
)
from zoho_keystore.paths import default_key_ring, real_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

KEY_VARIABLE = "ZOHO_KEYSTORE_KEY"
RING_VARIABLE = "ZOHO_KEYSTORE_KEYRING"

#: A key ring file of more bytes than this is none: 64 KiB are more than a thousand keys with comments.
_MAX_RING_BYTES = 64 * 1024
_KEY_CHARACTERS = 44
_KEY_BYTES = 32
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
# Fernet takes keys in the usual alphabet too, and people lose the padding.
_KEY_LIKE = re.compile(r"[A-Za-z0-9_+/-]{43}=|[A-Za-z0-9_+-]{43}")
_KEY_AS_NAME = re.compile(r"(.*=)?[A-Za-z0-9_-]{43}=")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOW_TO_MAKE = (
    'Make one with: python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"'
)


class KeySource(Protocol):
    """A place that keys come from; it can be asked again, and may then have others."""

    def load(self) -> Sequence[bytes]:
        """Return the keys, newest first, at least one.

        Raises:
            KeyUnavailableError: There are none to be had, or what is there is no key.
        """
        ...


class KeyRing:
    """The keys of one store: the newest seals, all of them open.

    Neither its repr nor its attributes' reprs show a key, and it cannot be pickled.
    """

    __slots__ = ("_fernet", "_fingerprints", "_source")

    def __init__(self, source: KeySource) -> None:
        """Load the keys from the source.

        Raises:
            KeyUnavailableError: As the source says.
        """
        self._source = source
        keys = source.load()
        self._fernet = MultiFernet([Fernet(key) for key in keys])
        self._fingerprints = tuple(fingerprint(key) for key in keys)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The names of the keys, newest first."""
        return self._fingerprints

    def seal(self, document: bytes) -> bytes:
        """Return the document encrypted and signed with the newest key, as one Fernet token."""
        return self._fernet.encrypt(document)

    def open(self, sealed: bytes, *, path: Path | None = None) -> bytes:
        """Return the document inside the seal.

        Args:
            sealed: What :meth:`seal` made, and nothing besides.
            path: The file that it came from, for the message of an error.

        Raises:
            CannotOpenError: It is not one whole Fernet token, or no key of the ring opens it.
        """
        if not _is_canonical(sealed):
            raise CannotOpenError(
                "this is not a keystore, or a damaged one: it is not exactly one sealed token",
                "It was left as it is. Check the path, look whether the file was cut off or edited, and otherwise "
                "restore it from a backup",
                path,
            )
        document = self._opened(sealed)
        if document is None:
            raise CannotOpenError(
                f"the key is wrong or the file is damaged, which cannot be told apart (tried {self._names()})",
                f"It was left as it is. Check that the key is the one that the store was made with, from "
                f"{self._source}; if it is, restore the file from a backup",
                path,
            )
        return document

    def _opened(self, sealed: bytes) -> bytes | None:
        # The exception ends here, so that no frame that holds a key or plain text hangs on an error of ours.
        try:
            return self._fernet.decrypt(sealed)
        except (InvalidToken, ValueError):
            return None

    def _names(self) -> str:
        kind = "key" if len(self._fingerprints) == 1 else "keys"
        return f"{kind} {', '.join(self._fingerprints)}"

    def __repr__(self) -> str:
        """Name the source and the fingerprints."""
        return f"<KeyRing from {self._source}: {self._names()}>"

    def __reduce__(self) -> NoReturn:
        """Refuse: a pickle would carry the keys."""
        msg = "a KeyRing cannot be pickled, since that would write its keys down; make one from its spec instead"
        raise TypeError(msg)


def key_ring(key: bytes | str | None) -> KeyRing:
    """Return the ring that a ``key`` argument means.

    Args:
        key: A Fernet key as bytes; or a spec, ``env:NAME`` or ``file:PATH``; or None for the first that is there of
            ``ZOHO_KEYSTORE_KEY``, ``ZOHO_KEYSTORE_KEYRING`` and the key ring in the user's config folder.

    Raises:
        ConfigurationError: The argument is none of these.
        KeyUnavailableError: No key is there.
        MalformedKeyError: What is there is not a key.
        UnsafeFileError: The path of a key ring leads over a link that another user planted.
    """
    if key is None:
        return KeyRing(_default_source())
    if isinstance(key, bytes | bytearray):
        return KeyRing(_GivenKey(bytes(key)))
    if isinstance(key, str):
        return KeyRing(_source(key))
    raise ConfigurationError(
        f"the key is of type {type(key).__name__}",
        "Pass a Fernet key as bytes, or a spec such as env:NAME or file:PATH",
    )


def fingerprint(key: bytes) -> str:
    """Return the name of a key: the first 8 hex digits of SHA-256 over "zoho-keystore" and the key's 44 characters."""
    return hashlib.sha256(b"zoho-keystore" + key).hexdigest()[:8]


def looks_like_key(text: str) -> bool:
    """Tell whether a text that was given as something else may be a key, so that it must not be repeated."""
    parts = re.split(r"[:,\s'\"]", text)
    return any(_KEY_LIKE.fullmatch(part) or _KEY_AS_NAME.fullmatch(os.path.basename(part)) for part in parts)


def _default_source() -> KeySource:
    if os.environ.get(KEY_VARIABLE):
        return _Variable(KEY_VARIABLE)
    if spec := os.environ.get(RING_VARIABLE):
        if looks_like_key(spec):
            raise ConfigurationError(
                f"{RING_VARIABLE} holds what looks like a key itself", f"Put the key into {KEY_VARIABLE} instead"
            )
        return _source(spec if _scheme(spec) else f"file:{spec}")
    ring = default_key_ring()
    if os.path.lexists(ring):
        return _RingFile(real_path(ring))
    raise KeyUnavailableError(
        f"no key is set: {KEY_VARIABLE} and {RING_VARIABLE} are empty, and there is no key ring at {ring} "
        "that this user can see",
        f"{_HOW_TO_MAKE} and put it into {KEY_VARIABLE}, or into a file of mode 0600 that {RING_VARIABLE} names",
    )


def _scheme(spec: str) -> str:
    match = re.match(r"(env|file):", spec)
    return match[1] if match else ""


def _source(spec: str) -> KeySource:
    scheme = _scheme(spec)
    rest = spec[len(scheme) + 1 :]
    # None of these errors repeats what was given: it may be the key itself, put in the wrong place.
    if looks_like_key(spec):
        raise ConfigurationError(
            "the key spec holds what looks like a key itself",
            "Pass the key as bytes (b'…'), or put it into an environment variable and pass env:NAME",
        )
    if scheme == "env":
        if not _VARIABLE_NAME.fullmatch(rest):
            raise ConfigurationError(
                "what follows env: is not the name of a variable", f"Write env:NAME, such as env:{KEY_VARIABLE}"
            )
        return _Variable(rest)
    if scheme == "file":
        return _RingFile(real_path(rest))
    raise ConfigurationError(
        "the key spec is of no known kind", "Write env:NAME or file:PATH, or pass the key itself as bytes (b'…')"
    )


class _GivenKey:
    """A key that the program passed as bytes."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def load(self) -> Sequence[bytes]:
        return [_checked(self._key, "the key that was passed as bytes", None)]

    def __str__(self) -> str:
        return "the bytes that the program passed"

    def __reduce__(self) -> NoReturn:
        msg = "a key cannot be pickled, since that would write it down"
        raise TypeError(msg)


class _Variable:
    """Keys in an environment variable, comma-separated."""

    def __init__(self, name: str) -> None:
        self._name = name

    def load(self) -> Sequence[bytes]:
        value = os.environ.get(self._name)
        if not value:
            state = "is empty" if value == "" else "is not set"
            raise KeyUnavailableError(
                f"the environment variable {self._name} {state}",
                f"It should hold one or more keys, comma-separated, newest first. {_HOW_TO_MAKE}",
            )
        if _scheme(value):
            raise MalformedKeyError(
                f"the environment variable {self._name} holds no key, but says where keys are",
                f"Put that into {RING_VARIABLE}, or pass it as key=…",
            )
        keys = value.split(",")
        return _without_repeats(
            _checked(os.fsencode(key), f"key {number} of {len(keys)} in the environment variable {self._name}", None)
            for number, key in enumerate(keys, 1)
        )

    def __str__(self) -> str:
        return f"env:{self._name}"


class _RingFile:
    """A key ring file: a key a line, newest first, ``#`` comments."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Sequence[bytes]:
        keys = [
            _checked(line, f"line {number} of the key ring", self._path)
            for number, line in enumerate(self._read().splitlines(), 1)
            if line.strip() and not line.lstrip().startswith(b"#")
        ]
        if not keys:
            raise KeyUnavailableError("the key ring holds no key", f"{_HOW_TO_MAKE} and add it as a line", self._path)
        return _without_repeats(keys)

    def _read(self) -> bytes:
        try:
            with trust.opened(self._path) as (fd, status):
                trust.require_key_ring(status, self._path, fd)
                content = b""
                while len(content) <= _MAX_RING_BYTES and (chunk := os.read(fd, _MAX_RING_BYTES)):
                    content += chunk
        except UnsafeFileError as error:
            raise KeyUnavailableError(f"the key ring is not safe: {error.problem}", error.advice, self._path) from None
        except OSError as error:
            raise KeyUnavailableError(
                f"the key ring cannot be read: {os_error_text(error)}",
                "Check the path, and who may read it",
                self._path,
            ) from error
        if len(content) > _MAX_RING_BYTES:
            raise MalformedKeyError(
                f"this is not a key ring: it has more than {_MAX_RING_BYTES // 1024} KiB", "Check the path", self._path
            )
        return content

    def __str__(self) -> str:
        return f"file:{self._path}"


def _without_repeats(keys: Iterable[bytes]) -> list[bytes]:
    return list(dict.fromkeys(keys))


def _checked(key: bytes, name: str, path: Path | None) -> bytes:
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
    if not _is_canonical(key):
        return "is not canonical URL-safe base64"
    if len(base64.urlsafe_b64decode(key)) != _KEY_BYTES:
        return f"does not stand for {_KEY_BYTES} bytes"
    return ""


def _is_canonical(text: bytes) -> bool:
    """Tell whether a text is URL-safe base64 without a stray character.

    The decoder skips what it does not know, so a file could hold text besides its token. Encoding again and comparing
    would tell as much, for more time than the decryption takes.
    """
    body, end = text[:-4], text[-4:]
    if not text or len(text) % 4 or body.translate(None, _ALPHABET):
        return False
    try:
        return base64.urlsafe_b64encode(base64.urlsafe_b64decode(end)) == end
    except binascii.Error:
        return False

"""The key ring: encrypts with the newest key, decrypts with any, also with those that are retired.

The only module that imports ``cryptography``. Messages name a key by its fingerprint.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from cryptography.fernet import Fernet, InvalidToken

from zoho_keystore._hidden import Hidden, without_frames
from zoho_keystore._keys.fernet_key import is_canonical
from zoho_keystore._keys.sources import key_source
from zoho_keystore._text import plural
from zoho_keystore.errors import CannotOpenError, KeyUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from zoho_keystore._keys.sources import KeyArgument, KeySource


# No tuple: tools that print the variables of a frame look into tuples, whatever their repr.
@dataclass(frozen=True, slots=True)
class Decrypted:
    """A decrypted payload.

    Attributes:
        payload: The plain text.
        fingerprint: The fingerprint of the key that decrypted it.
    """

    payload: bytes
    fingerprint: str

    def __repr__(self) -> str:
        """Name the key, and leave out the payload, which holds tokens."""
        return f"<Decrypted with {self.fingerprint}>"


class _NamedKey:
    """A key with its fingerprint; its repr does not show the key."""

    __slots__ = ("_key", "fernet", "name")

    def __init__(self, key: bytes) -> None:
        self.name = fingerprint(key)
        self.fernet = Fernet(key)
        self._key = key

    def derive(self, purpose: bytes) -> bytes:
        return hmac.digest(base64.urlsafe_b64decode(self._key), purpose, "sha256")

    def __repr__(self) -> str:
        """Name the key."""
        return f"<key {self.name}>"


class KeyRing:
    """The keys of one store: the newest encrypts, each of them decrypts.

    When no key decrypts a file, the ring loads its keys from the source again: this is how a running process follows
    a key rotation. Neither its repr nor the reprs of its attributes show a key, and it cannot be pickled.
    """

    __slots__ = ("_keys", "_source")

    def __init__(self, source: KeySource) -> None:
        """Load the keys from a source.

        Raises:
            KeyUnavailableError: The source has no key, or something that is not a key.
        """
        self._source = source
        self._keys = _loaded(source)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The fingerprints of the keys, newest first."""
        return tuple(key.name for key in self._keys)

    def seal(self, payload: bytes, name: str | None = None) -> bytes:
        """Return a payload encrypted and signed, as one Fernet token.

        Args:
            payload: The plain text.
            name: The fingerprint of the key; None is the newest key.

        Raises:
            KeyUnavailableError: The ring has no such key.
        """
        key = self._keys[0] if name is None else self._named(name)
        if key is None:
            del payload  # Plain text must not be in a frame of the traceback (see zoho_keystore.errors).
            raise self._missing(name)
        return key.fernet.encrypt(payload)

    def derive(self, name: str, purpose: bytes) -> bytes:
        """Return a key of 32 bytes for another purpose: the HMAC-SHA256 of the purpose under a key of the ring.

        Args:
            name: The fingerprint of the key.
            purpose: What tells it from other keys that are derived from the same one.

        Raises:
            KeyUnavailableError: The ring has no such key.
        """
        key = self._named(name)
        if key is None:
            raise self._missing(name)
        return key.derive(purpose)

    def _named(self, name: str) -> _NamedKey | None:
        return next((key for key in self._keys if key.name == name), None)

    def _missing(self, name: str | None) -> KeyUnavailableError:
        return KeyUnavailableError(
            f"the key {name} is not available",
            f"Check that {self._source} holds it; it may have been removed too early",
        )

    def open(self, sealed: bytes, *, path: Path | None = None, reload: bool = True) -> Decrypted:
        """Decrypt a Fernet token.

        Args:
            sealed: Exactly one Fernet token.
            path: The file that it comes from, for the message of an error.
            reload: Whether to load the keys from their source again when none of them decrypts it. A source may take
                half a minute.

        Raises:
            CannotOpenError: It is not exactly one Fernet token, or no key decrypts it, even after the keys were
                loaded again.
        """
        opened = _decrypt(self._keys, sealed)
        if not is_canonical(sealed, None if opened is None else _token_bytes(opened.payload)):
            raise CannotOpenError(
                "this is not a keystore, or a damaged one: it is not exactly one Fernet token",
                "It was left as it is. Check the path and whether the file was cut off or edited; otherwise restore it "
                "from a backup",
                path,
            )
        reload_problem = ""
        if opened is None and reload:
            reload_problem = self.reload()
            opened = _decrypt(self._keys, sealed)
        if opened is None:
            raise CannotOpenError(
                "the key is wrong or the file is damaged; Fernet cannot tell which "
                f"(tried {self._names()}{reload_problem})",
                f"It was left as it is. Check that {self._source} holds the key that the store was made with; if it "
                "does, restore the file from a backup",
                path,
            )
        return opened

    def decrypt_with_primary(self, sealed: bytes) -> bytes | None:
        """Return the payload of a Fernet token that the newest key decrypts, else None."""
        opened = _decrypt(self._keys[:1], sealed)
        return None if opened is None else opened.payload

    def reload(self) -> str:
        """Load the keys from the source again; return why that failed, as a clause for a message. It may take long."""
        try:
            self._keys = _loaded(self._source)
        except KeyUnavailableError as error:
            return f"; loading the keys again failed: {error.problem}"
        return ""

    def _names(self) -> str:
        names = self.fingerprints
        return f"{plural(len(names), 'key')} {', '.join(names)}"

    def __repr__(self) -> str:
        """Name the source and the fingerprints."""
        return f"<KeyRing from {self._source}: {self._names()}>"

    def __reduce__(self) -> NoReturn:
        """Refuse: a pickle would contain the keys."""
        msg = "a KeyRing cannot be pickled: the pickle would contain its keys; make one from its spec instead"
        raise TypeError(msg)


def key_ring(key: KeyArgument) -> KeyRing:
    """Return the key ring for a ``key`` argument.

    Args:
        key: As for :func:`zoho_keystore._keys.sources.key_source`.

    Raises:
        ConfigurationError: The argument is invalid.
        KeyUnavailableError: There is no key.
        MalformedKeyError: What is there is not a key.
    """
    key = Hidden.of(key)
    return KeyRing(key_source(key))


def new_key() -> bytes:
    """Return a new random key."""
    return Fernet.generate_key()


def fingerprint(key: bytes) -> str:
    """Return the first 8 hex digits of SHA-256 over "zoho-keystore" and the key's 44 characters."""
    return hashlib.sha256(b"zoho-keystore" + key).hexdigest()[:8]


def _loaded(source: KeySource) -> tuple[_NamedKey, ...]:
    return without_frames(lambda: tuple(map(_NamedKey, source.load())))


def _token_bytes(payload: bytes) -> int:
    """Return the length of a decoded token: version, time, IV, the payload padded to whole blocks, HMAC."""
    return 1 + 8 + 16 + (len(payload) // 16 + 1) * 16 + 32


def _decrypt(keys: Sequence[_NamedKey], sealed: bytes) -> Decrypted | None:
    for key in keys:
        # Caught here, so that no error of ours links to a frame of the library, which holds keys and plain text.
        try:
            return Decrypted(key.fernet.decrypt(sealed), key.name)
        except (InvalidToken, ValueError):
            continue
    return None

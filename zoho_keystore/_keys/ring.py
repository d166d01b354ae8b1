"""The ring of keys that seals and opens.

The only module that knows of cryptography. A key is named by its fingerprint wherever it has to be named.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from cryptography.fernet import Fernet, InvalidToken

from zoho_keystore._keys import fernet_key, sources
from zoho_keystore.errors import CannotOpenError, KeyUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from zoho_keystore._keys.sources import KeySource


class Decrypted(NamedTuple):
    """What was inside a seal.

    Attributes:
        document: The document.
        fingerprint: The name of the key that opened it.
    """

    document: bytes
    fingerprint: str

    def __repr__(self) -> str:
        """Name the key, and not the document, which holds tokens."""
        return f"<Opened with {self.fingerprint}>"


class KeyRing:
    """The keys of one store: the newest seals, all of them open.

    Its source is asked again when none of them opens a file: so a running process follows a rotation. Neither its repr
    nor its attributes' reprs show a key, and it cannot be pickled.
    """

    __slots__ = ("_keys", "_source")

    def __init__(self, source: KeySource) -> None:
        """Load the keys from the source.

        Raises:
            KeyUnavailableError: As the source says.
        """
        self._source = source
        self._keys = _named(source.load())

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The names of the keys, newest first."""
        return tuple(name for name, _ in self._keys)

    def seal(self, document: bytes) -> bytes:
        """Return the document encrypted and signed with the newest key, as one Fernet token."""
        return self._keys[0][1].encrypt(document)

    def open(self, sealed: bytes, *, path: Path | None = None) -> Decrypted:
        """Return the document inside the seal.

        Args:
            sealed: What :meth:`seal` made, and nothing besides.
            path: The file that it came from, for the message of an error.

        Raises:
            CannotOpenError: It is not one whole Fernet token, or no key of the ring opens it, nor of its source.
        """
        opened = _opened(self._keys, sealed)
        if not fernet_key.is_canonical(sealed, None if opened is None else _sealed_bytes(opened.document)):
            raise CannotOpenError(
                "this is not a keystore, or a damaged one: it is not exactly one sealed token",
                "It was left as it is. Check the path, look whether the file was cut off or edited, and otherwise "
                "restore it from a backup",
                path,
            )
        trouble = ""
        if opened is None:
            trouble = self._reload_keys()
            opened = _opened(self._keys, sealed)
        if opened is None:
            raise CannotOpenError(
                f"the key is wrong or the file is damaged, which cannot be told apart (tried {self._names()}{trouble})",
                f"It was left as it is. Check that the key is the one that the store was made with, from "
                f"{self._source}; if it is, restore the file from a backup",
                path,
            )
        return opened

    def decrypt_with_primary(self, sealed: bytes) -> bytes | None:
        """Return the document inside the seal if the newest key alone opens it."""
        opened = _opened(self._keys[:1], sealed)
        return None if opened is None else opened.document

    def _reload_keys(self) -> str:
        """Load the keys anew, and return what stood in the way."""
        try:
            self._keys = _named(self._source.load())
        except KeyUnavailableError as error:
            return f"; asked again for keys: {error.problem}"
        return ""

    def _names(self) -> str:
        names = self.fingerprints
        return f"{'key' if len(names) == 1 else 'keys'} {', '.join(names)}"

    def __repr__(self) -> str:
        """Name the source and the fingerprints."""
        return f"<KeyRing from {self._source}: {self._names()}>"

    def __reduce__(self) -> NoReturn:
        """Refuse: a pickle would carry the keys."""
        msg = "a KeyRing cannot be pickled, since that would write its keys down; make one from its spec instead"
        raise TypeError(msg)


_Named = tuple[tuple[str, Fernet], ...]


def key_ring(key: bytes | str | None) -> KeyRing:
    """Return the ring that a ``key`` argument means.

    Args:
        key: As for :func:`zoho_keystore._keys.sources.key_source`.

    Raises:
        ConfigurationError: The argument is of no known kind.
        KeyUnavailableError: No key is there.
        MalformedKeyError: What is there is not a key.
        UnsafeFileError: The path of a key ring leads over a link that another user planted.
    """
    return KeyRing(sources.key_source(key))


def new_key() -> bytes:
    """Return a key that nobody has had before."""
    return Fernet.generate_key()


def fingerprint(key: bytes) -> str:
    """Return the name of a key: the first 8 hex digits of SHA-256 over "zoho-keystore" and the key's 44 characters."""
    return hashlib.sha256(b"zoho-keystore" + key).hexdigest()[:8]


def _named(keys: Sequence[bytes]) -> _Named:
    return tuple((fingerprint(key), Fernet(key)) for key in keys)


def _sealed_bytes(document: bytes) -> int:
    """Return how many bytes are in a Fernet token: version, time, IV, the document in whole blocks, signature."""
    return 1 + 8 + 16 + (len(document) // 16 + 1) * 16 + 32


def _opened(keys: _Named, sealed: bytes) -> Decrypted | None:
    for name, fernet in keys:
        # The exception ends here, so that no frame that holds a key or plain text hangs on an error of ours.
        try:
            return Decrypted(fernet.decrypt(sealed), name)
        except (InvalidToken, ValueError):
            continue
    return None

"""Which files need which keys."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from zoho_keystore._fs.private_file import FileTooLargeError, read_prefix, read_private_file
from zoho_keystore._keys.ring import KeyRing, fingerprint
from zoho_keystore._keys.sources import GivenKeys, key_source
from zoho_keystore._open import store_path
from zoho_keystore._storage.codec import MAX_SEALED_BYTES
from zoho_keystore.errors import KeystoreError, UnsafeFileError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

#: The start of each Fernet token: a version byte, and the upper bytes of the time.
_FERNET_START = b"gAAAA"

_UNREADABLE = {errno.EACCES, errno.EPERM, errno.EIO}


class KeyUse(NamedTuple):
    """What a key is needed for.

    Attributes:
        fingerprint: The key's fingerprint.
        files: The files that the key decrypts, and those that this user cannot read, which may need it.
    """

    fingerprint: str
    files: tuple[Path, ...]


def key_usage(path: str | os.PathLike[str] | None = None, *, key: str | None = None) -> list[KeyUse]:
    """List the keys of a store and the files that need them.

    The files are the store, those in its directory, where backups lie, and the user's default store. Files elsewhere
    are not found.

    Args:
        path: The store, as for :func:`open_keystore`; it need not exist.
        key: Where the keys come from, as for :func:`open_keystore`.

    Returns:
        Each key of the source, newest first.

    Raises:
        ConfigurationError: An argument or setting is invalid.
        KeyUnavailableError: There is no key.
    """
    return usage_of(key_source(key).load(), store_path(path))


def usage_of(keys: Sequence[bytes], store: Path) -> list[KeyUse]:
    """Return the use of each of some keys, in their order."""
    rings = [KeyRing(GivenKeys([key])) for key in keys]
    files: dict[str, list[Path]] = {fingerprint(key): [] for key in keys}
    for file, content in _tokens_around(store):
        for ring in rings:
            if content is None or (content and ring.decrypt_with_primary(content) is not None):
                files[ring.fingerprints[0]].append(file)
    return [KeyUse(name, tuple(found)) for name, found in files.items()]


def _tokens_around(store: Path) -> Iterator[tuple[Path, bytes | None]]:
    """Yield the files that may need a key, with what :func:`_read_token` returns for them."""
    files = {store}
    try:
        files.update(store.parent / name for name in os.listdir(store.parent))
    except OSError:
        yield store.parent, None  # Any file in it may need any key.
    with suppress(KeystoreError):
        default = store_path(None)
        # A default store in a home directory that this user may not enter is not this user's.
        if os.access(default, os.R_OK):
            files.add(default)
    for file in sorted(files):
        yield file, _read_token(file)


def _read_token(file: Path) -> bytes | None:
    """Return the content of a file that may be a Fernet token, b"" for any other file, and None if it is unreadable."""
    try:
        if read_prefix(file, len(_FERNET_START)).content != _FERNET_START:
            return b""
        return read_private_file(file, max_bytes=MAX_SEALED_BYTES, check=None).content
    except OSError as error:
        # Others say that there is no file, or none that could be a token: it is gone, a symbolic link, or a socket.
        return None if error.errno in _UNREADABLE else b""
    except (FileTooLargeError, UnsafeFileError):
        return b""

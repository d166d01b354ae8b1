"""Which files need which keys."""

from __future__ import annotations

import errno
import os
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zoho_keystore._fs.paths import absolute_path, default_store
from zoho_keystore._fs.private_file import FileTooLargeError, read_prefix, read_private_file
from zoho_keystore._hidden import Hidden, without_frames
from zoho_keystore._keys.ring import KeyRing, fingerprint
from zoho_keystore._keys.sources import GivenKeys, key_source
from zoho_keystore._open import FILE_VARIABLE, address_of, open_sql_storage, store_path
from zoho_keystore._sql.address import is_sql_address
from zoho_keystore._storage.codec import MAX_SEALED_BYTES
from zoho_keystore.errors import ConfigurationError, KeystoreError, UnsafeFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoho_keystore._keys.ring_text import RingKeys
    from zoho_keystore._keys.sources import HiddenKey
    from zoho_keystore._open import HiddenPath, PathArgument
    from zoho_keystore._sql.address import SQLAddress

#: The start of each Fernet token: a version byte, and the upper bytes of the time.
_FERNET_START = b"gAAAA"

#: These say that there is no file, or none that could be a token: it is gone, or a socket. After any other error, a
#: file may need any key.
_NO_TOKEN = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}


class KeyUse(NamedTuple):
    """What a key is needed for.

    Attributes:
        fingerprint: The key's fingerprint.
        files: The files that the key decrypts, and those that cannot be read, which may need it; and the address of the
            database whose rows are sealed with it.
        state: "primary" for the key that encrypts, "retired" for one that only decrypts, else "old".
        retired_on: The date on which it was retired (ISO 8601), or an empty text.
    """

    fingerprint: str
    files: tuple[Path | str, ...]
    state: str = "old"
    retired_on: str = ""


def key_usage(path: str | os.PathLike[str] | None = None, *, key: str | None = None) -> list[KeyUse]:
    """List the keys of a store and the files that need them.

    The files are the store, those in its directory, where backups lie, those beside a symbolic link that leads to it,
    and the user's default store. Of a store on a database server, they are the store and the default store. Files
    elsewhere are not found.

    Args:
        path: The store, as for :func:`open_keystore`; it need not exist.
        key: Where the keys come from, as for :func:`open_keystore`.

    Returns:
        Each key of the source, newest first, the retired ones last.

    Raises:
        ConfigurationError: An argument or setting is invalid.
        KeyUnavailableError: There is no key.
    """
    hidden_path, hidden_key = Hidden(path), Hidden(key)
    del path, key  # See zoho_keystore._hidden.
    return without_frames(lambda: usage_of(key_source(hidden_key).load(), hidden_path, hidden_key))


def require_findable(path: PathArgument) -> None:
    """Refuse a store whose backups cannot be found, since any key may be needed for them.

    Args:
        path: The store, as it was given.

    Raises:
        ConfigurationError: It is on a database server, or its address is refused.
    """
    path = Hidden.of(path)
    if (address := address_of(path)) is not None and address.path is None:
        raise ConfigurationError(
            "backups of a store on a database server are not found, so which keys nothing needs is not known; no key "
            "was dropped",
            "Name the keys to drop; they are listed by: zoho-keystore key list",
        )


def usage_of(keys: RingKeys, path: HiddenPath, key: HiddenKey) -> list[KeyUse]:
    """Return the use of each key, in their order.

    Args:
        keys: The keys.
        path: The store, as it was given.
        key: Where the keys of a store in a database come from.
    """
    rings = [KeyRing(GivenKeys([key])) for key in keys]
    files: dict[str, list[Path | str]] = {ring.fingerprints[0]: [] for ring in rings}
    for file, content in _tokens_around(path):
        for ring in rings:
            if content is None or (content and ring.decrypt_with_primary(content) is not None):
                files[ring.fingerprints[0]].append(file)
    if (address := address_of(path)) is not None:
        names = _keys_of_database(address, key)
        for name in files if names is None else set(names) & set(files):
            files[name].append(address.name)
    return [KeyUse(fingerprint(key), tuple(files[fingerprint(key)]), *_state(keys, key)) for key in keys]


def _state(keys: RingKeys, key: bytes) -> tuple[str, str]:
    if key in keys.retired:
        return "retired", keys.retired[key]
    return "primary" if key == keys[0] else "old", ""


def _keys_of_database(address: SQLAddress, key: HiddenKey) -> tuple[str, ...] | None:
    """Return the fingerprints of the keys that a store in a database needs; None if it may need any key."""
    try:
        with closing(open_sql_storage(address, key=key, create=False)) as storage:
            return storage.key_names()
    except KeystoreError:
        return None


def _tokens_around(path: HiddenPath) -> Iterator[tuple[Path, bytes | None]]:
    """Yield the files that may need a key, with what :func:`_read_token` returns for them."""
    files: set[Path] = set()
    directories: set[Path] = set()
    no_tokens: set[Path] = set()
    if (address := address_of(path)) is None:
        store = store_path(path)
        files, directories = {store}, {store.parent, _given_path(path).parent}
    elif (database := address.path) is not None:
        directories = {database.parent}
        # Closing one of these would release the locks that SQLite holds for this process.
        no_tokens = {database.with_name(f"{database.name}{suffix}") for suffix in ("", "-wal", "-shm", "-journal")}
    for directory in sorted(directories):
        try:
            # With symbolic links resolved: the key of a backup elsewhere is needed as well.
            files.update(Path(os.path.realpath(directory / name)) for name in os.listdir(directory))
        except OSError:
            yield directory, None  # Any file in it may need any key.
    with suppress(KeystoreError):
        # Also beside an address that is refused: the store may need any of the keys.
        default = default_store() if is_sql_address(os.environ.get(FILE_VARIABLE, "")) else store_path(None)
        if not _is_in_another_home(default):
            files.add(default)
    for file in sorted(files - no_tokens):
        yield file, _read_token(file)


def _is_in_another_home(default: Path) -> bool:
    """Return whether the default store is in a directory that this user may not enter, and so is another user's."""
    try:
        os.stat(default)
    except PermissionError:
        return True
    except OSError:
        return False  # Reading it tells whether it is missing; after another error it may need any key.
    return False


def _given_path(path: HiddenPath) -> Path:
    """Return the path of a store as it was given, absolute, with symbolic links as they are."""
    return absolute_path(path.value or os.environ.get(FILE_VARIABLE) or default_store())


def _read_token(file: Path) -> bytes | None:
    """Return the content of a file that may be a Fernet token, b"" for any other file, and None if it is unreadable."""
    try:
        if read_prefix(file, len(_FERNET_START)).content != _FERNET_START:
            return b""
        return read_private_file(file, max_bytes=MAX_SEALED_BYTES, check=None).content
    except OSError as error:
        return b"" if error.errno in _NO_TOKEN else None
    except (FileTooLargeError, UnsafeFileError):
        return b""

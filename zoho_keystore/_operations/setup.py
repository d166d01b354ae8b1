"""Creation of the key ring and the store."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoho_keystore._fs.directory import make_directories
from zoho_keystore._fs.paths import default_key_ring
from zoho_keystore._hidden import Hidden, without_frames
from zoho_keystore._keys.ring import KeyRing, key_ring, new_key
from zoho_keystore._keys.sources import KEY_VARIABLE, RING_VARIABLE, WritableKeySource, key_source
from zoho_keystore._open import address_of, explained, open_keystore, open_sql_storage, store_path
from zoho_keystore._operations import databases
from zoho_keystore.errors import KeystoreError, KeyUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

    from zoho_keystore._keys.sources import HiddenKey, KeySource
    from zoho_keystore._sql.address import SQLAddress


@dataclass(frozen=True)
class Setup:
    """The state after :func:`init` or :func:`init_store`.

    Attributes:
        name: The store's path, or the address of its database.
        source: The spec of the key source.
        fingerprints: The fingerprints of the keys, newest first.
        made_key: Whether init() created a key.
        made_store: Whether init() created the store.
        is_default: Whether ``EncryptedFileStore()`` without arguments opens this store with these keys.
    """

    name: str
    source: str
    fingerprints: tuple[str, ...]
    made_key: bool
    made_store: bool
    is_default: bool


@dataclass(frozen=True)
class FileSetup(Setup):
    """The state after :func:`init`.

    Attributes:
        store: The store's path.
    """

    store: Path


def init_store(path: str | os.PathLike[str] | None = None, *, key: str | None = None) -> Setup:
    """Create a key ring and an empty store, in a file or a database, if they do not exist; otherwise as :func:`init`.

    Raises:
        KeystoreError: As for :func:`init`.
    """
    hidden_path, hidden_key = Hidden(path), Hidden(key)
    del path, key  # See zoho_keystore._hidden.
    address = address_of(hidden_path)
    if address is None:
        return init(hidden_path.value, key=hidden_key.value)
    return without_frames(lambda: _init_database(address, *_source(hidden_key)))


def init(path: str | os.PathLike[str] | None = None, *, key: str | None = None) -> FileSetup:
    """Create a key ring with one key, and an empty store, if they do not exist. Nothing else is changed.

    No key is created for an existing store.

    Args:
        path: The store, as for :class:`EncryptedFileStore`.
        key: The spec of the key source. None is the default of a store: the environment variables if they are set, else
            the key ring in the user's config directory.

    Raises:
        KeystoreError: The key ring or the store could not be created or opened. A key that was created before stays.
    """
    hidden_path, hidden_key = Hidden(path), Hidden(key)
    del path, key  # See zoho_keystore._hidden.
    return without_frames(lambda: _init_file(store_path(hidden_path), *_source(hidden_key)))


def _init_file(store: Path, source: KeySource, spec: HiddenKey) -> FileSetup:
    made_store = not os.path.lexists(store)
    # A new key cannot open an existing store, and would hide that the store's own key is missing.
    made_key = made_store and isinstance(source, WritableKeySource) and source.create(new_key())
    try:
        ring = KeyRing(source)
    except KeyUnavailableError as error:
        raise explained(error, store) from None
    if made_store:
        make_directories(store.parent)
    open_keystore(store, key=spec.value).close()
    is_default = _is_default(store, ring)
    return FileSetup(str(store), str(source), ring.fingerprints, made_key, made_store, is_default, store)


def _source(key: HiddenKey) -> tuple[KeySource, HiddenKey]:
    """Return the source of keys, and its spec; None is that of the environment."""
    if key.value is None and not (os.environ.get(KEY_VARIABLE) or os.environ.get(RING_VARIABLE)):
        key = Hidden(f"file:{default_key_ring()}")
    return key_source(key), key


def _init_database(address: SQLAddress, source: KeySource, spec: HiddenKey) -> Setup:
    made_store = not databases.is_store_there(address)
    made_key = made_store and isinstance(source, WritableKeySource) and source.create(new_key())
    ring = KeyRing(source)
    with closing(open_sql_storage(address, key=spec)) as storage:
        name = storage.name
    return Setup(name, str(source), ring.fingerprints, made_key, made_store, is_default=False)


def _is_default(store: Path, ring: KeyRing) -> bool:
    try:
        return store_path(None) == store and key_ring(None).fingerprints == ring.fingerprints
    except KeystoreError:  # Also where the user has no home directory.
        return False

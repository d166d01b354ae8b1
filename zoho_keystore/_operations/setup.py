"""Creation of the key ring and the store."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoho_keystore._fs.directory import make_directories
from zoho_keystore._fs.paths import default_key_ring
from zoho_keystore._keys.ring import KeyRing, key_ring, new_key
from zoho_keystore._keys.sources import KEY_VARIABLE, RING_VARIABLE, WritableKeySource, key_source
from zoho_keystore._open import explained, open_keystore, store_path
from zoho_keystore.errors import KeystoreError, KeyUnavailableError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Setup:
    """The state after :func:`init`.

    Attributes:
        store: The store's path.
        source: The spec of the key source.
        fingerprints: The fingerprints of the keys, newest first.
        made_key: Whether init() created a key.
        made_store: Whether init() created the store.
        is_default: Whether ``EncryptedFileStore()`` without arguments opens this store with these keys.
    """

    store: Path
    source: str
    fingerprints: tuple[str, ...]
    made_key: bool
    made_store: bool
    is_default: bool


def init(path: str | os.PathLike[str] | None = None, *, key: str | None = None) -> Setup:
    """Create a key ring with one key, and an empty store, if they do not exist. Nothing else is changed.

    No key is created for an existing store.

    Args:
        path: The store, as for :class:`EncryptedFileStore`.
        key: The spec of the key source. None is the default of a store: the environment variables if they are set, else
            the key ring in the user's config directory.

    Raises:
        KeystoreError: The key ring or the store could not be created or opened. A key that was created before stays.
    """
    is_set = os.environ.get(KEY_VARIABLE) or os.environ.get(RING_VARIABLE)
    spec = key if key is not None or is_set else f"file:{default_key_ring()}"
    source = key_source(spec)
    store = store_path(path)
    made_store = not os.path.lexists(store)
    # A new key cannot open an existing store, and would hide that the store's own key is missing.
    made_key = made_store and isinstance(source, WritableKeySource) and source.create(new_key())
    try:
        ring = KeyRing(source)
    except KeyUnavailableError as error:
        raise explained(error, store) from None
    if made_store:
        make_directories(store.parent)
    open_keystore(store, key=spec).close()
    is_default = _is_default(store, ring)
    return Setup(store, str(source), ring.fingerprints, made_key, made_store, is_default)


def _is_default(store: Path, ring: KeyRing) -> bool:
    try:
        return store_path(None) == store and key_ring(None).fingerprints == ring.fingerprints
    except KeystoreError:  # Also where the user has no home directory.
        return False

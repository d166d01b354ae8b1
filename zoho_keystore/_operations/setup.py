"""The first key ring and the first store."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoho_keystore._fs.directory import make_directories
from zoho_keystore._fs.paths import default_key_ring
from zoho_keystore._keys.ring import KeyRing, key_ring, new_key
from zoho_keystore._keys.sources import KEY_VARIABLE, RING_VARIABLE, WritableSource, key_source
from zoho_keystore._open import open_keystore, store_path
from zoho_keystore.errors import KeyUnavailableError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Setup:
    """What there is now.

    Attributes:
        store: The store's path.
        source: Where its keys come from, as a spec.
        fingerprints: The names of the keys.
        made_key: Whether a key was made.
        made_store: Whether the store was made.
        is_default: Whether a store that is opened without arguments is this one, with these keys.
    """

    store: Path
    source: str
    fingerprints: tuple[str, ...]
    made_key: bool
    made_store: bool
    is_default: bool


def init(path: str | os.PathLike[str] | None = None, *, key: str | None = None) -> Setup:
    """Make a key ring with a key, and an empty store, where they are not there yet; nothing else is changed.

    For a store that is there, no key is made.

    Args:
        path: The store, as for :class:`EncryptedFileStore`.
        key: Where its keys are to be, as a spec. None is what a store without arguments uses: the variables if they are
            set, else the key ring in the user's config folder.

    Raises:
        KeystoreError: One of its kinds. What was made by then stays, and can be used.
    """
    is_set = os.environ.get(KEY_VARIABLE) or os.environ.get(RING_VARIABLE)
    spec = key if key is not None or is_set else f"file:{default_key_ring()}"
    source = key_source(spec)
    store = store_path(path)
    made_store = not os.path.lexists(store)
    # A new key would not open a store that is there already, and would hide that its own is missing.
    made_key = made_store and isinstance(source, WritableSource) and source.make(new_key())
    ring = KeyRing(source)
    if made_store:
        make_directories(store.parent)
    open_keystore(store, key=spec).close()
    is_default = _is_default(store, ring)
    return Setup(store, str(source), ring.fingerprints, made_key, made_store, is_default)


def _is_default(store: Path, ring: KeyRing) -> bool:
    try:
        return store_path(None) == store and key_ring(None).fingerprints == ring.fingerprints
    except KeyUnavailableError:
        return False

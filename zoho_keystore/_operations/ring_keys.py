"""Keys that are added to a ring by hand, and dropped from it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from zoho_keystore._hidden import Hidden, without_frames
from zoho_keystore._keys.ring import KeyRing, fingerprint, new_key
from zoho_keystore._keys.sources import WritableKeySource, key_source
from zoho_keystore._open import address_of, as_seconds, commands_for, named_options, open_sql_storage, store_path
from zoho_keystore._operations.key_usage import KeyUse, require_findable, usage_of
from zoho_keystore._storage.file import FileStorage
from zoho_keystore._text import cli_command
from zoho_keystore.errors import ConfigurationError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from zoho_keystore._keys.sources import HiddenKey, KeyArgument, KeySource
    from zoho_keystore._open import HiddenPath, PathArgument
    from zoho_keystore._sql.address import SQLAddress
    from zoho_keystore._storage.sql.storage import SQLStorage


def add_key(key: str | None = None, *, lock_timeout: float = 10.0) -> tuple[str, str]:
    """Make a key and put it above the others of a ring; the next save encrypts the store with it.

    Returns:
        The ring's spec and the key's fingerprint.

    Raises:
        ConfigurationError: The source cannot be written.
        KeystoreError: The key was not added.
    """
    hidden_key = Hidden(key)
    del key  # See zoho_keystore._hidden.
    return without_frames(lambda: _add_key(writable_source(hidden_key), as_seconds("lock_timeout", lock_timeout)))


def _add_key(source: WritableKeySource, timeout_s: float) -> tuple[str, str]:
    made = new_key()
    with source.lock(timeout_s):
        source.add(made)
    return str(source), fingerprint(made)


def prune(
    path: str | os.PathLike[str] | None = None,
    fingerprints: Iterable[str] | None = None,
    *,
    key: str | None = None,
    lock_timeout: float = 10.0,
) -> tuple[str, ...]:
    """Drop old keys from a ring; return their fingerprints.

    Args:
        path: The store, as for :func:`open_keystore`; it has to open.
        fingerprints: The keys. None means all retired keys that no file needs which :func:`key_usage` finds; other
            stores and backups elsewhere may need them. A store on a database server takes names alone.
        key: Where the keys come from, as for :func:`open_keystore`, but not as bytes.
        lock_timeout: How many seconds to wait for the lock of the ring.

    Raises:
        ConfigurationError: The source cannot be changed, has no such key, or the store needs that key.
        KeystoreError: No key was dropped.
    """
    hidden_path, hidden_key = Hidden(path), Hidden(key)
    del path, key  # See zoho_keystore._hidden.
    with commands_for(hidden_path, hidden_key):
        return without_frames(
            lambda: _prune(hidden_path, fingerprints, hidden_key, as_seconds("lock_timeout", lock_timeout))
        )


def _prune(path: HiddenPath, fingerprints: Iterable[str] | None, key: HiddenKey, timeout_s: float) -> tuple[str, ...]:
    if fingerprints is None:
        require_findable(path)
    found = address_of(path) or store_path(path)
    source = writable_source(key)
    with source.lock(timeout_s):
        # A store that is missing or does not open may need any of the keys.
        with closing(opened(found, key, source, timeout_s)) as storage:
            store = storage.path or storage.name
        keys = source.load()
        usage = usage_of(keys, path, key)
        if fingerprints is None:
            wanted = {use.fingerprint for use in usage if use.state == "retired" and not use.files}
        else:
            wanted = set(fingerprints)
            require_droppable(usage, wanted, path, store, source)
        if wanted:
            source.remove([one for one in keys if fingerprint(one) in wanted])
    return tuple(use.fingerprint for use in usage if use.fingerprint in wanted)


def require_droppable(
    usage: Sequence[KeyUse],
    wanted: set[str],
    path: PathArgument,
    store: Path | str,
    source: KeySource,
) -> None:
    """Refuse to drop a key that the source does not have, or that the store needs.

    Args:
        usage: The use of each key of the source.
        wanted: The fingerprints of the keys to drop.
        path: The store, as it was given.
        store: The store's file, or the address of its database.
        source: Where its keys come from.

    Raises:
        ConfigurationError: One of them cannot be dropped.
    """
    known = {use.fingerprint: use for use in usage}
    named, key = named_options(path, store, str(source))
    for name in sorted(wanted):
        if name not in known:
            raise ConfigurationError(
                f"{source} has no key {name}; nothing was dropped",
                f"List the keys with: {cli_command('key', 'list', store=named, key=key)}",
            )
        if known[name].state == "primary" or store in known[name].files:
            raise ConfigurationError(
                f"the key {name} seals this store; nothing was dropped",
                f"Rotate first: {cli_command('rotate', store=named, key=key)}",
                None if isinstance(store, str) else store,
            )


def writable_source(key: KeyArgument) -> WritableKeySource:
    """Return a source of keys that can be changed from here.

    Raises:
        ConfigurationError: It cannot.
    """
    key = Hidden.of(key)
    source = key_source(key)
    reason = why_not_changed(source)
    if isinstance(source, WritableKeySource) and not reason:
        return source
    raise ConfigurationError(
        f"the keys of {source} cannot be changed from here: {reason}",
        "Change them where you hand them out, newest first; a new key is made by: zoho-keystore key new --print",
    )


def why_not_changed(source: KeySource) -> str:
    """Return why the keys of a source cannot be changed from here, or an empty text."""
    return source.cannot_change() if isinstance(source, WritableKeySource) else "a source of this kind is only read"


def opened(store: Path | SQLAddress, key: HiddenKey, source: KeySource, timeout_s: float) -> FileStorage | SQLStorage:
    """Open the storage of an existing store, by a source of its keys that is open already where that is enough."""
    if isinstance(store, Path):
        return FileStorage(store, KeyRing(source), lock_timeout=timeout_s, create=False)
    return open_sql_storage(store, key=key, lock_timeout=timeout_s, create=False)

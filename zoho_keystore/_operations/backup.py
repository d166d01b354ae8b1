"""Sealed copies of a store: made durably, and put back."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from itertools import chain, count
from typing import TYPE_CHECKING

from zoho_keystore._fs import atomic, permissions
from zoho_keystore._fs.directory import Directory
from zoho_keystore._fs.lock import StoreLock
from zoho_keystore._fs.paths import real_path
from zoho_keystore._keys.ring import KeyRing, key_ring
from zoho_keystore._open import store_path
from zoho_keystore._storage import codec
from zoho_keystore._storage.codec import MAX_SEALED_BYTES
from zoho_keystore.errors import DurabilityUnknownError, KeystoreError, StoreFileError, storage_error

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from zoho_keystore._records import TokenRecord


@dataclass(frozen=True)
class Inspection:
    """A store that opens.

    Attributes:
        path: The file.
        content: The file's content, sealed.
        fingerprint: The name of the key that it is sealed with.
        generation: How often it was written.
        records: What is in it, by id.
    """

    path: Path
    content: bytes = field(repr=False)
    fingerprint: str
    generation: int
    records: Mapping[str, TokenRecord] = field(repr=False)


def backup(path: str | os.PathLike[str] | None, destination: str | os.PathLike[str], *, key: str | None = None) -> Path:
    """Make a copy of a store, sealed as it is, once it is known to open; return the copy's path.

    Args:
        path: The store, as for :class:`EncryptedFileStore`.
        destination: A file that is not there yet, or a folder, in which the copy is named by the store and the time.
        key: Where the store's keys come from, likewise.

    Raises:
        KeystoreError: The store does not open, or the copy cannot be made; no half of it is left.
    """
    store = store_path(path)
    content = _opened(store, key_ring(key)).content
    copy = real_path(destination)
    if os.path.isdir(copy):
        return _make_dated(copy / f"{store.name}.", content)
    make_file(copy, content)
    return copy


@dataclass(frozen=True)
class Comparison:
    """What putting a copy back would change, by the ids of the tokens.

    Attributes:
        store: The store.
        copy: The copy.
        records: What the copy holds.
        lost: Tokens that the copy does not have.
        changed: Tokens that are other ones, or older, in the copy.
        returned: Tokens that the store does not have.
        trouble: Why the store as it is does not open, or None; then nobody knows what is lost.
    """

    store: Path
    copy: Path
    records: tuple[TokenRecord, ...]
    lost: tuple[str, ...]
    changed: tuple[str, ...]
    returned: tuple[str, ...]
    trouble: KeystoreError | None


def compare(
    path: str | os.PathLike[str] | None, source: str | os.PathLike[str], *, key: str | None = None
) -> Comparison:
    """Tell what :func:`restore` would change.

    Raises:
        KeystoreError: The copy does not open.
    """
    store, copy, ring = store_path(path), real_path(source), key_ring(key)
    _require_another(store, copy)
    new = _opened(copy, ring).records
    trouble = None
    old: Mapping[str, TokenRecord] = {}
    if os.path.lexists(store):
        try:
            old = _opened(store, ring).records
        except KeystoreError as error:
            trouble = error
    return Comparison(
        store,
        copy,
        tuple(new.values()),
        lost=tuple(id for id in old if id not in new),
        changed=tuple(id for id, record in old.items() if id in new and new[id] != record),
        returned=tuple(id for id in new if id not in old),
        trouble=trouble,
    )


def restore(
    path: str | os.PathLike[str] | None,
    source: str | os.PathLike[str],
    *,
    key: str | None = None,
    lock_timeout: float = 10.0,
) -> Path | None:
    """Put a copy in a store's place, and keep what was there beside it, also if that does not open.

    Running programs see it at their next request, and log that an older state was put back.

    Returns:
        Where the replaced state is kept; None when there was none.

    Raises:
        KeystoreError: The copy does not open, or cannot be put there; the store is as it was.
    """
    store, copy = store_path(path), real_path(source)
    _require_another(store, copy)
    content = _opened(copy, key_ring(key)).content
    with StoreLock(store.parent, store.name, lock_timeout).held() as held:
        atomic.remove_stale_temp_files(held.directory, store.name)
        kept = None
        if os.path.lexists(store):
            try:
                kept = _make_dated(store.with_name(f"{store.name}.replaced-"), _content(store))
            except DurabilityUnknownError as error:
                # Of the copy: passed on, it would say that the store is restored.
                raise StoreFileError(
                    f"what is to be replaced cannot be kept safely, so nothing was restored: {error.problem}",
                    "Check the disk, then do it once more",
                    store,
                ) from error
        try:
            atomic.write(held.directory, store.name, content, create=kept is None, pre_rename_check=held.verify)
        except atomic.AlreadyThereError:
            raise StoreFileError(
                "somebody has made a store there meanwhile, without its lock; it was left as it is",
                "Do it again",
                store,
            ) from None
    return kept


def _make_dated(start: Path, content: bytes) -> Path:
    """Make a private file whose name begins so, goes on with the time, and is free; return its path."""
    name = f"{start.name}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    paths = (start.with_name(f"{name}{more}") for more in chain([""], map("-{}".format, count(2))))
    path = next(path for path in paths if not os.path.lexists(path))
    make_file(path, content)
    return path


def _require_another(store: Path, copy: Path) -> None:
    if store == copy:
        raise StoreFileError("this is the store itself, and no copy of it", "Give the path of the copy", copy)


def inspect(path: str | os.PathLike[str] | None = None, *, key: str | None = None) -> Inspection:
    """Open a store and check all that is in it, without changing anything.

    Raises:
        KeystoreError: It does not open, or is not whole.
    """
    return _opened(store_path(path), key_ring(key))


def _opened(path: Path, ring: KeyRing) -> Inspection:
    content = _content(path)
    opened = ring.open(content, path=path)
    header, records = codec.decode(opened.document, path=path)
    return Inspection(path, content, opened.fingerprint, header.generation, records)


def _content(path: Path) -> bytes:
    try:
        with permissions.opened(path) as (fd, status):
            permissions.require_owner(status, path)
            if status.st_size > MAX_SEALED_BYTES:
                raise StoreFileError(f"{status.st_size:,} bytes are more than a store may have", "Check the path", path)
            with open(fd, "rb", closefd=False) as file:
                return file.read(MAX_SEALED_BYTES)
    except OSError as error:
        raise storage_error(error, "the file cannot be read", path) from error


def make_file(path: Path, content: bytes) -> None:
    """Make a private file, durably, whole or not at all.

    Raises:
        StoreFileError: It is there already, or cannot be made.
    """
    with Directory.opened(path.parent) as directory:
        try:
            atomic.write(directory, path.name, content, create=True)
        except atomic.AlreadyThereError:
            raise StoreFileError("there is a file already; it was left as it is", "Give another name", path) from None

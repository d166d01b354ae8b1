"""Sealed copies of a store: made durably, compared with the store, and restored."""

from __future__ import annotations

import logging
import os
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain, count
from typing import TYPE_CHECKING

from zoho_keystore import _platform as platform
from zoho_keystore._fs import atomic
from zoho_keystore._fs.directory import Directory
from zoho_keystore._fs.lock import StoreLock
from zoho_keystore._fs.paths import is_same_file
from zoho_keystore._hidden import Hidden
from zoho_keystore._keys.ring import key_ring
from zoho_keystore._open import address_of, as_seconds, file_path, open_sql_storage, store_path
from zoho_keystore._operations import databases
from zoho_keystore._operations.copying import without_leases
from zoho_keystore._records import retired_key
from zoho_keystore._storage import codec
from zoho_keystore._storage.file import FileStorage
from zoho_keystore._storage.headers import MAX_RETIRED
from zoho_keystore._storage.store_file import no_store, read_content, read_store, require_replaceable
from zoho_keystore.errors import DurabilityUnknownError, KeystoreError, StoreFileError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from zoho_keystore._keys.ring import KeyRing
    from zoho_keystore._keys.sources import HiddenKey
    from zoho_keystore._records import TokenRecord
    from zoho_keystore._sql.address import SQLAddress
    from zoho_keystore._storage import Transaction
    from zoho_keystore._storage.codec import Header
    from zoho_keystore._storage.store_file import StoreFile

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """What restoring a copy would change, by the ids of the tokens.

    Attributes:
        store: The store's path, or the address of its database.
        copy: The copy's path.
        records: The records of the copy.
        lost: Tokens of the store that the copy does not have.
        changed: Tokens that differ between the two.
        returned: Tokens of the copy that the store does not have.
        store_error: Why the store does not open, or None. If it does not, ``lost`` is not known.
    """

    store: Path | str
    copy: Path
    records: tuple[TokenRecord, ...]
    lost: tuple[str, ...]
    changed: tuple[str, ...]
    returned: tuple[str, ...]
    store_error: KeystoreError | None


def backup(path: str | os.PathLike[str] | None, destination: str | os.PathLike[str], *, key: str | None = None) -> Path:
    """Copy a store, as it is sealed, after checking that it opens; one in a database as a sealed file.

    That file opens as a store in a file.

    The copy needs the key that the store is sealed with now, which :func:`rotate` retires: it stays in the ring until
    it is dropped explicitly. Neither a lock nor a pause of running programs is needed.

    Args:
        path: The store, as for :func:`open_keystore`.
        destination: A file that does not exist, or a directory, in which the copy is named after the store and the time
            (UTC).
        key: Where the store's keys come from, as for :func:`open_keystore`.

    Returns:
        The path of the copy, which is durable and has mode 0600.

    Raises:
        CannotOpenError: The key is wrong or the store is damaged.
        DocumentError: The store opens, and its payload is not a keystore's.
        StoreFileError: The store cannot be read, or the copy exists or cannot be written; no part of it is left.
        DurabilityUnknownError: The copy is written, but may not survive a power cut.
        KeystoreError: Any other kind: nothing was written.
    """
    hidden_path, hidden_destination, hidden_key = Hidden(path), Hidden(destination), Hidden(key)
    del path, destination, key  # See zoho_keystore._hidden.
    if (address := address_of(hidden_path)) is not None:
        content, name = databases.sealed_copy(address, hidden_key), databases.file_name(address)
    else:
        store = store_path(hidden_path)
        content, name = _open_store(store, key_ring(hidden_key)).content, store.name
    copy = file_path(hidden_destination)
    names_directory = os.fspath(hidden_destination.value).endswith(tuple(filter(None, (os.sep, os.altsep))))
    if names_directory and not os.path.lexists(copy):
        raise StoreFileError(
            "there is no such directory; nothing was copied", f"Make it: {platform.make_directory_command(copy)}", copy
        )
    if os.path.isdir(copy):
        return _make_dated_file(copy / f"{name}.", content)
    make_file(copy, content)
    return copy


def restore(
    path: str | os.PathLike[str] | None,
    source: str | os.PathLike[str],
    *,
    key: str | None = None,
    lock_timeout: float = 10.0,
) -> Path | None:
    """Replace a store by a copy that opens, and keep the replaced file beside it.

    The store may be missing or damaged. Running programs see the copy at their next request, and log that an older
    state was restored. Tokens that were saved after the copy was made are not in the store afterwards.

    Ids that the replaced state has assigned are not assigned again, and refresh tokens that it knows as deleted or
    replaced stay so, unless the copy holds them. If the replaced state does not open, that is logged as a warning.

    In a database the store is made if it is missing, and the replaced state is kept as a sealed file beside the copy; a
    store that does not open is left as it is.

    Args:
        path: The store, as for :func:`open_keystore`.
        source: The copy.
        key: Where the store's keys come from, as for :func:`open_keystore`; one of them has to open the copy.
        lock_timeout: How many seconds to wait for the store's lock.

    Returns:
        The path of the replaced file; None if there was no store.

    Raises:
        CannotOpenError: The key is wrong or the copy is damaged.
        DocumentError: The copy opens, and its payload is not a keystore's.
        LockTimeoutError: Another process or thread held the store's lock for too long.
        StoreFileError: The copy cannot be read, or the store cannot be replaced.
        DurabilityUnknownError: The store is replaced, but that may not survive a power cut.
        KeystoreError: Any other kind. In each case but DurabilityUnknownError the store is as it was.
    """
    hidden_path, hidden_source, hidden_key = Hidden(path), Hidden(source), Hidden(key)
    del path, source, key  # See zoho_keystore._hidden.
    timeout_s = as_seconds("lock_timeout", lock_timeout)
    address, copy, ring = address_of(hidden_path), file_path(hidden_source), key_ring(hidden_key)
    if address is not None:
        return _restore_database(address, _open_copy(copy, ring), copy, ring, hidden_key, timeout_s)
    store = store_path(hidden_path)
    _require_different(store, copy)
    restored = _open_copy(copy, ring)
    with StoreLock(store.parent, store.name, timeout_s).held() as held:
        atomic.remove_stale_temp_files(held.directory, store.name)
        replaced, header = None, restored.header
        with suppress(FileNotFoundError):  # There is no store to keep.
            replaced = _keep_replaced(store)
            header = _with_counters_of(store, ring, restored)
        content = _reseal(restored.records, header, ring, store)
        try:
            atomic.write(held.directory, store.name, content, create=replaced is None, pre_rename_check=held.verify)
        except atomic.AlreadyThereError:
            raise StoreFileError(
                "another program made a store there without its lock; it was left as it is",
                "Run the command again",
                store,
            ) from None
    return replaced


def _restore_database(  # noqa: PLR0917 - one step of restore()
    address: SQLAddress, restored: StoreFile, copy: Path, ring: KeyRing, key: HiddenKey, timeout_s: float
) -> Path | None:
    records = without_leases(restored.records.values())
    with closing(open_sql_storage(address, key=key, lock_timeout=timeout_s)) as storage:
        kept = None
        before = without_leases(storage.records())
        if before:
            content = databases.sealed(before, storage.header(), ring)
            kept = _make_dated_file(copy.with_name(f"{copy.name}.replaced-"), content)

        def work(transaction: Transaction) -> bool:
            if without_leases(transaction.records()) != before:
                return False
            transaction.clear(retire=False)
            for record in records:
                transaction.put(record)
            transaction.take_over(restored.header)
            return True

        if not storage.transact(work):
            raise StoreFileError(
                f"{storage.name} has changed meanwhile, so what it replaces is not what was kept; nothing was restored",
                "Stop the programs that use it, and restore again",
            )
    return kept


def _with_counters_of(store: Path, ring: KeyRing, restored: StoreFile) -> Header:
    """Return the header of a copy with the ids and refresh tokens that the store must not use again."""
    try:
        # The keys were loaded a moment ago; loading them again could keep the lock for half a minute.
        replaced = read_store(store, ring, reload_keys=False).header
    except KeystoreError as error:
        _log.warning(
            "%s: the replaced state does not open (%s), so ids that it has assigned since may be assigned again",
            store,
            error.problem,
        )
        return restored.header
    own = set(map(retired_key, restored.records.values()))
    retired = dict.fromkeys([*restored.header.retired, *(one for one in replaced.retired if one not in own)])
    return restored.header._replace(
        next_id=max(restored.header.next_id, replaced.next_id), retired=tuple(retired)[-MAX_RETIRED:]
    )


def _reseal(records: Mapping[str, TokenRecord], header: Header, ring: KeyRing, store: Path) -> bytes:
    payload = codec.encode(header, records.values(), path=store)
    sealed = ring.seal(payload)
    if ring.decrypt_with_primary(sealed) != payload:
        raise StoreFileError(
            "what was encrypted anew does not decrypt to the same records; the store was left as it is",
            "Check this machine's memory",
            store,
        )
    return sealed


def compare(
    path: str | os.PathLike[str] | None, source: str | os.PathLike[str], *, key: str | None = None
) -> Comparison:
    """Return what :func:`restore` would change; the arguments are the same.

    Raises:
        KeystoreError: The copy does not open.
    """
    hidden_path, hidden_source, hidden_key = Hidden(path), Hidden(source), Hidden(key)
    del path, source, key  # See zoho_keystore._hidden.
    address, copy, ring = address_of(hidden_path), file_path(hidden_source), key_ring(hidden_key)
    old: Mapping[str, TokenRecord] = {}
    store_error = None
    if address is not None:
        new = _open_copy(copy, ring).records
        if databases.is_store_there(address):
            old = {record.id: record for record in databases.read_content(address, hidden_key).records}
        return _compared(address.name, copy, old, new, None)
    store = store_path(hidden_path)
    _require_different(store, copy)
    new = _open_copy(copy, ring).records
    if os.path.lexists(store):
        try:
            old = _open_store(store, ring).records
        except KeystoreError as error:
            store_error = error
    return _compared(store, copy, old, new, store_error)


def _compared(
    store: Path | str,
    copy: Path,
    old: Mapping[str, TokenRecord],
    new: Mapping[str, TokenRecord],
    store_error: KeystoreError | None,
) -> Comparison:
    # A lease belongs to a process that refreshes the token; it is no difference between two tokens.
    old = {record.id: record for record in without_leases(old.values())}
    new_tokens = {record.id: record for record in without_leases(new.values())}
    return Comparison(
        store,
        copy,
        tuple(new.values()),
        lost=tuple(id for id in old if id not in new),
        changed=tuple(id for id, record in old.items() if id in new and new_tokens[id] != record),
        returned=tuple(id for id in new if id not in old),
        store_error=store_error,
    )


def inspect(path: str | os.PathLike[str] | None = None, *, key: str | None = None) -> StoreFile:
    """Decrypt a store, validate its payload, and make sure that a save can replace it. Nothing but modes is changed.

    Raises:
        KeystoreError: It does not open, its payload is not a keystore's, or a save would fail.
    """
    hidden_path, hidden_key = Hidden(path), Hidden(key)
    del path, key  # See zoho_keystore._hidden.
    store, ring = store_path(hidden_path), key_ring(hidden_key)
    found = _open_store(store, ring)
    check_writable(store, ring)
    return found


def check_writable(store: Path, ring: KeyRing) -> None:
    """Make sure that a save can replace an existing store, and that its lock file opens.

    Raises:
        KeystoreError: The store does not open, or a save would fail.
    """
    with closing(FileStorage(store, ring, lock_timeout=0.0, create=False)):
        require_replaceable(store)


def make_file(path: Path, content: bytes) -> None:
    """Make a private file, durably; it appears whole or not at all. The mode of its directory is not changed.

    Raises:
        StoreFileError: There is a file already, or it cannot be made.
    """
    with Directory.opened(path.parent, may_restrict=False) as directory:
        try:
            atomic.write(directory, path.name, content, create=True)
        except atomic.AlreadyThereError:
            raise StoreFileError("there is a file already; it was left as it is", "Give another name", path) from None


def _keep_replaced(store: Path) -> Path:
    """Copy the file that is about to be replaced, and return the copy's path.

    Raises:
        FileNotFoundError: There is no such file.
        StoreFileError: It cannot be copied durably.
    """
    content = read_content(store).content
    try:
        return _make_dated_file(store.with_name(f"{store.name}.replaced-"), content)
    except DurabilityUnknownError as error:
        # This error is about the copy: passed on, it would say that the store is restored.
        raise StoreFileError(
            f"nothing was restored, since the file that it replaces could not be kept safely: {error.problem}",
            "Check the disk, then restore again",
            store,
        ) from error


def _make_dated_file(prefix: Path, content: bytes) -> Path:
    """Make a file whose name is a prefix, the time, and a number if that name is taken; return its path."""
    name = f"{prefix.name}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    paths = (prefix.with_name(f"{name}{suffix}") for suffix in chain([""], map("-{}".format, count(2))))
    path = next(path for path in paths if not os.path.lexists(path))
    make_file(path, content)
    return path


def _require_different(store: Path, copy: Path) -> None:
    if is_same_file(store, copy):
        raise StoreFileError("this is the store itself, not a copy of it", "Give the path of the copy", copy)


def _open_store(store: Path, ring: KeyRing) -> StoreFile:
    try:
        return read_store(store, ring)
    except FileNotFoundError:
        raise no_store(store) from None


def _open_copy(copy: Path, ring: KeyRing) -> StoreFile:
    try:
        return read_store(copy, ring)
    except FileNotFoundError:
        raise StoreFileError("there is no such file", "Give the path of a copy that backup has made", copy) from None

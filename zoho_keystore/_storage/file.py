"""A vault in one sealed file, shared by threads and processes.

Readers take no lock. A state that was read stays trusted for as long as the path shows the file that it was read from,
unchanged, as :mod:`zoho_keystore._storage.state` tells.
"""

from __future__ import annotations

import logging
import math
import os
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from zoho_keystore._fs import atomic, permissions
from zoho_keystore._fs.directory import Directory
from zoho_keystore._fs.lock import StoreLock
from zoho_keystore._fs.owned_fd import OwnedFd
from zoho_keystore._storage import codec
from zoho_keystore._storage.codec import MAX_SEALED_BYTES, Header
from zoho_keystore._storage.snapshot import Table
from zoho_keystore._storage.state import HEAD_BYTES, State, stamp
from zoho_keystore.errors import (
    CannotOpenError,
    DurabilityUnknownError,
    StoreClosedError,
    StoreFileError,
    storage_error,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from zoho_keystore._fs.lock import HeldLock
    from zoho_keystore._keys.ring import KeyRing
    from zoho_keystore._records import Criteria, TokenRecord
    from zoho_keystore._storage import Transaction

_log = logging.getLogger(__name__)

#: How often a file that does not open, and is changing, is read again, and the pause before it, in seconds.
_READ_ATTEMPTS = 5
_READ_PAUSE_S = 0.02


class FileStorage:
    """The vault in the sealed file at a path, which is made when it is not there.

    Args:
        path: The file; symbolic links are to be resolved already.
        keys: What seals and opens it.
        lock_timeout: For how many seconds a write waits for the lock.
        make: Whether to make it when it is not there.

    Raises:
        CannotOpenError: The file does not open with these keys.
        DocumentError: It opens, and is not a keystore document of a known version.
        StoreFileError: It cannot be read or made, or is not there and is not to be made.
        LockTimeoutError: It was to be made, and the lock was not to be had.
    """

    def __init__(self, path: Path, keys: KeyRing, *, lock_timeout: float, make: bool = True) -> None:
        self.path = path
        self._path_text = str(path)
        self._keys: KeyRing | None = keys
        self._lock = StoreLock(path.parent, path.name, lock_timeout)
        self._is_remote = False
        self._state: State | None = None
        self._last_generation = ("", 0)
        try:
            self._state, _ = self._load()
        except FileNotFoundError as error:
            if not make:
                raise storage_error(error, "there is no store", path) from None
            self._state = self._created()
        else:
            # A folder in which others could replace the file is to show now, and not at the first refresh.
            with Directory.opened(path.parent):
                pass

    def get(self, id: str) -> TokenRecord | None:
        """Return the record of an id, or None."""
        return self._current().get(id)

    def find(self, criteria: Iterable[Criteria]) -> Sequence[TokenRecord]:
        """Return all records that fit the first of several criteria which any record fits."""
        return self._current().find(criteria)

    def records(self) -> Sequence[TokenRecord]:
        """Return all records in the order in which they were first put."""
        return self._current().records()

    @contextmanager
    def transaction(self, longest_wait_s: float = math.inf) -> Iterator[Transaction]:
        """Hold the file's lock, and replace the file at the end if anything was changed; an exception changes nothing.

        Args:
            longest_wait_s: For how many seconds to wait for the lock, if that is less than the lock timeout.

        Raises:
            LockTimeoutError: The lock was not to be had.
            CannotOpenError, DocumentError: The file is damaged, and stays as it is.
            DurabilityUnknownError: The changes are saved, and may not survive a power cut.
            StoreFileError: The file cannot be read or replaced.
        """
        self._require_open()
        with self._lock.held(longest_wait_s) as held:
            # Before the file is looked at: a leftover may be a second name of it, and removing that changes its status.
            atomic.remove_stale_temp_files(held.directory, self.path.name)
            try:
                base = self._newest()
                draft = base.table.copy()
                yield draft
                sealed = self._sealed(draft) if draft.changed else None
            except MemoryError:
                raise self._no_memory("nothing was saved") from None
            if sealed is not None:
                self._commit(held, draft, sealed, base)

    def reencrypt(self, prepare: Callable[[str], KeyRing]) -> None:
        """Seal the file anew, and open it with the newest key alone before it replaces the old one.

        Args:
            prepare: Called under the lock with the fingerprint of the key that the file is sealed with; returns the
                ring that is used from now on.

        Raises:
            KeystoreError: As :meth:`transaction`, or what ``prepare`` raises. The file is as it was.
            DurabilityUnknownError: It is sealed anew, and may not survive a power cut.
        """
        self._require_open()
        with self._lock.held() as held:
            atomic.remove_stale_temp_files(held.directory, self.path.name)
            try:
                base, key = self._reloaded_with_its_key()
                keys = prepare(key)
                self._require_open()  # Another thread may have closed the vault meanwhile.
                self._keys = keys
                draft = base.table.copy()
                sealed = self._sealed(draft)
                again = keys.decrypt_with_primary(sealed)
                if again is None or not draft.is_same(Table(*codec.decode(again))):
                    raise StoreFileError(
                        "what was sealed anew does not open to the same; the file was left as it is",
                        "Check this machine's memory",
                        self.path,
                    )
            except MemoryError:
                raise self._no_memory("nothing was sealed anew") from None
            self._commit(held, draft, sealed, base)

    def _commit(self, held: HeldLock, draft: Table, sealed: bytes, base: State) -> None:
        try:
            state = self._written(held, draft, sealed, base)
        except DurabilityUnknownError:
            self._state = None
            raise
        self._adopt(state)

    def close(self) -> None:
        """Forget the keys and all records; the vault cannot be used afterwards."""
        self._keys = None
        self._state = None

    def _require_open(self) -> KeyRing:
        if self._keys is None:
            raise StoreClosedError("the store is closed", "Make a new one", self.path)
        return self._keys

    def _adopt(self, state: State | None) -> None:
        self._state = state
        if self._keys is None:
            self._state = None  # Another thread has closed the vault meanwhile: nothing of it may stay.

    def _current(self) -> Table:
        state = self._state
        if state is not None:
            try:
                if state.is_known_by_stamp:
                    # As state.is_of(), whose call takes a fifth of the time of this look.
                    is_current = stamp(os.stat(self._path_text)) == state.stamp
                else:
                    is_current = self._read_head() == state.head
                if is_current:
                    return state.table
            except OSError:
                pass  # Reading will say it better.
        return self._reloaded().table

    def _newest(self) -> State:
        """Return the newest state for a writer, who must not overwrite what somebody put there unseen.

        A file that somebody writes in place, and gives the time that it had, shows the same status; its head, with
        another IV, gives it away.
        """
        state = self._state
        if state is not None:
            try:
                if state.is_of(os.stat(self._path_text)) and self._read_head() == state.head:
                    return state
            except OSError:
                pass  # Reading will say it better.
        return self._reloaded()

    def _read_head(self) -> bytes:
        fd = os.open(self._path_text, permissions.READ_FLAGS)
        try:
            return os.read(fd, HEAD_BYTES)
        finally:
            os.close(fd)

    def _reloaded(self) -> State:
        return self._reloaded_with_its_key()[0]

    def _reloaded_with_its_key(self) -> tuple[State, str]:
        try:
            state, key = self._load()
        except FileNotFoundError as error:
            raise StoreFileError(
                "the store is gone: somebody has removed or renamed the file",
                "Restore it from a backup, or start again with a new, empty store",
                self.path,
            ) from error
        self._warn_if_older(state)
        self._adopt(state)
        return state, key

    def _warn_if_older(self, state: State) -> None:
        header = state.table.header
        store_id, generation = self._last_generation
        if store_id == header.store_id and header.generation < generation:
            try:
                # A thread that was slow to read has an older state than another one, and nobody has put it back.
                if not state.is_of(os.stat(self._path_text)):
                    return
            except OSError:
                return
            _log.warning(
                "%s: an older state was put back (write %d after write %d); what was saved in between is gone",
                self.path,
                header.generation,
                generation,
            )
        self._last_generation = header.store_id, header.generation

    def _load(self) -> tuple[State, str]:
        """Read the file, and return its state and the fingerprint of the key that opened it.

        Somebody may be writing it in place (a copy from a backup): a file that does not open, and changes, is read
        again.

        Raises:
            FileNotFoundError: There is no such file.
        """
        keys = self._require_open()
        state = self._state  # Once: another thread may close the vault.
        known = None if state is None else state.table.by_id
        attempts = 0
        while True:
            attempts += 1
            status, sealed = self._read()
            try:
                if not sealed:
                    raise CannotOpenError(
                        "the file is empty, and so no keystore",
                        "If it was never one, remove it, and a store is made; otherwise restore it from a backup",
                        self.path,
                    )
                opened = keys.open(sealed, path=self.path)
                table = Table(*codec.decode(opened.payload, known, path=self.path))
            except CannotOpenError:
                if attempts >= _READ_ATTEMPTS or not self._is_changing(status):
                    raise
            except MemoryError:
                raise self._no_memory(f"{status.st_size:,} bytes cannot be opened") from None
            else:
                if permissions.is_open_to_others(status):
                    # Not before it is known to be a keystore: anything else is not ours to change.
                    status = self._restrict_permissions(status)
                return self._state_of(status, sealed, table), opened.fingerprint

    def _read(self) -> tuple[os.stat_result, bytes]:
        """Return the file's status from before the reading, and its content.

        Raises:
            FileNotFoundError: There is no such file.
            StoreFileError: It cannot be read, or should not be trusted.
        """
        try:
            descriptor = OwnedFd(os.open(self._path_text, permissions.READ_FLAGS))
            status = descriptor.status
            try:
                permissions.require_regular(status, self.path)
                permissions.require_owner(status, self.path)
                if status.st_size > MAX_SEALED_BYTES:
                    raise _too_large(status.st_size, self.path)
                return status, _read_all(descriptor.fd, status.st_size)
            finally:
                descriptor.close()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise storage_error(error, "the store cannot be read", self.path) from error
        except MemoryError:
            raise self._no_memory(f"{status.st_size:,} bytes cannot be read") from None

    def _restrict_permissions(self, status: os.stat_result) -> os.stat_result:
        """Shut others out of the file of a status, if it is still there, and return its status."""
        try:
            with permissions.opened(self.path) as (fd, found):
                if stamp(found) == stamp(status):
                    return permissions.restrict_permissions(fd, found, self.path)
        except OSError:
            pass  # Whoever reads what is there now will say it.
        return status

    def _no_memory(self, what: str) -> StoreFileError:
        return StoreFileError(f"{what}: not enough memory", "Check the path; give the process more memory", self.path)

    def _is_changing(self, status: os.stat_result) -> bool:
        time.sleep(_READ_PAUSE_S)
        try:
            return stamp(os.stat(self._path_text)) != stamp(status)
        except OSError:
            return True

    def _state_of(self, status: os.stat_result, sealed: bytes, table: Table) -> State:
        return State(status, sealed, table, is_remote=self._is_remote)

    def _created(self) -> State | None:
        with self._lock.held() as held:
            atomic.remove_stale_temp_files(held.directory, self.path.name)
            try:
                table = Table(Header(store_id=str(uuid.uuid4())), {})
                return self._written(held, table, self._sealed(table), None)
            except atomic.AlreadyThereError:
                pass  # Another process was faster.
            except OSError as error:  # The system's source of random numbers may fail.
                raise storage_error(error, "the store cannot be made", self.path) from error
        return self._reloaded()

    def _sealed(self, table: Table) -> bytes:
        """Count the write in a table, and return what the file is to hold."""
        table.header = table.header._replace(generation=table.header.generation + 1)
        try:
            sealed = self._require_open().seal(codec.encode(table.header, table.records(), path=self.path))
        except OSError as error:
            raise storage_error(error, "nothing was saved", self.path) from error
        if len(sealed) > MAX_SEALED_BYTES:
            raise _too_large(len(sealed), self.path)
        return sealed

    def _written(self, held: HeldLock, table: Table, sealed: bytes, base: State | None) -> State | None:
        """Write durably, and return the state that the file now holds; None if that is to be read.

        Args:
            held: The lock.
            table: What is written.
            sealed: The same, sealed.
            base: The state that it was made from; None to make a file that must not be there yet.
        """

        def verify() -> None:
            held.verify()
            if base is not None and not base.is_of(os.stat(self._path_text)):
                raise StoreFileError(
                    "somebody else has changed the file meanwhile, without its lock; nothing was saved",
                    "Do it again",
                    self.path,
                )

        try:
            written = atomic.write(
                held.directory,
                self.path.name,
                sealed,
                create=base is None,
                pre_rename_check=verify,
            )
        except DurabilityUnknownError:
            self._last_generation = table.header.store_id, table.header.generation
            raise
        self._last_generation = table.header.store_id, table.header.generation
        table.changed = False
        return self._state_written(held, written, sealed, table)

    def _state_written(self, held: HeldLock, written: os.stat_result, sealed: bytes, table: Table) -> State | None:
        try:
            status = held.directory.status(self.path.name)
        except (OSError, MemoryError):
            return None  # The save is done; that nobody knows it again must not turn it into a failure.
        # All but the time of the status' change, which the rename itself has set: else somebody was there already.
        if stamp(status)[:-1] != stamp(written)[:-1]:
            return None
        return self._state_of(status, sealed, table)


def _read_all(fd: int, size: int) -> bytes:
    chunks = []
    while size and (chunk := os.read(fd, size)):
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


def _too_large(size: int, path: Path) -> StoreFileError:
    return StoreFileError(
        f"{size:,} bytes are more than a store may have ({MAX_SEALED_BYTES:,})",
        "Check the path; delete tokens that nobody uses",
        path,
    )

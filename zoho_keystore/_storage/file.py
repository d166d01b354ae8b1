"""A storage in one encrypted file, shared by threads and processes.

Readers take no lock. A state that was read is used for as long as the path shows the file that it was read from,
unchanged: see :mod:`zoho_keystore._storage.freshness`.
"""

from __future__ import annotations

import logging
import math
import os
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from zoho_keystore._fs import atomic, permissions
from zoho_keystore._fs.lock import StoreLock
from zoho_keystore._fs.owned_fd import OwnedFd
from zoho_keystore._fs.private_file import read_prefix
from zoho_keystore._storage import codec, system_ms
from zoho_keystore._storage.codec import MAX_SEALED_BYTES, Header
from zoho_keystore._storage.freshness import IV_PREFIX_BYTES, FileState, is_racy, stat_signature
from zoho_keystore._storage.snapshot import Snapshot
from zoho_keystore._storage.store_file import no_memory, no_store, read_store, require_replaceable, too_large
from zoho_keystore.errors import (
    CannotOpenError,
    DurabilityUnknownError,
    StoreClosedError,
    StoreFileError,
    storage_error,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from zoho_keystore._fs.lock import HeldLock
    from zoho_keystore._keys.ring import KeyRing
    from zoho_keystore._records import Lookup, Match, TokenRecord
    from zoho_keystore._storage import Transaction

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Logged as a warning: a cron job in another directory would make a store of its own, without anyone noticing.
CREATED = "created an empty store at %s"

#: How often to reload the keys and take the lock again when another process has rotated the key meanwhile.
_KEY_ATTEMPTS = 3

#: Listing a directory of 100,000 files takes 70 ms, so a save looks for leftovers once in so many seconds.
_SWEEP_EVERY_S = 60.0


class FileStorage:
    """Keep records in the encrypted file at a path, which is created when it is missing.

    Args:
        path: The file, with symbolic links resolved.
        keys: What encrypts and decrypts it.
        lock_timeout: For how many seconds a write waits for the lock.
        create: Whether to create it when it is missing, and to make sure that it can be replaced: a save that fails
            later may lose a token that cannot be had again. False is for a caller that only reads.

    Raises:
        CannotOpenError: No key decrypts the file.
        DocumentError: It decrypts, and is not a keystore document of a known version.
        StoreFileError: It cannot be read or created, or is missing and is not to be created.
        LockTimeoutError: It was to be created, and the lock could not be acquired in time.
    """

    def __init__(self, path: Path, keys: KeyRing, *, lock_timeout: float, create: bool = True) -> None:
        self.path = path
        self._path_text = str(path)
        self._keys: KeyRing | None = keys
        self._lock = StoreLock(path.parent, path.name, lock_timeout)
        self._state: FileState | None = None
        self._last_generation = ("", 0)
        self._next_sweep_s = 0.0
        try:
            self._load()
        except FileNotFoundError:
            if not create:
                raise no_store(path) from None
            self._create()
        else:
            if create:
                require_replaceable(path, allow_read_only=True)

    def get(self, id: str) -> TokenRecord | None:
        return self._current().get(id)

    def find(self, lookups: Iterable[Lookup]) -> Match | None:
        return self._current().find(lookups)

    def records(self) -> Sequence[TokenRecord]:
        return self._current().records()

    def exchanges(self) -> Mapping[str, Any]:
        return self._current().exchanges()

    def count(self) -> int:
        return len(self._current().by_id)

    def header(self) -> Header:
        return self._current().header

    @property
    def name(self) -> str:
        """The path as text."""
        return self._path_text

    @staticmethod
    def now_ms() -> int:
        """Return the time by this machine's clock: the processes that share a file are on one machine."""
        return system_ms()

    def transact(self, work: Callable[[Transaction], _T], longest_wait_s: float = math.inf) -> _T:
        """Call a function once, in a :meth:`transaction`, and return what it returns."""
        with self.transaction(longest_wait_s) as transaction:
            return work(transaction)

    @contextmanager
    def transaction(self, longest_wait_s: float = math.inf) -> Iterator[Transaction]:
        """Hold the lock, and replace the file at the end if anything was changed; an exception changes nothing.

        Args:
            longest_wait_s: For how many seconds to wait for the lock, if that is less than the lock timeout.

        Raises:
            LockTimeoutError: The lock could not be acquired in time.
            CannotOpenError, DocumentError: The file is damaged, and stays as it is.
            DurabilityUnknownError: The changes are saved, and may not survive a power cut.
            StoreFileError: The file cannot be read or replaced.
        """
        self._require_open()
        with self._locked(longest_wait_s) as (held, base):
            try:
                draft = base.snapshot.copy()
                yield draft
                sealed = self._sealed(draft) if draft.changed else None
            except MemoryError:
                raise no_memory(self.path, "nothing was saved") from None
            if sealed is not None:
                self._write(held, draft, sealed, base)

    def reencrypt(self, keys: KeyRing) -> None:
        """Encrypt the file anew, and decrypt the result with the newest key alone before it replaces the file.

        Args:
            keys: The ring that is used from then on.

        Raises:
            KeystoreError: As :meth:`transaction`. The file is as it was.
            DurabilityUnknownError: It is encrypted anew, and may not survive a power cut.
        """
        self._require_open()
        with self._locked(math.inf) as (held, base):
            try:
                self._require_open()  # Another thread may have closed the storage meanwhile.
                self._keys = keys
                draft = base.snapshot.copy()
                sealed = self._sealed(draft)
                payload = keys.decrypt_with_primary(sealed)
                if payload is None or not draft.is_same(Snapshot(*codec.decode(payload))):
                    raise StoreFileError(
                        "what was encrypted anew does not decrypt to the same records; the file was left as it is",
                        "Check this machine's memory",
                        self.path,
                    )
            except MemoryError:
                raise no_memory(self.path, "nothing was encrypted anew") from None
            self._write(held, draft, sealed, base)

    @contextmanager
    def _locked(self, longest_wait_s: float) -> Iterator[tuple[HeldLock, FileState]]:
        """Hold the lock, and give the newest state.

        After a rotation by another process the keys are loaded anew, which is done without the lock: a program that
        prints keys may take half a minute, and other processes would lose their saves to a timeout.
        """
        attempt = 0
        while True:
            attempt += 1
            with self._lock.held(longest_wait_s) as held:
                self._remove_leftovers(held)
                base = None
                try:
                    base = self._newest()
                except CannotOpenError:
                    if attempt == _KEY_ATTEMPTS:
                        raise
                except MemoryError:
                    raise no_memory(self.path, "nothing was saved") from None
                if base is not None:
                    yield held, base
                    return
            self._reload()

    def _remove_leftovers(self, held: HeldLock) -> None:
        # Before the file is looked at: a leftover may be a hard link to it, and removing that changes its ctime.
        if time.monotonic() >= self._next_sweep_s:
            atomic.remove_stale_temp_files(held.directory, self.path.name)
            self._next_sweep_s = time.monotonic() + _SWEEP_EVERY_S

    def check_writable(self) -> None:
        """Make sure that a save would work, as far as that can be known without one.

        Raises:
            StoreFileError: A save would fail.
        """
        require_replaceable(self.path)

    def close(self) -> None:
        """Drop the keys and all records; the storage cannot be used afterwards."""
        self._keys = None
        self._state = None

    def _require_open(self) -> KeyRing:
        if self._keys is None:
            raise StoreClosedError("the store is closed", "Make a new one", self.path)
        return self._keys

    def _adopt(self, state: FileState | None) -> None:
        self._state = state
        if self._keys is None:
            self._state = None  # Another thread has closed the storage meanwhile: no record may stay in memory.

    def _current(self) -> Snapshot:
        """Return the newest records: those in memory, if the file has not changed since."""
        state = self._state
        if state is not None:
            try:
                # At rest this is one os.stat; _is_unchanged would take as long as that again.
                if not state.is_racy:
                    if stat_signature(os.stat(self._path_text)) == state.signature:
                        return state.snapshot
                elif self._is_unchanged(state):
                    return state.snapshot
            except OSError:
                pass  # Fall through: reload reports the error with context.
        return self._reload()[0].snapshot

    def _newest(self) -> FileState:
        """Return the newest state for a writer, which must not overwrite a state that it has not seen.

        A program may write the file in place and set its times back, so the first bytes are compared at rest, too.
        The keys are not loaded anew, since the caller holds the lock.
        """
        state = self._state
        if state is not None:
            try:
                if self._is_unchanged(state):
                    return state
            except OSError:
                pass  # Fall through: reload reports the error with context.
        return self._reload(reload_keys=False)[0]

    def _is_unchanged(self, state: FileState) -> bool:
        """Compare the status and the first bytes of the file with a state's."""
        now_ns = time.time_ns()
        status = os.stat(self._path_text)
        if stat_signature(status) != state.signature:
            return False
        if read_prefix(self._path_text, IV_PREFIX_BYTES).content != state.iv_prefix:
            return False
        # Once seen unchanged after it has rested, a later change shows in the status.
        state.is_racy = is_racy(status, now_ns)
        return True

    def _reload(self, *, reload_keys: bool = True) -> tuple[FileState, str]:
        try:
            return self._load(reload_keys=reload_keys)
        except FileNotFoundError as error:
            raise StoreFileError(
                "the store is gone: the file was removed or renamed",
                "Restore it from a backup, or start again with a new, empty store",
                self.path,
            ) from error

    def _load(self, *, reload_keys: bool = True) -> tuple[FileState, str]:
        """Read the file, and return its state and the fingerprint of the key that decrypted it."""
        file = read_store(self.path, self._require_open(), reload_keys=reload_keys)
        status, racy = file.status, file.is_racy
        if permissions.is_open_to_others(status):
            # Only now that it is known to be a keystore: another program's file is not ours to change.
            status = self._restrict_permissions(status)
            racy = True  # The new status may be that of a content that was written after the reading.
        state = FileState(status, file.content, Snapshot(file.header, file.records), is_racy=racy)
        self._warn_if_replaced(state)
        self._adopt(state)
        return state, file.fingerprint

    def _restrict_permissions(self, status: os.stat_result) -> os.stat_result:
        """Restrict the mode of the file of a status, if it is still there, and return its new status."""
        try:
            file = OwnedFd(os.open(self._path_text, permissions.READ_FLAGS))
            if stat_signature(file.status) == stat_signature(status):
                return permissions.restrict_permissions(file.fd, file.status, self.path)
        except OSError:
            pass  # Fall through: the next find reads what is there now, and reports the error with context.
        return status

    def _warn_if_replaced(self, state: FileState) -> None:
        header = state.snapshot.header
        store_id, generation = self._last_generation
        if store_id and store_id != header.store_id:
            _log.warning("%s: another store's file was put here; its tokens are used from now on", self.path)
        elif header.generation < generation:
            try:
                # A thread that was slow to read has an older state than another thread: no file was put back.
                if stat_signature(os.stat(self._path_text)) != state.signature:
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

    def _create(self) -> None:
        try:
            with self._lock.held() as held:
                self._remove_leftovers(held)
                snapshot = Snapshot(Header(store_id=str(uuid.uuid4())), {})
                self._write(held, snapshot, self._sealed(snapshot), None)
        except atomic.AlreadyThereError:
            self._reload()  # Another process was faster.
        except OSError as error:  # The system's source of random numbers may fail.
            raise storage_error(error, "the store cannot be created", self.path) from error
        else:
            # A cron job in another directory makes a store of its own, and its tokens are missing in the other one.
            _log.warning(CREATED, self.path)

    def _sealed(self, snapshot: Snapshot) -> bytes:
        """Count the write in a snapshot, and return it encrypted."""
        snapshot.header = snapshot.header._replace(generation=snapshot.header.generation + 1)
        try:
            payload = codec.encode(snapshot.header, snapshot.records(), encoded=snapshot.encoded, path=self.path)
            sealed = self._require_open().seal(payload)
        except OSError as error:
            raise storage_error(error, "nothing was saved", self.path) from error
        if len(sealed) > MAX_SEALED_BYTES:
            raise too_large(len(sealed), self.path)
        return sealed

    def _write(self, held: HeldLock, snapshot: Snapshot, sealed: bytes, base: FileState | None) -> None:
        """Replace the file durably, and adopt what was written without reading it back.

        Args:
            held: The lock.
            snapshot: What is written.
            sealed: The same, encrypted.
            base: The state that it was made from; None to create a file that must not be there yet.
        """

        def check() -> None:
            held.verify()
            if base is not None and stat_signature(os.stat(self._path_text)) != base.signature:
                raise StoreFileError(
                    "another program has changed the file meanwhile, without its lock; nothing was saved",
                    "Do it again",
                    self.path,
                )

        generation = snapshot.header.store_id, snapshot.header.generation
        try:
            written = atomic.write(held.directory, self.path.name, sealed, create=base is None, pre_rename_check=check)
        except DurabilityUnknownError:
            self._last_generation = generation
            self._state = None  # Whether the disk has it is unknown: the next find reads it.
            raise
        self._last_generation = generation
        snapshot.changed = False
        self._adopt(self._written_state(held, written, sealed, snapshot))

    def _written_state(
        self, held: HeldLock, written: os.stat_result, sealed: bytes, snapshot: Snapshot
    ) -> FileState | None:
        try:
            status = held.directory.status(self.path.name)
        except (OSError, MemoryError):
            return None  # The save is done: that its status cannot be had must not turn it into a failure.
        # The rename changes nothing but ctime; otherwise another program was there already, and the file is read again.
        if (status.st_ino, status.st_dev, status.st_mtime_ns, status.st_size) != (
            written.st_ino,
            written.st_dev,
            written.st_mtime_ns,
            written.st_size,
        ):
            return None
        return FileState(status, sealed, snapshot, is_racy=True)

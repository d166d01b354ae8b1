"""The store with one protection taken out. An engine that does not catch its mutants proves nothing.

The only module of the tests that replaces private functions of the package. A mutant is made in a process of its own,
since there is no way back.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from zoho_keystore._fs import atomic, permissions
from zoho_keystore._fs.directory import Directory
from zoho_keystore._fs.lock import HeldLock, StoreLock
from zoho_keystore._keys import ring, ring_text
from zoho_keystore._keys.ring import KeyRing
from zoho_keystore._keys.sources import GivenKeys
from zoho_keystore._keys.sources.ring_file import RingFile
from zoho_keystore._oauth import http
from zoho_keystore._operations import rotation
from zoho_keystore._storage import file, freshness, store_file
from zoho_keystore._storage.file import FileStorage
from zoho_keystore._storage.freshness import FileState
from zoho_keystore.errors import CannotOpenError, LockTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from zoho_keystore._fs.owned_fd import OwnedFd
    from zoho_keystore._keystore import Keystore


def patch(owner: object, **replacements: object) -> None:
    """Replace attributes, which have to be there: a mutant of what is gone would be the store itself."""
    for name, replacement in replacements.items():
        getattr(owner, name)
        setattr(owner, name, replacement)


# --- Writing ---------------------------------------------------------------------------------------------------------


def _truncate_in_place() -> None:
    def write(directory: Directory, name: str, content: bytes, **_: object) -> os.stat_result:
        fd = os.open(directory.path / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            for start in range(0, len(content), 100):
                os.write(fd, content[start : start + 100])
            os.fsync(fd)
            return os.fstat(fd)
        finally:
            os.close(fd)

    patch(atomic, write=write)


def _acknowledged_before_it_is_written() -> None:
    write = atomic.write
    late: list[bytes] = []

    def lazy(directory: Directory, name: str, content: bytes, **options: Any) -> os.stat_result:
        if options.get("create") or late:
            late.clear()
            return write(directory, name, content, **options)
        late.append(content)
        return os.stat(directory.path / name)

    patch(atomic, write=lazy)


def _predictable_temporary_name() -> None:
    class _Os:
        urandom = staticmethod(bytes)

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

    patch(atomic, os=_Os())


def _says_refused_when_it_is_done() -> None:
    is_same = Directory.is_same_file
    # The lock file's identity is still checked.
    patch(Directory, is_same_file=lambda self, name, status: name.endswith(".lock") and is_same(self, name, status))


def _failed_sync_taken_for_done() -> None:
    def sync(fd: int) -> None:
        with suppress(OSError):
            os.fsync(fd)

    patch(atomic, sync_file=sync)


# --- Locking ---------------------------------------------------------------------------------------------------------


class _NoLock:
    """What a transaction is given in place of a held lock."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory

    def verify(self) -> None:
        """Find nothing wrong."""


@contextmanager
def _held_by_all(self: StoreLock, *_: object) -> Iterator[_NoLock]:
    with Directory.opened(self.path.parent) as directory:
        yield _NoLock(directory)


@contextmanager
def _held_by_content(self: StoreLock, *_: object) -> Iterator[_NoLock]:
    """Lock by what the lock file holds: the operations prepare one that is there, and free."""
    deadline = time.monotonic() + self._timeout_s
    while self.path.exists() and self.path.read_bytes():
        if time.monotonic() >= deadline:
            raise LockTimeoutError("the lock file says so", path=self.path)
        time.sleep(0.001)
    self.path.write_bytes(b"held")
    self.path.chmod(0o600)
    try:
        with Directory.opened(self.path.parent) as directory:
            yield _NoLock(directory)
    finally:
        self.path.write_bytes(b"")


def _lock_file_unlinked() -> None:
    release = StoreLock._release

    def unlinking(self: StoreLock, lock_fd: OwnedFd) -> None:
        self.path.unlink(missing_ok=True)
        release(self, lock_fd)

    patch(StoreLock, _release=unlinking)
    patch(Directory, is_same_file=lambda *_: True)
    patch(HeldLock, verify=lambda _self: None)


def _lock_broken_by_age() -> None:
    acquire = StoreLock._acquire

    def breaking(self: StoreLock, *args: Any) -> OwnedFd:
        if self.path.exists() and time.time() - self.path.stat().st_mtime > 5:
            self.path.unlink()
        return acquire(self, *args)

    patch(StoreLock, _acquire=breaking)


def _lock_kept_after_an_error() -> None:
    held, kept = StoreLock.held, list[Any]()

    @contextmanager
    def keeping(self: StoreLock, *args: Any) -> Iterator[HeldLock]:
        context = held(self, *args)
        kept.append(context)
        yield context.__enter__()
        context.__exit__(None, None, None)

    patch(StoreLock, held=keeping)


def _reader_takes_the_lock() -> None:
    current = FileStorage._current

    def locking(self: FileStorage) -> Any:
        with self._lock.held():
            return current(self)

    patch(FileStorage, _current=locking)


# --- Reading ---------------------------------------------------------------------------------------------------------


def _unreadable_read_as_empty() -> None:
    decrypt = KeyRing.open
    empty = b'{"format":"zoho-keystore","version":1,"store_id":"s","generation":1,"next_id":1,"tokens":[]}'

    def lenient(self: KeyRing, sealed: bytes, **options: Any) -> Any:
        try:
            return decrypt(self, sealed, **options)
        except CannotOpenError:
            return decrypt(self, self.seal(empty), **options)

    patch(KeyRing, open=lenient)


def _see(signature: Callable[[os.stat_result], object]) -> None:
    for module in (freshness, file, store_file):
        patch(module, stat_signature=signature)


def _trust_signatures(signature: Callable[[os.stat_result], object]) -> None:
    """Take every state for the newest whose signature, or a part of it, is that of the file."""

    class Trusted(FileState):
        is_racy = property(lambda _: False, lambda *_: None)

    _see(signature)
    patch(file, FileState=Trusted)


def _first_bytes_alone() -> None:
    _see(lambda _: (0, 0, 0, 0, 0))
    patch(file, is_racy=lambda *_: True)
    patch(store_file, is_racy=lambda *_: True)


def see_whole_seconds() -> None:
    """See times as a file system keeps them that knows whole seconds only."""
    exact = freshness.stat_signature

    def coarse(status: os.stat_result) -> object:
        inode, mtime_ns, ctime_ns, *others = exact(status)
        return inode, mtime_ns // 10**9, ctime_ns // 10**9, *others

    _see(coarse)


# --- Rotating --------------------------------------------------------------------------------------------------------


def _old_keys_dropped_first(pause_s: float = 0) -> None:
    def add(self: RingFile, key: bytes, *, retire: str | None = None) -> None:  # noqa: ARG001 - as RingFile.add
        old = [one for one in self.load() if one != key]
        self._change(lambda text: ring_text.without(ring_text.with_primary(text, key), old))
        time.sleep(pause_s)

    patch(RingFile, add=add)


def _encrypted_before_the_key_is_kept() -> None:
    def sealed(
        storage: FileStorage, writable: RingFile, primary: bytes, keys: ring_text.RingKeys, _progress: object
    ) -> None:
        storage.reencrypt(KeyRing(GivenKeys([primary, *keys])))
        writable.add(primary)

    patch(rotation, _reencrypt=sealed)


def _all_but_the_newest_dropped() -> None:
    drop = rotation._drop

    def dropping(source: RingFile, old: Sequence[bytes], *store: Any) -> Any:
        # What the store was encrypted with is below the first of the old ones.
        keys = source.load()
        newest = keys[keys.index(old[0]) - 1]
        return drop(source, [one for one in keys if one != newest], *store)

    patch(rotation, _drop=dropping)


def _comments_dropped() -> None:
    real = RingFile._change

    def bare(self: RingFile, changed: Callable[[bytes], bytes]) -> None:
        def without_comments(text: bytes) -> bytes:
            lines = changed(text).splitlines(keepends=True)
            return b"".join(line for line in lines if b"# retired " in line or not ring_text.is_comment(line))

        real(self, without_comments)

    patch(RingFile, _change=bare)


def _ring_written_in_place() -> None:
    patch(RingFile, _change=lambda self, changed: self.path.write_bytes(changed(self.path.read_bytes())))


def _encrypted_without_the_lock() -> None:
    reencrypt = FileStorage.reencrypt

    def unlocked(self: FileStorage, keys: KeyRing) -> None:
        # Of this storage alone; the others take the lock.
        patch(self._lock, held=partial(_held_by_all, self._lock))
        reencrypt(self, keys)

    patch(FileStorage, reencrypt=unlocked)


def _no_lock_of_the_ring() -> None:
    real = RingFile._change

    def late(self: RingFile, changed: Callable[[bytes], bytes]) -> None:
        # Until another rotation has done as much: what is to show is what comes of it, and not that it happens.
        time.sleep(0.2)
        real(self, changed)

    patch(RingFile, _change=late, lock=lambda *_: nullcontext())


def _leases_dropped() -> None:
    reencrypt = FileStorage.reencrypt

    def dropping(self: FileStorage, keys: KeyRing) -> None:
        reencrypt(self, keys)
        with self.transaction() as transaction:
            for record in self.records():
                transaction.put(replace(record, refresh=None))

    patch(FileStorage, reencrypt=dropping)


#: What takes out each protection, by its name.
MUTANTS: dict[str, Callable[[], None]] = {
    "no fsync": lambda: patch(atomic, sync_file=lambda _fd: None),
    "no directory sync": lambda: patch(Directory, sync=lambda _self: None),
    "truncate in place": _truncate_in_place,
    "acknowledged before it is written": _acknowledged_before_it_is_written,
    "predictable temporary name": _predictable_temporary_name,
    "stale temporary files stay": lambda: patch(atomic, remove_stale_temp_files=lambda *_: None),
    "never cleans up": lambda: patch(Directory, unlink=lambda *_: None),
    "open to others": lambda: patch(permissions, PRIVATE_FILE=0o644),
    "says refused when it is done": _says_refused_when_it_is_done,
    "the system's errors let through": lambda: patch(atomic, storage_error=lambda error, *_: error),
    "failed sync taken for done": _failed_sync_taken_for_done,
    "leaks a descriptor": lambda: patch(Directory, sync=lambda self: os.fsync(os.open(self.path, os.O_RDONLY))),
    "creation that overwrites": lambda: patch(Directory, link=Directory.replace, unlink=lambda *_: None),
    "no lock": lambda: patch(StoreLock, held=_held_by_all),
    "soft lock": lambda: patch(StoreLock, held=_held_by_content),
    "lock file unlinked": _lock_file_unlinked,
    "lock broken by age": _lock_broken_by_age,
    "lock kept after an error": _lock_kept_after_an_error,
    "reader takes the lock": _reader_takes_the_lock,
    "fork keeps the lock's descriptor": lambda: patch(StoreLock, close_after_fork=lambda _self: None),
    "unreadable read as empty": _unreadable_read_as_empty,
    # The decoder of base64 skips what it does not know.
    "text inside accepted": lambda: patch(ring, is_canonical=lambda *_: True),
    "mtime-only cache": lambda: _trust_signatures(lambda status: status.st_mtime_ns),
    "recent changes trusted": lambda: _trust_signatures(freshness.stat_signature),
    "first bytes alone": _first_bytes_alone,
    "keys loaded once": lambda: patch(KeyRing, reload=lambda _self: ""),
    "old keys dropped first": _old_keys_dropped_first,
    # Longer than a reader tries again to open a file that another process is changing.
    "old keys dropped long before": partial(_old_keys_dropped_first, 0.3),
    "encrypted before the key is kept": _encrypted_before_the_key_is_kept,
    "old keys stay": lambda: patch(RingFile, remove=lambda *_: None),
    "all but the newest dropped": _all_but_the_newest_dropped,
    "comments dropped": _comments_dropped,
    "ring written in place": _ring_written_in_place,
    "encrypted without the lock": _encrypted_without_the_lock,
    "no lock of the ring": _no_lock_of_the_ring,
    "leases dropped": _leases_dropped,
    "unfinished is not said": lambda: patch(rotation, _unfinished=lambda _what: nullcontext()),
}


# --- Conditions that engines need, and that are no mutants -----------------------------------------------------------


def do_not_wait_to_read_again() -> None:
    """Do not wait before a file that does not open is read once more: no process is writing it."""
    patch(store_file, _is_changing=lambda *_: False)


def do_not_pause_between_requests() -> None:
    """Do not wait before Zoho is asked once more: the fake server recovers at once."""
    patch(http, _RETRY_PAUSE_S=0)


def keep_no_modes() -> None:
    """Take every file system for one that keeps no modes."""
    patch(permissions, _keeps_modes=lambda *_: False)


def act_before_old_keys_are_dropped(act: Callable[[], object]) -> None:
    """Have something happen in each rotation after the store is encrypted and before the old keys are dropped."""
    drop = rotation._drop

    def after_acting(*arguments: Any) -> Any:
        act()
        return drop(*arguments)

    patch(rotation, _drop=after_acting)


def set_lock_timeout(keystore: Keystore, seconds: float) -> float:
    """Set for how long a keystore waits for the lock, and return for how long it did before."""
    storage: Any = keystore._storage
    old: float = storage._lock._timeout_s
    storage._lock._timeout_s = seconds
    return old

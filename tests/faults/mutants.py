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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet

from zoho_keystore._fs import atomic, permissions
from zoho_keystore._fs.directory import Directory
from zoho_keystore._fs.lock import HeldLock, StoreLock
from zoho_keystore._keys import fernet_key, sources
from zoho_keystore._keys.ring import KeyRing
from zoho_keystore._keys.sources import GivenKeys
from zoho_keystore._keystore import Keystore
from zoho_keystore._operations import rotation
from zoho_keystore._storage import file, freshness
from zoho_keystore._storage.file import FileStorage
from zoho_keystore._storage.freshness import FileState
from zoho_keystore.errors import CannotOpenError, LockTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from zoho_keystore._fs.owned_fd import OwnedFd
    from zoho_keystore._keys.sources import KeySource

#: What each mutant takes out, by name; to be called in a process of its own.
MUTANTS: dict[str, Callable[[], None]] = {}


def _mutant(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def named(mutant: Callable[[], None]) -> Callable[[], None]:
        MUTANTS[name] = mutant
        return mutant

    return named


def patch(owner: object, **replacements: object) -> None:
    """Replace attributes, which have to be there: a mutant of what is gone would be the store itself."""
    for name, replacement in replacements.items():
        getattr(owner, name)
        setattr(owner, name, replacement)


# --- Writing ---------------------------------------------------------------------------------------------------------


@_mutant("no fsync")
def _no_fsync() -> None:
    patch(atomic, _sync_file=lambda _fd: None)


@_mutant("no directory sync")
def _no_directory_sync() -> None:
    patch(Directory, sync=lambda _self: None)


def _write_in_pieces(fd: int, content: bytes) -> None:
    for start in range(0, len(content), 100):
        os.write(fd, content[start : start + 100])


@_mutant("truncate in place")
def _truncate_in_place() -> None:
    def write(directory: Directory, name: str, content: bytes, **_: object) -> os.stat_result:
        fd = os.open(directory.path / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            _write_in_pieces(fd, content)
            os.fsync(fd)
            return os.fstat(fd)
        finally:
            os.close(fd)

    patch(atomic, write=write)


@_mutant("renamed before it is whole")
def _renamed_before_it_is_whole() -> None:
    def write(directory: Directory, name: str, content: bytes, **_: object) -> os.stat_result:
        temporary = directory.path / f".{name}.0123456789abcdef.tmp"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.write(fd, content[: len(content) // 2])
            os.replace(temporary, directory.path / name)
            os.write(fd, content[len(content) // 2 :])
            return os.fstat(fd)
        finally:
            os.close(fd)

    patch(atomic, write=write)


@_mutant("acknowledged before it is written")
def _acknowledged_before_it_is_written() -> None:
    write = atomic.write
    late: list[bytes] = []

    def lazy(directory: Directory, name: str, content: bytes, **options: Any) -> Any:
        if options.get("create") or late:
            late.clear()
            return write(directory, name, content, **options)
        late.append(content)
        return os.stat(directory.path / name)

    patch(atomic, write=lazy)


@_mutant("predictable temporary name")
def _predictable_temporary_name() -> None:
    class _Os:
        urandom = staticmethod(bytes)

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

    patch(atomic, os=_Os())


@_mutant("stale temporary files stay")
def _stale_temporary_files_stay() -> None:
    patch(atomic, remove_stale_temp_files=lambda *_: None)


@_mutant("never cleans up")
def _never_cleans_up() -> None:
    patch(Directory, unlink=lambda *_: None)


@_mutant("open to others")
def _open_to_others() -> None:
    patch(permissions, PRIVATE_FILE=0o644)


@_mutant("says refused when it is done")
def _says_refused_when_it_is_done() -> None:
    is_same = Directory.is_same_file
    # The lock file's identity is still checked.
    patch(Directory, is_same_file=lambda self, name, status: name.endswith(".lock") and is_same(self, name, status))


@_mutant("the system's errors let through")
def _systems_errors_let_through() -> None:
    patch(atomic, storage_error=lambda error, *_: error)


@_mutant("failed sync taken for done")
def _failed_sync_taken_for_done() -> None:
    def sync(fd: int) -> None:
        with suppress(OSError):
            os.fsync(fd)

    patch(atomic, _sync_file=sync)


@_mutant("leaks a descriptor")
def _leaks_a_descriptor() -> None:
    patch(Directory, sync=lambda self: os.fsync(os.open(self.path, os.O_RDONLY)))


@_mutant("creation that overwrites")
def _creation_that_overwrites() -> None:
    patch(Directory, link=Directory.replace, unlink=lambda *_: None)


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


@_mutant("no lock")
def _no_lock() -> None:
    patch(StoreLock, held=_held_by_all)


@_mutant("lock file unlinked")
def _lock_file_unlinked() -> None:
    release = StoreLock._release

    def unlinking(self: StoreLock, lock_fd: OwnedFd) -> None:
        self.path.unlink(missing_ok=True)
        release(self, lock_fd)

    patch(StoreLock, _release=unlinking)
    patch(Directory, is_same_file=lambda *_: True)
    patch(HeldLock, verify=lambda _self: None)


@_mutant("soft lock")
def _soft_lock() -> None:
    @contextmanager
    def held(self: StoreLock, *_: object) -> Iterator[_NoLock]:
        deadline = time.monotonic() + self._timeout_s
        with Directory.opened(self.path.parent) as directory:
            while True:
                # Its content, and not its being there: the operations prepare a lock file that is free.
                if not (self.path.exists() and self.path.read_bytes()):
                    break
                if time.monotonic() >= deadline:
                    raise LockTimeoutError("the lock file says so", path=self.path)
                time.sleep(0.001)
            self.path.write_bytes(b"held")
            self.path.chmod(0o600)
            try:
                yield _NoLock(directory)
            finally:
                self.path.write_bytes(b"")

    patch(StoreLock, held=held)


@_mutant("lock broken by age")
def _lock_broken_by_age() -> None:
    held = StoreLock.held

    @contextmanager
    def breaking(self: StoreLock, *args: Any) -> Iterator[HeldLock]:
        if self.path.exists() and time.time() - self.path.stat().st_mtime > 5:
            self.path.unlink()
        with held(self, *args) as lock:
            yield lock

    patch(StoreLock, held=breaking)


@_mutant("lock kept after an error")
def _lock_kept_after_an_error() -> None:
    held, kept = StoreLock.held, list[Any]()

    @contextmanager
    def keeping(self: StoreLock, *args: Any) -> Iterator[HeldLock]:
        context = held(self, *args)
        kept.append(context)
        yield context.__enter__()
        context.__exit__(None, None, None)

    patch(StoreLock, held=keeping)


@_mutant("reader takes the lock")
def _reader_takes_the_lock() -> None:
    records = Keystore.records

    def locking(self: Any) -> Any:
        with self._storage._lock.held():
            return records(self)

    patch(Keystore, records=locking)


@_mutant("fork keeps the lock's descriptor")
def _fork_keeps_the_descriptor() -> None:
    patch(StoreLock, close_after_fork=lambda _self: None)


# --- Reading ---------------------------------------------------------------------------------------------------------


@_mutant("unreadable read as empty")
def _unreadable_read_as_empty() -> None:
    open_ = KeyRing.open
    empty = b'{"format":"zoho-keystore","version":1,"store_id":"s","generation":1,"next_id":1,"tokens":[]}'

    def lenient(self: KeyRing, sealed: bytes, **options: Any) -> Any:
        try:
            return open_(self, sealed, **options)
        except CannotOpenError:
            return open_(self, self.seal(empty), **options)

    patch(KeyRing, open=lenient)


@_mutant("text inside accepted")
def _text_inside_accepted() -> None:
    patch(fernet_key, is_canonical=lambda *_: True)  # base64's decoder skips what it does not know


def no_pause_before_reading_again() -> None:
    """Do not wait before a file that does not open is read once more: no process is writing it."""
    patch(file, _is_changing=lambda *_: False)


def _trust_signatures(signature: Callable[[os.stat_result], object]) -> None:
    """Take every state for the newest whose signature, or a part of it, is that of the file."""
    patch(freshness, stat_signature=signature)
    patch(file, stat_signature=signature, is_racy=lambda *_: False)

    class Trusted(FileState):
        is_racy = property(lambda _: False, lambda *_: None)  # type: ignore[assignment]

    patch(file, FileState=Trusted)


@_mutant("mtime-only cache")
def _mtime_only_cache() -> None:
    _trust_signatures(lambda status: status.st_mtime_ns)


@_mutant("recent changes trusted")
def _recent_changes_trusted() -> None:
    _trust_signatures(file.stat_signature)


@_mutant("first bytes alone")
def _first_bytes_alone() -> None:
    patch(freshness, stat_signature=lambda _: (0, 0, 0, 0, 0))
    patch(file, stat_signature=lambda _: (0, 0, 0, 0, 0), is_racy=lambda *_: True)


def whole_seconds() -> None:
    """See times as a file system keeps them that knows whole seconds only."""
    exact = freshness.stat_signature

    def coarse(status: os.stat_result) -> Any:
        return tuple(part // 10**9 if part > 10**17 else part for part in exact(status))

    patch(freshness, stat_signature=coarse)
    patch(file, stat_signature=coarse)


# --- Rotating --------------------------------------------------------------------------------------------------------


@_mutant("keys loaded once")
def _keys_loaded_once() -> None:
    patch(KeyRing, _reload_keys=lambda _self: "")


def _old_keys_dropped_first(pause_s: float = 0) -> None:
    def add(self: sources._RingFile, key: bytes) -> None:
        content, keys = self._read(), self.load()
        lines = (line for line in content.splitlines(keepends=True) if line.rstrip() not in keys)
        self._replace(content, sources._with_line(b"".join(lines), key))
        time.sleep(pause_s)

    patch(sources._RingFile, add=add)


MUTANTS["old keys dropped first"] = _old_keys_dropped_first
# Longer than a reader tries again to open a file that another process is changing.
MUTANTS["old keys dropped long before"] = partial(_old_keys_dropped_first, 0.3)


@_mutant("encrypted before the key is kept")
def _encrypted_before_the_key_is_kept() -> None:
    def sealed(storage: FileStorage, source: KeySource, _given: KeySource | None) -> tuple[bytes, Sequence[bytes]]:
        key, old = Fernet.generate_key(), source.load()
        storage.reencrypt(lambda _: KeyRing(GivenKeys([key, *old])))
        if isinstance(source, sources._RingFile):
            source.add(key)
        return key, old

    patch(rotation, _sealed_anew=sealed)


@_mutant("old keys stay")
def _old_keys_stay() -> None:
    patch(sources._RingFile, remove=lambda *_: None)


@_mutant("all but the newest dropped")
def _all_but_the_newest_dropped() -> None:
    drop = rotation._without_old

    def dropping(source: sources._RingFile, old: Sequence[bytes], store: Path) -> Any:
        # What the store was encrypted with is below the first of the old ones.
        keys = source.load()
        newest = keys[keys.index(old[0]) - 1]
        return drop(source, [key for key in keys if key != newest], store)

    patch(rotation, _without_old=dropping, files_sealed_with=lambda *_: {})


@_mutant("comments dropped")
def _comments_dropped() -> None:
    real = sources._RingFile._replace

    def bare(self: sources._RingFile, old: bytes, new: bytes) -> None:
        real(self, old, b"".join(line for line in new.splitlines(keepends=True) if not fernet_key.is_comment(line)))

    patch(sources._RingFile, _replace=bare)


@_mutant("ring written in place")
def _ring_written_in_place() -> None:
    def write(self: sources._RingFile, _old: bytes, new: bytes) -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(fd, new)
        finally:
            os.close(fd)

    patch(sources._RingFile, _replace=write)


@_mutant("encrypted without the lock")
def _encrypted_without_the_lock() -> None:
    reencrypt = FileStorage.reencrypt

    def unlocked(self: FileStorage, prepare: Callable[[str], KeyRing]) -> None:
        # Of this storage alone; the others take the lock.
        self._lock.held = partial(_held_by_all, self._lock)  # type: ignore[method-assign,assignment]
        reencrypt(self, prepare)

    patch(FileStorage, reencrypt=unlocked)


@_mutant("no lock of the ring")
def _no_lock_of_the_ring() -> None:
    real = sources._RingFile._replace

    def late(self: sources._RingFile, old: bytes, new: bytes) -> None:
        # Until another rotation has done as much: what is to show is what comes of it, and not that it happens.
        time.sleep(0.2)
        real(self, old, new)

    patch(sources._RingFile, _replace=late, lock=lambda *_: nullcontext())


@_mutant("leases dropped")
def _leases_dropped() -> None:
    reencrypt = FileStorage.reencrypt

    def dropping(self: FileStorage, prepare: Callable[[str], KeyRing]) -> None:
        reencrypt(self, prepare)
        with self.transaction() as transaction:
            for record in self.records():
                transaction.put(replace(record, refresh=None))

    patch(FileStorage, reencrypt=dropping)


@_mutant("unfinished is not said")
def _unfinished_is_not_said() -> None:
    patch(rotation, _unfinished=lambda _what: nullcontext())


def act_before_old_keys_are_dropped(act: Callable[[], object]) -> None:
    """Have something happen in each rotation after the store is encrypted and before the old keys are dropped."""
    drop = rotation._without_old

    def after_acting(*arguments: Any) -> Any:
        act()
        return drop(*arguments)

    patch(rotation, _without_old=after_acting)


def set_lock_timeout(keystore: Keystore, seconds: float) -> float:
    """Set for how long a keystore waits for the lock, and return for how long it did before."""
    lock: Any = keystore._storage
    old: float = lock._lock._timeout_s
    lock._lock._timeout_s = seconds
    return old


@contextmanager
def file_systems_keep_no_modes() -> Iterator[None]:
    """Take every file system for one that keeps no modes."""
    keeps_modes = permissions._keeps_modes
    patch(permissions, _keeps_modes=lambda *_: False)
    try:
        yield
    finally:
        patch(permissions, _keeps_modes=keeps_modes)

"""The store with one protection taken out. An engine that does not catch its mutants proves nothing."""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zoho_keystore._fs import atomic, lock
from zoho_keystore._fs.directory import Directory
from zoho_keystore._fs.lock import HeldLock, StoreLock
from zoho_keystore._fs.owned_fd import OwnedFd
from zoho_keystore._storage import file, state
from zoho_keystore._storage.codec import Header
from zoho_keystore._storage.file import FileStorage
from zoho_keystore._storage.snapshot import Table
from zoho_keystore._storage.state import State
from zoho_keystore.errors import CannotOpenError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class _AnyLock(HeldLock):
    def verify(self) -> None:
        pass


def _put(owner: object, **replacements: object) -> None:
    for name, replacement in replacements.items():
        getattr(owner, name)  # A mutant of something that is not there any more would be the store itself.
        setattr(owner, name, replacement)


def _no_fsync() -> None:
    _put(atomic, _sync_file=lambda _fd: None)


def _no_folder_sync() -> None:
    _put(Directory, sync=lambda _self: None)


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

    _put(atomic, write=write)


def _no_lock() -> None:
    @contextmanager
    def held(self: StoreLock, _longest_wait_s: float = math.inf) -> Iterator[HeldLock]:
        with Directory.opened(self.path.parent) as directory:
            yield _AnyLock(directory, self.path.name, OwnedFd(os.dup(0)))

    _put(StoreLock, held=held)


def _lock_file_unlinked() -> None:
    release = lock._release
    path_of: dict[int, Path] = {}

    def remembering(directory: Directory, name: str, status: os.stat_result) -> bool:
        path_of[status.st_ino] = directory.path / name
        return True

    def unlinking(descriptor: OwnedFd, unlock: Callable[[int], None]) -> None:
        if (path := path_of.pop(descriptor.status.st_ino, None)) is not None:
            path.unlink(missing_ok=True)
        release(descriptor, unlock)

    _put(lock, _is_at=remembering, _release=unlinking)
    _put(HeldLock, verify=lambda _self: None)


def _predictable_temporary_name() -> None:
    class _Os:
        urandom = staticmethod(bytes)

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

    _put(atomic, os=_Os())


def _unreadable_read_as_empty() -> None:
    load = FileStorage._load

    def lenient(self: FileStorage) -> Any:
        try:
            return load(self)
        except CannotOpenError:
            empty = Table(Header(store_id="empty"), {})
            return State(os.stat(self.path), self.path.read_bytes(), empty, is_remote=False), ""

    _put(FileStorage, _load=lenient)


def trust_any_status(stamp: Callable[[os.stat_result], object]) -> None:
    """Know every state by its status alone, or by a part of it."""

    class Trusting(State):
        is_known_by_stamp = property(lambda _: True, lambda *_: None)

    _put(file, State=Trusting, stamp=stamp)
    _put(state, stamp=stamp)


def _mtime_only_cache() -> None:
    trust_any_status(lambda status: (status.st_mtime_ns, 0))


#: What each of them takes out, by name; to be called in a process of its own, which does not come back from it.
MUTANTS: dict[str, Callable[[], None]] = {
    "no fsync": _no_fsync,
    "no folder sync": _no_folder_sync,
    "truncate in place": _truncate_in_place,
    "no lock": _no_lock,
    "lock file unlinked": _lock_file_unlinked,
    "predictable temporary name": _predictable_temporary_name,
    "unreadable read as empty": _unreadable_read_as_empty,
    "mtime-only cache": _mtime_only_cache,
}


def mutate(name: str | None) -> None:
    """Take a protection out of this process's store; None leaves it as it is."""
    if name is not None:
        MUTANTS[name]()

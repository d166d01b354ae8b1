"""The store with one protection taken out. An engine that does not catch its mutants proves nothing."""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zoho_keystore._fs import atomic
from zoho_keystore._fs.directory import Directory
from zoho_keystore._fs.lock import HeldLock, StoreLock
from zoho_keystore._fs.owned_fd import OwnedFd
from zoho_keystore._storage import file, freshness
from zoho_keystore._storage.codec import Header
from zoho_keystore._storage.file import FileStorage, StoreFile
from zoho_keystore.errors import CannotOpenError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zoho_keystore._keys.ring import KeyRing


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
    release = StoreLock._release

    def unlinking(self: StoreLock, lock_fd: OwnedFd) -> None:
        self.path.unlink(missing_ok=True)
        release(self, lock_fd)

    _put(StoreLock, _release=unlinking)
    _put(Directory, is_same_file=lambda *_: True)
    _put(HeldLock, verify=lambda _self: None)


def _predictable_temporary_name() -> None:
    class _Os:
        urandom = staticmethod(bytes)

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

    _put(atomic, os=_Os())


def _unreadable_read_as_empty() -> None:
    read_store = file.read_store

    def lenient(path: Path, keys: KeyRing) -> StoreFile:
        try:
            return read_store(path, keys)
        except CannotOpenError:
            return StoreFile(os.stat(path), path.read_bytes(), "", Header(store_id="empty"), {}, is_racy=True)

    _put(file, read_store=lenient)


def trust_any_status(signature: Callable[[os.stat_result], object]) -> None:
    """Know every state by its status alone, or by a part of it."""
    _put(file, stat_signature=signature, is_racy=lambda *_: False)
    _put(freshness, stat_signature=signature)
    _put(FileStorage, _written_state=_resting(FileStorage._written_state))


def _resting(written_state: Callable[..., Any]) -> Callable[..., Any]:
    def resting(*arguments: Any) -> Any:
        state = written_state(*arguments)
        if state is not None:
            state.is_racy = False
        return state

    return resting


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

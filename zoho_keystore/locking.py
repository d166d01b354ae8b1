"""The one lock: a ``threading.Lock`` between threads, and between processes a lock on a file beside the store.

The lock file is opened anew each time and never deleted, renamed or judged by its age. A process that dies gives its
lock back by dying; deleting the file would split those who wait over two files.
"""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from zoho_keystore import trust
from zoho_keystore.errors import LockTimeoutError, StoreFileError, storage_error
from zoho_keystore.folder import Folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Pauses between two attempts, in seconds: they grow, and vary so that waiters do not march in step.
_FIRST_PAUSE_S = 0.0005
_LONGEST_PAUSE_S = 0.01


_forked: weakref.WeakSet[ThreadLock | StoreLock] = weakref.WeakSet()


def _renew_in_child() -> None:
    for lock in _forked:
        lock.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_in_child)


class ThreadLock:
    """A lock between threads that is free in a forked child, whoever held it in the parent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _forked.add(self)

    def acquire(self, timeout_s: float) -> bool:
        """Take the lock and return True, or return False when it stayed taken for so many seconds."""
        return self._lock.acquire(timeout=min(timeout_s, threading.TIMEOUT_MAX))

    def release(self) -> None:
        """Give the lock back."""
        self._lock.release()

    def after_fork(self) -> None:
        """Forget the holder: the thread that held the lock does not exist in the child."""
        self._lock = threading.Lock()


class HeldLock:
    """The lock as its holder has it, and the folder that it was taken in."""

    def __init__(self, folder: Folder, name: str, descriptor: int) -> None:
        """Take what :meth:`StoreLock.held` has locked."""
        self.folder = folder
        self._name = name
        self._fd = descriptor

    def verify(self) -> None:
        """Make sure that the lock is still the one that everybody else asks for.

        Raises:
            StoreFileError: Somebody has deleted or replaced the lock file, so another process may hold "the lock" too.
        """
        if not _is_same(self.folder, self._name, self._fd):
            raise StoreFileError(
                "the lock file was deleted or replaced while it was locked; nothing was saved",
                "Save again, and find out what removes it: it has to stay",
                self.folder.path / self._name,
            )


class StoreLock:
    """The lock of one store. It is not reentrant, and safe to have been made before a fork.

    Args:
        folder: The store's folder.
        name: The store's file name; the lock file is called ``.<name>.lock``.
        timeout: For how many seconds to wait for it.
    """

    def __init__(self, folder: Path, name: str, timeout: float) -> None:
        self.path = folder / f".{name}.lock"
        self._store_name = name
        self._timeout_s = timeout
        self._threads = ThreadLock()
        self._fd: int | None = None
        _forked.add(self)

    @contextmanager
    def held(self) -> Iterator[HeldLock]:
        """Hold the lock.

        Raises:
            LockTimeoutError: It stayed taken for longer than the timeout.
            StoreFileError: The lock file cannot be opened or made.
            UnsafeFileError: The lock file or its folder is not ours alone.
        """
        deadline = time.monotonic() + self._timeout_s
        if not self._threads.acquire(self._timeout_s):
            raise self._timed_out("another thread of this process holds it")
        try:
            with Folder.opened(self.path.parent) as folder:
                fd = self._locked_descriptor(folder, deadline)
                try:
                    yield HeldLock(folder, self.path.name, fd)
                finally:
                    self._fd = None
                    _release(fd)
        finally:
            self._threads.release()

    def _locked_descriptor(self, folder: Folder, deadline: float) -> int:
        # It takes 40 ms to import, which a process that only reads does not need to spend.
        from filelock import lock_descriptor  # noqa: PLC0415 - see above

        while True:
            try:
                # Noted at once: a child that is forked while we wait has a copy too.
                self._fd = fd = self._open(folder)
            except OSError as error:
                raise storage_error(error, "the lock file cannot be opened", self.path) from error
            try:
                pause = _FIRST_PAUSE_S
                while not lock_descriptor(fd, blocking=False):
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise self._timed_out("another process holds it")
                    time.sleep(min(left, pause * (0.5 + random.random())))  # noqa: S311 - spreads waiters, no secret
                    pause = min(pause * 1.5, _LONGEST_PAUSE_S)
                if _is_same(folder, self.path.name, fd):
                    return fd
            except BaseException as error:
                self._fd = None
                os.close(fd)
                if isinstance(error, OSError):
                    raise storage_error(error, "the lock file cannot be locked", self.path) from error
                raise
            # Between opening and locking somebody replaced the file: what we hold is not what others will ask for.
            self._fd = None
            _release(fd)
            if time.monotonic() >= deadline:
                raise self._timed_out("the lock file is replaced again and again")

    def _open(self, folder: Folder) -> int:
        while True:
            # Opening with O_CREAT fails for a file of another user in a sticky folder, even for root
            # (fs.protected_regular), so the two are separate steps.
            with suppress(FileNotFoundError):
                fd = folder.open(self.path.name, trust.UPDATE_FLAGS)
                try:
                    status = os.fstat(fd)
                    trust.require_regular(status, self.path)
                    trust.require_owner(status, self.path)
                    trust.tightened(fd, status, self.path)
                except BaseException:
                    os.close(fd)
                    raise
                return fd
            with suppress(FileExistsError):
                return folder.create(self.path.name, like=self._store_name)

    def _timed_out(self, who: str) -> LockTimeoutError:
        return LockTimeoutError(
            f"the store's lock was not to be had within {self._timeout_s:g} s: {who}; nothing was saved",
            "Find out which process hangs (fuser or lsof on this file), or give a longer lock_timeout. "
            "Do not delete the file",
            self.path,
        )

    def after_fork(self) -> None:
        """Close the child's copy of the descriptor, which would keep the lock if the parent died."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _is_same(folder: Folder, name: str, fd: int) -> bool:
    ours = os.fstat(fd)
    try:
        there = folder.status(name)
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)


def _release(fd: int) -> None:
    from filelock import unlock_descriptor  # noqa: PLC0415 - as in _locked_descriptor

    # Unlocking explicitly, since a process forked meanwhile has a copy of the descriptor that would keep the lock.
    try:
        with suppress(OSError):
            unlock_descriptor(fd)
    finally:
        os.close(fd)

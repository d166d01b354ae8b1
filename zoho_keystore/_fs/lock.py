"""The store's lock: ``flock`` on a file beside the store, opened anew for each hold.

Two descriptors of one process exclude each other as those of two processes do, so this is the lock between threads too.
The lock file is never deleted, renamed or judged by its age: the kernel releases the lock of a process that dies, and a
deleted file would split the waiting processes over two files.

It protects a write to the store. Which process refreshes a token is decided by a lease that is written under it: see
:mod:`zoho_keystore._leases`.
"""

from __future__ import annotations

import math
import os
import random
import threading
import time
import weakref
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from zoho_keystore import _platform as platform
from zoho_keystore._fs import permissions
from zoho_keystore._fs.directory import Directory
from zoho_keystore._fs.owned_fd import OwnedFd
from zoho_keystore.errors import LockTimeoutError, StoreFileError, UnsafeFileError, storage_error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Pauses between two attempts, in seconds: they grow by half up to a bound, and vary so that waiting processes do not
#: march in step. A save takes about a millisecond.
_FIRST_PAUSE_S = 0.0005
_LONGEST_PAUSE_S = 0.01

#: How often to open the lock file, whatever the timeout: another process may create it at the same moment.
_MIN_ATTEMPTS = 3

_locks: weakref.WeakSet[StoreLock] = weakref.WeakSet()


class HeldLock:
    """The lock while it is held, and the open directory that it was taken in."""

    def __init__(self, directory: Directory, name: str, lock_fd: OwnedFd) -> None:
        self.directory = directory
        self._name = name
        self._lock_fd = lock_fd

    def verify(self) -> None:
        """Make sure that the lock file is still the one that other processes open.

        Raises:
            StoreFileError: It was deleted or replaced, so another process may hold a lock too; or this process is a
                fork of the one that holds it.
        """
        path = self.directory.path / self._name
        try:
            is_current = self.directory.is_same_file(self._name, os.fstat(self._lock_fd.fd))
        except OSError as error:
            raise storage_error(error, "the lock is lost; nothing was saved", path) from error
        if not is_current:
            raise StoreFileError(
                "the lock file was deleted or replaced while it was locked; nothing was saved",
                "Save again, and find out which program removes it: the lock file has to stay",
                path,
            )


class StoreLock:
    """The lock of one store. Not reentrant; may be made before a fork.

    Args:
        directory: The store's directory.
        name: The store's file name; the lock file is ``.<name>.lock``.
        timeout_s: For how many seconds to wait for the lock.
    """

    def __init__(self, directory: Path, name: str, timeout_s: float) -> None:
        # 40 ms, which a process that never opens a store does not need to spend.
        from filelock import lock_descriptor, unlock_descriptor  # noqa: PLC0415 - see above

        self.path = directory / f".{name}.lock"
        self._store_name = name
        self._timeout_s = timeout_s
        self._lock_descriptor, self._unlock_descriptor = lock_descriptor, unlock_descriptor
        # The directory that each holding thread has opened: the reference dies with the frame of the hold, should the
        # exception of a signal handler strike before the hold can remove its entry.
        self._holds: dict[int, weakref.ref[Directory]] = {}
        self._open_fds: weakref.WeakSet[OwnedFd] = weakref.WeakSet()
        _locks.add(self)

    @contextmanager
    def held(self, longest_wait_s: float = math.inf) -> Iterator[HeldLock]:
        """Hold the lock.

        Args:
            longest_wait_s: For how many seconds to wait for it, if that is less than the timeout.

        Raises:
            LockTimeoutError: Another process or thread kept it for longer; or the calling thread holds it already.
            StoreFileError: The lock file cannot be opened or created.
            UnsafeFileError: The lock file or its directory belongs to, or can be changed by, another user.
        """
        thread = threading.get_ident()
        hold = self._holds.get(thread)
        if hold is not None and hold() is not None:
            raise LockTimeoutError(
                "this thread is saving already; nothing was saved",
                "A handler of the log or of a signal must not save to the store whose save it interrupts",
                self.path,
            )
        with Directory.opened(self.path.parent) as directory:
            try:
                self._holds[thread] = weakref.ref(directory)
                lock_fd = self._acquire(directory, min(self._timeout_s, longest_wait_s))
                try:
                    yield HeldLock(directory, self.path.name, lock_fd)
                finally:
                    self._release(lock_fd)
            finally:
                self._holds.pop(thread, None)

    def _acquire(self, directory: Directory, timeout_s: float) -> OwnedFd:
        deadline_s = time.monotonic() + timeout_s
        attempts = 0
        while True:
            attempts += 1
            try:
                lock_fd = self._opened(directory)
                if lock_fd is not None:
                    try:
                        self._wait(lock_fd, deadline_s, timeout_s)
                        if directory.is_same_file(self.path.name, lock_fd.status):
                            return lock_fd
                    except BaseException:
                        # The frames of a traceback that the caller keeps would keep the descriptor, and the lock.
                        self._release(lock_fd)
                        raise
                    # The file was replaced between open and flock, so this lock is on a stale inode: retry.
                    self._release(lock_fd)
            except OSError as error:
                raise storage_error(error, "the lock file cannot be opened or locked", self.path) from error
            if attempts >= _MIN_ATTEMPTS and time.monotonic() >= deadline_s:
                raise self._timed_out(timeout_s, "the lock file is replaced again and again")
            time.sleep(_FIRST_PAUSE_S)

    def _wait(self, lock_fd: OwnedFd, deadline_s: float, timeout_s: float) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._lock_descriptor(lock_fd.fd, blocking=False):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise self._timed_out(timeout_s, _held_by(lock_holders(lock_fd.status)))
            time.sleep(min(left_s, pause_s * (0.5 + random.random())))  # noqa: S311 - not a secret
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)

    def _release(self, lock_fd: OwnedFd) -> None:
        # Explicitly: closing does not release the lock while a process that was forked meanwhile has a copy. A child
        # that was forked inside the hold has closed its own copy, and unlocking that is a ValueError.
        try:
            with suppress(OSError, ValueError):
                self._unlock_descriptor(lock_fd.fd)
        finally:
            lock_fd.close()

    def check(self, directory: Directory) -> None:
        """Make sure that the lock file, if there is one, can be opened and is safe; nothing is locked or created.

        Raises:
            StoreFileError: It cannot be opened.
            UnsafeFileError: It belongs to, or can be changed by, another user.
        """
        try:
            self._existing(directory)  # Closed with its last reference, which is this one.
        except FileNotFoundError:
            pass  # The first write creates it.
        except OSError as error:
            raise storage_error(error, "the lock file cannot be opened", self.path) from error

    def _opened(self, directory: Directory) -> OwnedFd | None:
        """Open the lock file, or create it; None when another process created or removed it at the same moment."""
        # Two steps: O_CREAT on a file of another user in a sticky directory fails even for root (fs.protected_regular).
        try:
            lock_fd = self._existing(directory)
        except FileNotFoundError:
            try:
                lock_fd = directory.create(self.path.name, like=self._store_name)
            except FileExistsError:
                return None
        if lock_fd is not None:
            self._open_fds.add(lock_fd)
        return lock_fd

    def _existing(self, directory: Directory) -> OwnedFd | None:
        """Open the lock file that is there; None when its mode had to be repaired first."""
        name = self.path.name
        try:
            lock_fd = OwnedFd(directory.open(name, permissions.UPDATE_FLAGS))
        except PermissionError:
            # Its creator was killed before it could give the file the mode that an odd umask had cut down.
            status = directory.status(name)
            if not permissions.is_ours(status) or not permissions.is_closed_to_owner(status):
                raise
            directory.chmod(name)
            return None
        self._require_trusted(lock_fd, directory)
        permissions.restrict_permissions(lock_fd.fd, lock_fd.status, self.path)
        return lock_fd

    def _require_trusted(self, lock_fd: OwnedFd, directory: Directory) -> None:
        status = lock_fd.status
        try:
            permissions.require_regular(status, self.path)
            if status.st_nlink > 1:
                raise UnsafeFileError("it is a hard link to another file", "", self.path)
            if not permissions.is_ours(status):
                # Root that accepted any user's lock file could be blocked by a user who makes one in /tmp.
                store = directory.status_if_there(self._store_name)
                owners = {directory.status(os.curdir).st_uid, None if store is None else store.st_uid}
                permissions.require_owner(status, self.path, also=status.st_uid if status.st_uid in owners else None)
        except UnsafeFileError as error:
            lock_fd.close()
            raise UnsafeFileError(
                f"the lock file is not safe to use: {error.problem}",
                "Find out which program made it, and remove it",
                self.path,
            ) from None

    def _timed_out(self, timeout_s: float, reason: str) -> LockTimeoutError:
        tools = platform.choose("fuser or lsof on this file", "with the Resource Monitor")
        return LockTimeoutError(
            f"could not acquire the store's lock within {round(timeout_s, 2):g} s: {reason}; nothing was saved",
            f"Find the process that hangs ({tools}), or give a longer lock_timeout. Do not delete the file",
            self.path,
        )

    def close_after_fork(self) -> None:
        """Close the child's copies of the descriptors, which would keep the lock if the parent died."""
        self._holds.clear()
        for lock_fd in list(self._open_fds):
            lock_fd.close()


def lock_holders(status: os.stat_result) -> list[int]:
    """Return the ids of the processes that hold a lock on the file of a status, as far as the system tells."""
    if not platform.HAS_PROC:
        return []
    place = platform.lock_id(status)
    # As bytes: a program that has given up its rights may not be able to import a codec.
    with suppress(OSError), open("/proc/locks", "rb") as locks:
        fields = [line.split() for line in locks]
        return sorted({int(line[4]) for line in fields if line[1] != b"->" and line[5] == place and int(line[4]) > 0})
    return []


def _held_by(pids: list[int]) -> str:
    if not platform.HAS_PROC:
        return "held by another process or thread"
    if os.getpid() in pids:
        return "held by another thread of this process"
    return "held by another process" + "".join(f" (pid {pid})" for pid in pids[:1])


def _after_fork_in_child() -> None:
    for lock in list(_locks):
        lock.close_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

"""The one lock: a ``threading`` lock between threads, and between processes a lock on a file beside the store.

The lock file is opened anew each time and never deleted, renamed or judged by its age. A process that dies gives its
lock back by dying; deleting the file would split those who wait over two files.
"""

from __future__ import annotations

import math
import os
import random
import struct
import threading
import time
import weakref
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeAlias

from zoho_keystore._fs import permissions
from zoho_keystore._fs.directory import Directory
from zoho_keystore._fs.owned_fd import OwnedFd
from zoho_keystore.errors import LockTimeoutError, StoreFileError, UnsafeFileError, storage_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment] # a module elsewhere

#: Pauses between two looks at the queue, in seconds: shorter for who has waited for long, since else those who come
#: would be served first. They vary, so that waiters do not march in step.
_FIRST_PAUSE_S = 0.02
_SHORTEST_PAUSE_S = 0.005
_PATIENT_FOR_S = 0.03

#: Pauses of the one who heads the queue, in seconds: very short for as long as a save takes, then longer and longer.
_HEAD_PAUSE_S = 0.0001
_SAVE_S = 0.003
_LONGEST_PAUSE_S = 0.01

#: How long the others stand aside for that one, in seconds.
_ASIDE_S = 0.05

#: How long one who has just had the lock holds back when others wait, in seconds.
_POLITE_S = 0.001

#: How often it is tried to open the lock file, whatever the timeout: others may make it at the same moment.
_FREE_CHANCES = 3

#: For how long a fork waits for an import to end, in seconds.
_LONGEST_IMPORT_S = 5.0

# Held while something happens that a child must not be forked in the middle of: an import, whose lock would stay taken
# in the child, and the moment between opening a lock file and noting that it is open.
_no_fork = threading.RLock()

#: Locks of an open file, and not of a process, by bytes; they do not know of those by flock. Linux has them.
_QUEUE = getattr(fcntl, "F_OFD_SETLK", None)
_TAKE, _LEAVE = (
    struct.pack("hhqqi4x", getattr(fcntl, kind, 0), os.SEEK_SET, 0, 1, 0) for kind in ("F_WRLCK", "F_UNLCK")
)
_SystemCalls: TypeAlias = "tuple[Callable[..., bool], Callable[[int], None]]"
_to_renew: weakref.WeakSet[ThreadLock | StoreLock] = weakref.WeakSet()


@contextmanager
def _unforked() -> Iterator[None]:
    """Put off forks meanwhile; without waiting long for a thread that hangs here because of another store's disk."""
    gate = _no_fork  # A child that this thread forks meanwhile has another one.
    has_gate = gate.acquire(timeout=_LONGEST_PAUSE_S)
    try:
        yield
    finally:
        if has_gate:
            gate.release()


def _before_fork() -> None:
    # Whoever forks in the middle of an import must not wait for somebody who waits for that import.
    _no_fork.acquire(timeout=_LONGEST_IMPORT_S)


def _after_fork() -> None:
    with suppress(RuntimeError):
        _no_fork.release()


def _after_fork_in_child() -> None:
    global _no_fork  # noqa: PLW0603 - the lock of the parent may belong to a thread that is not there
    _no_fork = threading.RLock()
    for lock in list(_to_renew):
        lock.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


class _Hold:
    """That a thread holds a :class:`ThreadLock`, or waits for it; it lives no longer than the block that does."""


class _Mine(threading.local):
    """What the thread that asks has of a :class:`ThreadLock`."""

    hold: weakref.ref[_Hold] | None = None


class ThreadLock:
    """A lock between threads that is free in a forked child, whoever held it in the parent."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._mine = _Mine()
        _to_renew.add(self)

    @contextmanager
    def held(self, timeout_s: float, path: Path | None) -> Iterator[None]:
        """Hold the lock.

        Args:
            timeout_s: For how many seconds to wait for it.
            path: The lock file, for the message of an error.

        Raises:
            LockTimeoutError: Another thread kept it for longer, or this thread has it already.
        """
        if self._mine.hold is not None and self._mine.hold() is not None:
            raise LockTimeoutError(
                "this thread is saving already; nothing was saved",
                "A handler of the log or of a signal must not save to the store whose save it interrupts",
                path,
            )
        hold = _Hold()
        try:
            # Before the lock is taken, so that no handler of a signal can come in between. And weak, since an exception
            # of such a handler can end the lines below before they have done their work, and this thread would be
            # taken for a holder for ever.
            self._mine.hold = weakref.ref(hold)
            # Inside the try: an RLock knows whose it is, so the release below is right wherever that exception strikes.
            if not self._lock.acquire(timeout=min(timeout_s, threading.TIMEOUT_MAX)):
                raise _timed_out(timeout_s, "another thread of this process holds it", path)
            yield
        finally:
            self._mine.hold = None
            with suppress(RuntimeError):
                # As often as it is held: once more where an earlier block was ended that way.
                while True:
                    self._lock.release()

    def after_fork(self) -> None:
        """Forget the holder: the thread that held the lock does not exist in the child."""
        self._lock = threading.RLock()
        self._mine = _Mine()


class HeldLock:
    """The lock as its holder has it, and the folder that it was taken in."""

    def __init__(self, directory: Directory, name: str, descriptor: OwnedFd) -> None:
        """Take what :meth:`StoreLock.held` has locked."""
        self.directory = directory
        self._name = name
        self._descriptor = descriptor

    def verify(self) -> None:
        """Make sure that the lock is still the one that everybody else asks for.

        Raises:
            StoreFileError: Somebody has deleted or replaced the lock file, so another process may hold "the lock" too.
        """
        if not _is_at(self.directory, self._name, os.fstat(self._descriptor.fd)):
            raise StoreFileError(
                "the lock file was deleted or replaced while it was locked; nothing was saved",
                "Save again, and find out what removes it: it has to stay",
                self.directory.path / self._name,
            )


class StoreLock:
    """The lock of one store. It is not reentrant, and safe to have been made before a fork.

    Args:
        directory: The store's folder.
        name: The store's file name; the lock file is called ``.<name>.lock``.
        timeout: For how many seconds to wait for it.
    """

    def __init__(self, directory: Path, name: str, timeout: float) -> None:
        self.path = directory / f".{name}.lock"
        self._store_name = name
        self._timeout_s = timeout
        self._threads = ThreadLock()
        self._descriptor: OwnedFd | None = None
        self._crowded_until = 0.0
        self._calls: _SystemCalls | None = None
        _to_renew.add(self)

    @contextmanager
    def held(self, longest_wait_s: float = math.inf) -> Iterator[HeldLock]:
        """Hold the lock.

        Args:
            longest_wait_s: For how many seconds to wait for it, if that is less than the timeout.

        Raises:
            LockTimeoutError: It stayed taken for longer than the timeout.
            StoreFileError: The lock file cannot be opened or made.
            UnsafeFileError: The lock file or its folder is not ours alone.
        """
        timeout_s = min(self._timeout_s, longest_wait_s)
        start = time.monotonic()
        lock, unlock = self._system_calls()
        with self._threads.held(timeout_s, self.path), Directory.opened(self.path.parent) as directory:
            try:
                yield HeldLock(directory, self.path.name, self._locked(directory, start, timeout_s, lock))
            finally:
                descriptor, self._descriptor = self._descriptor, None
                if descriptor is not None:
                    _release(descriptor, unlock)

    def _system_calls(self) -> _SystemCalls:
        # Importing it takes 40 ms, which a process that only reads does not need to spend.
        if self._calls is None:
            try:
                with _unforked():
                    from filelock import lock_descriptor, unlock_descriptor  # noqa: PLC0415 - see above
            except OSError as error:
                raise storage_error(error, "the store cannot be locked; nothing was saved", self.path) from error
            self._calls = lock_descriptor, unlock_descriptor
        return self._calls

    def _locked(self, directory: Directory, start: float, timeout_s: float, lock: Callable[..., bool]) -> OwnedFd:
        chances = _FREE_CHANCES
        if start < self._crowded_until:
            # Others waited when this one had the lock the last time, and may just be about to look at the queue.
            time.sleep(min(timeout_s, _POLITE_S * (0.5 + random.random())))  # noqa: S311 - no secret
        while True:
            try:
                # Noted at once, and not in the middle of a fork: a child has to close its copy.
                with _unforked():
                    self._descriptor = descriptor = self._opened(directory)
                if descriptor is not None:
                    if not self._waited(descriptor.fd, start, timeout_s, lock):
                        raise _timed_out(timeout_s, "another process holds it", self.path)
                    if _is_at(directory, self.path.name, descriptor.status):
                        return descriptor
            except OSError as error:
                raise storage_error(error, "the lock file cannot be opened or locked", self.path) from error
            # Somebody made, removed or replaced the file meanwhile: what we hold is not what others will ask for.
            self._descriptor = descriptor = None
            chances -= 1
            if chances <= 0 and time.monotonic() >= start + timeout_s:
                raise _timed_out(timeout_s, "the lock file is replaced again and again", self.path)
            time.sleep(_SHORTEST_PAUSE_S)

    def _waited(self, fd: int, start: float, timeout_s: float, lock: Callable[..., bool]) -> bool:
        """Take the lock, and wait for it if need be; return False when it is not to be had in time."""
        deadline = start + timeout_s
        asks_next = start + _ASIDE_S
        heads_since = None
        while True:
            now = time.monotonic()
            is_head = _heads_the_queue(fd)
            # Whoever has just had the lock, and comes again, lets the one go first who has waited; but not for long,
            # since that one may hang.
            if is_head or now >= asks_next or now >= deadline:
                if lock(fd, blocking=False):
                    _leave_queue(fd)
                    return True
                asks_next = now + _ASIDE_S
            self._crowded_until = now + _ASIDE_S
            if now >= deadline:
                return False
            if not is_head:
                pause = max(_FIRST_PAUSE_S / (1 + (now - start) / _PATIENT_FOR_S), _SHORTEST_PAUSE_S)
            elif heads_since is None:
                heads_since, pause = now, _HEAD_PAUSE_S
            elif now >= heads_since + _SAVE_S:
                pause = min(pause * 1.5, _LONGEST_PAUSE_S)
            time.sleep(min(deadline - now, pause * (0.5 + random.random())))  # noqa: S311 - no secret

    def _opened(self, directory: Directory) -> OwnedFd | None:
        """Open the lock file, or make it; None when somebody else made or removed it in the meantime."""
        # Opening with O_CREAT fails for a file of another user in a sticky folder, even for root
        # (fs.protected_regular), so the two are separate steps.
        name = self.path.name
        try:
            descriptor = OwnedFd(directory.open(name, permissions.UPDATE_FLAGS))
        except FileNotFoundError:
            with suppress(FileExistsError):
                return directory.create(name, like=self._store_name)
            return None
        except PermissionError:
            # Who made it was killed before it could undo what an odd umask had taken from the file's mode.
            status = directory.status(name)
            if not permissions.is_ours(status) or not permissions.is_closed_to_owner(status):
                raise
            directory.chmod(name)
            return None
        status = descriptor.status
        try:
            permissions.require_regular(status, self.path)
            if status.st_nlink > 1:
                raise UnsafeFileError("it is another file's second name", "", self.path)
            if not permissions.is_ours(status):
                # Root that took anybody's lock file could be held up by whoever made one where everybody may (/tmp).
                store = directory.status_if_there(self._store_name)
                permissions.require_owner(status, self.path, also=None if store is None else store.st_uid)
        except UnsafeFileError as error:
            descriptor.close()
            raise UnsafeFileError(
                f"the lock file is not to be trusted: {error.problem}",
                "Find out who put it there, and remove it",
                self.path,
            ) from None
        permissions.restrict_permissions(descriptor.fd, status, self.path)
        return descriptor

    def after_fork(self) -> None:
        """Close the child's copy of the descriptor, which would keep the lock if the parent died."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            descriptor.close()


# The queue is a second lock on the same descriptor, which only makes who waits longest more likely to be next: without
# it, a process that saves all the time takes the lock again as soon as it has let go, and the others wait for a second.


def _heads_the_queue(fd: int) -> bool:
    """Step to the head of those who wait, if nobody is there, and tell whether this descriptor is."""
    if _QUEUE is None:
        return True
    try:
        fcntl.fcntl(fd, _QUEUE, _TAKE)
    except BlockingIOError:
        return False
    except OSError:
        return True  # A file system without such locks has no queue.
    return True


def _leave_queue(fd: int) -> None:
    if _QUEUE is not None:
        with suppress(OSError):
            fcntl.fcntl(fd, _QUEUE, _LEAVE)


def _timed_out(timeout_s: float, who: str, path: Path | None) -> LockTimeoutError:
    return LockTimeoutError(
        f"the store's lock was not to be had within {round(timeout_s, 2):g} s: {who}; nothing was saved",
        "Find out who hangs (fuser or lsof on this file), or give a longer lock_timeout. Do not delete the file",
        path,
    )


def _is_at(directory: Directory, name: str, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(status, directory.status(name))
    except FileNotFoundError:
        return False


def _release(descriptor: OwnedFd, unlock: Callable[[int], None]) -> None:
    # Unlocking explicitly, since a process forked meanwhile has a copy of the descriptor that would keep the lock.
    try:
        with suppress(OSError):
            unlock(descriptor.fd)
    finally:
        descriptor.close()

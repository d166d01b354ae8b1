"""A file descriptor that is closed with its last reference."""

from __future__ import annotations

import errno
import os
from contextlib import suppress


class OwnedFd:
    """Owns a file descriptor and closes it at the latest when the last reference goes.

    The exception of a signal handler can end a function between any two lines. A descriptor that is a bare number then
    stays open, and with it the lock that it holds. A program that turns into a daemon closes all descriptors, and the
    next file gets the same number: so ``close`` compares the open file with the one that it took over.
    """

    __slots__ = ("__weakref__", "fd", "status")

    #: The file's status when it was taken over.
    status: os.stat_result

    def __init__(self, fd: int) -> None:
        """Take over an open descriptor."""
        self.fd = fd
        self.status = os.fstat(fd)

    def close(self) -> None:
        """Close the file, unless this object or other code has closed it already."""
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        with suppress(OSError):
            if self._is_same_file(fd):
                os.close(fd)

    def _is_same_file(self, fd: int) -> bool:
        try:
            status = os.fstat(fd)
        except OSError as error:
            # ESTALE, for example: a network file system has forgotten the file, and the descriptor is still ours.
            return error.errno != errno.EBADF
        return os.path.samestat(status, getattr(self, "status", status))

    def detach(self) -> int:
        """Return the descriptor, and leave it to the caller to close it."""
        fd, self.fd = self.fd, -1
        return fd

    def __del__(self) -> None:
        """Close the file."""
        self.close()

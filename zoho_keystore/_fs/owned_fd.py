"""An open file descriptor that is closed when nobody needs it any more, and that closes nothing else."""

from __future__ import annotations

import errno
import os
from contextlib import suppress


class OwnedFd:
    """Owns a descriptor and closes it at the latest when the last reference goes.

    An exception from a signal handler can end a function at any line; a descriptor that is a bare number is then open
    for good, and with it the lock that it holds. And programs that turn into daemons close every number there is, which
    the next file gets: so before closing, the file behind the number is looked at.
    """

    __slots__ = ("fd", "status")

    #: The file's status at that time.
    status: os.stat_result

    def __init__(self, fd: int) -> None:
        """Take over an open descriptor."""
        self.fd = fd
        self.status = os.fstat(fd)

    def close(self) -> None:
        """Close it; nothing happens when it is closed already, or somebody else has closed it."""
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        with suppress(OSError):
            if self._is_ours(fd):
                os.close(fd)

    def _is_ours(self, fd: int) -> bool:
        try:
            status = os.fstat(fd)
        except OSError as error:
            return error.errno != errno.EBADF
        taken = getattr(self, "status", status)
        return os.path.samestat(status, taken)

    def detached(self) -> int:
        """Return the number, and leave it to the caller to close it."""
        fd, self.fd = self.fd, -1
        return fd

    def __del__(self) -> None:
        """Close it."""
        self.close()

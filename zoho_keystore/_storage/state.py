"""A state of the vault in a file, and how to tell whether the file still holds it.

One look at the file's status is to be enough, and none by itself is: inode numbers come back, the clock of a file
system stands still for milliseconds, and a size says nothing. So each save gives its file a time that the states before
have not had, and whose last digits are a mark of what was written. A file whose time does not end in its mark was put
there in another way, or rests where no such times are kept (FAT, Windows): it is known by its head alone.
"""

from __future__ import annotations

import time
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from zoho_keystore._storage.snapshot import Table

#: So many bytes of a Fernet token hold its time and its random IV, which differs in every sealing.
HEAD_BYTES = 36

#: The times of writes are this far apart, in nanoseconds; the digits below it are the mark.
_STEP_NS = 10_000

#: A clock that has gone back by less than that, in nanoseconds, is not followed.
_LITTLE_NS = 10**9

#: What of a file's status changes when the file does: inode, time of writing, size, device, time of change.
_Stamp = tuple[int, int, int, int, int]


class State:
    """What was read from the file, or written to it.

    Args:
        status: The file's status from before the reading, or from after the writing.
        sealed: The file's content.
        table: What was sealed.
        is_remote: Whether the status may come out of a cache that does not see what others write.

    Attributes:
        stamp: Of that status.
        mtime_ns: When the file was written, as the file system says.
        head: The first bytes of the file.
        table: What was sealed.
        is_known_by_stamp: Whether a file with this stamp holds this state; otherwise one with this head does.
    """

    __slots__ = ("head", "is_known_by_stamp", "mtime_ns", "stamp", "table")

    def __init__(self, status: os.stat_result, sealed: bytes, table: Table, *, is_remote: bool) -> None:
        self.stamp = stamp(status)
        self.mtime_ns = status.st_mtime_ns
        self.head = sealed[:HEAD_BYTES]
        self.table = table
        self.is_known_by_stamp = not is_remote and self.mtime_ns % _STEP_NS == _mark(self.head)

    def is_of(self, status: os.stat_result) -> bool:
        """Tell whether a status is that of the file which this state was read from, unchanged."""
        return stamp(status) == self.stamp


def stamp(status: os.stat_result) -> _Stamp:
    """Return what of a status changes when the file does."""
    return status.st_ino, status.st_mtime_ns, status.st_size, status.st_dev, status.st_ctime_ns


def own_time(sealed: bytes, *, after_ns: int) -> int:
    """Return the time for a file that is about to be written, in nanoseconds since the epoch.

    It is now, or just after the time of the file that is replaced, if the clock stands still or has gone back a little.
    If it has gone back by more, it is now all the same: programs that make backups look at whole seconds, and would see
    no change until the clock is there again. That a state of the time before has the very same one is not ruled out
    then; it would also need the same mark, inode, size and time of change to be taken for it.

    Args:
        sealed: What will be in the file.
        after_ns: The time of the file that is replaced; 0 if there is none.
    """
    now_ns = time.time_ns()
    steps = now_ns // _STEP_NS
    if now_ns < after_ns + _STEP_NS < now_ns + _LITTLE_NS:
        steps = after_ns // _STEP_NS + 1
    return steps * _STEP_NS + _mark(sealed[:HEAD_BYTES])


def _mark(head: bytes) -> int:
    # Never 0, which is what a file system leaves that does not keep such small parts of a second.
    return zlib.crc32(head) % (_STEP_NS - 1) + 1

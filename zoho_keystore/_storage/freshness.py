"""Whether the file still holds the state in memory: the rule that git's index uses for its entries ("racily clean").

A file's times have the granularity of the kernel's clock, some milliseconds, and inode numbers are used again: a file
that changed within the same tick as the reading can show the very same status. So a status alone is enough only when
the file had not been changed for a while at the moment it was read. Until then the first bytes are compared too, which
contain a random IV and so differ after every save.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from zoho_keystore._platform import changed_ns

if TYPE_CHECKING:
    import os

    from zoho_keystore._storage.snapshot import Snapshot

#: The first characters of a Fernet token: base64 of its version, its time and its random IV, and two bytes more.
IV_PREFIX_BYTES = 36

#: For how long a file has to be unchanged: FAT has the coarsest times, of 2 s.
_REST_NS = 2_000_000_000

StatSignature: TypeAlias = tuple[int, int, int, int, int]


def stat_signature(status: os.stat_result) -> StatSignature:
    """Return what of a status changes when the file does."""
    return status.st_ino, status.st_mtime_ns, changed_ns(status), status.st_size, status.st_dev


def is_racy(status: os.stat_result, now_ns: int) -> bool:
    """Return whether a change right after this moment could leave the status as it is.

    Args:
        status: The file's status.
        now_ns: The time before the status was taken and the file was read, in nanoseconds since the epoch. A file time
            later than that, from a clock that was set back, counts as racy.
    """
    return max(status.st_mtime_ns, changed_ns(status)) > now_ns - _REST_NS


class FileState:
    """What was read from the file, or written to it.

    Attributes:
        signature: Of the file's status before it was read, or after it was written.
        iv_prefix: The file's first bytes.
        snapshot: The file's records.
        is_racy: Whether an equal signature is not enough to know the file as unchanged.
    """

    __slots__ = ("is_racy", "iv_prefix", "signature", "snapshot")

    def __init__(self, status: os.stat_result, sealed: bytes, snapshot: Snapshot, *, is_racy: bool) -> None:
        self.signature = stat_signature(status)
        self.iv_prefix = sealed[:IV_PREFIX_BYTES]
        self.snapshot = snapshot
        self.is_racy = is_racy

"""Power cuts: real file systems on loop devices that are shut down between two calls, mounted again and looked at."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import struct
import sys
from typing import TYPE_CHECKING, Any

from faults import Attempt
from faults.injector import FaultInjector
from faults.mounts import Disk, FileSystem, own_mounts
from faults.operations import Outcome
from faults.processes import engine, in_child
from faults.ringed import ALL_OPERATIONS, ROTATIONS, make_operation
from faults.store import StoreProblem
from zoho_keystore.errors import KeystoreError

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from faults.injector import Call

_FS_IOC_SHUTDOWN = 0x8004587D  # Python has no name for it.

_MAKE_EXT4 = ("mkfs.ext4", "-q", "-b", "4096", "-J", "size=4")
FILE_SYSTEMS = {
    "ext4": FileSystem("ext4", _MAKE_EXT4, 32),
    "ext4, data=writeback,noauto_da_alloc": FileSystem("ext4", _MAKE_EXT4, 32, "data=writeback,noauto_da_alloc"),
    # Less is refused by mkfs.xfs.
    "xfs": FileSystem("xfs", ("mkfs.xfs", "-q"), 300),
}

#: What the file system still writes before the power is gone, and the argument that says so.
_STILL_WRITTEN = {"nothing": 2, "the journal": 1, "everything": 0}

#: The calls that change something: the power is cut before each of them, and when the operation is acknowledged.
_CHANGING = frozenset(
    {"mkdir", "open", "write", "fsync", "link", "replace", "rename", "unlink"}
    | {"chmod", "fchmod", "fchown", "ftruncate"}
)
_ACKNOWLEDGED = "acknowledged"
#: After so many seconds an operation that hangs on a disk without power is ended.
_TIMEOUT_S = 30
#: How many bytes a store is larger on average, in the rounds after the first.
_MEAN_BALLAST = 20_000


@engine("power cuts", setup=own_mounts)
def power_cuts(
    directory: Path, *, file_system: str, operations: Sequence[str] = ALL_OPERATIONS, times: int | None = None
) -> Generator[Attempt]:
    """Cut the power in the middle of operations, mount the disk again, and look at what is there.

    It must be the old state or the new one, and the new one if the operation was acknowledged; the next process goes
    on from it and leaves nothing behind.

    Args:
        directory: Where to work.
        operations: The names of the operations.
        file_system: One of :data:`FILE_SYSTEMS`.
        times: How often to cut; None is once at every call, with each kind of cut. Beyond that, the size of the store
            is drawn by lot.
    """
    ballasts = itertools.chain([0], iter(lambda: int(random.expovariate(1 / _MEAN_BALLAST)), None))
    with Disk.made(directory, FILE_SYSTEMS[file_system]) as disk:
        if times is None:
            yield from _round(disk, operations, 0)
        else:
            attempts = (attempt for ballast in ballasts for attempt in _round(disk, operations, ballast))
            yield from itertools.islice(attempts, times)


def _round(disk: Disk, operations: Sequence[str], ballast: int) -> Generator[Attempt]:
    for still_written, name in itertools.product(_STILL_WRITTEN, operations):
        for number in itertools.count():
            stopped_at, problem = _cut(disk, name, number, still_written, ballast)
            where = f"{name}, {ballast} bytes more; power cut at call {number} ({stopped_at}), {still_written} written"
            yield Attempt(f"{where}: {problem}" if problem else None)
            # Where the operation itself failed, a cut at its next call will do no better.
            if stopped_at in {_ACKNOWLEDGED, ""}:
                break


def _cut(disk: Disk, name: str, number: int, still_written: str, ballast: int) -> tuple[str, str]:
    """Perform an operation until the power is cut; return what was about to be called, and what is wrong then."""
    data = disk.path / "data"
    operation = make_operation(name, data, **({} if name in ROTATIONS else {"ballast": ballast}))
    stopped_at = ""

    def perform() -> str:
        signal.alarm(_TIMEOUT_S)
        # Before the operation creates its directory: an acknowledged creation has to keep that, too.
        data.mkdir()
        act = operation.prepare()
        power = _Power(disk.path, number, _STILL_WRITTEN[still_written])
        os.sync()
        try:
            with FaultInjector().striking(power.strike):
                act()
        except BaseException:
            if power.cut_at is None:
                raise
        else:
            power.cut(_ACKNOWLEDGED)
        return power.cut_at or ""

    def look() -> str:
        # In a child too: an error would keep the files open that are in the way of unmounting.
        signal.alarm(_TIMEOUT_S)
        try:
            operation.check(Outcome.DONE if stopped_at == _ACKNOWLEDGED else Outcome.KILLED)
            operation.recover()
        except (StoreProblem, KeystoreError, OSError) as error:
            return str(error) or type(error).__name__
        return ""

    problem = ""
    try:
        with disk.mounted():
            stopped_at = in_child(perform)
        with disk.mounted():
            problem = in_child(look)
    except RuntimeError as error:
        problem = str(error)
    with disk.mounted():
        shutil.rmtree(data, ignore_errors=True)
    return stopped_at, problem


class _PowerCut(BaseException):
    """Ends the work of the process whose disk is gone."""


class _Power:
    """Cuts the power of a disk before the changing call of a number."""

    def __init__(self, disk: Path, number: int, still_written: int) -> None:
        self.cut_at: str | None = None
        self._disk = os.open(disk, os.O_RDONLY | os.O_DIRECTORY)
        self._left = number
        self._argument = struct.pack("=I", still_written)

    def cut(self, at: str) -> None:
        """Cut the power, once."""
        if self.cut_at is None:
            fcntl.ioctl(self._disk, _FS_IOC_SHUTDOWN, self._argument)
            self.cut_at = at

    def strike(self, call: Call) -> Any:
        """Count the changing calls, and cut the power before one of them."""
        if call.name not in _CHANGING or (call.name == "open" and not call.args[1] & (os.O_CREAT | os.O_TRUNC)):
            return call.make()
        if self.cut_at is None:
            if not self._left:
                self.cut(call.name)
                raise _PowerCut
            self._left -= 1
            if call.name == "write":
                # In pieces, so that there are cuts in the middle of the content.
                fd, content = call.args
                return call.function(fd, content[: max(512, len(content) // 2)])
        return call.make()

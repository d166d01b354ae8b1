"""Power cuts: real file systems on loop devices that are shut down between two operations, mounted again and looked at.

Everything happens in a child process with mounts of its own, and the disk's image is in memory. So nothing stays behind
however this ends, SIGKILL included: the mounts go with their last process, and the loop device with its last mount.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import struct
import subprocess
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

# Imported by the store when it first takes the lock: here once, not in each child.
import filelock  # noqa: F401 - see above
from cryptography.fernet import Fernet

from faults import Result, Store, StoreProblem, mutate
from faults.model import BEFORE, DEEDS, prepare, token
from zoho_keystore._fs.directory import make_directories
from zoho_keystore._records import TokenRecord
from zoho_keystore.errors import KeystoreError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zoho_keystore._keystore import Keystore

#: What an engine calls after each try.
Progress = Callable[[], object]
T = TypeVar("T")

# Names of the kernel's interface that Python does not have.
_CLONE_NEWNS = 0x20000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_PR_SET_PDEATHSIG = 1
_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE, _LO_FLAGS_AUTOCLEAR = 0x4C82, 0x4C0A, 4
_FS_IOC_SHUTDOWN = 0x8004587D

_libc = ctypes.CDLL(None, use_errno=True)


# --- Children, mounts and loop devices; the other engines use them too ---


class ChildDiedError(RuntimeError):
    """A child process died before it was done."""


def forked(work: Callable[[Progress], T], progress: Progress = lambda: None) -> T:
    """Run something in a child process, which dies with this one, and return what it returns.

    Args:
        work: What to run; it is given what to call to report progress. Its result must be one that can be pickled.
        progress: Called here each time that the child reports progress.

    Raises:
        ChildDiedError: Its process died.
        RuntimeError: It failed; the text is its traceback.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    parent = os.getpid()
    pid = os.fork()
    if not pid:
        try:
            # Ctrl-C is for the parent, which kills its children; an alarm of the parent's is not the child's.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            die_with(parent)
            sender.send((True, work(lambda: sender.send(None))))
        except BaseException:  # noqa: BLE001 - a child must never go on with its parent's work
            sender.send((False, traceback.format_exc()))
        finally:
            os._exit(0)
    sender.close()
    try:
        with receiver:
            while (message := receiver.recv()) is None:
                progress()
    except EOFError:
        raise ChildDiedError from None
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    good, value = message
    if not good:
        raise RuntimeError(value)
    result: T = value
    return result


def die_with(parent: int) -> None:
    """Have this process killed when its parent dies. A change of user undoes it."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)


def in_own_mounts(work: Callable[[Progress], T], progress: Progress = lambda: None) -> T:
    """Run something as :func:`forked` does, as root in a process whose mounts nobody else sees."""

    def unshared(progress: Progress) -> T:
        _checked(_libc.unshare(_CLONE_NEWNS))
        mount("none", "/", flags=_MS_REC | _MS_PRIVATE)
        return work(progress)

    return forked(unshared, progress)


def mount(source: str, target: str | Path, kind: str = "", *, flags: int = 0, options: str = "") -> None:
    """Mount a file system."""
    _checked(_libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, options.encode()))


def unmount(target: str | Path) -> None:
    """Unmount a file system that nobody uses any more."""
    _checked(_libc.umount2(os.fsencode(target), 0))


def _checked(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextmanager
def loop_device(image: Path) -> Iterator[str]:
    """Give a disk that is an image file; it goes away by itself when nothing uses it any more."""
    with open(image, "r+b") as file:
        device, fd = _attached(file.fileno())
    try:
        yield device
    finally:
        os.close(fd)


def _attached(image: int) -> tuple[str, int]:
    # struct loop_config: the image's descriptor, and of the rest nothing but the flags.
    config = struct.pack("=I56xI240x", image, _LO_FLAGS_AUTOCLEAR)
    while True:
        with open("/dev/loop-control", "rb") as control:
            device = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _LOOP_CONFIGURE, config)
        except OSError as error:
            os.close(fd)
            # Somebody else was faster with this one.
            if error.errno != errno.EBUSY:
                raise
        else:
            return device, fd


@dataclass(frozen=True)
class FileSystem:
    """How a file system is made and mounted.

    Attributes:
        kind: Its name for ``mount``.
        make: The command that makes it, without the image.
        megabytes: The size of its image; the holes in it take no memory.
        options: Mount options.
    """

    kind: str
    make: tuple[str, ...]
    megabytes: int
    options: str = ""


_MAKE_EXT4 = ("mkfs.ext4", "-q", "-b", "4096", "-J", "size=4")
FILE_SYSTEMS = {
    "ext4": FileSystem("ext4", _MAKE_EXT4, 32),
    "ext4, data=writeback,noauto_da_alloc": FileSystem("ext4", _MAKE_EXT4, 32, "data=writeback,noauto_da_alloc"),
    # Less is refused by mkfs.xfs.
    "xfs": FileSystem("xfs", ("mkfs.xfs", "-q"), 300),
}


def missing_for_mounts() -> str | None:
    """Tell what stands in the way of mounts of one's own; None if nothing."""
    if os.geteuid():
        return "mounting needs root"
    try:
        in_own_mounts(lambda _: None)
    except RuntimeError:
        return "this machine lets not even root mount (CAP_SYS_ADMIN)"
    return None


def missing_for(file_system: FileSystem) -> str | None:
    """Tell what this machine lacks for a file system on a loop device; None if nothing."""
    if reason := missing_for_mounts():
        return reason
    if not os.path.exists("/dev/loop-control"):
        return "there are no loop devices"
    if not shutil.which(file_system.make[0]):
        return f"there is no {file_system.make[0]}"
    with open("/proc/filesystems") as known:
        return None if file_system.kind in known.read().split() else f"the kernel does not know {file_system.kind}"


@contextmanager
def disk(directory: Path, file_system: FileSystem) -> Iterator[Disk]:
    """Give a new file system in memory, not mounted yet; to be called in mounts of one's own."""
    mount("tmpfs", directory, "tmpfs", options="mode=755")
    try:
        image = directory / "disk.img"
        with open(image, "wb") as file:
            file.truncate(file_system.megabytes * 1024**2)
        subprocess.run([*file_system.make, image], check=True, stdout=subprocess.DEVNULL)
        path = directory / "disk"
        path.mkdir()
        with loop_device(image) as device:
            yield Disk(path, device, file_system)
    finally:
        unmount(directory)


@dataclass(frozen=True)
class Disk:
    """A file system, and where it is mounted."""

    path: Path
    device: str
    file_system: FileSystem

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """Mount it, which replays the journal, and unmount it in the end."""
        mount(self.device, self.path, self.file_system.kind, options=self.file_system.options)
        try:
            yield
        finally:
            unmount(self.path)


# --- The engine ---

#: What the file system still writes before the power is gone, and the argument that says so.
_STILL_WRITTEN = {"nothing": 2, "the journal": 1, "everything": 0}

#: The calls that change something: the power is cut before each of them, and when the deed is acknowledged.
_OPERATIONS = (
    *("mkdir", "open", "write", "fsync", "link", "replace", "rename", "unlink"),
    *("chmod", "fchmod", "fchown", "ftruncate"),
)
_ACKNOWLEDGED = "acknowledged"

#: A mutant that is not caught by so many cuts survives. Each is caught within one walk, which has some 150 cuts.
_MUTANT_CUTS = 300

#: A token of this id makes files of many blocks.
_BALLAST = "ballast"
_MEAN_BALLAST = 50_000

#: A deed that takes longer hangs, in seconds.
_PATIENCE_S = 30


def power_cuts(
    directory: Path,
    file_system: str,
    *,
    times: int | None = None,
    mutant: str | None = None,
    progress: Progress = lambda: None,
) -> Result:
    """Cut the power at every operation of every deed, mount the disk again, and look.

    The file must hold the old state or the new one, and the new one if the deed was acknowledged; the next save must
    work, and leave nothing behind. All is done in a fork of the calling process, which should have a single thread.

    Args:
        directory: An empty folder, which is empty afterwards too.
        file_system: One of :data:`FILE_SYSTEMS`.
        times: How often to cut; None is once at every operation, with each kind of cut. Beyond that, the files' size
            is drawn by lot.
        mutant: What to take out of the store; then all ends with the first failure.
        progress: Called after each cut.
    """
    if mutant is not None and times is None:
        times = _MUTANT_CUTS
    return in_own_mounts(lambda tell: _campaign(directory, file_system, times, mutant, tell), progress)


def _campaign(directory: Path, name: str, times: int | None, mutant: str | None, progress: Progress) -> Result:
    result = Result(f"power cuts on {name}")
    started = time.monotonic()
    with disk(directory, FILE_SYSTEMS[name]) as one:
        for problem in itertools.islice(_walk(one, mutant, endless=times is not None), times):
            result.tried += 1
            progress()
            if problem is not None:
                result.failures.append(problem)
                if mutant is not None:
                    break
    result.figures["cuts a second"] = result.tried / (time.monotonic() - started)
    return result


def _walk(one: Disk, mutant: str | None, *, endless: bool) -> Iterator[str | None]:
    ballast = 0
    while True:
        for still_written, deed in itertools.product(_STILL_WRITTEN, ("create", *DEEDS)):
            for operation in itertools.count():
                cut = _Cut(deed, operation, still_written, ballast)
                yield cut.tried_on(one, mutant)
                if cut.is_last:
                    break
        if not endless:
            return
        ballast = int(random.expovariate(1 / _MEAN_BALLAST))


@dataclass
class _Cut:
    deed: str
    operation: int
    still_written: str
    ballast: int
    is_last: bool = False

    def tried_on(self, one: Disk, mutant: str | None) -> str | None:
        """Do the deed, cut the power, look at what is left, and return what is wrong with it."""
        store = Store(one.path / "data" / "keystore" / "tokens.keystore", Fernet.generate_key())
        struck = problem = ""
        try:
            with one.mounted():
                struck = forked(lambda _: self._struck(one, store, mutant))
            with one.mounted():
                # In a child too: an error would keep the files open that are in the way of unmounting.
                problem = forked(lambda _: self._looked(store, acknowledged=struck == _ACKNOWLEDGED))
        except RuntimeError as error:
            problem = str(error) or type(error).__name__
        # Where the deed itself failed, its next operation will do no better.
        self.is_last = struck in {_ACKNOWLEDGED, ""}
        if not problem:
            return None
        with one.mounted():
            shutil.rmtree(one.path / "data", ignore_errors=True)
        return (
            f"{self.deed}, {self.ballast} bytes more; power cut at operation {self.operation} ({struck}), "
            f"{self.still_written} still written: {problem}"
        )

    def _struck(self, one: Disk, store: Store, mutant: str | None) -> str:
        """Do the deed until the power is cut, and return the operation that came next."""
        signal.alarm(_PATIENCE_S)
        mutate(mutant)
        if self.deed == "create":
            deed: Callable[[], object] = partial(_create, store)
        else:
            make_directories(store.path.parent)
            prepare(store)
            keystore = store.open()
            if self.ballast:
                keystore.save(TokenRecord(id=_BALLAST, refresh_token="b" * self.ballast))
            deed = partial(DEEDS[self.deed][0], keystore)
        power = _Power(one.path, _STILL_WRITTEN[self.still_written], self.operation)
        power.watch()
        try:
            deed()
        except BaseException:
            if power.cut_at is None:
                raise
        else:
            power.cut(_ACKNOWLEDGED)
        return power.cut_at or ""

    def _looked(self, store: Store, *, acknowledged: bool) -> str:
        """Look at what is left, remove it, and return what is wrong with it."""
        signal.alarm(_PATIENCE_S)
        try:
            self._look(store, acknowledged=acknowledged)
        except (StoreProblem, KeystoreError) as error:
            return str(error)
        shutil.rmtree(store.path.parent.parent)
        return ""

    def _look(self, store: Store, *, acknowledged: bool) -> None:
        found = store.tokens()
        if found is not None:
            found.pop(_BALLAST, None)
        old, new = (None, {}) if self.deed == "create" else (BEFORE, DEEDS[self.deed][1])
        if acknowledged and found == old:
            raise StoreProblem("what was acknowledged is lost")
        if found not in (old, new):
            msg = f"it holds {found}, neither the old state nor the new"
            raise StoreProblem(msg)
        _create(store).save(token("next"))
        if "next" not in (store.tokens() or {}).values():
            raise StoreProblem("the next save is not there")
        if leftovers := store.leftovers():
            msg = f"the next save left {leftovers}"
            raise StoreProblem(msg)
        store.require_private()


def _create(store: Store) -> Keystore:
    make_directories(store.path.parent)
    return store.open()


class _PowerCut(BaseException):
    """Ends the work of the process whose disk is gone."""


class _Power:
    """What cuts a disk's power before the operation of a number."""

    def __init__(self, disk: Path, argument: int, operation: int) -> None:
        self.cut_at: str | None = None
        self._disk = os.open(disk, os.O_RDONLY | os.O_DIRECTORY)
        self._argument = argument
        self._left = operation

    def watch(self) -> None:
        """Count the operations of this process from now on; there is no way back."""
        for name in _OPERATIONS:
            setattr(os, name, partial(self._operate, name, getattr(os, name)))

    def cut(self, at: str) -> None:
        """Cut the power, once."""
        if self.cut_at is None:
            fcntl.ioctl(self._disk, _FS_IOC_SHUTDOWN, struct.pack("=I", self._argument))
            self.cut_at = at

    def _operate(self, name: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if name == "open" and not args[1] & (os.O_CREAT | os.O_TRUNC):
            return function(*args, **options)
        if self.cut_at is None:
            if not self._left:
                self.cut(name)
                raise _PowerCut
            self._left -= 1
            if name == "write":
                # In pieces, so that there are cuts in the middle of the content.
                return function(args[0], args[1][: max(512, len(args[1]) // 2)])
        return function(*args, **options)

"""Disks that are full, read-only, immutable or odd, and processes whose limits are reached.

Each operation is performed in each kind of trouble, with a store that was opened before it and with one that is opened
in it. Either it is done, or it is refused by an error that names the way out, and the file stays byte for byte as it
was; and when the trouble is gone, all works again.
"""

from __future__ import annotations

import errno
import faulthandler
import itertools
import os
import shutil
import stat
import struct
import sys
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from faults.mounts import Disk, FileSystem, missing_for, missing_for_mounts, mount, own_mounts, tmpfs
from faults.operations import STORE_OPERATIONS, Operation, Outcome, attempted, perform, warm_up
from faults.processes import TIMEOUT_S, Child, engine
from faults.ringed import ROTATIONS, make_operation

if sys.platform != "win32":
    import fcntl
    import resource

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

    from faults import Attempt

# Names of the kernel's interface that Python does not have.
_MS_RDONLY, _MS_REMOUNT = 1, 32
_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS = 0x80086601, 0x40086602
_FS_IMMUTABLE_FL, _FS_APPEND_FL = 0x10, 0x20

_BLOCK = 4096


@dataclass(frozen=True)
class Trouble:
    """Something that stands in the way of a store.

    Attributes:
        file_system: Mounts a file system on a directory, and gives a directory in it.
        begins: Brings the trouble about for a store's path, at a stage, and ends it.
        advice: What the error has to tell the user; None when nothing may be refused.
        stages: How much is left when the trouble begins, in units of its own.
        operations: What is tried.
        ballast: By how many bytes the store is larger than its tokens, so that a write can end in the middle.
        is_deadly: The process may die of it, so each operation is performed in one of its own.
        lacks: What this machine lacks for it, or None.
    """

    file_system: Callable[[Path], AbstractContextManager[Path]]
    begins: Callable[[Path, int], AbstractContextManager[None]]
    advice: str | None
    stages: Sequence[int] = (0,)
    operations: Sequence[str] = STORE_OPERATIONS
    ballast: int = 5 * _BLOCK
    is_deadly: bool = False
    lacks: Callable[[], str | None] = missing_for_mounts


@engine("operations on a disk in trouble", setup=own_mounts)
def operations_in_trouble(directory: Path, *, trouble: str) -> Generator[Attempt]:
    """Perform each operation in a kind of trouble, at each of its stages.

    Args:
        directory: Where to work.
        trouble: One of :data:`TROUBLES`.
    """
    # Rust, in which cryptography is written, can hang in printing a traceback when there is no memory left.
    os.environ.pop("RUST_BACKTRACE", None)
    one = TROUBLES[trouble]
    with one.file_system(directory) as root:
        for name in one.operations:
            warm_up(make_operation(name, root / "warm"))
            shutil.rmtree(root / "warm")
        for number, (name, stage, opens_late) in enumerate(
            itertools.product(one.operations, one.stages, (False, True))
        ):
            # A name of its own each time: what is known of a directory's file system is kept by its name.
            own = root / f"data{number}"
            own.mkdir(mode=0o700)
            options = {} if name in ROTATIONS else {"ballast": one.ballast, "opens_late": opens_late}
            where = f"{trouble}, stage {stage}: {name}, opened {'in the trouble' if opens_late else 'before'}"
            yield attempted(where, partial(_outcome, make_operation(name, own, **options), one, stage))
            shutil.rmtree(own)


def _outcome(operation: Operation, trouble: Trouble, stage: int) -> Outcome:
    act = operation.prepare()
    operation.store.path.parent.mkdir(mode=0o700, exist_ok=True)
    begins = trouble.begins(operation.store.path, stage)
    advice = ("nothing may be refused",) if trouble.advice is None else (trouble.advice,)
    if trouble.is_deadly:
        with Child(_perform, operation=operation, begins=begins, advice=advice, act=act) as child:
            if not child.pipe.poll(TIMEOUT_S) or child.wait() < 0:
                # The system or a library has ended it, as they may.
                operation.check(outcome := Outcome.KILLED)
            else:
                outcome = child.hear()
    else:
        outcome = perform(operation, begins, advice, act=act)
    operation.recover()
    return outcome


def _perform(pipe: Connection, *, operation: Operation, begins: Any, advice: Sequence[str], act: Any) -> None:
    faulthandler.disable()
    pipe.send(perform(operation, begins, advice, act=act))


# --- Kinds of trouble -----------------------------------------------------------------------------------------------


@contextmanager
def _mounted_disk(file_system: FileSystem, directory: Path) -> Iterator[Path]:
    with Disk.made(directory, file_system) as disk, disk.mounted() as path:
        yield path


def _root_of(path: Path) -> Path:
    return path.parent.parent.parent


@contextmanager
def _full(path: Path, blocks_left: int) -> Iterator[None]:
    filler = _root_of(path) / "filler"
    with open(filler, "wb", buffering=0) as file:
        _until(errno.ENOSPC, lambda: file.write(bytes(_BLOCK)))
        file.truncate(max(0, file.tell() - blocks_left * _BLOCK))
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def _no_inodes(path: Path, files_left: int) -> Iterator[None]:
    fillers = _root_of(path) / "fillers"
    fillers.mkdir()
    numbers = itertools.count()
    _until(errno.ENOSPC, lambda: os.mknod(fillers / str(next(numbers))))
    for filler in itertools.islice(fillers.iterdir(), files_left):
        filler.unlink()
    try:
        yield
    finally:
        shutil.rmtree(fillers)


@contextmanager
def _read_only(path: Path, _stage: int) -> Iterator[None]:
    mount("none", _root_of(path), flags=_MS_REMOUNT | _MS_RDONLY)
    try:
        yield
    finally:
        mount("none", _root_of(path), flags=_MS_REMOUNT)


@contextmanager
def _flagged(name: str, flag: int, path: Path, _stage: int) -> Iterator[None]:
    """Do what ``chattr`` does, to a file in the store's directory, or to the directory itself."""
    fd = os.open(path.parent / name, os.O_RDONLY)
    [old] = struct.unpack("=L", fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(4)))
    try:
        fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("=L", old | flag))
        yield
    finally:
        fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("=L", old))
        os.close(fd)


@contextmanager
def _limited(limit: int, value: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(limit, (soft, hard))


def _no_large_files(_path: Path, bytes_allowed: int) -> AbstractContextManager[None]:
    # Python ignores the signal that would kill the process.
    return _limited(resource.RLIMIT_FSIZE, bytes_allowed)


@contextmanager
def _no_descriptors(_path: Path, descriptors_left: int) -> Iterator[None]:
    taken: list[int] = []
    with _limited(resource.RLIMIT_NOFILE, 100):
        try:
            _until(errno.EMFILE, lambda: taken.append(os.open(os.devnull, os.O_RDONLY)))
            for _ in range(descriptors_left):
                os.close(taken.pop())
            yield
        finally:
            for fd in taken:
                os.close(fd)


@contextmanager
def _no_memory(_path: Path, megabytes_left: int) -> Iterator[None]:
    with open("/proc/self/statm") as status:
        used = int(status.read().split()[0]) * resource.getpagesize()
    with _limited(resource.RLIMIT_AS, used + megabytes_left * 1024**2):
        yield


def _until(number: int, step: Callable[[], object]) -> None:
    """Repeat a step until the operating system refuses it for this reason."""
    try:
        while True:
            step()
    except OSError as error:
        if error.errno != number:
            raise


#: The mode of every file on a drive of WSL, and on vfat as it is mounted by default.
_WSL, _FAT = 0o777, 0o755


@contextmanager
def _no_modes(_path: Path, mode: int) -> Iterator[None]:
    """Behave as file systems do that keep no modes and have no links: vfat, exfat, CIFS, the drives of WSL.

    All files have one mode. Some refuse to change it and some only say that they have; likewise the owner.
    """

    def fixed(status: os.stat_result) -> os.stat_result:
        # The second part holds the times in nanoseconds, among others.
        reduced: Any = status.__reduce__()
        fields, more = reduced[1]
        return os.stat_result((stat.S_IFMT(fields[0]) | mode, *fields[1:]), more)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    def ignored(*_: object, **__: object) -> None:
        pass

    changing = ignored if mode == _WSL else refused
    replacements: dict[str, Callable[..., Any]] = {
        "stat": lambda *args, **options: fixed(real["stat"](*args, **options)),
        "fstat": lambda fd: fixed(real["fstat"](fd)),
        "link": refused,
        **dict.fromkeys(("chmod", "fchmod", "chown", "fchown"), changing),
    }
    real = {name: getattr(os, name) for name in replacements}
    try:
        for name, replacement in replacements.items():
            setattr(os, name, replacement)
        yield
    finally:
        for name, function in real.items():
            setattr(os, name, function)


_EXT4 = FileSystem("ext4", ("mkfs.ext4", "-q", "-b", str(_BLOCK), "-m", "0", "-J", "size=4"), 16)
_VFAT = FileSystem("vfat", ("mkfs.vfat",), 8)
_ON_EXT4, _NEEDS_EXT4 = partial(_mounted_disk, _EXT4), partial(missing_for, _EXT4)
_ON_TMPFS = partial(tmpfs, "size=1m,mode=755")
_SPACE, _IMMUTABLE = "Free some space", "immutable"
_ON_THE_STORE_AND_ITS_KEYS = (*STORE_OPERATIONS, *ROTATIONS)
#: These need a file that is there already, and that is the one at the store's name.
_ON_FILES = tuple(name for name in STORE_OPERATIONS if name not in {"create", "save after a kill"})

TROUBLES = {
    "full tmpfs": Trouble(partial(tmpfs, "size=128k,mode=755"), _full, _SPACE, range(14), _ON_THE_STORE_AND_ITS_KEYS),
    "full ext4": Trouble(_ON_EXT4, _full, _SPACE, range(0, 14, 2), lacks=_NEEDS_EXT4),
    # Directories take some of the inodes.
    "no inodes": Trouble(partial(tmpfs, "nr_inodes=12,mode=755"), _no_inodes, "inodes", range(5)),
    "read-only tmpfs": Trouble(_ON_TMPFS, _read_only, "read-only", operations=_ON_THE_STORE_AND_ITS_KEYS),
    "read-only ext4": Trouble(_ON_EXT4, _read_only, "read-only", lacks=_NEEDS_EXT4),
    "immutable directory": Trouble(_ON_EXT4, partial(_flagged, "", _FS_IMMUTABLE_FL), _IMMUTABLE, lacks=_NEEDS_EXT4),
    **{
        f"{what} {name}": Trouble(
            _ON_EXT4, partial(_flagged, name, flag), _IMMUTABLE, operations=_ON_FILES, lacks=_NEEDS_EXT4
        )
        for what, flag in {"immutable": _FS_IMMUTABLE_FL, "append-only": _FS_APPEND_FL}.items()
        for name in ("tokens.keystore", ".tokens.keystore.lock")
    },
    "limit on the size of files": Trouble(
        _ON_TMPFS,
        _no_large_files,
        "ulimit -f",
        (0, 1, 100, 300, 500, 1000, 5000, 50_000),
        _ON_THE_STORE_AND_ITS_KEYS,
    ),
    "limit on open files": Trouble(_ON_TMPFS, _no_descriptors, "ulimit -n", range(7)),
    "limit on memory": Trouble(
        partial(tmpfs, "size=64m,mode=755"),
        _no_memory,
        "memory",
        range(8),
        tuple(name for name in STORE_OPERATIONS if name != "restore"),
        ballast=1024**2,
        is_deadly=True,
    ),
    "vfat": Trouble(partial(_mounted_disk, _VFAT), lambda *_: nullcontext(), None, lacks=partial(missing_for, _VFAT)),
    "no modes and no links, simulated": Trouble(_ON_TMPFS, _no_modes, None, (_WSL, _FAT)),
}

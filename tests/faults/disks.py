"""Disks that are full, read-only, immutable or odd, and processes whose limits are reached.

Each deed is done in each kind of trouble, with a store that was opened before it and with one that is opened in it.
Either the deed is done, or it is refused by an error that names the way out, and the file stays byte for byte as it
was; and when the trouble is gone, all works again.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import itertools
import os
import resource
import shutil
import stat
import struct
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

# Imported by the store when it first takes the lock: not in the middle of a trouble that is about something else.
import filelock  # noqa: F401 - see above
from cryptography.fernet import Fernet

from faults import Result, Store, StoreProblem, mutate
from faults.model import BEFORE, DEEDS, prepare, token
from faults.powercuts import (
    ChildDiedError,
    FileSystem,
    die_with,
    disk,
    forked,
    in_own_mounts,
    missing_for,
    missing_for_mounts,
    mount,
    unmount,
)
from zoho_keystore._records import TokenRecord
from zoho_keystore.errors import KeystoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from faults.powercuts import Progress
    from zoho_keystore._keystore import Keystore

T = TypeVar("T")

# Names of the kernel's interface that Python does not have.
_MS_RDONLY, _MS_REMOUNT = 1, 32
_FS_IOC_SETFLAGS, _FS_IMMUTABLE_FL, _FS_APPEND_FL = 0x40086602, 0x10, 0x20

_CREATE = "create"
_BLOCK = 4096

#: A token of this id makes the file one of several blocks, so that a write can end in the middle.
_BALLAST = "ballast"


@dataclass(frozen=True)
class Trouble:
    """Something that stands in the way of a store.

    Attributes:
        file_system: Mounts a file system on a folder, and gives a folder in it.
        begins: Brings the trouble about for a store, at a stage, and ends it.
        advice: What the error must tell the user; None when nothing may be refused.
        stages: How much is left when the trouble begins, in units of its own.
        spares_create: There is no trouble as long as there is no store.
        ballast: By how many bytes the store is larger than its three tokens.
        is_deadly: The process may die of it, so each deed is done in one of its own.
        lacks: What this machine lacks for it, or None.
    """

    file_system: Callable[[Path], AbstractContextManager[Path]]
    begins: Callable[[Store, int], AbstractContextManager[None]]
    advice: str | None
    stages: Sequence[int] = (0,)
    spares_create: bool = False
    ballast: int = 5 * _BLOCK
    is_deadly: bool = False
    lacks: Callable[[], str | None] = missing_for_mounts


def disks(directory: Path, trouble: str, *, mutant: str | None = None, progress: Progress = lambda: None) -> Result:
    """Do each deed in a kind of trouble, at each of its stages; the figure "refused" tells how many were refused.

    It works in a fork of the calling process, which should have a single thread.

    Args:
        directory: An empty folder, which is empty afterwards too.
        trouble: One of :data:`TROUBLES`.
        mutant: What to take out of the store.
        progress: Called after each try.
    """
    return in_own_mounts(lambda tell: _campaign(directory, trouble, mutant, tell), progress)


def _campaign(directory: Path, name: str, mutant: str | None, progress: Progress) -> Result:
    mutate(mutant)
    # Rust, in which cryptography is written, can hang in printing one when there is no memory left.
    os.environ.pop("RUST_BACKTRACE", None)
    result = Result(name, figures={"refused": 0})
    trouble = TROUBLES[name]
    with trouble.file_system(directory) as root:
        for deed, stage, opened_before in itertools.product((_CREATE, *DEEDS), trouble.stages, (True, False)):
            if deed == _CREATE and (opened_before or trouble.spares_create):
                continue
            # A name of its own each time: what is known of a folder's file system is kept by its name.
            store = Store(root / f"data{result.tried}" / "tokens.keystore", Fernet.generate_key())
            try:
                if not _is_done(store, trouble, deed, stage, opened_before=opened_before):
                    result.figures["refused"] += 1
            except (StoreProblem, KeystoreError, RuntimeError) as error:
                opened = "before" if opened_before else "in the trouble"
                # Of a child there is the whole traceback.
                problem = str(error).strip().splitlines()[-1]
                result.failures.append(f"{name}, stage {stage}: {deed}, opened {opened}: {problem}")
                # An error may keep a file open, which would be in the way of unmounting.
                gc.collect()
            shutil.rmtree(store.path.parent)
            result.tried += 1
            progress()
    return result


def _is_done(store: Store, trouble: Trouble, deed: str, stage: int, *, opened_before: bool) -> bool:
    """Do a deed in trouble and, if it is refused, once more when the trouble is gone."""
    store.path.parent.mkdir(mode=0o700)
    if deed != _CREATE:
        prepare(store)
        keystore = store.open()
        keystore.save(TokenRecord(id=_BALLAST, refresh_token="b" * trouble.ballast))
        keystore.close()
    before = _content(store)
    do = partial(_do, store, deed, store.open() if opened_before else None)

    def in_trouble(_: Progress = lambda: None) -> bool:
        with trouble.begins(store, stage):
            return _is_done_or_refused(do, trouble.advice)

    done = died = False
    try:
        done = forked(in_trouble) if trouble.is_deadly else in_trouble()
    except ChildDiedError:
        died = True
    if not done:
        if _content(store) != before:
            raise StoreProblem("it was refused, and the file is not as it was")
        # Who is killed cannot tidy up; the next save does.
        if not died and (leftovers := store.leftovers()):
            msg = f"it was refused, and left {leftovers}"
            raise StoreProblem(msg)
        do()
    found = store.tokens() or {}
    found.pop(_BALLAST, None)
    if found != ({} if deed == _CREATE else DEEDS[deed][1]):
        msg = f"it holds {found} in the end"
        raise StoreProblem(msg)
    store.open().save(token("next"))
    if leftovers := store.leftovers():
        msg = f"the next save left {leftovers}"
        raise StoreProblem(msg)
    return done


def _do(store: Store, deed: str, keystore: Keystore | None) -> None:
    if keystore is not None and not keystore.find(token(BEFORE["1"])):
        raise StoreProblem("a store that is open does not find its token")
    if keystore is None:
        keystore = store.open()
    if deed != _CREATE:
        DEEDS[deed][0](keystore)


def _is_done_or_refused(do: Callable[[], None], advice: str | None) -> bool:
    try:
        do()
    except KeystoreError as error:
        if advice is None or advice not in error.advice:
            msg = f"refused by {type(error).__name__}: {error}"
            raise StoreProblem(msg) from error
    except StoreProblem:
        raise
    except BaseException as error:
        # What cryptography raises when Rust gets no memory is no Exception, and nothing that a store can foresee.
        if type(error).__name__ != "PanicException":
            msg = f"{type(error).__name__}, which is none of our errors: {error}"
            raise StoreProblem(msg) from error
    else:
        return True
    return False


def _content(store: Store) -> bytes | None:
    return store.path.read_bytes() if store.path.exists() else None


# --- Users ---


def in_own_tmp(work: Callable[[], T]) -> T:
    """Run something as root, in a process that has an empty ``/tmp`` of its own, and return what it returns."""

    def with_tmp(_: Progress) -> T:
        mount("tmpfs", "/tmp", "tmpfs", options="mode=1777")  # noqa: S108 - a folder that all may write to is the point
        os.umask(0o022)
        return work()

    return in_own_mounts(with_tmp)


def as_user(uid: int, work: Callable[[], T]) -> T:
    """Run something as another user, in no group but one of the same number, and return what it returns.

    All that it imports must be imported already: root's Python may be out of that user's reach.
    """

    def switched(_: Progress) -> T:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        die_with(os.getppid())
        return work()

    return forked(switched)


# --- File systems ---


@contextmanager
def _tmpfs(options: str, directory: Path) -> Iterator[Path]:
    mount("tmpfs", directory, "tmpfs", options=options)
    try:
        yield directory
    finally:
        unmount(directory)


@contextmanager
def _mounted_disk(file_system: FileSystem, directory: Path) -> Iterator[Path]:
    with disk(directory, file_system) as one, one.mounted():
        yield one.path


_EXT4 = FileSystem("ext4", ("mkfs.ext4", "-q", "-b", str(_BLOCK), "-m", "0", "-J", "size=4"), 16)
_VFAT = FileSystem("vfat", ("mkfs.vfat",), 8)


# --- Troubles ---


@contextmanager
def _full(store: Store, blocks_left: int) -> Iterator[None]:
    filler = store.path.parent.with_name("filler")
    with open(filler, "wb", buffering=0) as file:
        _until(errno.ENOSPC, lambda: file.write(bytes(_BLOCK)))
        file.truncate(max(0, file.tell() - blocks_left * _BLOCK))
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def _no_inodes(store: Store, files_left: int) -> Iterator[None]:
    fillers = store.path.parent.with_name("fillers")
    fillers.mkdir()
    names = map(str, itertools.count())

    def fill() -> None:
        (fillers / next(names)).touch()

    _until(errno.ENOSPC, fill)
    for filler in itertools.islice(fillers.iterdir(), files_left):
        filler.unlink()
    try:
        yield
    finally:
        shutil.rmtree(fillers)


@contextmanager
def _read_only(store: Store, _stage: int) -> Iterator[None]:
    root = store.path.parent.parent
    mount("none", root, flags=_MS_REMOUNT | _MS_RDONLY)
    try:
        yield
    finally:
        mount("none", root, flags=_MS_REMOUNT)


@contextmanager
def _flagged(name: str, flag: int, store: Store, _stage: int) -> Iterator[None]:
    """Do what ``chattr`` does, to a file in the store's folder."""
    fd = os.open(store.path.parent / name, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("=L", flag))
        yield
    finally:
        fcntl.ioctl(fd, _FS_IOC_SETFLAGS, struct.pack("=L", 0))
        os.close(fd)


@contextmanager
def _limited(limit: int, value: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(limit, (soft, hard))


def _no_large_files(_store: Store, bytes_allowed: int) -> AbstractContextManager[None]:
    # Python ignores the signal that would kill the process.
    return _limited(resource.RLIMIT_FSIZE, bytes_allowed)


@contextmanager
def _no_descriptors(_store: Store, descriptors_left: int) -> Iterator[None]:
    # As in a process that has not written yet, which has to import this first.
    for name in [name for name in sys.modules if name.partition(".")[0] == "filelock"]:
        del sys.modules[name]
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
def _no_memory(_store: Store, megabytes_left: int) -> Iterator[None]:
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
def _no_modes(_store: Store, mode: int) -> Iterator[None]:
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
    for name, replacement in replacements.items():
        setattr(os, name, replacement)
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(os, name, function)


@contextmanager
def _none(_store: Store, _stage: int) -> Iterator[None]:
    yield


_ON_EXT4 = partial(_mounted_disk, _EXT4)
_ON_TMPFS = partial(_tmpfs, "size=1m,mode=755")
_NEEDS_EXT4 = partial(missing_for, _EXT4)
_SPACE, _IMMUTABLE = "Free some space", "immutable"

TROUBLES = {
    "full tmpfs": Trouble(partial(_tmpfs, "size=128k,mode=755"), _full, _SPACE, range(14)),
    "full ext4": Trouble(_ON_EXT4, _full, _SPACE, range(0, 14, 2), lacks=_NEEDS_EXT4),
    # Folders take three of the inodes.
    "no inodes": Trouble(partial(_tmpfs, "nr_inodes=9,mode=755"), _no_inodes, "inodes", range(4)),
    "read-only tmpfs": Trouble(_ON_TMPFS, _read_only, "read-only"),
    "read-only ext4": Trouble(_ON_EXT4, _read_only, "read-only", lacks=_NEEDS_EXT4),
    "immutable folder": Trouble(_ON_EXT4, partial(_flagged, "", _FS_IMMUTABLE_FL), _IMMUTABLE, lacks=_NEEDS_EXT4),
    **{
        f"{what} {name}": Trouble(
            _ON_EXT4, partial(_flagged, name, flag), _IMMUTABLE, spares_create=True, lacks=_NEEDS_EXT4
        )
        for what, flag in {"immutable": _FS_IMMUTABLE_FL, "append-only": _FS_APPEND_FL}.items()
        for name in ("tokens.keystore", ".tokens.keystore.lock")
    },
    "limit on the size of files": Trouble(_ON_TMPFS, _no_large_files, "ulimit -f", (0, 1, 100, 1000, 5000, 50_000)),
    "limit on open files": Trouble(_ON_TMPFS, _no_descriptors, "ulimit -n", range(7)),
    "limit on memory": Trouble(
        partial(_tmpfs, "size=64m,mode=755"), _no_memory, "memory", range(8), ballast=1024**2, is_deadly=True
    ),
    "vfat": Trouble(partial(_mounted_disk, _VFAT), _none, None, lacks=partial(missing_for, _VFAT)),
    "no modes and no links, simulated": Trouble(_ON_TMPFS, _no_modes, None, (_WSL, _FAT)),
}

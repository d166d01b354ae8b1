"""Mounts and file systems on loop devices, in processes with mounts of their own.

The image of a disk is in memory. So nothing stays behind however a process ends, SIGKILL included: the mounts go with
their last process, and the loop device goes with its last mount.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import struct
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from faults.processes import in_child

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Names of the kernel's interface that Python does not have.
_CLONE_NEWNS = 0x20000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE, _LO_FLAGS_AUTOCLEAR = 0x4C82, 0x4C0A, 4

_libc: Any = ctypes.CDLL(None, use_errno=True) if sys.platform != "win32" else None


def own_mounts() -> None:
    """Give this process mounts that no other process sees. It takes root."""
    _checked(_libc.unshare(_CLONE_NEWNS))
    mount("none", "/", flags=_MS_REC | _MS_PRIVATE)


def mount(source: str, target: str | Path, kind: str = "", *, flags: int = 0, options: str = "") -> None:
    """Mount a file system."""
    _checked(_libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, options.encode()))


def unmount(target: str | Path) -> None:
    """Unmount a file system that no process uses any more."""
    _checked(_libc.umount2(os.fsencode(target), 0))


def _checked(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextmanager
def tmpfs(options: str, directory: Path) -> Iterator[Path]:
    """Mount a file system in memory on a directory."""
    mount("tmpfs", directory, "tmpfs", options=options)
    try:
        yield directory
    finally:
        unmount(directory)


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


@dataclass(frozen=True)
class Disk:
    """A file system on a loop device, and where it is mounted."""

    path: Path
    device: str
    file_system: FileSystem

    @classmethod
    @contextmanager
    def made(cls, directory: Path, file_system: FileSystem) -> Iterator[Disk]:
        """Make a file system in memory, not mounted yet; the directory is where its image is mounted."""
        with tmpfs("mode=755", directory):
            image, path = directory / "disk.img", directory / "disk"
            with open(image, "wb") as file:
                file.truncate(file_system.megabytes * 1024**2)
            subprocess.run([*file_system.make, image], check=True, stdout=subprocess.DEVNULL)
            path.mkdir()
            with _loop_device(image) as device:
                yield cls(path, device, file_system)

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """Mount it, which replays the journal, and unmount it in the end."""
        mount(self.device, self.path, self.file_system.kind, options=self.file_system.options)
        try:
            yield self.path
        finally:
            unmount(self.path)


@contextmanager
def _loop_device(image: Path) -> Iterator[str]:
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
            if error.errno != errno.EBUSY:  # EBUSY: another process has taken this device meanwhile.
                raise
        else:
            return device, fd


def missing_for_mounts() -> str | None:
    """Tell what stands in the way of mounts of one's own; None if nothing does."""
    if os.geteuid():
        return "mounting needs root"
    try:
        in_child(own_mounts)
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

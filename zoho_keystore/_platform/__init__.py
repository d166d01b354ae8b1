"""What differs between operating systems, in one place. Windows' own functions are in :mod:`._platform.windows`.

Besides what is here, ``permissions.HAS_OWNERS`` is False on Windows, which has no POSIX owners and modes, and so is
``directory.HAS_DIRECTORY_FDS``, since a directory cannot be opened there.

=====================  ==============================================  ==========================================
about                  POSIX                                           Windows
=====================  ==============================================  ==========================================
a file in use          can be opened, replaced and removed             cannot, so :func:`retried` tries for a while
private                mode 0600, 0700                                 an ACL of the owner, set when it is made
a durable rename       ``rename``, and ``fsync`` of the directory      ``MoveFileExW`` with write-through
a durable content      ``fsync``; on macOS ``F_FULLFSYNC``             ``FlushFileBuffers``, by ``os.fsync``
``st_ctime``           the change of the status                        not comparable: :func:`changed_ns`
processes              /proc of Linux tells who lives and who locks    not known, nor on macOS: leases end by time
a closed pipe          EPIPE                                           EINVAL as well: :func:`is_closed_pipe`
a port that is taken   cannot be listened on                           can, unless reserved: :func:`reserve_port`
no terminal            ``isatty`` is False                             ``isatty`` is True for NUL: :func:`is_terminal`
the user's shell       POSIX quoting                                   PowerShell's: :func:`quote`
a command line         split as a shell splits it                      by the rules of the C runtime: :func:`split`
=====================  ==============================================  ==========================================
"""

from __future__ import annotations

import errno
import importlib
import os
import random
import re
import shlex
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from typing import TextIO

_T = TypeVar("_T")

IS_WINDOWS = os.name == "nt"
IS_MACOS = sys.platform == "darwin"

#: Linux alone has /proc. Elsewhere it would be a directory that any user may have made.
HAS_PROC = sys.platform == "linux"

#: For how many seconds a call is retried on Windows while another process has the file open, and the longest pause.
SHARING_RETRY_S = 4.0
_SHARING_PAUSE_S = 0.005

#: How long a reader on Windows pauses after it has closed a file, in seconds.
_READER_PAUSE_S = 0.002

#: A word that neither cmd.exe nor PowerShell changes.
_PLAIN_WORD = re.compile(r"[A-Za-z0-9_./:\\+=-]+")


def _windows() -> Any:
    """Return the module :mod:`zoho_keystore._platform.windows`, which cannot be imported elsewhere."""
    return importlib.import_module("zoho_keystore._platform.windows")


# --- Files ---


def retried(call: Callable[[], _T], path: str | os.PathLike[str], *, patience_s: float = SHARING_RETRY_S) -> _T:
    """Return what a call returns. On Windows, repeat it while another process has a file open.

    There, a file that is open cannot be replaced or removed, and one that is just being replaced cannot be opened.
    Copying over it, or deleting it first, could lose it in a crash.

    Args:
        call: The call.
        path: The file that may be in use.
        patience_s: For how long to repeat the call, in seconds.

    Raises:
        IsADirectoryError: There is a directory instead; Windows says that the permission is denied.
    """
    deadline_s = time.monotonic() + patience_s
    while True:
        try:
            return call()
        except PermissionError as error:
            if not IS_WINDOWS or error.errno != errno.EACCES or time.monotonic() >= deadline_s:
                raise
            if os.path.isdir(path):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)) from None
        # Of any length: two processes in step would meet each time.
        time.sleep(_SHARING_PAUSE_S * random.random())  # noqa: S311 - not a secret


def give_way_to_writers() -> None:
    """Pause after a file was read: on Windows, readers that never pause would keep writers from replacing it."""
    if IS_WINDOWS:
        time.sleep(_READER_PAUSE_S)


def replace(source: str, target: str, dir_fd: int | None) -> None:
    """Rename a file over another one atomically; on Windows the rename is on the disk afterwards."""
    if IS_WINDOWS:
        retried(lambda: _windows().replace(source, target), target)
    else:
        os.replace(source, target, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)


def open_file(
    path: str | os.PathLike[str],
    flags: int,
    mode: int = 0,
    *,
    dir_fd: int | None = None,
    patience_s: float = SHARING_RETRY_S,
) -> int:
    """Open a file, and return its descriptor; on Windows as :func:`retried`, which opens no directory."""
    if not IS_WINDOWS:  # Without the cost of a function for each: a find within 2 s of a save opens the file.
        return os.open(path, flags, mode, dir_fd=dir_fd)
    return retried(lambda: os.open(path, flags, mode, dir_fd=dir_fd), path, patience_s=patience_s)


def create_file(path: str, flags: int, mode: int, dir_fd: int | None) -> int:
    """Create a file for its owner alone, and return its descriptor; FileExistsError if the name is taken."""
    if IS_WINDOWS:
        fd: int = _windows().create_file(path, flags)
        return fd
    return os.open(path, flags, mode, dir_fd=dir_fd)


def make_directory(path: str, mode: int, dir_fd: int | None) -> None:
    """Make a directory for its owner alone; FileExistsError if the name is taken."""
    if IS_WINDOWS:
        _windows().make_directory(path)
    else:
        os.mkdir(path, mode, dir_fd=dir_fd)


def sync_file(fd: int) -> None:
    """Bring the content of a file, or the names in a directory, to the disk."""
    if sys.platform == "darwin":
        # On macOS fsync leaves the data in the disk's cache.
        import fcntl  # noqa: PLC0415 - does not exist on Windows

        # Some disks and network file systems do not support the command.
        with suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
    os.fsync(fd)


def changed_ns(status: os.stat_result) -> int:
    """Return a time that moves when a file changes, and that ``stat`` and ``fstat`` agree on.

    On Windows, from Python 3.12 on, ``st_ctime_ns`` of ``fstat`` is the change of the status, that of ``stat`` the
    creation.
    """
    return status.st_mtime_ns if IS_WINDOWS else status.st_ctime_ns


def others_with_access(path: Path) -> list[str]:
    """Return the users and groups besides the owner, the system and its administrators that an ACL of Windows lets in.

    In a directory, those that may add, replace or remove files.

    Raises:
        OSError: The ACL cannot be read.
    """
    if not IS_WINDOWS:
        return []
    names: list[str] = _windows().others_with_access(str(path), only_writers=os.path.isdir(path))
    return names


def icacls_command(path: Path) -> str:
    """Return the command of Windows that takes the access of other users away from a file or a directory."""
    inherited = "(OI)(CI)F" if os.path.isdir(path) else "F"
    user = f"{os.environ.get('USERDOMAIN', '.')}\\{os.environ.get('USERNAME', '')}:{inherited}"
    return f"icacls {quote(str(path))} /inheritance:r /grant:r {quote(user)}"


# --- Processes ---


def lock_id(status: os.stat_result) -> bytes:
    """Return how /proc/locks names a file."""
    return b"%02x:%02x:%d" % (os.major(status.st_dev), os.minor(status.st_dev), status.st_ino)


def variable_name(name: str) -> str:
    """Return the name under which ``os.environ`` lists a variable: Windows knows no lower case there."""
    return name.upper() if IS_WINDOWS else name


def read_available(pipe: int, length: int) -> bytes:
    """Return what a program has written to a pipe, without waiting for more."""
    if IS_WINDOWS:
        available: int = _windows().available(pipe)
        return os.read(pipe, min(length, available)) if available else b""
    os.set_blocking(pipe, False)
    try:
        return os.read(pipe, length)
    except BlockingIOError:
        return b""


# --- Networks ---


def reserve_port(server: socket.socket) -> None:
    """Keep other programs off the port that a socket is to listen on.

    By default, Windows lets any other program listen on the same port, and get what is sent there. POSIX does not.
    """
    if IS_WINDOWS:
        _windows().reserve_port(server)


# --- Terminals ---


def is_terminal(stream: TextIO) -> bool:
    """Tell whether a stream is a terminal, which NUL is not."""
    if not stream.isatty():
        return False
    if not IS_WINDOWS:
        return True
    return bool(_windows().is_console(stream.fileno()))


def can_be_polled(stream: TextIO) -> bool:
    """Tell whether a stream is a terminal whose input select() waits for, as no console of Windows is."""
    return not IS_WINDOWS and is_terminal(stream)


def is_closed_pipe(error: OSError) -> bool:
    """Tell whether the reader of a pipe that was written to has ended."""
    return error.errno == errno.EPIPE or (IS_WINDOWS and error.errno == errno.EINVAL)


# --- Texts ---


def choose(posix: str, windows: str) -> str:
    """Return the text for the system that this runs on."""
    return windows if IS_WINDOWS else posix


def remove_command(path: Path) -> str:
    return f"{choose('rm', 'Remove-Item -LiteralPath')} {quote(str(path))}"


def move_command(path: Path, new: Path) -> str:
    """Return a command that replaces no file."""
    return f"{choose('mv -n', 'Move-Item -LiteralPath')} {quote(str(path))} {quote(str(new))}"


def make_directory_command(path: Path | str) -> str:
    return f"{choose('mkdir -m 700', 'mkdir')} {quote(str(path))}"


def quote(word: str) -> str:
    """Return a word as the user's shell takes it: in the quotes of POSIX shells, or of PowerShell."""
    if not IS_WINDOWS:
        return shlex.quote(word)
    return word if _PLAIN_WORD.fullmatch(word) else "'" + word.replace("'", "''") + "'"


def join(words: Iterable[str]) -> str:
    """Return a command line for the user's shell."""
    return " ".join(map(quote, words))


def split(command: str) -> list[str]:
    """Return the words of a command line; on Windows, where a backslash is part of a path, by its C runtime's rules.

    Raises:
        ValueError: A quote is not closed.
    """
    if not IS_WINDOWS:
        return shlex.split(command)
    words: list[str] = []
    word: str | None = None
    is_quoted = False
    at = 0
    while at < len(command):
        slashes = len(command[at:]) - len(command[at:].lstrip("\\"))
        at += slashes
        character = command[at : at + 1]
        at += 1
        if character == '"':
            # Two backslashes before a quote stand for one; the last of an odd number makes the quote a character.
            word = (word or "") + "\\" * (slashes // 2)
            if slashes % 2:
                word += '"'
            elif is_quoted and command[at : at + 1] == '"':
                word += '"'
                at += 1
            else:
                is_quoted = not is_quoted
        elif character.isspace() and not is_quoted:
            if word is not None or slashes:
                words.append((word or "") + "\\" * slashes)
            word = None
        else:
            word = (word or "") + "\\" * slashes + character
    if is_quoted:
        raise ValueError("a quote is not closed")
    return words if word is None else [*words, word]

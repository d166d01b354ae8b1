from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support import IS_ROOT, OTHER_UID, as_other_user, failing
from zoho_keystore._fs.private_file import FileTooLargeError, PrivateFile, read_prefix, read_private_file
from zoho_keystore.errors import UnsafeFileError

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")

CONTENT = b"0123456789"

each_reader = pytest.mark.parametrize(
    "read",
    [lambda path: read_private_file(path, max_bytes=100), lambda path: read_prefix(path, 100)],
    ids=["whole", "prefix"],
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give a private file."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    path.chmod(0o600)
    return path


@each_reader
def test_read_returns_content_and_status(file: Path, read: Callable[[Path], PrivateFile]) -> None:
    """The status is the one of the file that was read."""
    content, status = read(file)
    assert content == CONTENT
    assert os.path.samestat(status, file.stat())
    assert status.st_size == len(CONTENT)


@pytest.mark.parametrize("length", [0, 1, 9, 10, 11])
def test_read_prefix_returns_at_most_length(file: Path, length: int) -> None:
    """A shorter file gives what it has."""
    assert read_prefix(file, length).content == CONTENT[:length]


@each_reader
def test_read_continues_after_short_reads(
    file: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], PrivateFile]
) -> None:
    """The system may return fewer bytes than were asked for."""
    system_read = os.read
    monkeypatch.setattr(os, "read", lambda fd, size: system_read(fd, min(size, 3)))
    assert read(file).content == CONTENT


@each_reader
def test_read_of_missing_file_raises_file_not_found(file: Path, read: Callable[[Path], PrivateFile]) -> None:
    """The caller knows what a missing file means."""
    with pytest.raises(FileNotFoundError):
        read(file.with_name("missing"))


@pytest.mark.needs_special_files
@each_reader
def test_read_does_not_follow_symbolic_link(file: Path, read: Callable[[Path], PrivateFile]) -> None:
    """It may lead to a file of another user."""
    link = file.with_name("link")
    link.symlink_to(file)
    with pytest.raises(OSError, match="Too many levels of symbolic links"):
        read(link)


@pytest.mark.needs_special_files("FIFO")
@each_reader
@pytest.mark.timeout(10)
@pytest.mark.parametrize("kind", ["FIFO", "directory"])
def test_read_of_other_kind_is_refused(tmp_path: Path, read: Callable[[Path], PrivateFile], kind: str) -> None:
    """Without waiting for the other end of a FIFO, which may never come."""
    path = tmp_path / "node"
    (os.mkfifo if kind == "FIFO" else os.mkdir)(path)
    with pytest.raises(UnsafeFileError, match=f"this is a {kind}, not a file") as caught:
        read(path)
    assert caught.value.path == path


@pytest.mark.needs_special_files
@each_reader
def test_read_of_socket_raises_os_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], PrivateFile]
) -> None:
    """The system refuses to open it."""
    monkeypatch.chdir(tmp_path)  # The path of a socket is limited to 108 bytes.
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("socket")
        with pytest.raises(OSError, match="No such device"):
            read(Path("socket"))


@each_reader
@pytest.mark.parametrize("call", ["fstat", "read"])
def test_read_closes_file_after_error(
    file: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], PrivateFile], call: str
) -> None:
    """The module's fixture looks for descriptors that are left."""
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(errno.EIO))
        with pytest.raises(OSError, match="Input/output error"):
            read(file)


def test_read_private_file_accepts_max_bytes_and_refuses_more(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is too large is refused before it is read."""
    assert read_private_file(file, max_bytes=10).content == CONTENT
    monkeypatch.setattr(os, "read", lambda *_: pytest.fail("read"))
    with pytest.raises(FileTooLargeError) as caught:
        read_private_file(file, max_bytes=9)
    assert caught.value.size == 10


@pytest.mark.parametrize("size", [4, 20], ids=["shrinks", "grows"])
def test_read_private_file_ends_at_the_size_at_opening(file: Path, size: int) -> None:
    """So the content of a file that another process writes in place never exceeds what its status says."""
    content, status = read_private_file(file, max_bytes=100, check=lambda *_: os.truncate(file, size))
    assert content == CONTENT[: min(size, 10)]
    assert status.st_size == 10


def test_read_private_file_check_gets_the_open_file(file: Path) -> None:
    """It decides before anything is read, on a descriptor that is read-only and not inherited by child programs."""

    def check(status: os.stat_result, path: Path, fd: int) -> None:
        assert path == file
        assert os.path.samestat(status, os.fstat(fd))
        assert not os.get_inheritable(fd)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(fd, b"x")
        raise UnsafeFileError("refused", "", path)

    with pytest.raises(UnsafeFileError, match="refused"):
        read_private_file(file, max_bytes=10, check=check)


@pytest.mark.needs_special_files
def test_read_private_file_of_other_owner_depends_on_check(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default only root reads the files of other users."""
    owner = file.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(UnsafeFileError, match=f"it belongs to user {owner}"):
        read_private_file(file, max_bytes=10)
    assert read_private_file(file, max_bytes=10, check=None).content == CONTENT
    assert read_prefix(file, 10).content == CONTENT


@pytest.mark.skipif(not IS_ROOT, reason="acts as another user, which only root may")
def test_read_private_file_of_real_other_user_is_refused(public_directory: Path) -> None:
    """Even if the mode gives access; root itself reads it."""
    path = public_directory / "file"
    path.write_bytes(CONTENT)
    path.chmod(0o666)
    assert as_other_user(lambda: read_private_file(path, max_bytes=10)).startswith(
        f"UnsafeFileError: {path}: it belongs to user 0, and this process runs as user {OTHER_UID}"
    )
    os.chown(path, OTHER_UID, OTHER_UID)
    assert read_private_file(path, max_bytes=10).content == CONTENT


@each_reader
def test_read_of_a_directory_that_has_become_a_file_raises(
    file: Path, read: Callable[[Path], PrivateFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows tells of a directory when it is opened; by the time of the check there may be a file."""

    def refused(*_: object, **__: object) -> int:
        raise IsADirectoryError(errno.EISDIR, "is a directory")

    monkeypatch.setattr("zoho_keystore._platform.open_file", refused)
    with pytest.raises(IsADirectoryError):
        read(file)

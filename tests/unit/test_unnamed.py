"""Files that have no name until they are whole."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support import OTHER_UID, failing
from zoho_keystore._fs import permissions
from zoho_keystore._fs.atomic import AlreadyThereError
from zoho_keystore._fs.directory import Directory
from zoho_keystore._fs.unnamed import create_unnamed
from zoho_keystore.errors import DurabilityUnknownError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.usefixtures("no_descriptor_is_left"),
    pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="needs O_TMPFILE"),
]


def create(directory: Path, content: bytes = b"content") -> bool:
    """Create a file in a directory."""
    with Directory.opened(directory) as opened:
        return create_unnamed(opened, "file", content)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Give a directory whose file system has files without a name, which most have."""
    path = tmp_path / "directory"
    path.mkdir(mode=0o700)
    if not create(path):
        pytest.skip("the file system has no O_TMPFILE")
    (path / "file").unlink()
    return path


def test_create_unnamed_makes_a_private_file(directory: Path, umask: Callable[[int], int]) -> None:
    """Whatever the umask; an existing file stays."""
    umask(0o777)
    assert create(directory)
    assert (directory / "file").read_bytes() == b"content"
    assert (directory / "file").stat().st_mode & 0o777 == 0o600
    with pytest.raises(AlreadyThereError):
        create(directory, b"other")
    assert (directory / "file").read_bytes() == b"content"
    assert os.listdir(directory) == ["file"]


@pytest.mark.skipif(not permissions.is_root(), reason="only root can give a file away")
def test_create_unnamed_as_root_gives_the_file_to_the_owner_of_the_directory(directory: Path) -> None:
    os.chown(directory, OTHER_UID, OTHER_UID)
    assert create(directory)
    status = (directory / "file").stat()
    assert (status.st_uid, status.st_gid) == (OTHER_UID, OTHER_UID)


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_create_unnamed_that_fails_leaves_nothing(call: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(errno.EOPNOTSUPP))
        assert not create(directory)
    assert os.listdir(directory) == []


def test_create_unnamed_without_support_does_nothing(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems other than Linux."""
    monkeypatch.delattr(os, "O_TMPFILE")
    assert not create(directory)
    assert os.listdir(directory) == []


def test_create_unnamed_reports_a_directory_that_is_not_synced(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Directory, "sync", failing(errno.EIO))
    with pytest.raises(DurabilityUnknownError, match="it is written, but may not survive a power cut"):
        create(directory)
    assert (directory / "file").read_bytes() == b"content"


KILLED = """
import os, sys
from pathlib import Path
from zoho_keystore._fs.directory import Directory
from zoho_keystore._fs.unnamed import create_unnamed

os.fsync = lambda fd: os.kill(os.getpid(), 9)
with Directory.opened(Path(sys.argv[1])) as directory:
    create_unnamed(directory, "file", b"content")
"""


def test_create_unnamed_that_is_killed_leaves_nothing(directory: Path) -> None:
    """After the content was written."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(directory)], check=False)
    assert done.returncode == -9
    assert os.listdir(directory) == []

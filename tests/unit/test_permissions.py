from __future__ import annotations

import os
import shlex
import stat
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from support import IS_ROOT, OTHER_UID, as_other_user, failing
from zoho_keystore._fs import permissions
from zoho_keystore.errors import UnsafeFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")

needs_root = pytest.mark.skipif(not IS_ROOT, reason="acts as another user, which only root may")

PATH = Path("/some/where")
UNSAFE_MODES = [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o644, 0o666, 0o777]
PRIVATE_MODES = [0o600, 0o400, 0o700, 0o000, 0o4700]


def status_of(mode: int, *, uid: int | None = None) -> os.stat_result:
    """Make up the status of a file of this process's user, or of another one."""
    return os.stat_result((mode, 1, 1, 1, os.geteuid() if uid is None else uid, 0, 0, 0, 0, 0))


def run_as(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    """Let this process appear to run as a user."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)


def remove_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the file system one that shows a fixed mode for every file."""
    fstat = os.fstat

    def fixed(fd: int) -> os.stat_result:
        status = fstat(fd)
        return os.stat_result((status.st_mode | 0o777, *status[1:]))

    monkeypatch.setattr(os, "fstat", fixed)
    monkeypatch.setattr(os, "fchmod", lambda _fd, _mode: None)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """Give an open, private file and its path."""
    path = tmp_path / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    yield fd, path
    os.close(fd)


# --- Flags ---


@pytest.mark.parametrize("name", ["READ_FLAGS", "UPDATE_FLAGS", "CREATE_FLAGS", "DIRECTORY_FLAGS"])
def test_flags_close_on_exec(name: str) -> None:
    """A child program must not inherit the store or its lock."""
    assert getattr(permissions, name) & os.O_CLOEXEC


# --- Kinds ---


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (stat.S_IFREG, "file"),
        (stat.S_IFDIR, "directory"),
        (stat.S_IFIFO, "FIFO"),
        (stat.S_IFSOCK, "socket"),
        (stat.S_IFLNK, "symbolic link"),
        (stat.S_IFBLK, "device"),
        (stat.S_IFCHR, "device"),
    ],
)
def test_other_kind_is_refused_and_named(kind: int, name: str) -> None:
    """For a file and for a directory."""
    status = status_of(kind | 0o600)
    for require, wanted in ((permissions.require_regular, "file"), (permissions.require_directory, "directory")):
        message = f"^/some/where: this is a {name}, not a {wanted}"
        with nullcontext() if name == wanted else pytest.raises(UnsafeFileError, match=message):
            require(status, PATH)


# --- Owners ---


@pytest.mark.parametrize(
    ("uid", "owner", "also", "accepted"),
    [
        (1000, 1000, permissions.ANY_UID, True),
        (1000, 1001, permissions.ANY_UID, False),
        (1000, 0, permissions.ANY_UID, False),
        (1001, 1000, 1000, False),
        (0, 0, permissions.ANY_UID, True),
        (0, 1000, permissions.ANY_UID, True),
        (0, 1000, 1000, True),
        (0, 1000, 0, False),
        (0, 1000, 1001, False),
        (0, 1000, None, False),
        (0, 0, None, True),
    ],
)
def test_require_owner_accepts_own_files_and_for_root_others(
    monkeypatch: pytest.MonkeyPatch, uid: int, owner: int, also: int | None, *, accepted: bool
) -> None:
    """Root that accepted a lock file of every user could be blocked by any of them: ``also`` limits it."""
    run_as(monkeypatch, uid)
    message = f"belongs to user {owner}, and this process runs as user {uid}.*chown"
    with nullcontext() if accepted else pytest.raises(UnsafeFileError, match=message):
        permissions.require_owner(status_of(stat.S_IFREG, uid=owner), PATH, also=also)


def test_is_ours_means_this_user_even_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may use other files, which are not its own."""
    for uid, other in ((1000, 0), (0, 1000)):
        run_as(monkeypatch, uid)
        assert permissions.is_root() is (uid == 0)
        assert permissions.is_ours(status_of(stat.S_IFREG, uid=uid))
        assert not permissions.is_ours(status_of(stat.S_IFREG, uid=other))


@pytest.mark.parametrize("kind", ["key ring", "directory"])
def test_key_ring_and_directory_may_belong_to_root(
    monkeypatch: pytest.MonkeyPatch, file: tuple[int, Path], kind: str
) -> None:
    """Administrators hand out keys; the owner of a directory could replace every file in it, sticky or not."""
    run_as(monkeypatch, 1000)

    def require(uid: int, mode: int = 0o600) -> None:
        if kind == "key ring":
            permissions.require_key_ring(status_of(stat.S_IFREG | mode, uid=uid), file[1], file[0])
        else:
            permissions.require_directory(status_of(stat.S_IFDIR | mode, uid=uid), PATH)

    for uid in (0, 1000):
        require(uid)
    for mode in (0o600, 0o1777):
        with pytest.raises(UnsafeFileError, match="it belongs to user 1001, and this process runs as user 1000"):
            require(1001, mode)


def test_all_checks_pass_without_posix_owners(monkeypatch: pytest.MonkeyPatch, file: tuple[int, Path]) -> None:
    """Windows has no owners and modes of this kind, and shows made-up ones."""
    fd, path = file
    path.chmod(0o644)
    monkeypatch.setattr(permissions, "HAS_OWNERS", False)
    monkeypatch.delattr(os, "fchmod")
    monkeypatch.delattr(os, "geteuid")
    status = status_of(stat.S_IFREG | 0o666, uid=77)
    permissions.require_owner(status, path)
    permissions.require_key_ring(status, path, fd)
    permissions.require_directory(status_of(stat.S_IFDIR | 0o777, uid=77), path)
    permissions.make_private(fd)
    assert permissions.restrict_permissions(fd, status, path) is status
    assert not permissions.is_open_to_others(status)
    assert not permissions.is_root()
    assert permissions.is_ours(status)


# --- Modes of files ---


@pytest.mark.parametrize("mode", [*UNSAFE_MODES, *PRIVATE_MODES])
def test_is_open_to_others_looks_at_group_and_others(mode: int) -> None:
    """Reading, writing or executing; ``is_closed_to_owner`` looks at the owner's reading and writing."""
    status = status_of(stat.S_IFREG | mode)
    assert permissions.is_open_to_others(status) is (mode in UNSAFE_MODES)
    assert permissions.is_closed_to_owner(status) is (mode & 0o600 != 0o600)


@pytest.mark.parametrize("mode", UNSAFE_MODES)
def test_restrict_permissions_sets_0600_and_warns(
    file: tuple[int, Path], caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    """The log says what the mode was."""
    fd, path = file
    path.chmod(mode)
    status = permissions.restrict_permissions(fd, os.fstat(fd), path)
    assert stat.S_IMODE(status.st_mode) == stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.path.samestat(status, path.stat())
    assert caplog.record_tuples == [
        (permissions.__name__, 30, f"{path}: mode was {mode:04o} and let other users in; it is 0600 now")
    ]


@pytest.mark.parametrize("mode", PRIVATE_MODES)
def test_restrict_permissions_leaves_private_file_alone(
    file: tuple[int, Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """What the owner may do is the owner's decision."""
    fd, path = file
    path.chmod(mode)
    monkeypatch.setattr(os, "fchmod", failing(1))
    status = os.fstat(fd)
    assert permissions.restrict_permissions(fd, status, path) is status
    assert not caplog.records


@pytest.mark.parametrize("number", [1, 30, None], ids=["EPERM", "EROFS", "no modes"])
def test_restrict_permissions_warns_once_if_mode_is_fixed(
    file: tuple[int, Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    """The file can be used, and not every read repeats the warning."""
    fd, path = file
    path.chmod(0o644)
    if number is None:
        remove_modes(monkeypatch)
        message = "mode 0777 cannot be changed: this file system keeps no modes"
    else:
        monkeypatch.setattr(os, "fchmod", failing(number))
        message = f"mode 0644 lets other users in, and cannot be changed: {os.strerror(number)}"
    for _ in range(2):
        permissions.restrict_permissions(fd, os.fstat(fd), path)
    assert caplog.messages == [f"{path}: {message}"]


@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_make_private_accepts_refusal_and_skips_private_file(
    file: tuple[int, Path], monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """A file system without modes refuses, and the user could do nothing about it."""
    file[1].chmod(mode)
    calls = []

    def refuse(fd: int, _mode: int) -> None:
        calls.append(fd)
        raise PermissionError

    monkeypatch.setattr(os, "fchmod", refuse)
    permissions.make_private(file[0])
    assert len(calls) == (mode != 0o600)


# --- Key rings; test_key_sources.py tests them through key sources ---


@pytest.mark.parametrize("mode", UNSAFE_MODES)
def test_key_ring_open_to_others_is_refused_unchanged(file: tuple[int, Path], mode: int) -> None:
    """The user has to learn that the keys may be known. Modes that cannot be tested are taken to be kept."""
    fd, path = file
    path.chmod(mode)
    message = f"mode {mode:04o} lets other users read or change the keys.*chmod 600"
    for ring in (path, path.parent / "cannot create files here" / "ring"):
        with pytest.raises(UnsafeFileError, match=message):
            permissions.require_key_ring(os.fstat(fd), ring, fd)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_key_ring_on_read_only_file_system_is_accepted(file: tuple[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Orchestrators mount the secrets of a container so."""
    fd, path = file
    path.chmod(0o444)
    monkeypatch.setattr(os, "fstatvfs", lambda _fd: SimpleNamespace(f_flag=os.ST_RDONLY))
    permissions.require_key_ring(os.fstat(fd), path, fd)


def test_key_ring_on_file_system_without_modes_is_warned_about(
    file: tuple[int, Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is used, and the test for modes leaves no file behind."""
    fd, path = file
    remove_modes(monkeypatch)
    permissions.require_key_ring(os.fstat(fd), path, fd)
    assert caplog.messages == [f"{path}: the file system keeps no modes, so other users may be able to read the keys"]
    assert list(path.parent.iterdir()) == [path]


@needs_root
@pytest.mark.parametrize("mode", [0o777, 0o755])
def test_key_ring_of_real_other_user_is_refused_in_any_directory(public_directory: Path, mode: int) -> None:
    """Where the user may create no file to test for modes, they are taken to be kept."""
    ring = public_directory / "ring"
    ring.touch()
    os.chown(ring, OTHER_UID, OTHER_UID)
    ring.chmod(0o644)
    public_directory.chmod(mode)

    def work() -> None:
        fd = os.open(ring, permissions.READ_FLAGS)
        permissions.require_key_ring(os.fstat(fd), ring, fd)

    assert "lets other users read" in as_other_user(work)


# --- Directories ---


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o750, 0o711, 0o500, 0o1777, 0o1775, 0o1707])
def test_directory_in_which_others_replace_nothing_is_accepted(tmp_path: Path, mode: int) -> None:
    """Others may list it; in a sticky directory they may not replace files of another user."""
    permissions.require_directory(status_of(stat.S_IFDIR | mode), tmp_path)


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o702, 0o703, 0o770, 0o775, 0o720])
def test_directory_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    """They could replace the store's files; who is in a group is not known."""
    with pytest.raises(UnsafeFileError, match=f"mode {mode:04o} lets other users replace files in this directory"):
        permissions.require_directory(status_of(stat.S_IFDIR | mode), tmp_path)


def test_directory_on_file_system_without_modes_is_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All directories show 0777 there."""
    remove_modes(monkeypatch)
    permissions.require_directory(status_of(stat.S_IFDIR | 0o777), tmp_path)


def test_directory_on_read_only_file_system_is_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No user can replace a file there."""
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_flag=os.ST_RDONLY))
    permissions.require_directory(status_of(stat.S_IFDIR | 0o777), tmp_path)


@needs_root
def test_directory_of_real_other_user_is_refused(public_directory: Path) -> None:
    """A directory of root is accepted."""

    def work() -> None:
        permissions.require_directory(os.stat(public_directory), public_directory)

    assert as_other_user(work) == "None"
    os.chown(public_directory, OTHER_UID - 1, -1)
    assert "UnsafeFileError" in as_other_user(work)


def test_advice_quotes_path_for_shell(tmp_path: Path) -> None:
    """A name with spaces, quotes and dollar signs is one word."""
    odd = tmp_path / "it's my $HOME"
    odd.mkdir()
    odd.chmod(0o777)
    with pytest.raises(UnsafeFileError) as directory:
        permissions.require_directory(odd.stat(), odd)
    assert shlex.split(directory.value.advice.partition("or: ")[2]) == ["chmod", "go-w", str(odd)]
    with (odd / "ring").open("x") as ring, pytest.raises(UnsafeFileError) as file:
        permissions.require_key_ring(status_of(stat.S_IFREG | 0o644), odd / "ring", ring.fileno())
    command = file.value.advice.partition("read it: ")[2].partition(". Otherwise")[0]
    assert shlex.split(command) == ["chmod", "600", str(odd / "ring")]

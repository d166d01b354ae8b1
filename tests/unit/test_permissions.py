from __future__ import annotations

import errno
import os
import re
import shlex
import stat
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from support import IS_ROOT, OTHER_UID, as_other_user, failing
from zoho_keystore._fs import permissions
from zoho_keystore.errors import UnsafeFileError

if sys.platform != "win32":
    import grp
    import pwd

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")

needs_root = pytest.mark.skipif(not IS_ROOT, reason="acts as another user, which only root may")

HAS_OWNERS = permissions.HAS_OWNERS
PATH = Path("/some/where")
UNSAFE_MODES = [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o644, 0o666, 0o777]
PRIVATE_MODES = [0o600, 0o400, 0o700, 0o000, 0o4700]


def status_of(mode: int, *, uid: int | None = None) -> os.stat_result:
    """Make up the status of a file of this process's user, or of another one."""
    return os.stat_result((mode, 1, 1, 1, (os.geteuid() if HAS_OWNERS else 0) if uid is None else uid, 0, 0, 0, 0, 0))


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
def directory(tmp_path: Path) -> Path:
    """Give a directory of this user."""
    path = tmp_path / "directory"
    path.mkdir()
    return path


@pytest.fixture
def file(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """Give an open, private file and its path."""
    path = tmp_path / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    yield fd, path
    os.close(fd)


# --- Flags ---


@pytest.mark.needs_modes
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
        message = f"^{re.escape(str(PATH))}: this is a {name}, not a {wanted}"
        with nullcontext() if name == wanted else pytest.raises(UnsafeFileError, match=message):
            require(status, PATH)


# --- Owners ---


@pytest.mark.needs_modes
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


@pytest.mark.needs_modes
def test_is_ours_means_this_user_even_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may use other files, which are not its own."""
    for uid, other in ((1000, 0), (0, 1000)):
        run_as(monkeypatch, uid)
        assert permissions.is_root() is (uid == 0)
        assert permissions.is_ours(status_of(stat.S_IFREG, uid=uid))
        assert not permissions.is_ours(status_of(stat.S_IFREG, uid=other))


@pytest.mark.needs_modes
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
    monkeypatch.delattr(os, "fchmod", raising=False)
    monkeypatch.delattr(os, "geteuid", raising=False)
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


@pytest.mark.needs_modes
@pytest.mark.parametrize("mode", [*UNSAFE_MODES, *PRIVATE_MODES])
def test_is_open_to_others_looks_at_group_and_others(mode: int) -> None:
    """Reading, writing or executing; ``is_closed_to_owner`` looks at the owner's reading and writing."""
    status = status_of(stat.S_IFREG | mode)
    assert permissions.is_open_to_others(status) is (mode in UNSAFE_MODES)
    assert permissions.is_closed_to_owner(status) is (mode & 0o600 != 0o600)


@pytest.mark.needs_modes
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


@pytest.mark.needs_modes
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


@pytest.mark.needs_modes
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


@pytest.mark.needs_modes
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


@pytest.mark.needs_modes
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


@pytest.mark.needs_modes
def test_key_ring_on_read_only_file_system_is_accepted(file: tuple[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Orchestrators mount the secrets of a container so."""
    fd, path = file
    path.chmod(0o444)
    monkeypatch.setattr(os, "fstatvfs", lambda _fd: SimpleNamespace(f_flag=os.ST_RDONLY))
    permissions.require_key_ring(os.fstat(fd), path, fd)


@pytest.mark.needs_modes
def test_key_ring_on_file_system_without_modes_is_warned_about(
    file: tuple[int, Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is used, and the test for modes leaves no file behind."""
    fd, path = file
    remove_modes(monkeypatch)
    permissions.require_key_ring(os.fstat(fd), path, fd)
    assert caplog.messages == [f"{path}: the file system keeps no modes, so other users may be able to read the keys"]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.needs_modes
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


@pytest.mark.needs_modes
@pytest.mark.parametrize("mode", [0o700, 0o755, 0o750, 0o711, 0o500, 0o1777, 0o1775, 0o1707])
def test_directory_in_which_others_replace_nothing_is_accepted(tmp_path: Path, mode: int) -> None:
    """Others may list it; in a sticky directory they may not replace files of another user."""
    permissions.require_directory(status_of(stat.S_IFDIR | mode), tmp_path)


SHARED_MODES = [0o777, 0o757, 0o702, 0o703, 0o770, 0o775, 0o720, 0o2775]


@pytest.mark.needs_modes
@pytest.mark.parametrize("mode", SHARED_MODES)
@pytest.mark.parametrize("with_fd", [True, False])
def test_directory_of_ours_that_others_may_write_to_is_restricted(
    directory: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, mode: int, *, with_fd: bool
) -> None:
    """With a warning, as files are: the kubelet lets a group write at each start of a pod."""
    monkeypatch.setattr(permissions, "_members", lambda _gid, _period: frozenset({os.geteuid(), 12345}))
    directory.chmod(mode)
    fd = os.open(directory, permissions.DIRECTORY_FLAGS)
    permissions.require_directory(directory.stat(), directory, fd if with_fd else None)
    os.close(fd)
    assert stat.S_IMODE(directory.stat().st_mode) == mode & ~0o022
    assert caplog.messages == [
        f"{directory}: mode was {mode:04o} and let other users replace files; it is {mode & ~0o022:04o} now"
    ]


@pytest.mark.needs_modes
@pytest.mark.parametrize("refusal", ["chmod fails", "chmod does nothing"])
def test_directory_of_ours_that_cannot_be_restricted_is_refused(
    directory: Path, monkeypatch: pytest.MonkeyPatch, refusal: str
) -> None:
    """Some network file systems let only their server change modes."""
    directory.chmod(0o777)
    monkeypatch.setattr(os, "chmod", failing(errno.EPERM) if refusal == "chmod fails" else lambda *_arguments: None)
    with pytest.raises(UnsafeFileError, match=r"mode 0777 lets other users replace files.*or: chmod go-w") as caught:
        permissions.require_directory(directory.stat(), directory)
    assert caught.value.path == directory


@pytest.mark.needs_modes
@needs_root
@pytest.mark.parametrize("mode", SHARED_MODES)
def test_directory_of_root_that_others_may_write_to_is_refused(public_directory: Path, mode: int) -> None:
    """As an emptyDir of Kubernetes: only root could restrict it. The advice can be followed by this very user."""
    odd = public_directory / "it's my $HOME"
    odd.mkdir()
    odd.chmod(mode)
    as_member = mode & 0o002 == 0
    if as_member:
        os.chown(odd, -1, OTHER_UID)
    # The group of that user has no other member, and so would be accepted.
    answer = as_other_user(lambda: require_in_group_of_two(odd))
    assert f"mode {mode:04o} lets other users replace files in this directory" in answer
    if "make that with: " in answer:
        command = shlex.split(answer.partition("make that with: ")[2])
        assert command == ["mkdir", "-m", "700", str(odd / "zoho-keystore")]
        assert as_other_user(lambda: subprocess.run(command, check=True, capture_output=True).returncode) == "0"
        assert as_other_user(lambda: require(odd / "zoho-keystore")) == "None"
    else:
        assert f"let its owner (user 0) run: chmod go-w {shlex.quote(str(odd))}" in answer
        assert mode in (0o702, 0o720, 0o770) or mode & 0o005 != 0o005
    assert stat.S_IMODE(odd.stat().st_mode) == mode


def require(path: Path) -> None:
    """Check a directory."""
    permissions.require_directory(path.stat(), path)


def require_in_group_of_two(path: Path) -> None:
    """Check a directory where each group has two members; only in a process of its own."""
    permissions._members = lambda _gid, _period: frozenset({OTHER_UID, 1})  # type: ignore[assignment] # as above
    require(path)


# --- Groups of one user ---


def set_users(monkeypatch: pytest.MonkeyPatch, users: dict[str, tuple[int, int]], members: list[str] | None) -> None:
    """Let the system have some users, by name with user id and group id, and group 1000 with some members."""

    def group(gid: int) -> object:
        if members is None or gid != 1000:
            raise KeyError(gid)
        return SimpleNamespace(gr_mem=members)

    monkeypatch.setattr(grp, "getgrgid", group)
    entries = {name: SimpleNamespace(pw_uid=uid, pw_gid=gid) for name, (uid, gid) in users.items()}
    monkeypatch.setattr(pwd, "getpwall", lambda: list(entries.values()))
    monkeypatch.setattr(pwd, "getpwnam", lambda name: entries[name])
    permissions._members.cache_clear()


@pytest.fixture
def _forgets_groups() -> Iterator[None]:
    """Forget the groups of a test after it."""
    yield
    permissions._members.cache_clear()


ANN, BOB, ROOT = {"ann": (1000, 1000)}, {"bob": (1001, 1001)}, {"root": (0, 0)}


@pytest.mark.needs_modes
@pytest.mark.usefixtures("_forgets_groups")
@pytest.mark.parametrize(
    ("users", "members", "mode", "is_accepted"),
    [
        (ANN | BOB | ROOT, [], 0o775, True),
        (ANN | BOB | ROOT, ["ann"], 0o2770, True),
        (ANN | BOB | ROOT, [], 0o777, False),
        (ANN | BOB | ROOT, ["bob"], 0o775, False),
        (ANN | BOB | ROOT, ["ann", "bob"], 0o775, False),
        (ANN | {"bob": (1001, 1000)}, [], 0o775, False),
        (ANN | BOB, ["unknown"], 0o775, False),
        (BOB | ROOT, [], 0o775, False),
        (ANN, None, 0o775, False),
    ],
)
@pytest.mark.parametrize("euid", [1000, 0])
def test_directory_writable_for_group_of_its_owner_alone_is_accepted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    users: dict[str, tuple[int, int]],
    members: list[str] | None,
    mode: int,
    euid: int,
    is_accepted: bool,
) -> None:
    """The umask 002 of Ubuntu and Fedora makes all directories so; who else is in the group is looked up."""
    set_users(monkeypatch, users, members)
    run_as(monkeypatch, euid)
    monkeypatch.setattr(os, "chmod", failing(errno.EPERM))
    status = os.stat_result((stat.S_IFDIR | mode, 1, 1, 1, 1000, 1000, 0, 0, 0, 0))
    with nullcontext() if is_accepted else pytest.raises(UnsafeFileError):
        permissions.require_directory(status, tmp_path)


@pytest.mark.needs_modes
@pytest.mark.usefixtures("_forgets_groups")
def test_directory_of_root_writable_for_group_of_this_user_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root and this user may change everything there anyway."""
    set_users(monkeypatch, ANN | BOB | ROOT, ["root"])
    status = os.stat_result((stat.S_IFDIR | 0o775, 1, 1, 1, 0, 1000, 0, 0, 0, 0))
    run_as(monkeypatch, 1000)
    permissions.require_directory(status, tmp_path)
    run_as(monkeypatch, 1001)
    with pytest.raises(UnsafeFileError):
        permissions.require_directory(status, tmp_path)


@pytest.mark.needs_modes
@pytest.mark.usefixtures("_forgets_groups")
def test_members_of_groups_are_looked_up_once_in_a_minute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A directory service may take long; a new member counts soon."""
    set_users(monkeypatch, ANN, [])
    run_as(monkeypatch, 1000)
    monkeypatch.setattr(os, "chmod", failing(errno.EPERM))
    status = os.stat_result((stat.S_IFDIR | 0o775, 1, 1, 1, 1000, 1000, 0, 0, 0, 0))
    now = 0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    permissions.require_directory(status, tmp_path)
    users = ANN | {"bob": (1001, 1000)}
    entries = [SimpleNamespace(pw_uid=uid, pw_gid=gid) for uid, gid in users.values()]
    monkeypatch.setattr(pwd, "getpwall", lambda: entries)
    permissions.require_directory(status, tmp_path)
    now = 61
    with pytest.raises(UnsafeFileError):
        permissions.require_directory(status, tmp_path)


# --- Directories on special file systems ---


@pytest.mark.needs_modes
def test_directory_on_file_system_without_modes_is_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All directories show 0777 there."""
    remove_modes(monkeypatch)
    permissions.require_directory(status_of(stat.S_IFDIR | 0o777), tmp_path)


@pytest.mark.needs_modes
def test_directory_on_read_only_file_system_is_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No user can replace a file there."""
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_flag=os.ST_RDONLY))
    permissions.require_directory(status_of(stat.S_IFDIR | 0o777), tmp_path)


@pytest.mark.needs_modes
@needs_root
def test_directory_of_real_other_user_is_refused(public_directory: Path) -> None:
    """A directory of root is accepted."""

    def work() -> None:
        permissions.require_directory(os.stat(public_directory), public_directory)

    assert as_other_user(work) == "None"
    os.chown(public_directory, OTHER_UID - 1, -1)
    assert "UnsafeFileError" in as_other_user(work)


@pytest.mark.needs_modes
def test_advice_quotes_path_for_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with spaces, quotes and dollar signs is one word."""
    odd = tmp_path / "it's my $HOME"
    odd.mkdir()
    odd.chmod(0o777)
    monkeypatch.setattr(os, "chmod", failing(errno.EPERM))
    with pytest.raises(UnsafeFileError) as directory:
        permissions.require_directory(odd.stat(), odd)
    assert shlex.split(directory.value.advice.partition("or: ")[2]) == ["chmod", "go-w", str(odd)]
    with (odd / "ring").open("x") as ring, pytest.raises(UnsafeFileError) as file:
        permissions.require_key_ring(status_of(stat.S_IFREG | 0o644), odd / "ring", ring.fileno())
    command = file.value.advice.partition("access away: ")[2].partition("; ")[0]
    assert shlex.split(command) == ["chmod", "600", str(odd / "ring")]


@pytest.mark.needs_modes
def test_advice_for_key_ring_that_was_handed_out_fits_its_user(
    file: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret of podman is a file of root with mode 0444, which its user cannot change."""
    fd, path = file
    run_as(monkeypatch, 1000)
    with pytest.raises(UnsafeFileError, match="mode 0444 lets other users read or change the keys") as caught:
        permissions.require_key_ring(status_of(stat.S_IFREG | 0o444, uid=0), path, fd)
    assert "secrets with uid=1000,mode=0400" in caught.value.advice
    assert "chmod" not in caught.value.advice
    command = shlex.split(caught.value.advice.partition("use a copy: ")[2])
    assert command == ["install", "-m", "600", str(path), "COPY"]


@pytest.mark.needs_modes
@pytest.mark.parametrize("is_writable", [True, False])
def test_advice_for_shared_directory_fits_its_user(
    directory: Path, monkeypatch: pytest.MonkeyPatch, *, is_writable: bool
) -> None:
    """Only its owner could restrict it."""
    run_as(monkeypatch, 1000)
    monkeypatch.setattr(os, "access", lambda _path, _mode: is_writable)
    with pytest.raises(UnsafeFileError) as caught:
        permissions.require_directory(status_of(stat.S_IFDIR | 0o777, uid=0), directory)
    assert caught.value.advice == (
        "Keep the store in a directory of this user's own below it, and make that with: "
        f"mkdir -m 700 {directory}/zoho-keystore"
        if is_writable
        else f"Use a directory of your own, or let its owner (user 0) run: chmod go-w {directory}"
    )

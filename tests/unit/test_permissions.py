from __future__ import annotations

import errno
import logging
import os
import shlex
import shutil
import socket
import stat
import tempfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, TextIO

import pytest

from support import OTHER_UID, as_other_user, failing
from zoho_keystore._fs import permissions
from zoho_keystore.errors import UnsafeFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="acts as another user, which only root may")

SOMEWHERE = Path("/some/where")
LOOSE_MODES = [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o644, 0o666, 0o777]


def status_of(mode: int, *, uid: int | None = None) -> os.stat_result:
    """Make up the status of a file; its owner is us unless another is named."""
    return os.stat_result((mode, 1, 1, 1, os.geteuid() if uid is None else uid, 0, 0, 0, 0, 0))


@pytest.fixture
def file(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """Give an open, private file and its path."""
    path = tmp_path / "file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    yield fd, path
    os.close(fd)


@pytest.fixture
def public() -> Iterator[Path]:
    """Give a folder that other users can reach, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def without_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the file system one that shows a fixed mode for every file, as drives of another system do."""
    fstat = os.fstat

    def fixed(fd: int) -> os.stat_result:
        status = fstat(fd)
        return os.stat_result((status.st_mode | 0o777, *status[1:]))

    monkeypatch.setattr(os, "fstat", fixed)
    monkeypatch.setattr(os, "fchmod", lambda _fd, _mode: None)


# --- Opening a file for reading ---


def test_an_opened_file_is_read_and_closed(file: tuple[int, Path]) -> None:
    """The descriptor and the status are those of the file, until the block ends."""
    _, path = file
    path.write_bytes(b"content")
    with permissions.opened(path) as (fd, status):
        assert os.read(fd, 100) == b"content"
        assert os.path.samestat(status, path.stat())
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_file_is_closed_when_its_reader_fails(file: tuple[int, Path]) -> None:
    """An exception in the block goes through, and leaves nothing open."""
    with pytest.raises(ZeroDivisionError), permissions.opened(file[1]):
        raise ZeroDivisionError


def test_an_opened_file_cannot_be_written(file: tuple[int, Path]) -> None:
    """Reading asks for no more than reading."""
    with permissions.opened(file[1]) as (fd, _), pytest.raises(OSError, match="Bad file descriptor"):
        os.write(fd, b"x")


@pytest.mark.parametrize("flags", [permissions.READ_FLAGS, permissions.UPDATE_FLAGS, permissions.DIRECTORY_FLAGS])
def test_no_descriptor_is_handed_to_a_child_program(tmp_path: Path, file: tuple[int, Path], flags: int) -> None:
    """A program that we start must not get the store or its lock with it."""
    fd = os.open(tmp_path if flags == permissions.DIRECTORY_FLAGS else file[1], flags)
    try:
        assert flags & os.O_CLOEXEC
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


def test_making_a_file_never_opens_one_that_is_there(file: tuple[int, Path]) -> None:
    """The flags for a new file refuse an old one, and a link that leads nowhere too."""
    link = file[1].with_name("link")
    link.symlink_to("nowhere")
    for path in (file[1], link):
        with pytest.raises(FileExistsError):
            os.open(path, permissions.CREATE_FLAGS)


def test_a_symbolic_link_is_not_followed(file: tuple[int, Path]) -> None:
    """Somebody could let it lead to a file of theirs."""
    link = file[1].with_name("link")
    link.symlink_to(file[1])
    with pytest.raises(OSError, match="Too many levels of symbolic links"), permissions.opened(link):
        pass


def test_a_missing_file_is_the_systems_error(tmp_path: Path) -> None:
    """What a missing file means, the caller knows."""
    with pytest.raises(FileNotFoundError), permissions.opened(tmp_path / "missing"):
        pass


@pytest.mark.timeout(10)
def test_a_fifo_is_refused_without_waiting(tmp_path: Path) -> None:
    """Opening a FIFO would wait for its writer for ever."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UnsafeFileError, match="this is a FIFO, not a file"), permissions.opened(tmp_path / "fifo"):
        pass


def test_a_folder_is_refused(tmp_path: Path) -> None:
    """A folder is opened as readily as a file, and is none."""
    with pytest.raises(UnsafeFileError, match="this is a folder, not a file") as caught, permissions.opened(tmp_path):
        pass
    assert caught.value.path == tmp_path


def test_a_socket_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system itself refuses."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("socket")
        with pytest.raises(OSError, match="No such device"), permissions.opened(tmp_path / "socket"):
            pass


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (stat.S_IFDIR, "folder"),
        (stat.S_IFIFO, "FIFO"),
        (stat.S_IFSOCK, "socket"),
        (stat.S_IFLNK, "symbolic link"),
        (stat.S_IFBLK, "device"),
        (stat.S_IFCHR, "device"),
    ],
)
def test_what_is_no_file_is_named(kind: int, name: str) -> None:
    """The error says what stands in the file's place."""
    with pytest.raises(UnsafeFileError, match=f"^/some/where: this is a {name}, not a file"):
        permissions.require_regular(status_of(kind | 0o600), SOMEWHERE)


def test_a_file_is_a_file() -> None:
    """A regular file passes."""
    permissions.require_regular(status_of(stat.S_IFREG | 0o600), SOMEWHERE)


# --- The owner ---


def test_our_own_file_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner is who runs this."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    permissions.require_owner(status_of(stat.S_IFREG, uid=1000), SOMEWHERE)


@pytest.mark.parametrize("owner", [0, 1001])
def test_a_file_of_another_user_is_refused(monkeypatch: pytest.MonkeyPatch, owner: int) -> None:
    """The error names both users, and root is another user too."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UnsafeFileError, match=f"belongs to user {owner}, and this process runs as user 1000.*chown"):
        permissions.require_owner(status_of(stat.S_IFREG, uid=owner), SOMEWHERE)


def test_root_may_use_the_files_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may work on another user's store."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert permissions.is_root()
    permissions.require_owner(status_of(stat.S_IFREG, uid=1000), SOMEWHERE)


@pytest.mark.parametrize(("also", "accepted"), [(1000, True), (0, False), (1001, False), (None, False)])
def test_root_may_be_kept_to_the_files_of_one_user(
    monkeypatch: pytest.MonkeyPatch, *, also: int | None, accepted: bool
) -> None:
    """Root that took the lock file of just anybody could be held up by them."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    permissions.require_owner(status_of(stat.S_IFREG, uid=0), SOMEWHERE, also=also)
    with nullcontext() if accepted else pytest.raises(UnsafeFileError, match="it belongs to user 1000"):
        permissions.require_owner(status_of(stat.S_IFREG, uid=1000), SOMEWHERE, also=also)


def test_who_may_be_excepted_is_for_root_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user gets no file of a third one, whoever is named."""
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    with pytest.raises(UnsafeFileError, match="it belongs to user 1000"):
        permissions.require_owner(status_of(stat.S_IFREG, uid=1000), SOMEWHERE, also=1000)


def test_only_a_file_of_this_very_user_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """For root too."""
    for me, other in ((1000, 0), (0, 1000)):
        monkeypatch.setattr(os, "geteuid", lambda me=me: me)
        assert permissions.is_ours(status_of(stat.S_IFREG, uid=me))
        assert not permissions.is_ours(status_of(stat.S_IFREG, uid=other))


@needs_root
def test_a_real_other_user_is_refused(public: Path) -> None:
    """A process of another user does not take root's file, even where its mode lets it in."""
    path = public / "file"
    path.touch()
    path.chmod(0o666)

    def work() -> None:
        with permissions.opened(path) as (_, status):
            permissions.require_owner(status, path)

    assert as_other_user(work).startswith(
        f"UnsafeFileError: {path}: it belongs to user 0, and this process runs as user 65534"
    )


def test_nothing_is_asked_where_there_are_no_owners(monkeypatch: pytest.MonkeyPatch, file: tuple[int, Path]) -> None:
    """Windows has no POSIX owners and modes, and shows made-up ones."""
    fd, path = file
    monkeypatch.setattr(permissions, "HAS_OWNERS", False)
    monkeypatch.delattr(os, "fchmod")
    monkeypatch.delattr(os, "geteuid")
    open_to_all = os.stat_result((stat.S_IFREG | 0o666, 1, 1, 1, 77, 77, 0, 0, 0, 0))
    permissions.require_owner(open_to_all, path)
    permissions.require_key_ring(open_to_all, path, fd)
    permissions.require_directory(os.stat_result((stat.S_IFDIR | 0o777, 1, 1, 1, 77, 77, 0, 0, 0, 0)), path)
    path.chmod(0o644)
    permissions.make_private(fd)
    assert permissions.restrict_permissions(fd, open_to_all, path) is open_to_all
    assert not permissions.is_open_to_others(open_to_all)
    assert not permissions.is_root()
    assert permissions.is_ours(open_to_all)


# --- The mode ---


@pytest.mark.parametrize("mode", LOOSE_MODES)
def test_any_bit_for_others_lets_others_in(mode: int) -> None:
    """Group and others, to read, write or execute."""
    assert permissions.is_open_to_others(status_of(stat.S_IFREG | mode))


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700, 0o000, 0o4700])
def test_bits_of_the_owner_let_nobody_else_in(mode: int) -> None:
    """What the owner may do is the owner's affair."""
    assert not permissions.is_open_to_others(status_of(stat.S_IFREG | mode))


@pytest.mark.parametrize("mode", LOOSE_MODES)
def test_a_loose_mode_is_tightened_with_a_warning(
    file: tuple[int, Path], caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    """The file is private afterwards, and one line of the log says what it was."""
    fd, path = file
    path.chmod(mode)
    status = permissions.restrict_permissions(fd, os.fstat(fd), path)
    assert stat.S_IMODE(status.st_mode) == stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.path.samestat(status, path.stat())
    assert [(record.levelno, record.name) for record in caplog.records] == [
        (logging.WARNING, "zoho_keystore._fs.permissions")
    ]
    assert caplog.messages == [f"{path}: mode was {mode:04o} and let other users in; it is 0600 now"]


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_private_file_is_left_alone(
    file: tuple[int, Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """Nothing is changed and nothing is said."""
    fd, path = file
    path.chmod(mode)
    monkeypatch.setattr(os, "fchmod", failing(1))
    status = os.fstat(fd)
    assert permissions.restrict_permissions(fd, status, path) is status
    assert not caplog.records


@pytest.mark.parametrize("number", [1, 30])
def test_a_mode_that_cannot_be_changed_is_warned_of(
    file: tuple[int, Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """On a read-only file system, or one whose modes are fixed, it can be used all the same; one warning will do."""
    fd, path = file
    path.chmod(0o644)
    status = os.fstat(fd)
    monkeypatch.setattr(os, "fchmod", failing(number))
    assert permissions.restrict_permissions(fd, status, path) is status
    assert permissions.restrict_permissions(fd, status, path) is status
    reason = os.strerror(number)
    assert caplog.messages == [f"{path}: mode 0644 lets other users in, and cannot be changed: {reason}"]


def test_a_file_system_without_modes_is_warned_of(
    file: tuple[int, Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a change of the mode succeeds and changes nothing; each read would say it again."""
    fd, path = file
    without_modes(monkeypatch)
    permissions.restrict_permissions(fd, os.fstat(fd), path)
    permissions.restrict_permissions(fd, os.fstat(fd), path)
    assert caplog.messages == [f"{path}: mode 0777 cannot be changed: this file system keeps no modes"]


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o277, 0o777])
def test_a_new_file_is_private_whatever_the_umask(tmp_path: Path, umask: Callable[[int], int], mask: int) -> None:
    """The owner can read and write it, and nobody else."""
    umask(mask)
    fd = os.open(tmp_path / "new", permissions.CREATE_FLAGS, permissions.PRIVATE_FILE)
    try:
        assert not stat.S_IMODE(os.fstat(fd).st_mode) & 0o077
        permissions.make_private(fd)
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
    finally:
        os.close(fd)


def test_a_new_file_that_has_its_mode_is_not_touched(file: tuple[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of the mode costs a system call, and fails on some file systems."""
    monkeypatch.setattr(os, "fchmod", lambda *_args: pytest.fail("the mode was right already"))
    permissions.make_private(file[0])


def test_a_new_file_on_a_file_system_without_modes_is_accepted(
    file: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing that the user could do about it."""
    file[1].chmod(0o666)
    monkeypatch.setattr(os, "fchmod", failing(1))
    permissions.make_private(file[0])


# --- Key rings (test_keys.py tests them through key_ring) ---


@pytest.mark.parametrize("mode", LOOSE_MODES)
def test_a_loose_key_ring_is_refused_and_left_as_it_is(file: tuple[int, Path], mode: int) -> None:
    """Somebody should learn that the keys may be known."""
    fd, path = file
    path.chmod(mode)
    with pytest.raises(UnsafeFileError, match=f"mode {mode:04o} lets other users read or change the keys.*chmod 600"):
        permissions.require_key_ring(os.fstat(fd), path, fd)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_cure_can_be_copied_to_a_shell(tmp_path: Path) -> None:
    """A name with blanks, quotes and dollar signs is given as one word."""
    odd = tmp_path / "it's my $HOME"
    odd.mkdir()
    odd.chmod(0o777)
    with pytest.raises(UnsafeFileError) as directory:
        permissions.require_directory(odd.stat(), odd)
    ring = odd / "ring"
    ring.touch()
    ring.chmod(0o644)
    with permissions.opened(ring) as (fd, status), pytest.raises(UnsafeFileError) as file:
        permissions.require_key_ring(status, ring, fd)
    assert shlex.split(directory.value.advice.partition("or: ")[2]) == ["chmod", "go-w", str(odd)]
    command = file.value.advice.partition("read it: ")[2].partition(". Otherwise")[0]
    assert shlex.split(command) == ["chmod", "600", str(ring)]


def test_a_loose_key_ring_on_a_read_only_file_system_is_accepted(
    file: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever mounted it so has decided who may read it."""
    fd, path = file
    path.chmod(0o444)
    monkeypatch.setattr(os, "fstatvfs", lambda _fd: SimpleNamespace(f_flag=os.ST_RDONLY))
    permissions.require_key_ring(os.fstat(fd), path, fd)


def test_a_key_ring_on_a_file_system_without_modes_is_warned_of(
    file: tuple[int, Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is used, and one line of the log says what that means."""
    fd, path = file
    without_modes(monkeypatch)
    permissions.require_key_ring(os.fstat(fd), path, fd)
    assert caplog.messages == [f"{path}: the file system keeps no modes, so other users may be able to read the keys"]


def test_a_key_ring_belongs_to_us_or_to_root(file: tuple[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Administrators hand out keys; other users do not."""
    fd, path = file
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for owner in (0, 1000):
        permissions.require_key_ring(status_of(stat.S_IFREG | 0o600, uid=owner), path, fd)
    with pytest.raises(UnsafeFileError, match="it belongs to user 1001"):
        permissions.require_key_ring(status_of(stat.S_IFREG | 0o600, uid=1001), path, fd)


# --- Folders ---


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o750, 0o711, 0o500])
def test_a_folder_that_only_we_write_to_is_trusted(tmp_path: Path, mode: int) -> None:
    """Others may look into it."""
    permissions.require_directory(status_of(stat.S_IFDIR | mode), tmp_path)


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o702, 0o703, 0o770, 0o775, 0o720])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    """They could replace the store's files there; who is in a group is not for us to know."""
    with pytest.raises(UnsafeFileError, match=f"mode {mode:04o} lets other users replace files") as caught:
        permissions.require_directory(status_of(stat.S_IFDIR | mode), tmp_path)
    assert f"chmod go-w {shlex.quote(str(tmp_path))}" in caught.value.advice


@pytest.mark.parametrize("mode", [0o1777, 0o1775, 0o1707])
def test_a_sticky_folder_is_trusted(tmp_path: Path, mode: int) -> None:
    """In /tmp all may write, and nobody may replace the files of another."""
    permissions.require_directory(status_of(stat.S_IFDIR | mode), tmp_path)


def test_a_folder_on_a_file_system_without_modes_is_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All folders show 0777 there."""
    without_modes(monkeypatch)
    permissions.require_directory(status_of(stat.S_IFDIR | 0o777), tmp_path)


@pytest.mark.parametrize(("kind", "name"), [(stat.S_IFREG, "file"), (stat.S_IFIFO, "FIFO"), (stat.S_IFLNK, "symbolic")])
def test_what_is_no_folder_is_named(kind: int, name: str) -> None:
    """The error says what stands in the folder's place."""
    with pytest.raises(UnsafeFileError, match=f"^/some/where: this is a {name}.*, not a folder"):
        permissions.require_directory(status_of(kind | 0o700), SOMEWHERE)


def test_a_folder_belongs_to_us_or_to_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner of a folder could replace every file in it, in a sticky one too."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for owner in (0, 1000):
        permissions.require_directory(status_of(stat.S_IFDIR | 0o755, uid=owner), SOMEWHERE)
    for mode in (0o755, 0o700, 0o1777):
        with pytest.raises(UnsafeFileError, match="it belongs to user 1001, and this process runs as user 1000"):
            permissions.require_directory(status_of(stat.S_IFDIR | mode, uid=1001), SOMEWHERE)


@needs_root
def test_a_real_other_user_is_refused_the_folder_of_a_user(public: Path) -> None:
    """A folder of root is trusted by all, one of another user is not."""
    assert as_other_user(lambda: permissions.require_directory(os.stat(public), public)) == "None"
    os.chown(public, 65533, 65533)
    assert "UnsafeFileError" in as_other_user(lambda: permissions.require_directory(os.stat(public), public))


# --- Links that another user has planted ---


@pytest.fixture
def everybodys(tmp_path: Path) -> Path:
    """Give a folder in which all users may make files, like /tmp."""
    path = tmp_path / "everybodys"
    path.mkdir()
    path.chmod(0o1777)
    return path


def links_belong_to(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    """Make all that is looked at without following it belong to a user."""
    lstat = os.lstat

    def owned(path: str) -> os.stat_result:
        status = lstat(path)
        return os.stat_result((*status[:4], uid, *status[5:]))

    monkeypatch.setattr(os, "lstat", owned)


@pytest.mark.parametrize(
    "path", ["{}/link", "{}/link/below/it", "{}/../everybodys/link", "{}/folder/mine", "{}/folder/way/link"]
)
def test_a_link_that_another_user_has_planted_is_refused(
    monkeypatch: pytest.MonkeyPatch, everybodys: Path, path: str
) -> None:
    """Wherever it stands in the path, or in what another link leads to; the error names the link."""
    link, directory = everybodys / "link", everybodys / "folder"
    link.symlink_to("nowhere")
    directory.mkdir()
    (directory / "mine").symlink_to("../link")
    (directory / "way").symlink_to(everybodys)
    links_belong_to(monkeypatch, 1001)
    with pytest.raises(UnsafeFileError, match="this is a symbolic link of user 1001 in a folder that everybody") as got:
        permissions.require_no_planted_link(path.format(everybodys))
    assert got.value.path is not None
    assert (got.value.path.name, os.path.realpath(got.value.path.parent)) == ("link", os.path.realpath(everybodys))


@pytest.mark.parametrize("mode", [0o755, 0o1755, 0o1775, 0o777])
def test_a_link_in_a_usual_folder_is_followed(monkeypatch: pytest.MonkeyPatch, everybodys: Path, mode: int) -> None:
    """The rule is the one of Linux: it is about sticky folders that everybody may write to."""
    (everybodys / "link").symlink_to("nowhere")
    everybodys.chmod(mode)
    links_belong_to(monkeypatch, 1001)
    permissions.require_no_planted_link(str(everybodys / "link"))


def test_a_link_of_ours_or_of_the_folders_owner_is_followed(monkeypatch: pytest.MonkeyPatch, everybodys: Path) -> None:
    """The one is meant so, and the other could do anything there."""
    (everybodys / "link").symlink_to("nowhere")
    permissions.require_no_planted_link(str(everybodys / "link"))
    links_belong_to(monkeypatch, 1001)
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    permissions.require_no_planted_link(str(everybodys / "link"))
    monkeypatch.undo()
    owner = everybodys.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    permissions.require_no_planted_link(str(everybodys / "link"))


def test_links_that_lead_in_a_circle_are_not_followed_for_ever(everybodys: Path) -> None:
    """Whoever opens the file meets the system's own error."""
    (everybodys / "one").symlink_to("two")
    (everybodys / "two").symlink_to("one")
    permissions.require_no_planted_link(str(everybodys / "one" / "below"))


def test_no_link_is_planted_where_there_are_no_owners(monkeypatch: pytest.MonkeyPatch, everybodys: Path) -> None:
    """On Windows all files show one owner."""
    (everybodys / "link").symlink_to("nowhere")
    links_belong_to(monkeypatch, 1001)
    monkeypatch.setattr(permissions, "HAS_OWNERS", False)
    permissions.require_no_planted_link(str(everybodys / "link"))


@needs_root
def test_a_link_that_a_real_user_has_planted_is_refused(public: Path) -> None:
    """Root and other users do not follow it; its owner does."""
    public.chmod(0o1777)
    link = public / "link"
    assert as_other_user(lambda: link.symlink_to("nowhere")) == "None"
    with pytest.raises(UnsafeFileError, match=f"symbolic link of user {OTHER_UID}"):
        permissions.require_no_planted_link(str(link))
    assert as_other_user(lambda: permissions.require_no_planted_link(str(link))) == "None"


# --- File systems without modes ---


def test_a_usual_file_system_keeps_modes(tmp_path: Path) -> None:
    """It is found out without leaving a file behind."""
    assert permissions._keeps_modes(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_system_of_fixed_modes_is_recognised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A new file of mode 0600 shows another one there."""
    without_modes(monkeypatch)
    assert not permissions._keeps_modes(tmp_path)


def test_where_it_cannot_be_found_out_a_mode_is_taken_at_its_word(tmp_path: Path) -> None:
    """A folder that cannot be written to is not trusted for that."""
    assert permissions._keeps_modes(tmp_path / "missing")


@needs_root
def test_a_real_other_user_finds_out_as_well(public: Path) -> None:
    """Where no file may be made, nothing is excused."""
    public.chmod(0o777)
    ring = public / "ring"
    ring.touch()
    os.chown(ring, OTHER_UID, OTHER_UID)
    ring.chmod(0o644)

    def work() -> None:
        with permissions.opened(ring) as (fd, status):
            permissions.require_key_ring(status, ring, fd)

    assert "UnsafeFileError" in as_other_user(work)
    public.chmod(0o755)
    assert "UnsafeFileError" in as_other_user(work)


# --- Reading that leaves no trace ---


def test_reading_quietly_leaves_no_time_of_access(tmp_path: Path) -> None:
    """Which the next save would have to bring to the disk."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    os.utime(path, ns=(0, 0))
    fd = permissions.open_quietly(path, permissions.READ_FLAGS)
    try:
        assert os.read(fd, 100) == b"content"
    finally:
        os.close(fd)
    assert path.stat().st_atime_ns == 0


def test_what_cannot_be_read_quietly_is_read_all_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only the owner may ask for it, and some file systems do not know it."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    really_open = os.open

    def refusing(path: Path, flags: int) -> int:
        if flags & os.O_NOATIME:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return really_open(path, flags)

    monkeypatch.setattr(os, "open", refusing)
    fd = permissions.open_quietly(path, permissions.READ_FLAGS)
    try:
        assert os.read(fd, 100) == b"content"
    finally:
        os.close(fd)


# --- File systems whose answers come from a cache ---

MOUNTS = (
    rb"""21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
22 21 0:5 / /proc rw - proc proc rw
30 21 0:40 / /mnt/share rw,noatime shared:7 master:2 - nfs4 server:/export rw,vers=4.2
31 21 0:41 / /mnt/with\040space rw - cifs //server/share rw
32 21 0:42 / /mnt/back\134slash rw - fuse.sshfs host: rw
33 30 8:1 /sub /mnt/share/local rw - xfs /dev/sdb1 rw
34 21 0:43 / /over rw - nfs server:/export rw
35 34 8:2 / /over rw - ext4 /dev/sdc1 rw
36 21 0:44 / /mnt/"""
    b"\xff rw - 9p host rw\n"
)


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give a file with the system's mounts, which are made up."""
    path = tmp_path / "mountinfo"
    path.write_bytes(MOUNTS)

    def open_another(asked: str, **options: str) -> TextIO:
        assert asked == "/proc/self/mountinfo"
        return path.open(**options)  # type: ignore[call-overload, no-any-return] # whatever open() is given

    monkeypatch.setattr(permissions, "open", open_another, raising=False)
    return path


@pytest.mark.usefixtures("mounts")
@pytest.mark.parametrize(
    ("path", "remote"),
    [
        ("/home/user/store", False),
        ("/store", False),
        ("/mnt/share/store", True),
        ("/mnt/share/deep/below/store", True),
        ("/mnt/share-of-another/store", False),
        ("/mnt/store", False),
        ("/mnt/with space/store", True),
        ("/mnt/back\\slash/store", True),
        ("/mnt/share/local/store", False),
        ("/over/store", False),
        ("/mnt/share/local", False),
        ("/mnt/share", True),
        (os.fsdecode(b"/mnt/\xff/store"), True),
    ],
)
def test_the_file_system_of_a_path_is_that_of_the_nearest_mount(path: str, *, remote: bool) -> None:
    """A mount over another counts, and names are unescaped."""
    assert permissions.is_remote(Path(path)) is remote


@pytest.mark.parametrize(
    ("kind", "remote"),
    [
        *((kind, False) for kind in ("ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "f2fs", "vfat")),
        *((kind, True) for kind in ("nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "lustre", "virtiofs", "drvfs")),
        *((kind, True) for kind in ("glusterfs", "ocfs2", "gfs2", "vboxsf", "vmhgfs", "fuseblk", "fuse.s3fs")),
    ],
)
def test_network_file_systems_are_known_by_their_kind(mounts: Path, kind: str, *, remote: bool) -> None:
    """Those answer from caches, or make inode numbers up."""
    mounts.write_text(f"21 1 0:1 / / rw - {kind} source rw\n")
    assert permissions.is_remote(Path("/a/store")) is remote


def test_where_mounts_are_not_listed_a_file_is_taken_for_a_local_one(mounts: Path) -> None:
    """On other systems than Linux there is no such list."""
    mounts.unlink()
    assert not permissions.is_remote(Path("/a/store"))

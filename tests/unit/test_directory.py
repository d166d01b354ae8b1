from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support import OTHER_UID, as_other_user, descriptors, failing
from zoho_keystore._fs import directory as module
from zoho_keystore._fs import permissions
from zoho_keystore._fs.directory import Directory, make_directories
from zoho_keystore.errors import StoreFileError, UnsafeFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zoho_keystore._fs.owned_fd import OwnedFd

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="acts as another user, which only root may")
whatever_the_umask = pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o277, 0o777])


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Give the path of a folder of ours."""
    path = tmp_path / "place"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make folders work by whole paths, as on Windows."""
    monkeypatch.setattr(module, "HAS_DIRECTORY_FDS", False)


@pytest.fixture(params=["descriptor", "whole path"])
def directory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, place: Path) -> Iterator[Directory]:
    """Give an open folder, of the POSIX kind and of the Windows kind."""
    monkeypatch.setattr(module, "HAS_DIRECTORY_FDS", request.param == "descriptor")
    with Directory.opened(place) as opened:
        assert (opened._fd is None) == (request.param == "whole path")
        yield opened


@pytest.fixture
def public() -> Iterator[Path]:
    """Give a folder that other users can reach, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


class Clock:
    """A clock that only sleeping moves on."""

    def __init__(self, on_sleep: Callable[[Clock], None] = lambda _clock: None) -> None:
        self.now_s = 1000.0
        self.slept: list[float] = []
        self._on_sleep = on_sleep

    def monotonic(self) -> float:
        """Return the time in seconds."""
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Let the time pass without waiting."""
        self.slept.append(seconds)
        self.now_s += seconds
        self._on_sleep(self)


def write(descriptor: OwnedFd, content: bytes) -> None:
    """Write into a descriptor and close it."""
    os.write(descriptor.fd, content)
    descriptor.close()


def mode_of(path: Path) -> int:
    """Return the permission bits of a file or folder."""
    return stat.S_IMODE(path.stat().st_mode)


# --- Opening a folder ---


def test_this_system_has_folder_descriptors() -> None:
    """The tests of the POSIX kind are what they say."""
    assert module.HAS_DIRECTORY_FDS


def test_an_opened_folder_knows_its_path(directory: Directory, place: Path) -> None:
    """Errors name files by the path."""
    assert directory.path == place


def test_a_folder_is_closed_in_the_end(place: Path) -> None:
    """The descriptor lives as long as the block, and no child program gets it."""
    with Directory.opened(place) as directory:
        assert directory._fd is not None
        assert os.path.samestat(os.fstat(directory._fd), place.stat())
        assert not os.get_inheritable(directory._fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(directory._fd)


def test_a_folder_is_closed_when_the_block_fails(place: Path) -> None:
    """An exception goes through as it is, and leaves nothing open."""
    with pytest.raises(ZeroDivisionError), Directory.opened(place):
        raise ZeroDivisionError


def test_a_folder_stays_the_same_when_it_is_moved_away(place: Path) -> None:
    """Everything goes through the descriptor: another folder that takes the path gets nothing."""
    moved = place.with_name("moved")
    with Directory.opened(place) as directory:
        place.rename(moved)
        place.mkdir()
        write(directory.create("a", like="x"), b"a")
        write(directory.create("b", like="x"), b"b")
        directory.link("a", "c")
        directory.replace("b", "d")
        directory.unlink("a")
        directory.make_directory("e")
        assert directory.status("c").st_nlink == 1
        assert sorted(directory.names()) == ["c", "d", "e"]
    assert sorted(path.name for path in moved.iterdir()) == ["c", "d", "e"]
    assert not list(place.iterdir())


@pytest.mark.parametrize("variant", [True, False])
def test_a_missing_folder_is_a_typed_error(monkeypatch: pytest.MonkeyPatch, place: Path, *, variant: bool) -> None:
    """The error names the folder and the next step."""
    monkeypatch.setattr(module, "HAS_DIRECTORY_FDS", variant)
    missing = place / "missing"
    with (
        pytest.raises(
            StoreFileError, match=r"missing: the folder cannot be opened: no such file.*Check the path"
        ) as caught,
        Directory.opened(missing),
    ):
        pass
    assert caught.value.path == missing
    assert isinstance(caught.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize("variant", [True, False])
def test_a_file_is_no_folder(monkeypatch: pytest.MonkeyPatch, place: Path, *, variant: bool) -> None:
    """A file in the folder's place is refused."""
    monkeypatch.setattr(module, "HAS_DIRECTORY_FDS", variant)
    (place / "file").touch()
    with (
        pytest.raises(StoreFileError, match=r"not a directory|this is a file, not a folder"),
        Directory.opened(place / "file"),
    ):
        pass


@pytest.mark.parametrize("variant", [True, False])
def test_a_folder_that_others_may_write_to_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    place: Path,
    *,
    variant: bool,
) -> None:
    """They could replace the store; the mode is not changed, since the folder may be shared on purpose."""
    monkeypatch.setattr(module, "HAS_DIRECTORY_FDS", variant)
    place.chmod(0o777)
    with pytest.raises(UnsafeFileError, match="mode 0777 lets other users replace files"), Directory.opened(place):
        pass
    assert mode_of(place) == 0o777


def test_a_refused_folder_is_closed_while_its_error_is_kept(place: Path) -> None:
    """Programs keep errors, and errors keep the frames that they went through."""
    place.chmod(0o777)
    before = descriptors()
    with pytest.raises(UnsafeFileError) as kept, Directory.opened(place):
        pass
    assert descriptors() == before
    assert kept.value.path == place


def test_a_sticky_folder_is_accepted(place: Path) -> None:
    """A store in /tmp is not replaced by others."""
    place.chmod(0o1777)
    with Directory.opened(place):
        pass


def test_a_folder_of_another_user_is_refused(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """Its owner could replace the store."""
    if os.geteuid() == 0:
        os.chown(place, OTHER_UID, OTHER_UID)  # A folder of root's is accepted.
    owner = place.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner - 1)
    with pytest.raises(UnsafeFileError, match=f"it belongs to user {owner}"), Directory.opened(place):
        pass


@pytest.mark.parametrize(("call", "number"), [("open", errno.EMFILE), ("open", errno.EACCES), ("fstat", errno.EIO)])
def test_a_folder_that_cannot_be_opened_is_a_typed_error(
    monkeypatch: pytest.MonkeyPatch, place: Path, call: str, number: int
) -> None:
    """Whatever the system refuses, the error is ours."""
    with monkeypatch.context() as patch:
        if call == "fstat":
            patch.setattr(module, "HAS_DIRECTORY_FDS", False)  # Where no descriptor would be left open.
            call = "stat"
        patch.setattr(os, call, failing(number))
        with pytest.raises(StoreFileError, match="the folder cannot be opened"), Directory.opened(place):
            pass


# --- Files in it ---


@whatever_the_umask
def test_a_new_file_is_private_whatever_the_umask(
    directory: Directory, place: Path, umask: Callable[[int], int], mask: int
) -> None:
    """It has mode 0600 from the first byte on."""
    umask(mask)
    write(directory.create("new", like="other"), b"content")
    assert mode_of(place / "new") == 0o600
    assert (place / "new").read_bytes() == b"content"


def test_a_new_file_is_at_no_moment_open_to_others(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, place: Path, umask: Callable[[int], int]
) -> None:
    """It is made private, not only turned private: a descriptor opened in between would stay."""
    umask(0)
    seen = []
    monkeypatch.setattr(permissions, "make_private", lambda fd: seen.append(stat.S_IMODE(os.fstat(fd).st_mode)))
    directory.create("new", like="other")
    monkeypatch.setattr(os, "chmod", lambda *_args, **_kwargs: seen.append(mode_of(place / "folder")))
    directory.make_directory("folder")
    assert seen == [0o600, 0o700]


def test_a_new_file_is_never_an_old_one(directory: Directory, place: Path) -> None:
    """A file that is there is not opened, let alone emptied."""
    (place / "old").write_bytes(b"content")
    with pytest.raises(FileExistsError):
        directory.create("old", like="other")
    assert (place / "old").read_bytes() == b"content"


@pytest.mark.parametrize("target", ["there", "nowhere"])
def test_a_new_file_does_not_follow_a_link(directory: Directory, place: Path, target: str) -> None:
    """Somebody could let the name lead to a file of theirs, or of ours."""
    (place / "there").write_bytes(b"content")
    (place / "link").symlink_to(place / target)
    with pytest.raises(FileExistsError):
        directory.create("link", like="other")
    assert (place / "there").read_bytes() == b"content"
    assert not (place / "nowhere").exists()


def test_a_new_file_is_not_handed_to_child_programs(directory: Directory) -> None:
    """No program that we start gets it."""
    assert not os.get_inheritable(directory.create("new", like="other").fd)


def belongs_to(monkeypatch: pytest.MonkeyPatch, directory: Directory, uid: int, gid: int) -> None:
    """Make all files that are looked at belong to a user and a group."""
    look = directory.status

    def status(name: str) -> os.stat_result:
        found = look(name)
        return os.stat_result((*found[:4], uid, gid, *found[6:]))

    monkeypatch.setattr(directory, "status", status)


def test_root_gives_a_new_file_to_the_owner_of_the_store(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, place: Path
) -> None:
    """A store of another user that root has worked on would lock that user out otherwise."""
    (place / "store").touch()
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda _fd, uid, gid: given.append((uid, gid)))
    belongs_to(monkeypatch, directory, 1000, 1001)
    directory.create("new", like="store")
    assert given == [(1000, 1001)]


def test_a_new_file_beside_a_store_of_roots_stays_roots(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, place: Path
) -> None:
    """There is nobody to give it to, and file systems without owners refuse even the attempt."""
    (place / "store").touch()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda *_args: pytest.fail("it is root's already"))
    belongs_to(monkeypatch, directory, 0, 0)
    directory.create("new", like="store")


@needs_root
def test_a_new_file_of_root_really_changes_hands(directory: Directory, place: Path) -> None:
    """Owner and group are those of the store, and the mode is private all the same."""
    (place / "store").touch()
    os.chown(place / "store", OTHER_UID, 65533)
    directory.create("new", like="store")
    status = (place / "new").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (OTHER_UID, 65533, 0o600)


def test_a_new_file_of_root_without_a_store_stays_roots(monkeypatch: pytest.MonkeyPatch, directory: Directory) -> None:
    """The first file of a store has nobody to belong to but us."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda *_args: pytest.fail("there is no owner to give it to"))
    directory.create("new", like="store")


def test_a_new_file_of_anybody_else_is_theirs(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, place: Path
) -> None:
    """Only root may give files away, so nobody else tries."""
    (place / "store").touch()
    monkeypatch.setattr(permissions, "is_root", lambda: False)
    monkeypatch.setattr(os, "fchown", lambda *_args: pytest.fail("only root may"))
    belongs_to(monkeypatch, directory, 1000, 1000)
    directory.create("new", like="store")


def test_a_new_file_that_cannot_be_given_away_is_removed(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, place: Path
) -> None:
    """A lock file that stayed root's would lock the owner of the store out for ever."""
    (place / "store").touch()
    belongs_to(monkeypatch, directory, 1000, 1000)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", failing(errno.EPERM))
    with pytest.raises(PermissionError):
        directory.create("new", like="store")
    assert directory.names() == ["store"]


def test_a_new_file_is_closed_when_making_it_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, place: Path
) -> None:
    """Ctrl-C goes through, and no descriptor is left, which the fixture above makes sure of."""
    (place / "store").touch()

    def interrupted(_fd: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(permissions, "make_private", interrupted)
    with pytest.raises(KeyboardInterrupt):
        directory.create("new", like="store")


def test_opening_takes_the_flags_as_they_are(directory: Directory, place: Path) -> None:
    """A file is opened for what was asked."""
    (place / "file").write_bytes(b"content")
    fd = directory.open("file", permissions.READ_FLAGS)
    try:
        assert os.read(fd, 100) == b"content"
    finally:
        os.close(fd)
    with pytest.raises(FileNotFoundError):
        directory.open("missing", permissions.READ_FLAGS)


def test_a_status_is_that_of_the_link_itself(directory: Directory, place: Path) -> None:
    """A link in the place of a file is seen."""
    (place / "file").touch()
    (place / "link").symlink_to("file")
    assert os.path.samestat(directory.status("file"), (place / "file").stat())
    assert stat.S_ISLNK(directory.status("link").st_mode)
    assert directory.status_if_there("missing") is None
    with pytest.raises(FileNotFoundError):
        directory.status("missing")


def test_a_status_that_cannot_be_had_is_not_taken_for_none(
    monkeypatch: pytest.MonkeyPatch, directory: Directory
) -> None:
    """Only "there is none" means that there is none."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", failing(errno.EIO))
        with pytest.raises(OSError, match="Input/output error"):
            directory.status_if_there("file")


def test_names_are_all_files_directly_inside(directory: Directory, place: Path) -> None:
    """Hidden files and folders count too, and asking twice gives the same."""
    (place / "folder").mkdir()
    (place / "folder" / "below").touch()
    (place / ".hidden").touch()
    assert sorted(directory.names()) == sorted(directory.names()) == [".hidden", "folder"]


def test_unlinking_removes_one_file(directory: Directory, place: Path) -> None:
    """And says so when there is none."""
    (place / "file").touch()
    (place / "other").touch()
    directory.unlink("file")
    assert directory.names() == ["other"]
    with pytest.raises(FileNotFoundError):
        directory.unlink("file")


def test_a_link_never_overwrites(directory: Directory, place: Path) -> None:
    """A second name has to be free."""
    (place / "new").write_bytes(b"new")
    (place / "old").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        directory.link("new", "old")
    directory.link("new", "free")
    assert (place / "old").read_bytes() == b"old"
    assert os.path.samestat((place / "new").stat(), (place / "free").stat())


def test_a_replacement_takes_the_name_and_the_file_with_it(directory: Directory, place: Path) -> None:
    """The new file is the very one, and its old name is gone."""
    (place / "new").write_bytes(b"new")
    (place / "old").write_bytes(b"old")
    status = (place / "new").stat()
    directory.replace("new", "old")
    assert directory.names() == ["old"]
    assert (place / "old").read_bytes() == b"new"
    assert os.path.samestat(status, (place / "old").stat())


def test_syncing_reaches_the_folder_itself(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """A new name is durable once its folder is."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    with Directory.opened(place) as directory:
        directory.sync()
    assert synced == [place.stat().st_ino]


def test_an_error_of_syncing_goes_through(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """Whether the name is durable must not be passed over."""
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with Directory.opened(place) as directory, pytest.raises(OSError, match="Input/output error"):
        directory.sync()


def test_a_file_system_that_cannot_sync_a_folder_is_no_failure(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """It says EINVAL to every save, and nothing more could be done."""
    monkeypatch.setattr(os, "fsync", failing(errno.EINVAL))
    with Directory.opened(place) as directory:
        directory.sync()


# --- What differs on Windows ---


@pytest.mark.usefixtures("windows")
def test_on_windows_there_is_nothing_to_sync(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """A folder cannot be opened there, and the system takes care by itself."""
    monkeypatch.setattr(os, "fsync", lambda _fd: pytest.fail("there is no descriptor"))
    with Directory.opened(place) as directory:
        directory.sync()


@pytest.mark.usefixtures("windows")
def test_on_windows_no_call_gets_a_folder_descriptor(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """Python raises NotImplementedError for any there, and relative names would be those of the working directory."""
    calls = []

    def watched(name: str) -> Callable[..., Any]:
        call = getattr(os, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            assert not [value for key, value in kwargs.items() if key.endswith("dir_fd") and value is not None]
            assert all(os.path.isabs(arg) for arg in args if isinstance(arg, str))
            return call(*args, **kwargs)

        return wrapper

    names = ["open", "stat", "unlink", "link", "replace", "mkdir", "chmod"]
    with monkeypatch.context() as patch:
        for name in names:
            patch.setattr(os, name, watched(name))
        with Directory.opened(place) as directory:
            directory.create("a", like="x").close()
            directory.status("a")
            directory.link("a", "b")
            directory.replace("a", "c")
            directory.unlink("b")
            directory.make_directory("d")
    assert set(calls) == set(names)
    assert sorted(path.name for path in place.iterdir()) == ["c", "d"]


@pytest.mark.usefixtures("windows")
def test_on_windows_a_file_that_is_open_elsewhere_is_tried_again(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """A virus scanner or a reader has the file open for a moment; old and new are whole meanwhile."""
    (place / "new").write_bytes(b"new")
    (place / "old").write_bytes(b"old")
    replace, refusals = os.replace, iter(range(5))

    def refusing(*args: Any, **kwargs: Any) -> None:
        if next(refusals, None) is not None:
            raise PermissionError(errno.EACCES, "The process cannot access the file")
        replace(*args, **kwargs)

    seen = []
    clock = Clock(lambda _: seen.append(((place / "new").read_bytes(), (place / "old").read_bytes())))
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(os, "replace", refusing)
    with Directory.opened(place) as directory:
        directory.replace("new", "old")
    assert seen == [(b"new", b"old")] * 5
    assert max(clock.slept) <= 0.1
    assert (place / "old").read_bytes() == b"new"
    assert [path.name for path in place.iterdir()] == ["old"]


@pytest.mark.usefixtures("windows")
def test_on_windows_trying_again_has_an_end(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """After two and a half seconds the error goes through, and both files are as they were."""
    (place / "new").write_bytes(b"new")
    (place / "old").write_bytes(b"old")
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(os, "replace", failing(errno.EACCES))
    with Directory.opened(place) as directory, pytest.raises(PermissionError):
        directory.replace("new", "old")
    assert 2.5 <= sum(clock.slept) <= 2.6
    assert (place / "new").read_bytes() == b"new"
    assert (place / "old").read_bytes() == b"old"


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOENT, errno.EIO])
def test_on_windows_other_errors_are_not_tried_again(monkeypatch: pytest.MonkeyPatch, place: Path, number: int) -> None:
    """Waiting would not help."""
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(os, "replace", failing(number))
    with Directory.opened(place) as directory, pytest.raises(OSError, match=os.strerror(number)):
        directory.replace("new", "old")
    assert not clock.slept


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EIO])
def test_on_posix_nothing_is_tried_again(monkeypatch: pytest.MonkeyPatch, place: Path, number: int) -> None:
    """There a refusal is one of permissions, and stays."""
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(os, "replace", failing(number))
    with Directory.opened(place) as directory, pytest.raises(OSError, match=os.strerror(number)):
        directory.replace("new", "old")
    assert not clock.slept


# --- Making folders ---


@whatever_the_umask
def test_a_folder_is_ours_alone_whatever_the_umask(
    directory: Directory, place: Path, umask: Callable[[int], int], mask: int
) -> None:
    """It has mode 0700."""
    umask(mask)
    directory.make_directory("new")
    assert mode_of(place / "new") == 0o700


def test_a_folder_that_is_there_stays_as_it_is(directory: Directory, place: Path) -> None:
    """Whoever made it has chosen its mode."""
    (place / "old").mkdir()
    (place / "old").chmod(0o755)
    (place / "old" / "file").touch()
    directory.make_directory("old")
    assert mode_of(place / "old") == 0o755
    assert (place / "old" / "file").exists()


@whatever_the_umask
def test_all_missing_folders_are_made_private(place: Path, umask: Callable[[int], int], mask: int) -> None:
    """Those above the one that was asked for, too; those that were there keep their modes."""
    place.chmod(0o755)
    umask(mask)
    make_directories(place / "a" / "b" / "c")
    assert [mode_of(path) for path in (place / "a", place / "a" / "b", place / "a" / "b" / "c")] == [0o700] * 3
    assert mode_of(place) == 0o755


@pytest.mark.usefixtures("windows")
def test_on_windows_folders_are_made_as_well(place: Path) -> None:
    """By their whole paths."""
    make_directories(place / "a" / "b")
    assert mode_of(place / "a" / "b") == 0o700


def test_each_parent_of_a_new_folder_is_synced(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """A power cut must not take the folder with the store in it; it is there before its parent is synced."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append((os.fstat(fd).st_ino, os.listdir(fd))))
    make_directories(place / "a" / "b")
    assert synced == [(place.stat().st_ino, ["a"]), ((place / "a").stat().st_ino, ["b"])]


def test_folders_that_are_there_are_left_alone(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """Neither their modes nor their owners are looked at: whoever opens the store does that."""
    place.chmod(0o777)
    monkeypatch.setattr(os, "mkdir", lambda *_args, **_kwargs: pytest.fail("it is there"))
    make_directories(place)
    assert mode_of(place) == 0o777


def test_a_link_to_a_folder_will_do(place: Path) -> None:
    """The user's data folder may be on another disk."""
    link = place.with_name("link")
    link.symlink_to(place)
    make_directories(link / "a")
    assert (place / "a").is_dir()


def test_a_folder_that_another_process_makes_meanwhile_will_do(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """Two first runs at once."""
    mkdir = os.mkdir

    def beaten(*args: Any, **kwargs: Any) -> None:
        mkdir(*args, **kwargs)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "mkdir", beaten)
    make_directories(place / "a" / "b")
    assert (place / "a" / "b").is_dir()


def test_no_folder_is_made_where_others_may_write(place: Path) -> None:
    """They could put another one in its place."""
    place.chmod(0o777)
    with pytest.raises(UnsafeFileError, match="mode 0777 lets other users replace files"):
        make_directories(place / "a" / "b")
    assert not list(place.iterdir())


@pytest.mark.parametrize("path", ["file/a", "file/a/b", "file"])
def test_a_file_in_the_way_is_a_typed_error(place: Path, path: str) -> None:
    """The error names the file that should have been a folder."""
    (place / "file").touch()
    with pytest.raises(StoreFileError, match="file: the folder cannot be opened: not a directory"):
        make_directories(place / path / "below")


@pytest.mark.parametrize(
    ("call", "number", "advice"),
    [
        ("mkdir", errno.ENOSPC, "Free some space"),
        ("mkdir", errno.EROFS, "The file system is read-only"),
        ("fsync", errno.EIO, "Look at the disk"),
    ],
)
def test_a_folder_that_cannot_be_made_is_a_typed_error(
    monkeypatch: pytest.MonkeyPatch, place: Path, call: str, number: int, advice: str
) -> None:
    """The error names the folder and the next step."""
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(number))
        with pytest.raises(StoreFileError, match=f"the folder cannot be made: .*{advice}") as caught:
            make_directories(place / "a" / "b")
    assert caught.value.path == place / "a"
    assert isinstance(caught.value.__cause__, OSError)


@needs_root
def test_a_real_other_user_makes_no_folder_in_ours(public: Path) -> None:
    """The system refuses, and the error is ours."""
    assert as_other_user(lambda: make_directories(public / "a")).startswith(
        f"StoreFileError: {public / 'a'}: the folder cannot be made: permission denied"
    )


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.ENOTSUP], ids=errno.errorcode.get)
def test_a_folder_on_a_file_system_without_modes_is_made(
    monkeypatch: pytest.MonkeyPatch, place: Path, number: int
) -> None:
    """A mode that cannot be changed there is no reason to refuse, as for files; drives differ in what they say."""
    monkeypatch.setattr(os, "chmod", failing(number))
    make_directories(place / "a" / "b")
    assert (place / "a" / "b").is_dir()


@needs_root
def test_a_folder_below_one_that_cannot_be_looked_into_is_a_typed_error(public: Path) -> None:
    """A service that was started with the HOME of root (sudo -u) has such a data folder."""
    private = public / "private"
    private.mkdir(mode=0o700)
    assert as_other_user(lambda: make_directories(private / "a" / "b")).startswith("StoreFileError: ")

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from support import IS_ROOT, OTHER_UID, as_other_user, descriptors, failing
from zoho_keystore import _platform as platform
from zoho_keystore._fs import directory as module
from zoho_keystore._fs import permissions
from zoho_keystore._fs.directory import Directory, make_directories
from zoho_keystore.errors import StoreFileError, UnsafeFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")

needs_root = pytest.mark.skipif(not IS_ROOT, reason="acts as another user, which only root may")
each_system = pytest.mark.parametrize("has_fds", [True, False], ids=["POSIX", "Windows"])
each_umask = pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o277, 0o777])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the path of a private directory."""
    path = tmp_path / "directory"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name files by whole paths, as on Windows."""
    monkeypatch.setattr(module, "HAS_DIRECTORY_FDS", False)


@pytest.fixture(params=[True, False], ids=["POSIX", "Windows"])
def directory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, path: Path) -> Iterator[Directory]:
    """Give an open directory of each kind."""
    if request.param and not module.HAS_DIRECTORY_FDS:
        pytest.skip("needs_directory_fds: a directory cannot be opened here")
    monkeypatch.setattr(module, "HAS_DIRECTORY_FDS", request.param)
    with Directory.opened(path) as opened:
        yield opened


def create(directory: Directory, name: str, content: bytes = b"") -> None:
    """Create a file with a content."""
    file = directory.create(name, like="other")
    os.write(file.fd, content)
    file.close()


def mode_of(path: Path) -> int:
    """Return the permission bits of a file or directory."""
    return stat.S_IMODE(path.stat().st_mode)


# --- Opening ---


def test_open_directory_is_closed_after_exception(path: Path) -> None:
    """The module's fixture looks for what is left."""
    with pytest.raises(ZeroDivisionError), Directory.opened(path) as directory:
        raise ZeroDivisionError
    assert directory.path == path


@pytest.mark.needs_directory_fds
def test_open_directory_stays_the_same_when_moved(path: Path) -> None:
    """Another directory that takes the path gets nothing."""
    moved = path.with_name("moved")
    with Directory.opened(path) as directory:
        path.rename(moved)
        path.mkdir()
        create(directory, "a")
        create(directory, "b")
        directory.link("a", "c")
        directory.replace("b", "d")
        directory.unlink("a")
        directory.make_directory("e")
        assert directory.status("c").st_nlink == 1
        assert sorted(directory.names()) == ["c", "d", "e"]
    assert sorted(path.name for path in moved.iterdir()) == ["c", "d", "e"]
    assert not list(path.iterdir())


@pytest.mark.needs_posix_shell("missing")
@each_system
@pytest.mark.parametrize(
    ("name", "number", "message"),
    [
        ("missing", None, "no such file or directory. Check the path"),
        ("file", None, "not a directory"),
        (".", errno.EMFILE, "too many open files"),
        (".", errno.EIO, "input/output error"),
    ],
)
def test_open_failing_is_typed_error(
    monkeypatch: pytest.MonkeyPatch, path: Path, name: str, number: int | None, message: str, *, has_fds: bool
) -> None:
    """It names the directory and the next step."""
    (path / "file").touch()
    with monkeypatch.context() as patch:
        patch.setattr(module, "HAS_DIRECTORY_FDS", has_fds)
        if number is not None:
            patch.setattr(os, "open" if has_fds else "stat", failing(number))
        with pytest.raises(StoreFileError) as caught, Directory.opened(path / name):
            pass
    assert caught.value.path == path / name
    assert message in str(caught.value)


@pytest.mark.needs_modes
@each_system
def test_open_of_directory_open_to_others_restricts_it(
    monkeypatch: pytest.MonkeyPatch, path: Path, caplog: pytest.LogCaptureFixture, *, has_fds: bool
) -> None:
    """Unless only a directory is to be made in it; and it is closed although a kept error refers to the frames."""
    monkeypatch.setattr(module, "HAS_DIRECTORY_FDS", has_fds)
    path.chmod(0o777)
    with Directory.opened(path, is_parent=True):
        assert mode_of(path) == 0o777
    with Directory.opened(path):
        assert mode_of(path) == 0o755
    assert len(caplog.messages) == 1
    path.chmod(0o777)
    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(os, "chmod", failing(errno.EPERM))
        with pytest.raises(UnsafeFileError, match="mode 0777 lets other users") as kept, Directory.opened(path):
            pass
    assert descriptors() == before
    assert kept.value.path == path
    assert mode_of(path) == 0o777


# --- Files ---


@pytest.mark.needs_modes
@each_umask
def test_create_makes_private_file_after_any_umask(
    directory: Directory, path: Path, umask: Callable[[int], int], mask: int
) -> None:
    """And a private directory."""
    umask(mask)
    create(directory, "file", b"content")
    directory.make_directory("new")
    assert (mode_of(path / "file"), mode_of(path / "new")) == (0o600, 0o700)
    assert (path / "file").read_bytes() == b"content"


@pytest.mark.needs_modes
def test_create_is_private_from_the_first_moment(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, path: Path, umask: Callable[[int], int]
) -> None:
    """A descriptor that another user opens before a chmod would stay open."""
    umask(0)
    seen = []
    monkeypatch.setattr(permissions, "make_private", lambda fd: seen.append(stat.S_IMODE(os.fstat(fd).st_mode)))
    monkeypatch.setattr(os, "chmod", lambda *_args, **_kwargs: seen.append(mode_of(path / "new")))
    create(directory, "file")
    directory.make_directory("new")
    assert seen == [0o600, 0o700]


@pytest.mark.needs_special_files("link")
@pytest.mark.parametrize("target", [None, "file", "missing"], ids=["file", "link to file", "link to nothing"])
def test_create_refuses_existing_name(directory: Directory, path: Path, target: str | None) -> None:
    """A file is not opened, and a symbolic link is not followed."""
    (path / "file").write_bytes(b"content")
    if target is not None:
        (path / "link").symlink_to(target)
    with pytest.raises(FileExistsError):
        directory.create("link" if target else "file", like="other")
    assert (path / "file").read_bytes() == b"content"
    assert not (path / "missing").exists()


def statuses(monkeypatch: pytest.MonkeyPatch, directory: Directory, owners: dict[str, tuple[int, int]]) -> None:
    """Let files have these owners, and no other file exist; the directory itself is named ``.``."""

    def status_if_there(name: str) -> os.stat_result | None:
        return os.stat_result((0, 0, 0, 1, *owners[name], 0, 0, 0, 0)) if name in owners else None

    monkeypatch.setattr(directory, "status_if_there", status_if_there)
    monkeypatch.setattr(directory, "status", status_if_there)


USER, OTHER, ROOT = (1000, 1001), (1002, 1003), (0, 0)


@pytest.mark.needs_modes
@pytest.mark.parametrize(
    ("uid", "owners", "given"),
    [
        (0, {"store": USER, ".": ROOT}, [USER]),
        (0, {"store": USER, ".": OTHER}, [USER]),
        (0, {"store": ROOT, ".": USER}, []),
        (0, {".": USER}, [USER]),
        (0, {".": ROOT}, []),
        (1000, {"store": OTHER, ".": OTHER}, []),
    ],
    ids=["store of a user", "of two users", "store of root", "no store", "no store, directory of root", "a user"],
)
def test_create_by_root_gives_file_to_the_owner_of_the_store(
    monkeypatch: pytest.MonkeyPatch,
    directory: Directory,
    uid: int,
    owners: dict[str, tuple[int, int]],
    given: list[tuple[int, int]],
) -> None:
    """Or of the directory: it would lock that user out otherwise. Only root may, and some file systems refuse it."""
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(os, "fchown", lambda _fd, uid, gid: calls.append((uid, gid)))
    statuses(monkeypatch, directory, owners)
    directory.create("new", like="store")
    assert calls == given


@pytest.mark.needs_modes
def test_create_that_cannot_set_owner_removes_file(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, path: Path
) -> None:
    """A lock file that stayed root's would lock the store's owner out."""
    (path / "store").touch()
    statuses(monkeypatch, directory, {"store": USER})
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", failing(errno.EPERM))
    with pytest.raises(PermissionError):
        directory.create("new", like="store")
    assert directory.names() == ["store"]


@needs_root
def test_make_directories_by_root_gives_them_to_the_owner_of_the_parent(public_directory: Path) -> None:
    """Root that sets a store up for a user, with the user's HOME."""
    os.chown(public_directory, OTHER_UID, OTHER_UID)
    made = public_directory / "a" / "b"
    make_directories(made)
    assert [(path.stat().st_uid, path.stat().st_gid) for path in (made.parent, made)] == [(OTHER_UID, OTHER_UID)] * 2
    assert as_other_user((made / "file").touch) == "None"


@needs_root
@pytest.mark.parametrize("planted", ["directory of root", "link"])
def test_make_directory_by_root_gives_away_no_other_directory(
    public_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    """The owner of the parent may put something else in the place of the new directory at once."""
    os.chown(public_directory, OTHER_UID, OTHER_UID)
    secret = (tmp_path if planted == "link" else public_directory) / "secret"
    secret.mkdir(mode=0o700)
    (secret / "file").touch()
    mkdir = os.mkdir

    def swapped(name: str, *args: Any, **options: Any) -> None:
        mkdir(name, *args, **options)
        (public_directory / "new").rmdir()
        if planted == "link":
            (public_directory / "new").symlink_to(secret)
        else:
            secret.rename(public_directory / "new")

    monkeypatch.setattr(os, "mkdir", swapped)
    with Directory.opened(public_directory) as opened:
        if planted == "link":
            with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
                opened.make_directory("new")
        else:
            opened.make_directory("new")
    assert (public_directory / "new").stat().st_uid == 0


def test_create_interrupted_closes_file(monkeypatch: pytest.MonkeyPatch, directory: Directory) -> None:
    """The module's fixture looks for what is left."""

    def interrupted(_fd: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(permissions, "make_private", interrupted)
    with pytest.raises(KeyboardInterrupt):
        directory.create("new", like="store")


@pytest.mark.needs_modes
def test_chmod_makes_file_private(directory: Directory, path: Path) -> None:
    """Whatever its mode was."""
    (path / "file").touch(mode=0o444)
    directory.chmod("file")
    assert mode_of(path / "file") == 0o600


@pytest.mark.needs_special_files
def test_status_is_that_of_a_link_itself(directory: Directory, path: Path) -> None:
    """A link in the place of a file is noticed."""
    (path / "file").touch()
    (path / "link").symlink_to("file")
    assert os.path.samestat(directory.status("file"), (path / "file").stat())
    assert stat.S_ISLNK(directory.status("link").st_mode)
    assert directory.status_if_there("missing") is None
    with pytest.raises(FileNotFoundError):
        directory.status("missing")


@pytest.mark.needs_special_files
def test_is_same_file_compares_inodes(directory: Directory, path: Path) -> None:
    """A second name counts; a link, a copy and a missing file do not."""
    (path / "file").touch()
    (path / "copy").touch()
    (path / "link").symlink_to("file")
    directory.link("file", "second")
    status = (path / "file").stat()
    found = [name for name in ("file", "second", "copy", "link", "missing") if directory.is_same_file(name, status)]
    assert found == ["file", "second"]


@pytest.mark.parametrize("call", ["status_if_there", "is_same_file"])
def test_failing_status_is_not_taken_for_missing_file(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, path: Path, call: str
) -> None:
    """Only "no such file" is an answer."""
    arguments = ("file",) if call == "status_if_there" else ("file", path.stat())
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", failing(errno.EIO))
        with pytest.raises(OSError, match="Input/output error"):
            getattr(directory, call)(*arguments)


def test_names_and_unlink(directory: Directory, path: Path) -> None:
    """Hidden files and directories are listed too, each time again."""
    (path / "sub").mkdir()
    (path / "sub" / "below").touch()
    (path / ".hidden").touch()
    (path / "file").touch()
    assert sorted(directory.names()) == sorted(directory.names()) == [".hidden", "file", "sub"]
    directory.unlink("file")
    assert sorted(directory.names()) == [".hidden", "sub"]
    with pytest.raises(FileNotFoundError):
        directory.unlink("file")


def test_link_refuses_existing_name_and_replace_takes_it(directory: Directory, path: Path) -> None:
    """The new file itself is at the name then, and its own name is gone."""
    (path / "new").write_bytes(b"new")
    (path / "old").write_bytes(b"old")
    status = (path / "new").stat()
    with pytest.raises(FileExistsError):
        directory.link("new", "old")
    assert (path / "old").read_bytes() == b"old"
    directory.replace("new", "old")
    assert directory.names() == ["old"]
    assert (path / "old").read_bytes() == b"new"
    assert os.path.samestat(status, (path / "old").stat())


@pytest.mark.needs_directory_fds
@pytest.mark.parametrize("number", [None, errno.EINVAL, errno.EIO], ids=["success", "EINVAL", "EIO"])
def test_sync_reaches_the_directory(monkeypatch: pytest.MonkeyPatch, path: Path, number: int | None) -> None:
    """Some file systems do not support it (EINVAL); every other error means that a name may be lost."""
    synced = []

    def fsync(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        if number is not None:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with Directory.opened(path) as directory:
        if number == errno.EIO:
            with pytest.raises(OSError, match="Input/output error"):
                directory.sync()
        else:
            directory.sync()
    assert synced == [path.stat().st_ino]


# --- Windows ---


@pytest.mark.usefixtures("windows")
def test_windows_calls_get_whole_paths(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Any ``dir_fd`` raises NotImplementedError there, and there is nothing to sync."""
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
        patch.setattr(os, "fsync", lambda _fd: pytest.fail("there is no descriptor"))
        for name in names:
            patch.setattr(os, name, watched(name))
        with Directory.opened(path) as directory:
            create(directory, "a")
            directory.status("a")
            directory.link("a", "b")
            directory.replace("a", "c")
            directory.unlink("b")
            directory.make_directory("d")
            directory.sync()
        make_directories(path / "e" / "f")
    # These are calls of Windows itself there.
    assert set(calls) == set(names) - ({"open", "replace", "mkdir"} if os.name == "nt" else set())
    assert sorted(path.name for path in path.iterdir()) == ["c", "d", "e"]


# --- Making directories ---


@pytest.mark.needs_modes
def test_make_directory_keeps_existing_one(directory: Directory, path: Path) -> None:
    """With its mode and its files."""
    (path / "old").mkdir()
    (path / "old").chmod(0o755)
    (path / "old" / "file").touch()
    directory.make_directory("old")
    assert mode_of(path / "old") == 0o755
    assert (path / "old" / "file").exists()


@pytest.mark.needs_modes
@each_system
@each_umask
def test_make_directories_makes_private_parents(
    monkeypatch: pytest.MonkeyPatch, path: Path, umask: Callable[[int], int], mask: int, *, has_fds: bool
) -> None:
    """An existing parent keeps its mode."""
    monkeypatch.setattr(module, "HAS_DIRECTORY_FDS", has_fds)
    path.chmod(0o755)
    umask(mask)
    make_directories(path / "a" / "b" / "c")
    assert [mode_of(path / name) for name in ("a", "a/b", "a/b/c", ".")] == [0o700, 0o700, 0o700, 0o755]


@pytest.mark.needs_directory_fds
def test_make_directories_syncs_each_parent(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """After the directory is in it: otherwise a power cut could take the directory with the store."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append((os.fstat(fd).st_ino, os.listdir(fd))))
    make_directories(path / "a" / "b")
    assert synced == [(path.stat().st_ino, ["a"]), ((path / "a").stat().st_ino, ["b"])]


def test_make_directories_leaves_existing_one_alone(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Opening the store checks its mode and owner."""
    path.chmod(0o777)
    monkeypatch.setattr(os, "mkdir", lambda *_args, **_kwargs: pytest.fail("it exists"))
    make_directories(path)
    assert mode_of(path) == 0o777


@pytest.mark.needs_special_files
def test_make_directories_follows_link(path: Path) -> None:
    """The user's data directory may be on another disk."""
    link = path.with_name("link")
    link.symlink_to(path)
    make_directories(link / "a")
    assert (path / "a").is_dir()


@pytest.mark.parametrize("call", ["mkdir", "chmod"])
def test_make_directories_accepts_rival_and_fixed_modes(monkeypatch: pytest.MonkeyPatch, path: Path, call: str) -> None:
    """Another process may make the directory first (mkdir), and a file system without modes refuses chmod."""
    mkdir = os.mkdir

    def rival(*args: Any, **kwargs: Any) -> None:
        mkdir(*args, **kwargs)
        raise FileExistsError

    monkeypatch.setattr(os, call, rival if call == "mkdir" else failing(errno.EPERM))
    make_directories(path / "a" / "b")
    assert (path / "a" / "b").is_dir()


@pytest.mark.needs_modes
def test_make_directories_in_parent_open_to_others_makes_private_ones(path: Path) -> None:
    """As in an emptyDir of Kubernetes: others could remove or replace the directory, but not what it holds."""
    path.chmod(0o777)
    make_directories(path / "a" / "b")
    assert [mode_of(path / name) for name in (".", "a", "a/b")] == [0o777, 0o700, 0o700]


@needs_root
def test_make_directories_in_parent_of_another_user_is_refused(public_directory: Path) -> None:
    """Who could put another directory there at any time."""
    os.chown(public_directory, OTHER_UID - 1, -1)
    public_directory.chmod(0o777)
    answer = as_other_user(lambda: make_directories(public_directory / "a"))
    assert answer.startswith(f"UnsafeFileError: {public_directory}: it belongs to user {OTHER_UID - 1}")


@pytest.mark.parametrize("below", ["file/a", "file/a/b", "file/a/b/c"])
def test_make_directories_below_file_is_typed_error(path: Path, below: str) -> None:
    """It names the file."""
    (path / "file").touch()
    with pytest.raises(
        StoreFileError, match=r"file: (the directory cannot be opened: not a|this is a file, not a) directory"
    ):
        make_directories(path / below)


@pytest.mark.needs_directory_fds("fsync")
@pytest.mark.parametrize(
    ("call", "number", "advice"),
    [
        ("mkdir", errno.ENOSPC, "Free some space"),
        ("mkdir", errno.EROFS, "The file system is read-only"),
        ("fsync", errno.EIO, "Check the disk"),
    ],
)
def test_make_directories_failing_is_typed_error(
    monkeypatch: pytest.MonkeyPatch, path: Path, call: str, number: int, advice: str
) -> None:
    """It names the directory and the next step."""
    with monkeypatch.context() as patch:
        patch.setattr(platform, "make_directory" if call == "mkdir" else "sync_file", failing(number))
        with pytest.raises(StoreFileError, match=f"the directory cannot be made: .*{advice}") as caught:
            make_directories(path / "a" / "b")
    assert caught.value.path == path / "a"
    assert isinstance(caught.value.__cause__, OSError)


@needs_root
@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_make_directories_by_real_other_user_is_typed_error(public_directory: Path, mode: int) -> None:
    """A service started by ``sudo -u`` may have the home directory of root, which it cannot even list."""
    public_directory.chmod(mode)
    answer = as_other_user(lambda: make_directories(public_directory / "a" / "b"))
    assert answer.startswith(f"StoreFileError: {public_directory}")
    assert "permission denied" in answer

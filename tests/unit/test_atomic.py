from __future__ import annotations

import errno
import fcntl
import os
import re
import resource
import signal
import stat
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from support import descriptors
from zoho_keystore._fs import directory as folder_module
from zoho_keystore._fs.atomic import AlreadyThereError, remove_stale_temp_files, write
from zoho_keystore._fs.directory import Directory
from zoho_keystore.errors import DurabilityUnknownError, LockTimeoutError, StoreFileError, UnsafeFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")

NAME = "tokens.keystore"
TEMPORARY = re.compile(r"\.tokens\.keystore\.[0-9a-f]{16}\.tmp")
OLD, NEW = b"the old content", b"the new content" * 10

either_way = pytest.mark.parametrize("create", [False, True], ids=["replace", "create"])
without_links = pytest.mark.parametrize(
    "number",
    sorted({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}),
    ids=errno.errorcode.get,
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Give the path of a folder of ours."""
    path = tmp_path / "place"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def store(place: Path) -> Path:
    """Give a store with the old content."""
    path = place / NAME
    path.write_bytes(OLD)
    path.chmod(0o600)
    return path


@pytest.fixture
def directory(place: Path) -> Iterator[Directory]:
    """Give the open folder."""
    with Directory.opened(place) as opened:
        yield opened


def contents(place: Path) -> dict[str, bytes]:
    """Return the files of a folder and what is in them."""
    return {path.name: path.read_bytes() for path in place.iterdir()}


def state_before(store: Path, *, create: bool) -> dict[str, bytes]:
    """Make the state before a write: the old store, or none where one is to be created."""
    if create:
        store.unlink()
        return {}
    return {NAME: OLD}


def fails_with(error: BaseException | int) -> Callable[..., Any]:
    """Return a system call that fails."""

    def fails(*_args: object, **_kwargs: object) -> None:
        raise OSError(error, os.strerror(error)) if isinstance(error, int) else error

    return fails


def does_and_fails(name: str, error: int) -> Callable[..., Any]:
    """Return a system call that does its work, and reports a failure all the same."""
    call = getattr(os, name)

    def fails(*args: Any, **kwargs: Any) -> None:
        call(*args, **kwargs)
        raise OSError(error, os.strerror(error))

    return fails


def only_for(kind: Callable[[int], bool], call: Callable[..., Any], name: str = "fsync") -> Callable[..., Any]:
    """Return a system call that is another one for descriptors of one kind, and itself for all others."""
    usual = getattr(os, name)

    def choosing(fd: int, *args: Any) -> Any:
        return (call if kind(os.fstat(fd).st_mode) else usual)(fd, *args)

    return choosing


# --- What a write does ---


def test_a_write_replaces_the_content(directory: Directory, store: Path) -> None:
    """The file has the new content, and is the only one."""
    write(directory, NAME, NEW)
    assert contents(store.parent) == {NAME: NEW}


def test_a_file_gets_the_time_that_was_asked_for(directory: Directory, store: Path) -> None:
    """And that of its writing where none was."""
    write(directory, NAME, NEW, mtime_ns=1_234_567_890_123_456_789)
    assert store.stat().st_mtime_ns == 1_234_567_890_123_456_789
    write(directory, NAME, NEW)
    assert abs(store.stat().st_mtime_ns - time.time_ns()) < 60 * 10**9


@pytest.mark.parametrize("mtime_ns", [5, 10**30])
def test_a_time_that_cannot_be_set_keeps_nothing_from_being_written(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path, mtime_ns: int
) -> None:
    """A file system may not know it, and a clock may be anywhere."""
    if mtime_ns == 5:
        monkeypatch.setattr(os, "utime", fails_with(errno.EPERM))
        monkeypatch.setattr(os, "supports_fd", {os.utime})
    write(directory, NAME, NEW, mtime_ns=mtime_ns)
    assert contents(store.parent) == {NAME: NEW}
    assert abs(store.stat().st_mtime_ns - time.time_ns()) < 60 * 10**9


def test_a_write_makes_a_file_that_is_not_there(directory: Directory, place: Path) -> None:
    """Replacing does not ask for something to replace."""
    write(directory, NAME, NEW)
    assert contents(place) == {NAME: NEW}


def test_creating_makes_a_file(directory: Directory, place: Path) -> None:
    """The file has one name only, for all that it was made under another."""
    write(directory, NAME, NEW, create=True)
    assert contents(place) == {NAME: NEW}
    assert (place / NAME).stat().st_nlink == 1


def test_creating_never_replaces(directory: Directory, store: Path) -> None:
    """A file that is there already stays as it is, to the inode."""
    before = store.stat()
    with pytest.raises(AlreadyThereError):
        write(directory, NAME, NEW, create=True)
    assert contents(store.parent) == {NAME: OLD}
    assert os.path.samestat(before, store.stat())


def test_creating_does_not_follow_a_link_that_leads_nowhere(directory: Directory, place: Path) -> None:
    """The link is something that is there already."""
    (place / NAME).symlink_to(place / "elsewhere")
    with pytest.raises(AlreadyThereError):
        write(directory, NAME, NEW, create=True)
    assert not (place / "elsewhere").exists()


@either_way
def test_a_write_returns_the_status_of_the_file_that_it_made(
    directory: Directory, store: Path, *, create: bool
) -> None:
    """By it the caller knows whether what it finds under the name later is its own file."""
    state_before(store, create=create)
    status = write(directory, NAME, NEW, create=create)
    assert os.path.samestat(status, store.stat())
    assert status.st_size == len(NEW)


@either_way
@pytest.mark.parametrize("content", [b"", b"x", os.urandom(3_000_000)], ids=["empty", "one byte", "3 MB"])
def test_any_content_is_written_whole(directory: Directory, store: Path, *, content: bytes, create: bool) -> None:
    """Whatever its length."""
    state_before(store, create=create)
    write(directory, NAME, content, create=create)
    assert store.read_bytes() == content


@either_way
def test_short_writes_are_continued(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path, *, create: bool
) -> None:
    """The system may take a piece at a time."""
    state_before(store, create=create)
    system_write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: system_write(fd, bytes(data)[:7]))
    write(directory, NAME, NEW, create=create)
    assert store.read_bytes() == NEW


@either_way
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
def test_the_file_is_private_whatever_the_umask(
    directory: Directory,
    store: Path,
    umask: Callable[[int], int],
    *,
    mask: int,
    create: bool,
) -> None:
    """It is under its temporary name too."""
    state_before(store, create=create)
    umask(mask)
    modes = []

    def look() -> None:
        modes.extend([stat.S_IMODE(directory.status(name).st_mode) for name in directory.names() if name != NAME])

    write(directory, NAME, NEW, create=create, pre_rename_check=look)
    assert [*modes, stat.S_IMODE(store.stat().st_mode)] == [0o600, 0o600]


def test_a_loose_mode_is_not_kept(directory: Directory, store: Path) -> None:
    """The new file does not inherit the mode of the one that it replaces."""
    store.chmod(0o666)
    write(directory, NAME, NEW)
    assert stat.S_IMODE(store.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user, which only root may")
def test_root_leaves_the_store_to_its_owner(directory: Directory, store: Path) -> None:
    """The user whose store it is can open it afterwards."""
    os.chown(store, 65534, 65533)
    write(directory, NAME, NEW)
    status = store.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (65534, 65533, 0o600)


def test_a_reader_that_has_the_old_file_open_keeps_it(directory: Directory, store: Path) -> None:
    """Nothing is written in place: who has begun to read the old state reads it to its end."""
    with store.open("rb", buffering=0) as reader:
        assert reader.read(5) == OLD[:5]
        write(directory, NAME, NEW)
        assert reader.read() == OLD[5:]


# --- Its order ---


def watch(monkeypatch: pytest.MonkeyPatch, place: Path) -> list[tuple[str, list[bytes]]]:
    """Write down each operation that places or syncs, and the contents of the folder just before it."""
    events: list[tuple[str, list[bytes]]] = []

    def watched(name: str) -> Callable[..., Any]:
        call = getattr(os, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            kind = name
            if name == "fsync":
                kind = "sync folder" if stat.S_ISDIR(os.fstat(args[0]).st_mode) else "sync file"
            events.append((kind, sorted(contents(place).values())))
            return call(*args, **kwargs)

        return wrapper

    for name in ("fsync", "replace", "link", "unlink"):
        monkeypatch.setattr(os, name, watched(name))
    return events


def test_a_replacement_is_durable_before_it_is_seen(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path
) -> None:
    """All of the content is synced, then takes the name, then the name is synced; the old one is there until then."""
    events = watch(monkeypatch, store.parent)
    write(directory, NAME, NEW, pre_rename_check=lambda: events.append(("before placing", [store.read_bytes()])))
    assert events == [
        ("sync file", [NEW, OLD]),
        ("before placing", [OLD]),
        ("replace", [NEW, OLD]),
        ("sync folder", [NEW]),
    ]


def test_a_creation_is_durable_before_it_is_seen(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, place: Path
) -> None:
    """All of the content is synced, then takes the free name, then the name is synced, the other one gone."""
    events = watch(monkeypatch, place)
    write(directory, NAME, NEW, create=True, pre_rename_check=lambda: events.append(("before placing", [])))
    assert events == [
        ("sync file", [NEW]),
        ("before placing", []),
        ("link", [NEW]),
        ("unlink", [NEW, NEW]),
        ("sync folder", [NEW]),
    ]


def test_on_macos_the_disk_itself_is_synced(monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path) -> None:
    """There fsync leaves the data in the disk's own cache."""
    asked = []
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda fd, command: asked.append((os.fstat(fd).st_size, command)))
    events = watch(monkeypatch, store.parent)
    write(directory, NAME, NEW)
    assert asked == [(len(NEW), 51)]
    assert [kind for kind, _ in events] == ["replace", "sync folder"]
    assert store.read_bytes() == NEW


def test_on_macos_a_disk_that_cannot_be_asked_is_synced_as_usual(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path
) -> None:
    """Disks of other makes do not know the command."""
    events = watch(monkeypatch, store.parent)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", fails_with(errno.ENOTSUP))
    write(directory, NAME, NEW)
    assert [kind for kind, _ in events] == ["sync file", "replace", "sync folder"]


def test_on_windows_a_write_goes_by_whole_paths(monkeypatch: pytest.MonkeyPatch, place: Path, tmp_path: Path) -> None:
    """Creating, replacing and sweeping work where folders have no descriptors, from any working directory."""
    monkeypatch.setattr(folder_module, "HAS_DIRECTORY_FDS", False)
    monkeypatch.chdir(tmp_path)
    with Directory.opened(place) as directory:
        write(directory, NAME, OLD, create=True)
        with pytest.raises(AlreadyThereError):
            write(directory, NAME, NEW, create=True)
        (place / f".{NAME}.{'0' * 16}.tmp").touch()
        remove_stale_temp_files(directory, NAME)
        write(directory, NAME, NEW)
    assert contents(place) == {NAME: NEW}


# --- The temporary file ---


def test_the_temporary_name_cannot_be_foreseen(directory: Directory, store: Path) -> None:
    """It belongs to the store by its pattern, is hidden, and is another one each time."""
    seen: list[str] = []
    for _ in range(5):
        write(directory, NAME, NEW, pre_rename_check=lambda: seen.extend(set(directory.names()) - {NAME}))
    assert len(set(seen)) == len(seen) == 5
    assert all(TEMPORARY.fullmatch(name) for name in seen)
    assert contents(store.parent) == {NAME: NEW}


@pytest.mark.parametrize("target", ["victim", "nowhere"])
def test_a_link_at_the_temporary_name_is_not_followed(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path, target: str
) -> None:
    """Even if the name were known beforehand, nothing would be written through a link."""
    place = store.parent
    (place / "victim").write_bytes(b"somebody's")
    (place / f".{NAME}.{'00' * 8}.tmp").symlink_to(place / target)
    monkeypatch.setattr(os, "urandom", bytes)
    with pytest.raises(StoreFileError, match="nothing was saved: file exists"):
        write(directory, NAME, NEW)
    assert store.read_bytes() == OLD
    assert (place / "victim").read_bytes() == b"somebody's"
    assert not (place / "nowhere").exists()


def test_a_file_at_the_temporary_name_is_not_opened(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path
) -> None:
    """Somebody may have it open, and would read what we write."""
    planted = store.with_name(f".{NAME}.{'00' * 8}.tmp")
    planted.touch(mode=0o666)
    monkeypatch.setattr(os, "urandom", bytes)
    with planted.open("rb") as reader:
        with pytest.raises(StoreFileError, match="file exists"):
            write(directory, NAME, NEW)
        assert reader.read() == b""
    assert store.read_bytes() == OLD


# --- Faults before the new content is placed ---


@either_way
@pytest.mark.parametrize(
    ("call", "number", "advice"),
    [
        ("open", errno.EMFILE, "too many open files"),
        ("open", errno.ENOSPC, "Free some space"),
        ("open", errno.EROFS, "The file system is read-only"),
        ("open", errno.EACCES, "Check who owns the file"),
        ("write", errno.ENOSPC, "Free some space"),
        ("write", errno.EDQUOT, "larger quota"),
        ("write", errno.EIO, "Look at the disk"),
        ("fsync", errno.EIO, "Look at the disk"),
        ("fsync", errno.ENOSPC, "Free some space"),
        ("replace and link", errno.EIO, "Look at the disk"),
        ("replace and link", errno.EROFS, "The file system is read-only"),
        ("replace and link", errno.EACCES, "Check who owns the file"),
    ],
)
def test_a_fault_leaves_the_old_state_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
    directory: Directory,
    store: Path,
    *,
    create: bool,
    call: str,
    number: int,
    advice: str,
) -> None:
    """The error says that nothing was saved, and what to do; no temporary file is left."""
    before = state_before(store, create=create)
    open_before = descriptors()
    with monkeypatch.context() as patch:
        for name in call.split(" and "):
            patch.setattr(os, name, fails_with(number))
        with pytest.raises(StoreFileError, match="nothing was saved") as caught:
            write(directory, NAME, NEW, create=create)
    assert not isinstance(caught.value, DurabilityUnknownError)
    assert caught.value.path == store
    assert advice in caught.value.advice
    assert isinstance(caught.value.__cause__, OSError)
    assert descriptors() == open_before, "while the error is kept"
    assert contents(store.parent) == before


@either_way
def test_a_disk_that_fills_up_in_the_middle_leaves_the_old_state(
    monkeypatch: pytest.MonkeyPatch,
    directory: Directory,
    store: Path,
    *,
    create: bool,
) -> None:
    """The first piece fits, the second does not."""
    before = state_before(store, create=create)
    system_write, room = os.write, iter([100])

    def filling(fd: int, data: bytes) -> int:
        size = next(room, None)
        if size is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return system_write(fd, bytes(data)[:size])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", filling)
        with pytest.raises(StoreFileError, match=r"no space left on device.*Free some space"):
            write(directory, NAME, NEW, create=create)
    assert contents(store.parent) == before


@either_way
def test_a_real_limit_on_the_size_of_files_leaves_the_old_state(
    directory: Directory, store: Path, *, create: bool
) -> None:
    """The kernel takes what fits, and refuses the rest."""
    before = state_before(store, create=create)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(StoreFileError, match=r"nothing was saved.*Raise the limit on the size of files"):
            write(directory, NAME, NEW, create=create)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(store.parent) == before


def test_an_error_of_closing_is_not_passed_over(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path
) -> None:
    """Network file systems tell only then that the data did not arrive."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", does_and_fails("close", errno.EDQUOT))
        with pytest.raises(StoreFileError, match="nothing was saved: disk quota exceeded"):
            write(directory, NAME, NEW, pre_rename_check=lambda: pytest.fail("the data did not arrive"))
    assert contents(store.parent) == {NAME: OLD}


@either_way
def test_a_system_without_random_numbers_saves_nothing(
    monkeypatch: pytest.MonkeyPatch,
    directory: Directory,
    store: Path,
    *,
    create: bool,
) -> None:
    """The error is ours, and nothing is removed under a name that was never made up."""
    before = state_before(store, create=create)
    with monkeypatch.context() as patch:
        patch.setattr(os, "urandom", fails_with(errno.EIO))
        patch.setattr(os, "unlink", lambda *_args, **_kwargs: pytest.fail("there is nothing to remove"))
        with pytest.raises(StoreFileError, match="nothing was saved: input/output error"):
            write(directory, NAME, NEW, create=create)
    assert contents(store.parent) == before


@either_way
def test_a_process_without_memory_saves_nothing(
    monkeypatch: pytest.MonkeyPatch,
    directory: Directory,
    store: Path,
    *,
    create: bool,
) -> None:
    """The error is ours and says what to do."""
    before = state_before(store, create=create)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fails_with(MemoryError()))
        with pytest.raises(StoreFileError, match=r"nothing was saved: cannot allocate memory\. Give .* more memory"):
            write(directory, NAME, NEW, create=create)
    assert contents(store.parent) == before


def test_a_failed_sync_is_not_tried_again(monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path) -> None:
    """A second fsync of the same descriptor would succeed, and the data be lost all the same."""
    synced = []

    def once(fd: int) -> None:
        synced.append(fd)
        if len(synced) == 1:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", once)
    with pytest.raises(StoreFileError, match="nothing was saved"):
        write(directory, NAME, NEW)
    assert len(synced) == 1
    assert contents(store.parent) == {NAME: OLD}


@either_way
@pytest.mark.parametrize("error", [LockTimeoutError("the lock", "again"), UnsafeFileError("unsafe"), ValueError("x")])
def test_what_is_raised_before_placing_ends_the_write(
    directory: Directory,
    store: Path,
    *,
    create: bool,
    error: Exception,
) -> None:
    """It goes through as it is; it says why the lock is not ours any more."""
    before = state_before(store, create=create)
    with pytest.raises(type(error)) as caught:
        write(directory, NAME, NEW, create=create, pre_rename_check=fails_with(error))
    assert caught.value is error
    assert contents(store.parent) == before


def test_a_system_error_before_placing_is_a_typed_error(directory: Directory, store: Path) -> None:
    """A lock file that cannot be looked at ends the write like any fault."""
    with pytest.raises(StoreFileError, match="nothing was saved: input/output error"):
        write(directory, NAME, NEW, pre_rename_check=fails_with(errno.EIO))
    assert contents(store.parent) == {NAME: OLD}


def test_a_temporary_file_that_cannot_be_removed_does_not_hide_the_fault(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path
) -> None:
    """The first error is the one that is told; the file is swept at the next save."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails_with(errno.EIO))
        patch.setattr(os, "unlink", fails_with(errno.EROFS))
        with pytest.raises(StoreFileError, match=r"nothing was saved.*input/output error"):
            write(directory, NAME, NEW)
    assert store.read_bytes() == OLD
    remove_stale_temp_files(directory, NAME)
    assert contents(store.parent) == {NAME: OLD}


@either_way
@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace and link"])
def test_an_interruption_leaves_the_old_state_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
    directory: Directory,
    store: Path,
    *,
    create: bool,
    call: str,
) -> None:
    """Ctrl-C at any step goes through as it is, and no temporary file is left."""
    before = state_before(store, create=create)
    with monkeypatch.context() as patch:
        for name in call.split(" and "):
            patch.setattr(os, name, fails_with(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            write(directory, NAME, NEW, create=create)
    assert contents(store.parent) == before


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_an_interruption_after_a_step_leaves_nothing_either(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path, call: str
) -> None:
    """The signal may come when the step is done."""
    usual = getattr(os, call)

    def interrupted(*args: Any) -> None:
        usual(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, call, interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(directory, NAME, NEW)
    assert contents(store.parent) == {NAME: OLD}


# --- Faults after it is placed ---


@either_way
def test_a_folder_that_cannot_be_synced_is_saved_with_unknown_durability(
    monkeypatch: pytest.MonkeyPatch,
    directory: Directory,
    store: Path,
    *,
    create: bool,
) -> None:
    """The new state is there for all to see, so the error must not say "not saved"."""
    state_before(store, create=create)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", only_for(stat.S_ISDIR, fails_with(errno.EIO)))
        with pytest.raises(DurabilityUnknownError, match="is saved, but may not survive a power cut: input") as caught:
            write(directory, NAME, NEW, create=create)
    assert caught.value.path == store
    assert "do it once more" in caught.value.advice
    assert isinstance(caught.value.__cause__, OSError)
    assert contents(store.parent) == {NAME: NEW}


@either_way
def test_a_rename_that_is_done_and_reports_an_error_is_saved(
    monkeypatch: pytest.MonkeyPatch,
    directory: Directory,
    store: Path,
    *,
    create: bool,
) -> None:
    """Network file systems lose the answer at times: what counts is what is there."""
    state_before(store, create=create)
    name = "link" if create else "replace"
    with monkeypatch.context() as patch:
        patch.setattr(os, name, does_and_fails(name, errno.EIO))
        with pytest.raises(DurabilityUnknownError, match="is saved, but may not survive a power cut"):
            write(directory, NAME, NEW, create=create)
    assert contents(store.parent) == {NAME: NEW}


def test_a_creation_whose_other_name_stays_is_saved(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, place: Path
) -> None:
    """The store is there, and the second name is swept at the next save."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", fails_with(errno.EIO))
        with pytest.raises(DurabilityUnknownError):
            write(directory, NAME, NEW, create=True)
    assert (place / NAME).read_bytes() == NEW
    remove_stale_temp_files(directory, NAME)
    assert contents(place) == {NAME: NEW}


def test_a_rename_that_fails_beside_a_file_of_another_writer_is_not_saved(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path
) -> None:
    """A file at the name is only ours if it is the very one that we wrote."""

    def other_writer(*_args: object, **_kwargs: object) -> None:
        store.unlink()
        store.write_bytes(NEW)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", other_writer)
        with pytest.raises(StoreFileError, match="nothing was saved"):
            write(directory, NAME, NEW)
    assert contents(store.parent) == {NAME: NEW}


def test_where_nothing_can_be_looked_at_nothing_is_claimed_to_be_saved(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path
) -> None:
    """A dead disk answers no question."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fails_with(errno.EIO))
        with pytest.raises(StoreFileError, match="nothing was saved"):
            write(directory, NAME, NEW, pre_rename_check=lambda: patch.setattr(os, "stat", fails_with(errno.EIO)))
    assert contents(store.parent) == {NAME: OLD}


@either_way
def test_an_interruption_after_placing_leaves_the_new_state(
    monkeypatch: pytest.MonkeyPatch,
    directory: Directory,
    store: Path,
    *,
    create: bool,
) -> None:
    """Ctrl-C goes through, and the folder holds the new state alone."""
    state_before(store, create=create)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", only_for(stat.S_ISDIR, fails_with(KeyboardInterrupt())))
        with pytest.raises(KeyboardInterrupt):
            write(directory, NAME, NEW, create=create)
    assert contents(store.parent) == {NAME: NEW}


# --- File systems without links ---


@without_links
def test_without_links_a_file_is_created_by_renaming(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, place: Path, number: int
) -> None:
    """FAT and some network file systems have none."""
    monkeypatch.setattr(os, "link", fails_with(number))
    status = write(directory, NAME, NEW, create=True)
    assert contents(place) == {NAME: NEW}
    assert os.path.samestat(status, (place / NAME).stat())


@without_links
def test_without_links_creating_never_replaces_either(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path, number: int
) -> None:
    """The rename would overwrite, so the name is looked at first."""
    monkeypatch.setattr(os, "link", fails_with(number))
    monkeypatch.setattr(os, "replace", lambda *_args, **_kwargs: pytest.fail("it would overwrite"))
    with pytest.raises(AlreadyThereError):
        write(directory, NAME, NEW, create=True)
    assert contents(store.parent) == {NAME: OLD}


def test_without_links_a_name_that_cannot_be_looked_at_is_not_taken_for_free(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path
) -> None:
    """Only "there is none" means that there is none."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", fails_with(errno.EPERM))
        with pytest.raises(StoreFileError, match="nothing was saved"):
            write(
                directory,
                NAME,
                NEW,
                create=True,
                pre_rename_check=lambda: patch.setattr(os, "stat", fails_with(errno.EIO)),
            )
    assert contents(store.parent) == {NAME: OLD}


# --- What killed writers leave ---


def test_a_killed_writer_leaves_the_old_state_and_one_file_that_is_swept(directory: Directory, store: Path) -> None:
    """A real process is killed with all of its content written; the next writer cleans up."""
    child = os.fork()
    if not child:
        try:
            write(directory, NAME, NEW, pre_rename_check=lambda: os.kill(os.getpid(), signal.SIGKILL))
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    left = contents(store.parent)
    assert left.pop(NAME) == OLD
    assert [bool(TEMPORARY.fullmatch(name)) for name in left] == [True]
    remove_stale_temp_files(directory, NAME)
    assert contents(store.parent) == {NAME: OLD}


def test_a_writer_killed_while_creating_leaves_a_whole_store(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, place: Path
) -> None:
    """Between the two names of the new file it has both, and sweeping one keeps the other."""
    child = os.fork()
    if not child:
        try:
            monkeypatch.setattr(os, "unlink", lambda *_args, **_kwargs: os.kill(os.getpid(), signal.SIGKILL))
            write(directory, NAME, NEW, create=True)
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    assert list(contents(place).values()) == [NEW, NEW]
    remove_stale_temp_files(directory, NAME)
    assert contents(place) == {NAME: NEW}


def test_sweeping_removes_all_leftovers(directory: Directory, place: Path) -> None:
    """As many as there are, whatever is in them."""
    for number in range(5):
        (place / f".{NAME}.{number:016x}.tmp").write_bytes(NEW)
    remove_stale_temp_files(directory, NAME)
    assert contents(place) == {}


NOT_OURS = [
    NAME,
    f".{NAME}.lock",
    f"{NAME}.0123456789abcdef.tmp",
    f".{NAME}.0123456789abcde.tmp",
    f".{NAME}.0123456789abcdef0.tmp",
    f".{NAME}.0123456789ABCDEF.tmp",
    f".{NAME}.0123456789abcdeg.tmp",
    f".{NAME}.0123456789abcdef.tmp.bak",
    f".{NAME}.0123456789abcdef.tmp\n",
    f".{NAME}.0123456789abcdef.bak",
    f"x.{NAME}.0123456789abcdef.tmp",
    ".other.keystore.0123456789abcdef.tmp",
    ".tokensXkeystore.0123456789abcdef.tmp",
    f".{NAME}.{NAME}.0123456789abcdef.tmp",
    ".0123456789abcdef.tmp",
]


@pytest.mark.parametrize("name", NOT_OURS)
def test_sweeping_keeps_what_is_not_a_leftover_of_this_store(directory: Directory, place: Path, name: str) -> None:
    """Files of the user and of other stores stay."""
    (place / name).write_bytes(b"keep")
    remove_stale_temp_files(directory, NAME)
    assert contents(place) == {name: b"keep"}


def test_sweeping_takes_the_stores_name_literally(directory: Directory, place: Path) -> None:
    """Dots, plus signs and brackets in a name mean themselves."""
    for name in ("a+b[1].(x)", "aab1.x"):
        (place / f".{name}.0123456789abcdef.tmp").touch()
    remove_stale_temp_files(directory, "a+b[1].(x)")
    assert list(contents(place)) == [".aab1.x.0123456789abcdef.tmp"]


def test_sweeping_removes_only_files(directory: Directory, place: Path) -> None:
    """A folder, a FIFO or a link of that name is nothing that we have made."""
    (place / "target").write_bytes(b"keep")
    names = [place / f".{NAME}.{number:016x}.tmp" for number in range(3)]
    names[0].mkdir()
    os.mkfifo(names[1])
    names[2].symlink_to(place / "target")
    remove_stale_temp_files(directory, NAME)
    assert sorted(place.iterdir()) == sorted([*names, place / "target"])
    assert (place / "target").read_bytes() == b"keep"


def test_sweeping_removes_only_files_of_this_user(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, place: Path
) -> None:
    """In a folder that all may write to, others may have made it; it is theirs to remove."""
    left = place / f".{NAME}.0123456789abcdef.tmp"
    left.touch()
    owner = left.stat().st_uid
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: owner + 1)
        remove_stale_temp_files(directory, NAME)
    assert left.exists()


@pytest.mark.parametrize("call", ["unlink", "stat"])
def test_a_leftover_that_cannot_be_removed_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, place: Path, call: str
) -> None:
    """It harms nobody, and the save that is under way must not fail on it."""
    left = place / f".{NAME}.0123456789abcdef.tmp"
    left.touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails_with(errno.EACCES))
        remove_stale_temp_files(directory, NAME)
    assert left.exists()


def test_a_leftover_that_somebody_else_removes_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, place: Path
) -> None:
    """The others are removed all the same."""
    left = place / f".{NAME}.0123456789abcdef.tmp"
    left.touch()
    gone = f".{NAME}.{'0' * 16}.tmp"
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", lambda _fd: [gone, left.name])
        remove_stale_temp_files(directory, NAME)
    assert not left.exists()


def test_a_folder_that_cannot_be_listed_stops_nobody(monkeypatch: pytest.MonkeyPatch, directory: Directory) -> None:
    """Listing takes a descriptor of its own, so it fails where a process has no more of them."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", fails_with(errno.EMFILE))
        remove_stale_temp_files(directory, NAME)

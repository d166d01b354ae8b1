from __future__ import annotations

import errno
import os
import re
import signal
import stat
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from support import IS_ROOT, descriptors
from zoho_keystore._fs import directory as directory_module
from zoho_keystore._fs.atomic import AlreadyThereError, remove_stale_temp_files, write
from zoho_keystore._fs.directory import Directory
from zoho_keystore.errors import DurabilityUnknownError, LockTimeoutError, StoreFileError, UnsafeFileError

if sys.platform != "win32":
    import fcntl
    import resource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")

NAME = "tokens.keystore"
TEMP_NAME = re.compile(r"\.tokens\.keystore\.[0-9a-f]{16}\.tmp")
STALE = f".{NAME}.0123456789abcdef.tmp"
OLD, NEW = b"the old content", b"the new content" * 10

each_error_without_links = pytest.mark.parametrize(
    "number",
    sorted({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}),
    ids=errno.errorcode.get,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the path of a private, empty directory."""
    path = tmp_path / "directory"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def directory(path: Path) -> Iterator[Directory]:
    """Give the directory, open."""
    with Directory.opened(path) as opened:
        yield opened


@pytest.fixture
def store(path: Path) -> Path:
    """Give a store with the old content in the directory."""
    store = path / NAME
    store.write_bytes(OLD)
    store.chmod(0o600)
    return store


@pytest.fixture(params=[False, True], ids=["replace", "create"])
def create(request: pytest.FixtureRequest, store: Path) -> bool:
    """Give the argument of a write: whether it is to create the store, which then does not exist."""
    if request.param:
        store.unlink()
    return bool(request.param)


def contents(path: Path) -> dict[str, bytes]:
    """Return the files in a directory and their contents."""
    return {path.name: path.read_bytes() for path in path.iterdir()}


def inject(
    patch: pytest.MonkeyPatch, call: str, error: int | BaseException, *, after: bool = False, on_directory: bool = False
) -> None:
    """Let system calls fail.

    Args:
        patch: Undoes it.
        call: The names of the calls, separated by a comma.
        error: What to raise, or the number of an OSError.
        after: Whether the calls do their work before they fail.
        on_directory: Whether only calls on the descriptor of a directory fail.
    """

    def failing(name: str) -> Callable[..., Any]:
        system_call = getattr(os, name)

        def fails(*args: Any, **kwargs: Any) -> Any:
            if on_directory and not stat.S_ISDIR(os.fstat(args[0]).st_mode):
                return system_call(*args, **kwargs)
            if after:
                system_call(*args, **kwargs)
            raise OSError(error, os.strerror(error)) if isinstance(error, int) else error

        return fails

    for name in call.split(","):
        patch.setattr(os, name, failing(name))


# --- The content, and who may read it ---


@pytest.mark.parametrize("content", [b"", b"x", os.urandom(3_000_000)], ids=["empty", "one byte", "3 MB"])
def test_write_writes_whole_content(directory: Directory, store: Path, *, content: bytes, create: bool) -> None:
    """The returned status is the one of the file, by which the caller recognizes it; there is no other file."""
    status = write(directory, NAME, content, create=create)
    assert contents(store.parent) == {NAME: content}
    assert os.path.samestat(status, store.stat())
    assert status.st_size == len(content)
    assert store.stat().st_nlink == 1


def test_write_makes_missing_file(directory: Directory, path: Path) -> None:
    """Without ``create`` the file may or may not exist."""
    write(directory, NAME, NEW)
    assert contents(path) == {NAME: NEW}


@pytest.mark.needs_special_files("link")
@pytest.mark.parametrize("is_link", [False, True], ids=["file", "link to nothing"])
def test_write_create_never_replaces(directory: Directory, path: Path, *, is_link: bool) -> None:
    """A file stays as it is, and a symbolic link is not followed."""
    store, target = path / NAME, path / "target"
    if is_link:
        store.symlink_to(target)
    else:
        store.write_bytes(OLD)
    before = store.lstat()
    with pytest.raises(AlreadyThereError):
        write(directory, NAME, NEW, create=True)
    assert os.path.samestat(before, store.lstat())
    assert is_link or contents(path) == {NAME: OLD}
    assert not target.exists()


def test_write_continues_after_short_writes(monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path) -> None:
    """The system may take fewer bytes than it is given."""
    system_write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: system_write(fd, bytes(data)[:7]))
    write(directory, NAME, NEW)
    assert store.read_bytes() == NEW


@pytest.mark.needs_modes
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
def test_write_makes_private_file(
    directory: Directory, store: Path, umask: Callable[[int], int], *, mask: int, create: bool
) -> None:
    """Whatever the umask and the old mode; the temporary file is private too."""
    if not create:
        store.chmod(0o666)
    umask(mask)
    modes = []

    def look() -> None:
        modes.extend([stat.S_IMODE(directory.status(name).st_mode) for name in directory.names() if name != NAME])

    write(directory, NAME, NEW, create=create, pre_rename_check=look)
    assert [*modes, stat.S_IMODE(store.stat().st_mode)] == [0o600, 0o600]


@pytest.mark.skipif(not IS_ROOT, reason="gives files to another user, which only root may")
def test_write_by_root_keeps_owner(directory: Directory, store: Path) -> None:
    """The user whose store it is can open it afterwards."""
    os.chown(store, 65534, 65533)
    write(directory, NAME, NEW)
    status = store.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (65534, 65533, 0o600)


@pytest.mark.needs_directory_fds
def test_write_leaves_open_old_file_to_its_readers(directory: Directory, store: Path) -> None:
    """Nothing is written in place."""
    with store.open("rb", buffering=0) as reader:
        assert reader.read(5) == OLD[:5]
        write(directory, NAME, NEW)
        assert reader.read() == OLD[5:]


# --- The order of the steps ---


def record_steps(monkeypatch: pytest.MonkeyPatch, path: Path) -> list[tuple[str, list[bytes]]]:
    """Return a list that gets each step of a write and the contents of the directory just before it."""
    steps: list[tuple[str, list[bytes]]] = []

    def recorded(name: str) -> Callable[..., Any]:
        call = getattr(os, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            kind = name
            if name == "fsync":
                kind = "fsync directory" if stat.S_ISDIR(os.fstat(args[0]).st_mode) else "fsync file"
            steps.append((kind, sorted(contents(path).values())))
            return call(*args, **kwargs)

        return wrapper

    for name in ("fsync", "replace", "link", "unlink"):
        monkeypatch.setattr(os, name, recorded(name))
    return steps


@pytest.mark.needs_directory_fds
def test_write_is_durable_before_it_is_visible(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path, *, create: bool
) -> None:
    """The content reaches the disk, then takes the name, then the name reaches the disk."""
    old = list(contents(store.parent).values())
    steps = record_steps(monkeypatch, store.parent)
    write(directory, NAME, NEW, create=create, pre_rename_check=lambda: steps.append(("check", [])))
    rename = [("link", [NEW]), ("unlink", [NEW, NEW])] if create else [("replace", [NEW, OLD])]
    assert steps == [("fsync file", [NEW, *old]), ("check", []), *rename, ("fsync directory", [NEW])]


@pytest.mark.needs_directory_fds
@pytest.mark.parametrize("is_supported", [True, False])
def test_write_on_macos_flushes_the_disk(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path, path: Path, *, is_supported: bool
) -> None:
    """There fsync leaves the data in the disk's cache; not all disks support the command."""
    commands = []

    def command(fd: int, number: int) -> None:
        commands.append((os.fstat(fd).st_size, number))
        if not is_supported:
            raise OSError(errno.ENOTSUP, "Not supported")

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", command)
    steps = record_steps(monkeypatch, store.parent)
    write(directory, NAME, NEW)
    assert [size for size, number in commands if number == 51] == [len(NEW), path.stat().st_size]
    synced = ("replace",) if is_supported else ("fsync file", "replace", "fsync directory")
    assert tuple(kind for kind, _ in steps) == synced


def test_write_on_windows_uses_whole_paths(monkeypatch: pytest.MonkeyPatch, path: Path, tmp_path: Path) -> None:
    """Directories have no descriptors there, and the working directory may be any."""
    monkeypatch.setattr(directory_module, "HAS_DIRECTORY_FDS", False)
    monkeypatch.chdir(tmp_path)
    with Directory.opened(path) as directory:
        write(directory, NAME, OLD, create=True)
        with pytest.raises(AlreadyThereError):
            write(directory, NAME, NEW, create=True)
        (path / STALE).touch()
        remove_stale_temp_files(directory, NAME)
        write(directory, NAME, NEW)
    assert contents(path) == {NAME: NEW}


# --- The temporary file ---


def test_temp_name_is_random(directory: Directory, store: Path) -> None:
    """A name that is known beforehand could be planted; this one is hidden and belongs to the store by its pattern."""
    seen: list[str] = []
    for _ in range(5):
        write(directory, NAME, NEW, pre_rename_check=lambda: seen.extend(set(directory.names()) - {NAME}))
    assert len(set(seen)) == len(seen) == 5
    assert all(TEMP_NAME.fullmatch(name) for name in seen)
    assert contents(store.parent) == {NAME: NEW}


@pytest.mark.needs_special_files("link")
@pytest.mark.parametrize("kind", ["file", "link to file", "link to nothing"])
def test_existing_file_at_temp_name_is_not_opened(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path, kind: str
) -> None:
    """Another user could have it open, or receive the content through a link."""
    victim, planted = store.with_name("victim"), store.with_name(f".{NAME}.{'00' * 8}.tmp")
    victim.write_bytes(b"victim's")
    if kind == "file":
        planted.write_bytes(b"victim's")
    else:
        planted.symlink_to("victim" if kind == "link to file" else "missing")
    monkeypatch.setattr(os, "urandom", bytes)
    with pytest.raises(StoreFileError, match="nothing was saved: file exists"):
        write(directory, NAME, NEW)
    assert sorted(contents(store.parent).values()) == [OLD, b"victim's"]


# --- Errors before the new content is visible ---


@pytest.mark.needs_directory_fds("-open-", "replace-replace,link-", "link-13")
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ("urandom", errno.EIO, "Check the disk"),
        ("open", errno.EMFILE, "too many open files"),
        ("open", errno.ENOSPC, "Free some space"),
        ("open", errno.EROFS, "The file system is read-only"),
        ("open", errno.EACCES, "Check the owner"),
        ("write", errno.ENOSPC, "Free some space"),
        ("write", errno.EDQUOT, "larger quota"),
        ("write", errno.EIO, "Check the disk"),
        ("write", MemoryError(), "cannot allocate memory. Give the process more memory"),
        ("fsync", errno.EIO, "Check the disk"),
        ("fsync", errno.ENOSPC, "Free some space"),
        ("check", errno.EIO, "Check the disk"),
        ("replace,link", errno.EIO, "Check the disk"),
        ("replace,link", errno.EROFS, "The file system is read-only"),
        ("replace,link", errno.EACCES, "Check the owner"),
    ],
)
def test_write_failing_before_rename_leaves_old_content(
    monkeypatch: pytest.MonkeyPatch,
    directory: Directory,
    store: Path,
    *,
    create: bool,
    call: str,
    error: int | BaseException,
    message: str,
) -> None:
    """And no temporary file; the error says that nothing was saved, and what to do next."""
    before = contents(store.parent)
    open_before = descriptors()

    def check() -> None:
        if call == "check" and isinstance(error, int):
            raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patch:
        if call != "check":
            inject(patch, call, error)
        with pytest.raises(StoreFileError, match="nothing was saved") as caught:
            write(directory, NAME, NEW, create=create, pre_rename_check=check)
    assert not isinstance(caught.value, DurabilityUnknownError)
    assert caught.value.path == store
    assert message in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert descriptors() == open_before, "while the error is kept"
    assert contents(store.parent) == before


@pytest.mark.needs_directory_fds
def test_write_beyond_file_size_limit_leaves_old_content(directory: Directory, store: Path, *, create: bool) -> None:
    """The kernel takes the first part, and refuses the rest, as a full disk does."""
    before = contents(store.parent)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(StoreFileError, match=r"nothing was saved.*Raise the limit on the size of files"):
            write(directory, NAME, NEW, create=create)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(store.parent) == before


@pytest.mark.needs_directory_fds
def test_write_reports_error_of_close(monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path) -> None:
    """Network file systems report only then that data did not arrive."""
    with monkeypatch.context() as patch:
        inject(patch, "close", errno.EDQUOT, after=True)
        with pytest.raises(StoreFileError, match="nothing was saved: disk quota exceeded"):
            write(directory, NAME, NEW, pre_rename_check=lambda: pytest.fail("the data did not arrive"))
    assert contents(store.parent) == {NAME: OLD}


def test_write_does_not_repeat_failed_fsync(monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path) -> None:
    """A second fsync of the same descriptor would succeed although the data is lost."""
    synced = []

    def fsync(fd: int) -> None:
        synced.append(fd)
        if len(synced) == 1:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StoreFileError, match="nothing was saved"):
        write(directory, NAME, NEW)
    assert len(synced) == 1
    assert contents(store.parent) == {NAME: OLD}


@pytest.mark.parametrize("error", [LockTimeoutError("the lock", "again"), UnsafeFileError("unsafe"), ValueError("x")])
def test_write_raises_error_of_check_as_it_is(
    directory: Directory, store: Path, *, create: bool, error: Exception
) -> None:
    """It says, for example, that the lock file was replaced."""
    before = contents(store.parent)

    def check() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        write(directory, NAME, NEW, create=create, pre_rename_check=check)
    assert caught.value is error
    assert contents(store.parent) == before


def test_write_that_cannot_remove_temp_file_reports_first_error(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path
) -> None:
    """The next save removes the file."""
    with monkeypatch.context() as patch:
        inject(patch, "fsync", errno.EIO)
        inject(patch, "unlink", errno.EROFS)
        with pytest.raises(StoreFileError, match=r"nothing was saved.*input/output error"):
            write(directory, NAME, NEW)
    assert store.read_bytes() == OLD
    remove_stale_temp_files(directory, NAME)
    assert contents(store.parent) == {NAME: OLD}


@pytest.mark.needs_directory_fds("-open-", "fsync directory", "replace-replace,link")
@pytest.mark.parametrize(
    ("call", "after"),
    [
        ("open", False),
        ("fsync directory", False),
        *((call, after) for call in ("write", "fsync", "replace,link") for after in (False, True)),
    ],
)
def test_write_interrupted_leaves_whole_store_and_no_temp_file(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path, *, create: bool, call: str, after: bool
) -> None:
    """Ctrl-C comes before or after a step, and is raised as it is."""
    before = contents(store.parent)
    with monkeypatch.context() as patch:
        name, _, on_directory = call.partition(" ")
        inject(patch, name, KeyboardInterrupt(), after=after, on_directory=bool(on_directory))
        with pytest.raises(KeyboardInterrupt):
            write(directory, NAME, NEW, create=create)
    is_visible = on_directory or (name == "replace,link" and after)
    assert contents(store.parent) == ({NAME: NEW} if is_visible else before)


# --- Errors after the new content is visible ---


@pytest.mark.needs_directory_fds("fsync", "replace-rename")
@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_write_failing_after_rename_is_durability_unknown(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path, *, create: bool, call: str
) -> None:
    """Not "nothing was saved". Network file systems can report an error for a rename that is done."""
    with monkeypatch.context() as patch:
        if call == "fsync":
            inject(patch, "fsync", errno.EIO, on_directory=True)
        else:
            inject(patch, "link" if create else "replace", errno.EIO, after=True)
        with pytest.raises(DurabilityUnknownError, match="is saved, but may not survive a power cut: input") as caught:
            write(directory, NAME, NEW, create=create)
    assert caught.value.path == store
    assert "do it once more" in caught.value.advice
    assert isinstance(caught.value.__cause__, OSError)
    assert contents(store.parent) == {NAME: NEW}


def test_write_create_that_cannot_remove_temp_name_is_durability_unknown(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, path: Path
) -> None:
    """The next save removes the second name."""
    with monkeypatch.context() as patch:
        inject(patch, "unlink", errno.EIO)
        with pytest.raises(DurabilityUnknownError):
            write(directory, NAME, NEW, create=True)
    assert (path / NAME).read_bytes() == NEW
    remove_stale_temp_files(directory, NAME)
    assert contents(path) == {NAME: NEW}


@pytest.mark.needs_directory_fds
@pytest.mark.parametrize("case", ["file of another writer", "status unknown"])
def test_write_with_unclear_rename_claims_nothing_saved(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path, case: str
) -> None:
    """The same content is not enough, only the same inode; a dead disk answers no question."""

    def replace(*_args: object, **_kwargs: object) -> None:
        if case == "file of another writer":
            store.unlink()
            store.write_bytes(NEW)
        else:
            inject(patch, "stat", errno.EIO)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(StoreFileError, match="nothing was saved"):
            write(directory, NAME, NEW)
    assert contents(store.parent) == {NAME: NEW if case == "file of another writer" else OLD}


# --- File systems without hard links ---


@each_error_without_links
@pytest.mark.parametrize("exists", [False, True])
def test_write_create_without_links_renames_to_free_name(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path, number: int, *, exists: bool
) -> None:
    """FAT and some network file systems have none. A rename would overwrite, so the name is looked up before."""
    if not exists:
        store.unlink()
    with monkeypatch.context() as patch:
        inject(patch, "link", number)
        with pytest.raises(AlreadyThereError) if exists else nullcontext():
            write(directory, NAME, NEW, create=True)
    assert contents(store.parent) == {NAME: OLD if exists else NEW}


def test_write_create_without_links_does_not_take_failing_status_for_free_name(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path
) -> None:
    """Only "no such file" means that the name is free."""
    with monkeypatch.context() as patch:
        inject(patch, "link", errno.EPERM)
        with pytest.raises(StoreFileError, match="nothing was saved"):
            write(directory, NAME, NEW, create=True, pre_rename_check=lambda: inject(patch, "stat", errno.EIO))
    assert contents(store.parent) == {NAME: OLD}


# --- Temporary files of killed writers ---


@pytest.mark.needs_fork
def test_killed_writer_leaves_whole_store_and_one_stale_file(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, store: Path, *, create: bool
) -> None:
    """A real process is killed before the rename, or between link and unlink; the next writer removes the file."""
    child = os.fork()
    if not child:
        try:
            name = "unlink" if create else "replace"
            monkeypatch.setattr(os, name, lambda *_args, **_kwargs: os.kill(os.getpid(), signal.SIGKILL))
            write(directory, NAME, NEW, create=create)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    whole = NEW if create else OLD
    left = contents(store.parent)
    assert left.pop(NAME) == whole
    assert [(bool(TEMP_NAME.fullmatch(name)), content) for name, content in left.items()] == [(True, NEW)]
    remove_stale_temp_files(directory, NAME)
    assert contents(store.parent) == {NAME: whole}


@pytest.mark.needs_special_files("\\n")
@pytest.mark.parametrize(
    "name",
    [
        NAME,
        f".{NAME}.lock",
        f"{NAME}.0123456789abcdef.tmp",
        f".{NAME}.0123456789abcde.tmp",
        f".{NAME}.0123456789abcdef0.tmp",
        f".{NAME}.0123456789ABCDEF.tmp",
        f".{NAME}.0123456789abcdeg.tmp",
        f"{STALE}.bak",
        f"{STALE}.tmp",
        f"{STALE}\n",
        f".{NAME}.0123456789abcdef.bak",
        f"x{STALE}",
        ".other.keystore.0123456789abcdef.tmp",
        ".tokensXkeystore.0123456789abcdef.tmp",
        f".{NAME}{STALE}",
        ".0123456789abcdef.tmp",
    ],
)
def test_remove_stale_temp_files_removes_only_those_of_the_store(directory: Directory, path: Path, name: str) -> None:
    """All of them, and no file of the user or of another store."""
    (path / name).write_bytes(b"keep")
    for number in range(3):
        (path / f".{NAME}.{number:016x}.tmp").touch()
    remove_stale_temp_files(directory, NAME)
    assert contents(path) == {name: b"keep"}


def test_remove_stale_temp_files_takes_store_name_literally(directory: Directory, path: Path) -> None:
    """A name may have characters that are special in regular expressions."""
    for name in ("a+b[1].(x)", "aab1.x"):
        (path / f".{name}.0123456789abcdef.tmp").touch()
    remove_stale_temp_files(directory, "a+b[1].(x)")
    assert list(contents(path)) == [".aab1.x.0123456789abcdef.tmp"]


@pytest.mark.needs_special_files("FIFO", "link", "another user")
@pytest.mark.parametrize("kind", ["directory", "FIFO", "link", "file of another user"])
def test_remove_stale_temp_files_keeps_what_no_writer_of_this_user_made(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, path: Path, kind: str
) -> None:
    """In a directory such as /tmp, other users may have made it."""
    stale = path / STALE
    if kind == "directory":
        stale.mkdir()
    elif kind == "FIFO":
        os.mkfifo(stale)
    elif kind == "link":
        stale.symlink_to("target")
    else:
        stale.touch()
        owner = stale.stat().st_uid
        monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    remove_stale_temp_files(directory, NAME)
    assert os.path.lexists(stale)


@pytest.mark.parametrize("call", ["unlink", "stat", "listdir"])
def test_remove_stale_temp_files_ignores_errors(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, path: Path, call: str
) -> None:
    """The files do no harm, and the save must not fail because of them."""
    (path / STALE).touch()
    with monkeypatch.context() as patch:
        inject(patch, call, errno.EACCES)
        remove_stale_temp_files(directory, NAME)
    assert (path / STALE).exists()


def test_remove_stale_temp_files_goes_on_after_missing_file(
    monkeypatch: pytest.MonkeyPatch, directory: Directory, path: Path
) -> None:
    """Another process may have removed it after the directory was listed."""
    (path / STALE).touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", lambda _fd: [f".{NAME}.{'0' * 16}.tmp", STALE])
        remove_stale_temp_files(directory, NAME)
    assert not (path / STALE).exists()

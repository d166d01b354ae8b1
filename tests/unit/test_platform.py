"""What differs between systems, with the other systems played on Linux: their functions are replaced by ours."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from support import failing, run_python
from zoho_keystore import _platform as platform
from zoho_keystore import open_keystore
from zoho_keystore._cli import main
from zoho_keystore._fs import atomic, permissions, private_file
from zoho_keystore._fs import directory as directory_module
from zoho_keystore._fs.directory import Directory, make_directories
from zoho_keystore._fs.lock import StoreLock
from zoho_keystore._fs.paths import default_key_ring, default_store, is_same_file, real_path
from zoho_keystore._keys.fernet_key import looks_like_key
from zoho_keystore._leases import LEASE_MS, Lease, Owner
from zoho_keystore._oauth.listener import Listener
from zoho_keystore._operations import doctor
from zoho_keystore._operations.setup import init
from zoho_keystore._storage import freshness
from zoho_keystore.errors import ConfigurationError, LockTimeoutError, StoreFileError, UnsafeFileError

if TYPE_CHECKING:
    from collections.abc import Callable


class FakeClock:
    """A clock that only sleeping moves on; the module's ``time``."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def monotonic(self) -> float:
        """Return the time in seconds."""
        return 1000 + sum(self.slept)

    def sleep(self, seconds: float) -> None:
        """Move the time on."""
        self.slept.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """Replace the clock of retries."""
    clock = FakeClock()
    monkeypatch.setattr(platform, "time", clock)
    return clock


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Play Windows, and give its functions, which a test may replace."""
    functions = SimpleNamespace(
        replace=os.replace,
        create_file=lambda path, flags: os.open(path, flags, 0o600),
        make_directory=lambda path: os.mkdir(path, 0o700),
        others_with_access=lambda _path, **_options: [],
        is_console=lambda _fd: False,
    )
    monkeypatch.setitem(sys.modules, "zoho_keystore._platform.windows", functions)
    monkeypatch.setattr(platform, "IS_WINDOWS", True)
    monkeypatch.setattr(platform, "HAS_PROC", False)
    monkeypatch.setattr(permissions, "HAS_OWNERS", False)
    monkeypatch.setattr(directory_module, "HAS_DIRECTORY_FDS", False)
    return functions


def refusing(times: int, call: Callable[..., Any]) -> tuple[Callable[..., Any], list[object]]:
    """Return a function that fails so often as for a file in use, and the calls of it."""
    calls: list[object] = []

    def call_or_refuse(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) <= times:
            raise PermissionError(errno.EACCES, "The process cannot access the file")
        return call(*args, **options)

    return call_or_refuse, calls


# --- Files in use ---


@pytest.mark.usefixtures("clock")
def test_replace_waits_while_the_file_is_in_use(windows: SimpleNamespace, tmp_path: Path) -> None:
    windows.replace, calls = refusing(5, os.replace)
    (tmp_path / "new").write_bytes(b"new")
    with Directory.opened(tmp_path) as directory:
        directory.replace("new", "old")
    assert (tmp_path / "old").read_bytes() == b"new"
    assert len(calls) == 6


def test_replace_gives_up_after_four_seconds(windows: SimpleNamespace, tmp_path: Path, clock: FakeClock) -> None:
    windows.replace = failing(errno.EACCES)
    with Directory.opened(tmp_path) as directory, pytest.raises(PermissionError):
        directory.replace("new", "old")
    assert 3.9 <= sum(clock.slept) <= 4.1
    assert max(clock.slept) <= 0.1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOENT, errno.EIO, errno.EPERM])
def test_other_errors_are_not_retried(windows: SimpleNamespace, tmp_path: Path, clock: FakeClock, number: int) -> None:
    windows.replace = failing(number)
    with Directory.opened(tmp_path) as directory, pytest.raises(OSError, match=os.strerror(number)):
        directory.replace("new", "old")
    assert not clock.slept


@pytest.mark.needs_modes
@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_posix_retries_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clock: FakeClock, number: int) -> None:
    monkeypatch.setattr(os, "replace", failing(number))
    with Directory.opened(tmp_path) as directory, pytest.raises(PermissionError):
        directory.replace("new", "old")
    assert not clock.slept


@pytest.mark.usefixtures("windows", "clock")
@pytest.mark.parametrize(
    ("call", "work"),
    [
        ("open", lambda path: private_file.read_private_file(path / "file", max_bytes=100)),
        ("open", lambda path: private_file.read_prefix(path / "file", 3)),
        ("unlink", lambda path: Directory(path, None).unlink("file")),
        ("link", lambda path: Directory(path, None).link("file", "other")),
    ],
    ids=["read", "read-prefix", "unlink", "link"],
)
def test_file_that_is_in_use_for_a_moment_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str, work: Callable[[Path], object]
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    function, calls = refusing(3, getattr(os, call))
    monkeypatch.setattr(os, call, function)
    work(tmp_path)
    assert len(calls) == 4


@pytest.mark.usefixtures("windows", "clock")
def test_every_open_of_a_store_is_waited_for(monkeypatch: pytest.MonkeyPatch, store_path: Path, key: bytes) -> None:
    """The store's own and that of its lock file: a virus scanner may have each of them open at any moment."""
    open_keystore(store_path, key=key).close()
    really_open = os.open
    refused: list[object] = []

    def refuse_each_first_time(path: Any, *args: Any, **options: Any) -> int:
        refused.append(path)
        if refused.count(path) == 1 and os.path.lexists(path):
            raise PermissionError(errno.EACCES, "The process cannot access the file")
        return really_open(path, *args, **options)

    monkeypatch.setattr(os, "open", refuse_each_first_time)
    open_keystore(store_path, key=key).clear()
    assert {os.path.basename(path) for path in refused} >= {store_path.name, f".{store_path.name}.lock"}  # type: ignore[call-overload] # no file descriptors


@pytest.mark.usefixtures("windows")
def test_readers_give_way_to_writers(tmp_path: Path, clock: FakeClock) -> None:
    """Readers that never pause would keep a writer from replacing the file."""
    (tmp_path / "file").touch()
    private_file.read_prefix(tmp_path / "file", 3)
    private_file.read_private_file(tmp_path / "file", max_bytes=3)
    assert len(clock.slept) == 2
    assert min(clock.slept) > 0


@pytest.mark.usefixtures("windows", "clock")
def test_directory_in_place_of_a_file_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Windows opens no directory, and says that the permission is denied."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "open", failing(errno.EACCES))
    with pytest.raises(UnsafeFileError, match="this is a directory, not a file"):
        private_file.read_prefix(tmp_path, 3)
    with pytest.raises(PermissionError):
        private_file.read_prefix(tmp_path / "file", 3)


@pytest.mark.usefixtures("windows")
def test_directory_in_place_of_a_lock_file_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, store_path: Path, key: bytes, clock: FakeClock
) -> None:
    store_path.with_name(f".{store_path.name}.lock").mkdir()
    really_open = os.open

    def opened(path: Any, *args: Any, **options: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return really_open(path, *args, **options)

    monkeypatch.setattr(os, "open", opened)
    with pytest.raises(StoreFileError, match="There is a directory where a file should be"):
        open_keystore(store_path, key=key)
    assert not clock.slept


def test_port_is_reserved_on_windows_alone(monkeypatch: pytest.MonkeyPatch, windows: SimpleNamespace) -> None:
    """There, a program that listens on the same port would get the callback of a sign-in."""
    reserved: list[object] = []
    windows.reserve_port = reserved.append
    listener: Listener[str] = Listener(0, "/callback", str)
    with listener.listening():
        assert len(reserved) == 2
    monkeypatch.setattr(platform, "IS_WINDOWS", False)
    with listener.listening():
        assert len(reserved) == 2


# --- Files and directories of the owner ---


@pytest.mark.usefixtures("windows")
def test_windows_uses_whole_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Directories have no descriptors there, and the working directory may be any."""
    path = tmp_path / "a" / "b"
    make_directories(path)
    monkeypatch.chdir(tmp_path)
    with Directory.opened(path) as directory:
        atomic.write(directory, "store", b"old", create=True)
        with pytest.raises(atomic.AlreadyThereError):
            atomic.write(directory, "store", b"new", create=True)
        atomic.write(directory, "store", b"new")
    assert [(file.name, file.read_bytes()) for file in path.iterdir()] == [("store", b"new")]


def test_doctor_names_those_who_have_access_on_windows(
    windows: SimpleNamespace, store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store_path.parent)  # doctor looks for tokens in the working directory, too.
    monkeypatch.setenv("USERNAME", "Ann B")
    monkeypatch.setenv("USERDOMAIN", "DESK")
    monkeypatch.setenv("THE_KEY", key.decode())
    open_keystore(store_path, key=key).close()
    assert not [one for one in doctor.diagnose(store_path, key="env:THE_KEY") if one.is_problem]
    windows.others_with_access = lambda path, *, only_writers: (
        ["Everyone"] if path == str(store_path) and not only_writers else []
    )
    [found] = [one for one in doctor.diagnose(store_path, key="env:THE_KEY") if one.is_problem]
    assert found.what == f"{store_path}: Everyone can use it as well"
    assert found.fix == f"icacls {store_path} /inheritance:r /grant:r 'DESK\\Ann B:F'"
    windows.others_with_access = lambda _path, only_writers: ["Everyone"] if only_writers else []
    [found] = [one for one in doctor.diagnose(store_path, key="env:THE_KEY") if one.is_problem]
    assert "(OI)(CI)F" in found.fix
    windows.others_with_access = failing(errno.EACCES)
    assert not [one for one in doctor.diagnose(store_path, key="env:THE_KEY") if one.is_problem]


@pytest.mark.needs_modes
def test_posix_has_no_acl_of_windows(tmp_path: Path) -> None:
    assert platform.others_with_access(tmp_path) == []


@pytest.mark.usefixtures("windows")
def test_doctor_reports_a_missing_store_on_windows(
    store_path: Path, monkeypatch: pytest.MonkeyPatch, key: bytes
) -> None:
    monkeypatch.chdir(store_path.parent)
    monkeypatch.setenv("ZOHO_KEYSTORE_KEY", key.decode())
    found = [one.what for one in doctor.diagnose(store_path) if one.is_problem]
    assert found == [f"{store_path}: there is no store"]


# --- Times ---


def test_signature_on_windows_leaves_the_change_of_the_status_out(windows: SimpleNamespace, tmp_path: Path) -> None:
    """From Python 3.12 on, fstat and stat give different times as st_ctime_ns there."""
    del windows
    status = os.stat(tmp_path)
    other = SimpleNamespace(**{name: getattr(status, name) for name in dir(status) if name.startswith("st_")})
    other.st_ctime_ns += 10**9
    assert freshness.stat_signature(other) == freshness.stat_signature(status)  # type: ignore[arg-type] # a stand-in
    assert not freshness.is_racy(other, status.st_mtime_ns + 3 * 10**9)  # type: ignore[arg-type] # as above


# --- Terminals and pipes ---


class Stream:
    """A stream that says whether it is a terminal."""

    def __init__(self, *, is_tty: bool) -> None:
        self.isatty = lambda: is_tty
        self.fileno = lambda: 0


def test_nul_is_no_terminal(windows: SimpleNamespace) -> None:
    """It says that it is one."""
    assert not platform.is_terminal(Stream(is_tty=True))  # type: ignore[arg-type] # a stand-in
    windows.is_console = lambda _fd: True
    assert platform.is_terminal(Stream(is_tty=True))  # type: ignore[arg-type] # a stand-in
    assert not platform.is_terminal(Stream(is_tty=False))  # type: ignore[arg-type] # a stand-in


@pytest.mark.needs_modes
@pytest.mark.parametrize("is_tty", [True, False])
def test_posix_believes_a_stream(*, is_tty: bool) -> None:
    assert platform.is_terminal(Stream(is_tty=is_tty)) is is_tty  # type: ignore[arg-type] # a stand-in


@pytest.mark.needs_modes
def test_closed_pipe_is_epipe_and_on_windows_einval(monkeypatch: pytest.MonkeyPatch) -> None:
    assert platform.is_closed_pipe(OSError(errno.EPIPE, ""))
    assert not platform.is_closed_pipe(OSError(errno.EINVAL, ""))
    monkeypatch.setattr(platform, "IS_WINDOWS", True)
    assert platform.is_closed_pipe(OSError(errno.EINVAL, ""))


# --- Texts ---


@pytest.mark.parametrize(
    ("word", "posix", "windows"),
    [
        ("plain.txt", "plain.txt", "plain.txt"),
        (r"C:\x\pass.exe", r"'C:\x\pass.exe'", r"C:\x\pass.exe"),
        ("two words", "'two words'", "'two words'"),
        ("it's", "'it'\"'\"'s'", "'it''s'"),
        ("$HOME", "'$HOME'", "'$HOME'"),
        ("", "''", "''"),
    ],
)
def test_words_are_quoted_for_the_users_shell(
    monkeypatch: pytest.MonkeyPatch, word: str, posix: str, windows: str
) -> None:
    for is_windows, expected in ((False, posix), (True, windows)):
        monkeypatch.setattr(platform, "IS_WINDOWS", is_windows)
        assert platform.join(["rm", word]) == f"rm {expected}"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (r"C:\x\pass.exe show zoho", [r"C:\x\pass.exe", "show", "zoho"]),
        (r'"C:\Program Files\x.exe" "a b" ""', [r"C:\Program Files\x.exe", "a b", ""]),
        # The examples of Microsoft's documentation of the C runtime.
        (r'"a b c" d e', ["a b c", "d", "e"]),
        (r'"ab\"c" "\\" d', ['ab"c', "\\", "d"]),
        (r'a\\\b d"e f"g h', [r"a\\\b", "de fg", "h"]),
        (r"a\\\"b c d", [r"a\"b", "c", "d"]),
        (r'a\\\\"b c" d e', [r"a\\b c", "d", "e"]),
        (r'a"b"" c d', ['ab" c d']),
        ("tail\\ x\\", ["tail\\", "x\\"]),
        ("  \t ", []),
    ],
)
def test_command_on_windows_is_split_as_its_c_runtime_does(
    monkeypatch: pytest.MonkeyPatch, command: str, words: list[str]
) -> None:
    monkeypatch.setattr(platform, "IS_WINDOWS", True)
    if command.count('"') % 2 and '\\"' not in command:
        with pytest.raises(ValueError, match="a quote is not closed"):
            platform.split(command)
    else:
        assert platform.split(command) == words


@pytest.mark.parametrize("text", ["mysql://{}", "mysql:\\\\{}", "C:\\keys\\{}", "\\\\server\\share\\{}"])
def test_key_in_a_path_of_windows_is_recognised(text: str, key: bytes) -> None:
    """os.path.basename() of Windows takes what follows two slashes for a server."""
    assert looks_like_key(text.format(key.decode()))


def test_path_with_nul_is_no_path() -> None:
    with pytest.raises(ConfigurationError, match="cannot be the path of a file"):
        real_path("a\0b")


def test_advice_speaks_the_language_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    assert platform.choose("posix", "windows") == ("windows" if platform.IS_WINDOWS else "posix")
    monkeypatch.setattr(platform, "IS_WINDOWS", True)
    assert platform.choose("posix", "windows") == "windows"


# --- Default paths ---


@pytest.mark.parametrize(("is_macos", "directory"), [(False, "zoho-keystore"), (True, "zoho-keystore-keys")])
def test_default_key_ring_is_not_in_the_directory_of_the_store_on_macos(
    monkeypatch: pytest.MonkeyPatch, *, is_macos: bool, directory: str
) -> None:
    """Its library of the user is for data and configuration alike."""
    monkeypatch.setattr("zoho_keystore._fs.paths.IS_MACOS", is_macos)
    monkeypatch.setattr("platformdirs.user_data_path", lambda app, **_options: Path("/x", app))
    monkeypatch.setattr("platformdirs.user_config_path", lambda app, **_options: Path("/x", app))
    assert default_key_ring() == Path("/x", directory, "keyring")
    assert default_store() == Path("/x/zoho-keystore/tokens.keystore")


def test_default_key_ring_is_the_roaming_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows, where the local directory is that of the store."""

    def config_path(app: str, *, roaming: bool, **_options: Any) -> Path:
        return Path("/Roaming" if roaming else "/Local", app)

    monkeypatch.setattr("platformdirs.user_config_path", config_path)
    assert default_key_ring() == Path("/Roaming/zoho-keystore/keyring")


def test_existing_key_ring_beside_the_default_store_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Earlier versions put it there on Windows and macOS."""
    for name in ("user_data_path", "user_config_path"):
        monkeypatch.setattr(f"platformdirs.{name}", lambda app, **_options: tmp_path / app)
    first = init()
    monkeypatch.setattr("platformdirs.user_config_path", lambda app, **_options: tmp_path / "new" / app)
    again = init()
    assert (again.source, again.store, again.made_key) == (first.source, first.store, False)
    assert default_key_ring() == tmp_path / "zoho-keystore" / "keyring"


# --- The command line ---


@pytest.mark.parametrize(("encoding", "expected"), [("utf-8", "✗"), ("cp1252", "x")])
def test_doctor_replaces_what_the_encoding_lacks(encoding: str, expected: str, tmp_path: Path) -> None:
    result = CliRunner(charset=encoding).invoke(main, ["--store", str(tmp_path / "none"), "doctor"])
    assert result.stdout_bytes.decode(encoding).startswith(f"{expected} ")
    assert "\\u" not in result.stdout_bytes.decode(encoding)


def test_functions_of_windows_are_imported_on_windows_alone() -> None:
    if platform.IS_WINDOWS:
        assert importlib.import_module("zoho_keystore._platform.windows")
    else:
        with pytest.raises((AssertionError, AttributeError, ImportError)):
            importlib.import_module("zoho_keystore._platform.windows")


# --- Systems without /proc ---


def test_unsupported_call_on_macos_has_advice_that_fits() -> None:
    """Linux has one number for ENOTSUP and EOPNOTSUPP; file systems without hard links or locks give ENOTSUP."""
    done = run_python(
        "-c",
        "import errno; errno.ENOTSUP, errno.EOPNOTSUPP = 45, 102\n"
        "from zoho_keystore._fs.atomic import _NO_LINKS\n"
        "from zoho_keystore.errors import storage_error\n"
        "assert {45, 102} <= _NO_LINKS\n"
        "for number in 45, 102: print(storage_error(OSError(number, 'x'), 'it failed', None).advice)",
    )
    assert done.stdout.count("keep the store on a local disk") == 2, done.stderr


def test_lease_without_proc_ends_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """MacOS and Windows do not tell whether a process lives, so it counts as alive until its lease is over."""
    monkeypatch.setattr(platform, "HAS_PROC", False)
    owner = Owner.current()
    assert (owner.boot, owner.started) == ("", 0)
    dead = replace(owner, pid=2**22 + 1, thread=2**22 + 1)
    assert dead.may_be_alive()
    lease = Lease(dead, deadline_ms=LEASE_MS)
    assert lease.blocks(owner, now_ms=1)
    assert not lease.blocks(owner, now_ms=LEASE_MS)


def test_lock_without_proc_names_no_holder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "HAS_PROC", False)
    with StoreLock(tmp_path, "store", 0).held(), pytest.raises(LockTimeoutError) as caught:
        run_in_thread(lambda: StoreLock(tmp_path, "store", 0).held().__enter__())
    assert "held by another process or thread; nothing was saved" in caught.value.problem


def run_in_thread(work: Callable[[], object]) -> object:
    """Return what a function returns in another thread, or raise what it raises."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


# --- Output to a pipe ---


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_closed_pipe_of_windows_ends_the_program_without_a_message(
    windows: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A failing disk is an error, and a reader that has ended is none."""
    del windows
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    shown: list[str] = []
    monkeypatch.setattr("click.echo", lambda text, **_options: shown.append(text))
    monkeypatch.setattr("click.Group.main", failing(number))
    with pytest.raises(SystemExit) as caught:
        main.main(["list"])
    assert caught.value.code == 1
    assert [text.partition(",")[0] for text in shown] == (
        [] if number == errno.EINVAL else ["zoho-keystore: cannot write the output"]
    )


def test_output_of_a_program_on_windows_is_read_as_far_as_it_is_there(windows: SimpleNamespace) -> None:
    read, write = os.pipe()
    os.write(write, b"abc")
    for available, content in ((0, b""), (2, b"ab"), (1, b"c")):
        windows.available = lambda _fd, available=available: available
        assert platform.read_available(read, 10) == content
    os.close(read)
    os.close(write)


# --- Names that differ in case alone ---


def test_file_under_another_name_is_the_same(tmp_path: Path) -> None:
    """As on the file systems of macOS and Windows, where ``--remove-source`` would delete the store itself."""
    (tmp_path / "store").touch()
    if not (tmp_path / "STORE").exists():
        os.link(tmp_path / "store", tmp_path / "STORE")
    assert is_same_file(tmp_path / "store", tmp_path / "STORE")
    assert is_same_file(tmp_path / "missing", tmp_path / "missing")
    assert not is_same_file(tmp_path / "store", tmp_path / "missing")

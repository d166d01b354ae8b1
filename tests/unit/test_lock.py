from __future__ import annotations

import errno
import math
import multiprocessing
import os
import signal
import stat
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import pytest
from filelock import lock_descriptor

from support import IS_ROOT, OTHER_UID, descriptors, failing
from zoho_keystore._fs import lock as lock_module
from zoho_keystore._fs.directory import Directory
from zoho_keystore._fs.lock import StoreLock
from zoho_keystore.errors import LockTimeoutError, StoreFileError, UnsafeFileError

if sys.platform != "win32":
    import fcntl
else:
    fcntl = None

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from pathlib import Path
    from types import FrameType

pytestmark = [
    pytest.mark.usefixtures("no_descriptor_is_left"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
needs_root = pytest.mark.skipif(not IS_ROOT, reason="acts as another user, which only root may")

NAME = "tokens.keystore"
TIMEOUT_S = 20.0

fork = multiprocessing.get_context("fork" if hasattr(os, "fork") else None)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Give a private directory."""
    path = tmp_path / "directory"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def lock(directory: Path) -> StoreLock:
    """Give a lock that does not wait."""
    return StoreLock(directory, NAME, 0)


@pytest.fixture
def public(public_directory: Path) -> Path:
    """Give a sticky directory that all users may write to, like /tmp."""
    public_directory.chmod(0o1777)
    return public_directory


class Clock:
    """A clock that only sleeping advances."""

    def __init__(self, on_sleep: Callable[[], object] = lambda: None) -> None:
        self.now_s = 1000.0
        self.pauses: list[float] = []
        self._on_sleep = on_sleep

    def monotonic(self) -> float:
        """Return the time in seconds."""
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Advance the clock without waiting."""
        self.pauses.append(seconds)
        self.now_s += seconds
        self._on_sleep()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Make waiting for the lock take no time."""
    clock = Clock()
    monkeypatch.setattr(lock_module, "time", clock)
    return clock


class Child:
    """A forked process that works with its end of a pipe and is killed at the end."""

    def __init__(self, work: Callable[[Connection[Any, Any]], object]) -> None:
        self.pipe, theirs = fork.Pipe()

        def run() -> None:
            signal.alarm(int(TIMEOUT_S))
            self.pipe.close()
            work(theirs)

        self._process = fork.Process(target=run)
        self._process.start()
        self.pid = self._process.pid
        theirs.close()

    def receive(self) -> Any:
        """Return what the child sends next."""
        assert self.pipe.poll(TIMEOUT_S), "the child sends nothing"
        return self.pipe.recv()

    def kill(self) -> None:
        """Kill the child, and wait until it is gone."""
        self._process.kill()
        self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._process.close()
        self.pipe.close()


def hold(lock: StoreLock) -> str:
    """Take a lock and release it."""
    with lock.held() as held:
        held.verify()
    return "held"


def hold_in_child(lock: StoreLock) -> Child:
    """Return a child that holds a lock until it receives something."""

    def work(pipe: Connection[Any, Any]) -> None:
        with lock.held():
            pipe.send("held")
            pipe.recv()
        pipe.send("released")
        pipe.recv()

    return Child(work)


@contextmanager
def held_in_thread(lock: StoreLock) -> Iterator[Callable[[], None]]:
    """Hold a lock in another thread of this process, until the given function is called or the block ends."""
    is_held, may_end = threading.Event(), threading.Event()

    def work() -> None:
        with lock.held():
            is_held.set()
            may_end.wait(TIMEOUT_S)

    thread = threading.Thread(target=work)
    thread.start()

    def release() -> None:
        may_end.set()
        thread.join()

    try:
        assert is_held.wait(TIMEOUT_S)
        yield release
    finally:
        release()


@contextmanager
def flocked(path: Path) -> Iterator[int]:
    """Hold a lock file by a system call, as another program would."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not lock_descriptor(fd, blocking=False):
            raise BlockingIOError
        yield fd
    finally:
        os.close(fd)


def is_free(path: Path) -> bool:
    """Tell whether another program could lock a lock file."""
    with suppress(BlockingIOError), flocked(path):
        return True
    return False


# --- The lock file ---


@pytest.mark.needs_modes
def test_lock_file_is_private_and_stays(lock: StoreLock, directory: Path) -> None:
    """A deleted or replaced file would split the waiting processes over two locks."""
    assert lock.path == directory / f".{NAME}.lock"
    hold(lock)
    first = lock.path.lstat()
    assert (stat.S_IFMT(first.st_mode), stat.S_IMODE(first.st_mode)) == (stat.S_IFREG, 0o600)
    lock.path.write_bytes(b"content")
    with suppress(ZeroDivisionError), lock.held() as held:
        assert held.directory.path == directory
        assert not is_free(lock.path)
        assert not any(os.get_inheritable(int(fd.split(":")[0])) for fd in descriptors() if NAME in fd)
        assert hold(StoreLock(directory, "other.keystore", 0)) == "held"
        raise ZeroDivisionError
    assert is_free(lock.path)
    assert os.path.samestat(first, lock.path.stat())
    assert lock.path.read_bytes() == b"content"


# --- Excluding threads and processes ---


@pytest.mark.needs_proc
def test_lock_held_by_other_thread_times_out(lock: StoreLock) -> None:
    """The lock of the file alone excludes threads, because each hold opens the file anew."""
    with held_in_thread(lock) as release:
        with pytest.raises(LockTimeoutError, match="within 0 s: held by another thread of this process; nothing was"):
            hold(lock)
        release()
        assert hold(lock) == "held"


@pytest.mark.needs_fork
def test_lock_held_by_other_process_times_out(lock: StoreLock, directory: Path) -> None:
    """The message names the process and the seconds, and advises against deleting the file."""
    with hold_in_child(StoreLock(directory, NAME, 0)) as child:
        assert child.receive() == "held"
        before = descriptors()
        with pytest.raises(LockTimeoutError) as caught:
            hold(StoreLock(directory, NAME, 0.05))
        assert descriptors() == before, "the error that is kept keeps a descriptor open"
        child.pipe.send("release")
        assert child.receive() == "released"
        assert hold(lock) == "held"
    assert caught.value.path == lock.path
    assert str(caught.value).startswith(
        f"{lock.path}: could not acquire the store's lock within 0.05 s: held by another process (pid {child.pid}); "
        "nothing was saved. "
    )
    assert "Do not delete the file" in caught.value.advice


@pytest.mark.needs_proc
def test_lock_timeout_without_proc_names_no_pid(monkeypatch: pytest.MonkeyPatch, lock: StoreLock) -> None:
    monkeypatch.setattr(lock_module, "open", failing(errno.ENOENT), raising=False)
    with lock.held(), pytest.raises(LockTimeoutError, match="held by another process; nothing was saved"):
        hold(StoreLock(lock.path.parent, NAME, 0))


def increment(directory: Path, rounds: int) -> None:
    """Add one to a number in a file, in three threads, under the lock and in the least safe way."""
    lock = StoreLock(directory, NAME, TIMEOUT_S)
    counter, inside = directory / "counter", directory / "inside"

    def work() -> None:
        for _ in range(rounds):
            with lock.held():
                os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
                number = int(counter.read_text())
                time.sleep(0.0002)
                counter.write_text(str(number + 1))
                inside.unlink()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.needs_fork
def test_lock_excludes_threads_of_two_processes(directory: Path) -> None:
    """Two processes of three threads each count to the right number."""
    (directory / "counter").write_text("0")

    def work(pipe: Connection[Any, Any]) -> None:
        pipe.recv()
        increment(directory, 15)
        pipe.send("done")

    with Child(work) as one, Child(work) as two:
        for child in (one, two):
            child.pipe.send("go")
        assert [one.receive(), two.receive()] == ["done", "done"]
    assert (directory / "counter").read_text() == "90"


# --- Waiting ---


@pytest.mark.parametrize("timeout_s", [TIMEOUT_S, math.inf])
def test_lock_that_is_released_while_waiting_is_acquired(directory: Path, timeout_s: float) -> None:
    lock = StoreLock(directory, NAME, timeout_s)
    with held_in_thread(lock) as release:
        threading.Timer(0.05, release).start()
        assert hold(lock) == "held"


@pytest.mark.parametrize(
    ("timeout_s", "longest_wait_s", "expected_s"), [(0, math.inf, 0), (2.5, math.inf, 2.5), (10, 1.5, 1.5)]
)
def test_lock_waits_for_the_shorter_of_timeout_and_longest_wait(
    clock: Clock, directory: Path, timeout_s: float, longest_wait_s: float, expected_s: float
) -> None:
    """The pauses stay short, so that a lock that was released is acquired soon."""
    lock = StoreLock(directory, NAME, timeout_s)
    with (
        flocked(lock.path),
        pytest.raises(LockTimeoutError, match=f"within {expected_s} s"),
        lock.held(longest_wait_s),
    ):
        pass
    assert sum(clock.pauses) == pytest.approx(expected_s)
    assert max(clock.pauses, default=0) <= 0.02
    assert hold(lock) == "held"


# --- Saving inside a save, and exceptions of signal handlers ---


def test_lock_requested_by_its_holder_is_refused_at_once(directory: Path) -> None:
    """A handler of the log or of a signal would wait for the save that it interrupts; that save keeps its lock."""
    lock = StoreLock(directory, NAME, math.inf)
    with lock.held() as held:
        for _ in range(2):
            with pytest.raises(LockTimeoutError, match="this thread is saving already; nothing was saved") as caught:
                hold(lock)
        assert caught.value.path == lock.path
        held.verify()
        assert not is_free(lock.path)
    assert hold(lock) == "held"


def strikes_at(n: int, lock: StoreLock) -> bool:
    """Hold a lock, with an exception before the n-th line that runs in its module; tell if there is one."""
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != lock_module.__file__:
            return None
        lines += event == "line"
        if event == "line" and lines == n:
            sys.settrace(None)
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with suppress(KeyboardInterrupt), lock.held():
            pass
    finally:
        sys.settrace(before)
    return lines >= n


@pytest.mark.parametrize("exists", [False, True])
def test_lock_survives_an_exception_at_any_line(lock: StoreLock, *, exists: bool) -> None:
    """It is neither left locked, nor is the thread refused from then on."""
    line = 1
    while True:
        lock.path.unlink(missing_ok=True)
        if exists:
            hold(lock)
        if not strikes_at(line, lock):
            break
        assert not lock.path.exists() or is_free(lock.path), f"left locked at line {line}"
        assert hold(lock) == "held"
        line += 1
    assert line > 30


def test_lock_acquired_as_an_exception_strikes_is_free_while_it_is_handled(
    monkeypatch: pytest.MonkeyPatch, lock: StoreLock
) -> None:
    """The handler's caller may save in its except block, while the traceback keeps the frames of the hold."""
    hold(lock)
    with monkeypatch.context() as patch:
        patch.setattr(Directory, "is_same_file", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            hold(lock)
    assert hold(lock) == "held"


# --- Lock files that are deleted or replaced ---


@pytest.mark.needs_directory_fds
@pytest.mark.parametrize("replacement", ["none", "file", "link"])
def test_lock_file_replaced_while_held_is_noticed(lock: StoreLock, replacement: str) -> None:
    """Another process may hold a lock on the new file, so the write must not go on."""
    with lock.held() as held:
        lock.path.rename(lock.path.with_name("moved"))
        if replacement == "file":
            lock.path.touch(mode=0o600)
        elif replacement == "link":
            lock.path.symlink_to("moved")
        with pytest.raises(StoreFileError, match="deleted or replaced while it was locked; nothing was") as caught:
            held.verify()
    assert caught.value.path == lock.path


@pytest.mark.needs_special_files
@pytest.mark.parametrize("replacement", ["none", "file"])
def test_lock_file_replaced_while_waiting_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, lock: StoreLock, replacement: str
) -> None:
    """The lock on the deleted file excludes no process that opens the new one."""
    with flocked(lock.path) as fd:

        def replace() -> None:
            lock.path.unlink(missing_ok=True)
            if replacement == "file":
                lock.path.touch(mode=0o600)
            fcntl.flock(fd, fcntl.LOCK_UN)

        monkeypatch.setattr(lock_module, "time", Clock(replace))
        with StoreLock(lock.path.parent, NAME, 10).held() as held:
            held.verify()
            assert not is_free(lock.path)


def test_lock_file_that_never_stays_times_out(monkeypatch: pytest.MonkeyPatch, clock: Clock, directory: Path) -> None:
    """A network file system may show another inode number each time."""
    monkeypatch.setattr(Directory, "is_same_file", lambda *_: False)
    with pytest.raises(LockTimeoutError, match="replaced again and again"):
        hold(StoreLock(directory, NAME, 0.1))
    assert sum(clock.pauses) == pytest.approx(0.1, abs=0.01)


def test_lock_file_created_by_two_processes_at_once_is_shared(monkeypatch: pytest.MonkeyPatch, lock: StoreLock) -> None:
    """The slower one finds no file, cannot create it any more, and opens that of the faster one."""
    system_open = os.open

    def open_slowly(path: str, flags: int, *args: Any, **kwargs: Any) -> int:
        if path == lock.path.name and not lock.path.exists():
            lock.path.touch(mode=0o600)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return system_open(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", open_slowly)
    assert hold(lock) == "held"


# --- Processes that die or hang ---


@pytest.mark.needs_fork
def test_lock_of_hanging_process_is_not_broken_until_it_dies(clock: Clock, directory: Path) -> None:
    """However old the file is; the kernel releases the lock of a killed process, with nothing to clean up."""
    lock = StoreLock(directory, NAME, 10)
    with hold_in_child(StoreLock(directory, NAME, 0)) as child:
        assert child.receive() == "held"
        os.kill(child.pid or 0, signal.SIGSTOP)
        os.utime(lock.path, (0, 0))
        with pytest.raises(LockTimeoutError, match=rf"within 10 s: held by another process \(pid {child.pid}\)"):
            hold(lock)
        assert sum(clock.pauses) == pytest.approx(10)
        child.kill()
        assert hold(lock) == "held"


# --- Forks ---


@pytest.mark.needs_fork
@pytest.mark.parametrize("is_held", [False, True])
def test_lock_made_before_fork_works_in_child(lock: StoreLock, *, is_held: bool) -> None:
    """Servers open the store first and fork their workers then; another thread may hold the lock at the fork."""

    def work(pipe: Connection[Any, Any]) -> None:
        if is_held:
            with pytest.raises(LockTimeoutError, match=f"pid {os.getppid()}"):
                hold(lock)
        pipe.send("refused")
        pipe.recv()
        with lock.held():
            pipe.send("held")
            pipe.recv()

    with ExitStack() as stack:
        release = stack.enter_context(held_in_thread(lock)) if is_held else lambda: None
        child = stack.enter_context(Child(work))
        assert child.receive() == "refused"
        release()
        assert hold(lock) == "held"
        child.pipe.send("hold")
        assert child.receive() == "held"
        with pytest.raises(LockTimeoutError, match=f"pid {child.pid}"):
            hold(lock)


@pytest.mark.needs_fork
def test_lock_held_during_fork_is_not_held_by_child(lock: StoreLock) -> None:
    """The child of the holding thread can neither go on with the save nor release the parent's lock."""

    def work(pipe: Connection[Any, Any]) -> None:
        with pytest.raises(StoreFileError, match="the lock is lost; nothing was saved"):
            held.verify()
        with pytest.raises(LockTimeoutError, match="held by another process"):
            hold(lock)
        with suppress(ZeroDivisionError):
            block.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
        pipe.send("left")
        pipe.recv()

    block = lock.held()
    held = block.__enter__()
    try:
        with Child(work) as child:
            assert child.receive() == "left"
            held.verify()
            assert not is_free(lock.path)
    finally:
        block.__exit__(None, None, None)
    assert hold(lock) == "held"


@pytest.mark.needs_directory_fds
@pytest.mark.parametrize("waits", [False, True], ids=["held at the fork", "waited for at the fork"])
def test_lock_of_killed_process_is_not_kept_by_its_forked_child(lock: StoreLock, *, waits: bool) -> None:
    """A copy of the descriptor would keep the lock for as long as the child lives."""
    is_waiting = threading.Event()

    def hold_for_good(pipe: Connection[Any, Any]) -> None:
        with StoreLock(lock.path.parent, NAME, TIMEOUT_S).held():
            pipe.send("held")
            time.sleep(TIMEOUT_S)

    def work(pipe: Connection[Any, Any]) -> None:
        def sleep(seconds: float) -> None:
            is_waiting.set()
            time.sleep(seconds)

        vars(lock_module)["time"] = SimpleNamespace(monotonic=time.monotonic, sleep=sleep)
        threading.Thread(target=hold_for_good, args=[pipe], daemon=True).start()
        if waits:
            is_waiting.wait(TIMEOUT_S)
        else:
            pipe.recv()
        if not os.fork():
            pipe.send(os.getpid())
            time.sleep(TIMEOUT_S)
            os._exit(0)
        time.sleep(TIMEOUT_S)

    with flocked(lock.path) as fd, Child(work) as parent:
        if not waits:
            fcntl.flock(fd, fcntl.LOCK_UN)
            assert parent.receive() == "held"
            parent.pipe.send("fork")
        orphan = parent.receive()
        try:
            if waits:
                fcntl.flock(fd, fcntl.LOCK_UN)
                assert parent.receive() == "held"
            assert not is_free(lock.path)
            parent.kill()
            assert hold(lock) == "held"
        finally:
            os.kill(orphan, signal.SIGKILL)


@pytest.mark.needs_directory_fds
def test_lock_is_released_although_a_copy_of_its_fd_is_open(lock: StoreLock) -> None:
    """A child that C code has forked has such a copy."""
    with lock.held():
        copies = [os.dup(int(entry.split(":")[0])) for entry in descriptors() if entry.endswith(lock.path.name)]
    try:
        assert copies
        assert hold(lock) == "held"
    finally:
        os.close(copies[0])


@pytest.mark.needs_directory_fds
def test_lock_fork_hook_ends_the_hold(lock: StoreLock) -> None:
    """What runs in a child before anything else, without a child."""
    with lock.held():
        lock_module._after_fork_in_child()
        assert is_free(lock.path)
        assert hold(lock) == "held"


# --- Lock files that are not safe to use ---


@contextmanager
def as_user(uid: int) -> Iterator[None]:
    """Give up root's rights to files, for a block."""
    before = os.geteuid(), os.getegid()
    if uid != before[0]:
        os.setegid(uid)
        os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(before[0])
        os.setegid(before[1])


@pytest.mark.needs_modes
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
def test_new_lock_file_has_mode_0600_whatever_the_umask(
    lock: StoreLock, umask: Callable[[int], int], mask: int
) -> None:
    """Another user who could open it could hold up every save."""
    umask(mask)
    hold(lock)
    assert stat.S_IMODE(lock.path.stat().st_mode) == 0o600


@pytest.mark.needs_modes
def test_lock_file_open_to_others_is_restricted(lock: StoreLock, caplog: pytest.LogCaptureFixture) -> None:
    """It stays the same file, and the log says so once."""
    lock.path.touch()
    lock.path.chmod(0o642)
    before = lock.path.stat()
    hold(lock)
    hold(lock)
    after = lock.path.stat()
    assert (after.st_ino, stat.S_IMODE(after.st_mode)) == (before.st_ino, 0o600)
    assert caplog.messages == [f"{lock.path}: mode was 0642 and let other users in; it is 0600 now"]


@pytest.mark.needs_directory_fds
def test_lock_file_left_without_mode_is_repaired(public: Path) -> None:
    """Its creator was killed before it could give the file the mode that an umask of 0777 had cut down."""
    lock = StoreLock(public, NAME, 0)
    with as_user(OTHER_UID if os.geteuid() == 0 else os.geteuid()):
        os.close(os.open(lock.path, os.O_CREAT, 0))
        assert hold(lock) == "held"
    assert stat.S_IMODE(lock.path.stat().st_mode) == 0o600


@needs_root
@pytest.mark.parametrize(
    ("users", "mode", "store_owner", "problem"),
    [
        ((0, OTHER_UID), 0o600, None, "cannot be opened or locked: permission denied"),
        ((0, OTHER_UID), 0o000, None, "cannot be opened or locked: permission denied"),
        ((0, OTHER_UID), 0o666, None, "is not safe to use: it belongs to user 0"),
        ((OTHER_UID, 0), 0o600, None, f"is not safe to use: it belongs to user {OTHER_UID}"),
        ((OTHER_UID, 0), 0o600, 0, f"is not safe to use: it belongs to user {OTHER_UID}"),
        ((OTHER_UID, 0), 0o600, OTHER_UID - 1, f"is not safe to use: it belongs to user {OTHER_UID}"),
    ],
)
def test_lock_file_of_another_user_is_refused(
    public: Path, users: tuple[int, int], mode: int, store_owner: int | None, problem: str
) -> None:
    """Its owner could hold it for ever: also a user who makes one in /tmp for a store of root."""
    lock = StoreLock(public, NAME, 0)
    with as_user(users[0]):
        hold(lock)
        lock.path.chmod(mode)
    if store_owner is not None:
        (public / NAME).touch()
        os.chown(public / NAME, store_owner, store_owner)
    with as_user(users[1]), pytest.raises(StoreFileError, match=problem) as caught:
        hold(lock)
    assert caught.value.path == lock.path
    assert stat.S_IMODE(lock.path.stat().st_mode) == mode


@needs_root
def test_lock_file_made_by_root_belongs_to_the_owner_of_the_store(public: Path) -> None:
    """A store that root has worked on must stay open to its user, and root may use the user's lock."""
    (public / NAME).touch()
    os.chown(public / NAME, OTHER_UID, OTHER_UID)
    lock = StoreLock(public, NAME, 0)
    hold(lock)
    assert lock.path.stat().st_uid == OTHER_UID
    with as_user(OTHER_UID):
        assert hold(lock) == "held"
    assert hold(lock) == "held"


@pytest.mark.needs_modes
@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("make", "kind", "problem"),
    [
        (lambda path: path.symlink_to("other"), UnsafeFileError, "too many levels of symbolic links"),
        (lambda path: path.symlink_to("missing"), UnsafeFileError, "too many levels of symbolic links"),
        (lambda path: path.hardlink_to(path.with_name("other")), UnsafeFileError, "it is a hard link to another file"),
        (getattr(os, "mkfifo", None), UnsafeFileError, "this is a FIFO, not a file"),
        (os.mkdir, StoreFileError, "is a directory"),
    ],
    ids=["symlink", "dangling symlink", "hard link", "FIFO", "directory"],
)
def test_lock_file_of_another_kind_is_refused(
    lock: StoreLock, make: Callable[[Path], object], kind: type[StoreFileError], problem: str
) -> None:
    """The file that a link leads to must not be created or get another mode; the other end of a FIFO is not awaited."""
    other = lock.path.with_name("other")
    other.touch()
    other.chmod(0o644)
    make(lock.path)
    before = descriptors()
    with pytest.raises(kind, match=problem) as caught:
        hold(lock)
    assert not [fd for fd in descriptors() - before if NAME in fd], "the error that is kept keeps the file open"
    assert caught.value.path == lock.path
    assert stat.S_IMODE(other.stat().st_mode) == 0o644
    assert {path.name for path in other.parent.iterdir()} == {other.name, lock.path.name}


# --- System calls that fail ---


@pytest.mark.needs_directory_fds
@pytest.mark.parametrize(
    ("module", "name", "number"),
    [(fcntl, "flock", errno.ENOLCK), (fcntl, "flock", errno.ENOSYS), (os, "stat", errno.EIO)],
)
def test_lock_file_that_cannot_be_locked_is_a_store_file_error(
    monkeypatch: pytest.MonkeyPatch, lock: StoreLock, module: object, name: str, number: int
) -> None:
    """There is no weaker lock to fall back to, and a lock on a file that may be replaced is none."""
    with monkeypatch.context() as patch, lock.held() as held:
        patch.setattr(os, "stat", failing(errno.EIO))
        with pytest.raises(StoreFileError, match="the lock is lost; nothing was saved: input/output error"):
            held.verify()
    with monkeypatch.context() as patch:
        patch.setattr(module, name, failing(number))
        with pytest.raises(StoreFileError, match="the lock file cannot be opened or locked"):
            hold(lock)
    assert hold(lock) == "held"


@pytest.mark.needs_directory_fds
def test_lock_whose_unlock_fails_is_released_by_close(monkeypatch: pytest.MonkeyPatch, lock: StoreLock) -> None:
    with monkeypatch.context() as patch, lock.held():
        patch.setattr(fcntl, "flock", failing(errno.EIO))
    assert is_free(lock.path)
    assert hold(lock) == "held"

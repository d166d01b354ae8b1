from __future__ import annotations

import builtins
import errno
import fcntl
import importlib
import math
import os
import shutil
import signal
import stat
import sys
import tempfile
import threading
import time
import traceback
import weakref
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import filelock  # noqa: F401 - a child that has become another user could not import it any more
import pytest

from support import descriptors, failing
from zoho_keystore._fs import directory as folder_module
from zoho_keystore._fs import lock as lock_module
from zoho_keystore._fs.directory import Directory
from zoho_keystore._fs.lock import StoreLock, ThreadLock
from zoho_keystore.errors import LockTimeoutError, StoreFileError, UnsafeFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from types import FrameType

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="acts as another user, which only root may")
forks_beside_threads = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

NAME = "tokens.keystore"
OTHER_UID, SOMEBODY = 65534, 65533
#: Long enough for anything that is about to happen, in seconds; nothing waits so long unless it is broken.
TIMEOUT_S = 20.0


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Give the path of a folder of ours."""
    path = tmp_path / "place"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def lock_file(place: Path) -> Path:
    """Give the path of the lock file, which is not there yet."""
    return place / f".{NAME}.lock"


@pytest.fixture
def lock(place: Path) -> StoreLock:
    """Give a lock that does not wait."""
    return StoreLock(place, NAME, 0)


@pytest.fixture
def public() -> Iterator[Path]:
    """Give a sticky folder that all users may write to, like /tmp."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o1777)
    yield path
    shutil.rmtree(path)


class Clock:
    """A clock that only sleeping moves on."""

    def __init__(self, on_sleep: Callable[[], object] = lambda: None) -> None:
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
        self._on_sleep()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let waiting for the lock file take no time."""
    made = Clock()
    monkeypatch.setattr(lock_module, "time", made)
    return made


@contextmanager
def flocked(path: Path) -> Iterator[int]:
    """Hold a lock file as another program would, by a system call."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield fd
        fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


class Child:
    """A child process, as its parent sees it."""

    def __init__(self, pid: int, pipe: Connection[Any, Any]) -> None:
        self.pid = pid
        self._pipe = pipe

    def hear(self) -> Any:
        """Return what the child says next."""
        assert self._pipe.poll(TIMEOUT_S), "the child says nothing"
        return self._pipe.recv()

    def tell(self, word: str) -> None:
        """Tell the child something."""
        self._pipe.send(word)

    def kill(self) -> None:
        """Kill the child, if it is still there."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


@contextmanager
def forked(work: Callable[[Connection[Any, Any]], object]) -> Iterator[Child]:
    """Do some work in a forked process that says "Error: text" if it fails, and that is killed in the end."""
    here, there = Pipe()
    pid = os.fork()
    if not pid:
        try:
            signal.alarm(int(TIMEOUT_S))
            here.close()
            work(there)
        except BaseException as error:  # noqa: BLE001 - the parent looks at it
            there.send(f"{type(error).__name__}: {error}")
        finally:
            os._exit(0)
    there.close()
    child = Child(pid, here)
    try:
        yield child
    finally:
        child.kill()
        here.close()


def holds_until_told(lock: StoreLock) -> Callable[[Connection[Any, Any]], None]:
    """Return work for a child: hold a lock, say so, and keep it until told to go on; then say that it is free."""

    def work(parent: Connection[Any, Any]) -> None:
        with lock.held():
            parent.send("held")
            parent.recv()
        parent.send("free")
        parent.recv()

    return work


@contextmanager
def held_in_thread(lock: StoreLock) -> Iterator[Callable[[], None]]:
    """Hold a lock in another thread of this process, until the given function is called, at the latest at the end."""
    is_held, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with lock.held():
            is_held.set()
            may_end.wait(TIMEOUT_S)

    thread = threading.Thread(target=hold)
    thread.start()

    def release() -> None:
        may_end.set()
        thread.join()

    try:
        assert is_held.wait(TIMEOUT_S)
        yield release
    finally:
        release()


def as_user(uid: int, work: Callable[[], object]) -> Any:
    """Return what came of some work in a child process of another user."""

    def become_and_work(parent: Connection[Any, Any]) -> None:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        parent.send(str(work()))

    with forked(become_and_work) as child:
        return child.hear()


def hold_once(lock: StoreLock) -> str:
    """Take a lock and give it back."""
    with lock.held() as held:
        held.verify()
    return "held"


# --- Holding ---


def test_the_lock_is_a_file_beside_the_store(lock: StoreLock, lock_file: Path) -> None:
    """It is hidden, private, named after the store, and there after the first use."""
    assert lock.path == lock_file
    assert not lock_file.exists()
    with lock.held() as held:
        assert lock_file.exists()
        assert held.directory.path == lock_file.parent
    status = lock_file.lstat()
    assert stat.S_ISREG(status.st_mode)
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o600, os.geteuid())


def test_the_lock_file_is_never_deleted_nor_replaced(lock: StoreLock, lock_file: Path) -> None:
    """Whoever waits for it has it open already: another file would be another lock."""
    hold_once(lock)
    first = lock_file.stat()
    for _ in range(3):
        with lock.held():
            assert os.path.samestat(first, lock_file.stat())
        assert os.path.samestat(first, lock_file.stat())


def test_what_is_in_the_lock_file_stays(lock: StoreLock, lock_file: Path) -> None:
    """It is opened without being cut off, for it might be a file of the user's."""
    lock_file.write_bytes(b"content")
    lock_file.chmod(0o600)
    hold_once(lock)
    assert lock_file.read_bytes() == b"content"


def test_the_descriptor_of_the_lock_is_not_handed_to_child_programs(lock: StoreLock) -> None:
    """A program that outlives us would keep the lock."""
    with lock.held():
        assert lock._descriptor is not None
        assert not os.get_inheritable(lock._descriptor.fd)


def test_the_lock_is_free_again_after_the_block(lock: StoreLock) -> None:
    """It can be taken as often as needed."""
    for _ in range(3):
        assert hold_once(lock) == "held"


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_the_lock_is_free_again_after_an_exception(lock: StoreLock, error: type[BaseException]) -> None:
    """Whatever ends the block."""
    with pytest.raises(error), lock.held():
        raise error
    assert hold_once(lock) == "held"


def test_other_programs_see_the_lock(lock: StoreLock, lock_file: Path) -> None:
    """It is a flock on the file, which fuser and lsof show."""
    with lock.held(), pytest.raises(BlockingIOError), flocked(lock_file):
        pass
    with flocked(lock_file):
        pass


def test_locks_of_different_stores_are_different(lock: StoreLock, place: Path) -> None:
    """Two stores in one folder do not wait for each other."""
    with lock.held():
        assert hold_once(StoreLock(place, "other.keystore", 0)) == "held"


def test_importing_the_module_does_not_import_filelock() -> None:
    """It takes longer than all the rest, and a process that only reads needs none."""

    def work(parent: Connection[Any, Any]) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] in {"filelock", "zoho_keystore"}]:
            del sys.modules[name]
        importlib.import_module("zoho_keystore._fs.lock")
        parent.send("filelock" in sys.modules)

    with forked(work) as child:
        assert child.hear() is False


def test_a_lock_that_nobody_needs_is_forgotten(place: Path) -> None:
    """The list of locks to renew in a child keeps none alive."""
    lock = StoreLock(place, NAME, 0)
    reference, threads = weakref.ref(lock), weakref.ref(lock._threads)
    del lock
    assert reference() is None
    assert threads() is None


def test_on_windows_the_lock_goes_by_whole_paths(
    monkeypatch: pytest.MonkeyPatch, lock: StoreLock, place: Path, tmp_path: Path
) -> None:
    """Where folders have no descriptors, from any working directory."""
    monkeypatch.setattr(folder_module, "HAS_DIRECTORY_FDS", False)
    monkeypatch.chdir(tmp_path)
    with lock.held() as held:
        held.verify()
        with pytest.raises(LockTimeoutError):
            hold_once(StoreLock(place, NAME, 0))
        lock.path.unlink()
        with pytest.raises(StoreFileError):
            held.verify()


# --- Keeping others out ---


def test_another_thread_is_kept_out(lock: StoreLock) -> None:
    """The error says that it is a thread of this very process."""
    with held_in_thread(lock) as release:
        with pytest.raises(LockTimeoutError, match="another thread of this process holds it"):
            hold_once(lock)
        release()
        assert hold_once(lock) == "held"


def test_the_lock_is_not_reentrant(place: Path, lock_file: Path) -> None:
    """A handler that saves in the middle of a save is told so at once, and the save goes on under its lock."""
    lock = StoreLock(place, NAME, TIMEOUT_S)
    with lock.held() as held:
        with pytest.raises(LockTimeoutError, match="this thread is saving already; nothing was saved") as caught:
            hold_once(lock)
        held.verify()
        with pytest.raises(BlockingIOError), flocked(lock_file):
            pass
        with pytest.raises(LockTimeoutError, match="another process holds it"):
            hold_once(StoreLock(place, NAME, 0))
    assert caught.value.path == lock_file
    assert hold_once(lock) == "held"


def test_another_lock_of_the_same_store_is_kept_out(lock: StoreLock, place: Path) -> None:
    """Two stores on one file in one process exclude each other, by the file."""
    other = StoreLock(place, NAME, 0)
    with lock.held(), pytest.raises(LockTimeoutError, match="another process holds it"):
        hold_once(other)
    assert hold_once(other) == "held"


def test_another_process_is_kept_out(lock: StoreLock, place: Path) -> None:
    """A real process holds the lock until it is told to let go."""
    with forked(holds_until_told(StoreLock(place, NAME, 0))) as holder:
        assert holder.hear() == "held"
        with pytest.raises(LockTimeoutError, match="another process holds it"):
            hold_once(lock)
        holder.tell("let go")
        assert holder.hear() == "free"
        assert hold_once(lock) == "held"


def test_a_waiting_thread_gets_the_lock_when_it_is_free(place: Path) -> None:
    """Waiting ends with success, not only with a timeout."""
    lock = StoreLock(place, NAME, TIMEOUT_S)
    answers: list[str] = []
    with held_in_thread(lock) as release:
        waiter = threading.Thread(target=lambda: answers.append(hold_once(lock)))
        waiter.start()
        release()
        waiter.join(TIMEOUT_S)
    assert answers == ["held"]


def test_a_waiting_process_gets_the_lock_when_it_is_free(
    monkeypatch: pytest.MonkeyPatch, place: Path, lock_file: Path
) -> None:
    """The holder lets go while somebody pauses between two attempts."""
    pauses = []
    with flocked(lock_file) as fd:

        def released_in_the_fifth() -> None:
            pauses.append(1)
            if len(pauses) == 5:
                fcntl.flock(fd, fcntl.LOCK_UN)

        monkeypatch.setattr(lock_module, "time", Clock(released_in_the_fifth))
        assert hold_once(StoreLock(place, NAME, TIMEOUT_S)) == "held"
    assert len(pauses) == 5


def rounds(place: Path, turns: int) -> None:
    """Add one to a number in a file, again and again, under the lock and in the least safe way."""
    counter, inside = place / "counter", place / "inside"
    lock = StoreLock(place, NAME, TIMEOUT_S)

    def work() -> None:
        for _ in range(turns):
            with lock.held():
                os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
                number = int(counter.read_text())
                time.sleep(0.0002)  # Whoever else is inside comes to work now.
                counter.write_text(str(number + 1))
                inside.unlink()

    failures: list[BaseException] = []

    def watched() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it is told to the parent
            failures.append(error)

    threads = [threading.Thread(target=watched) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_never_are_two_inside_at_once(place: Path) -> None:
    """Two processes of three threads each add up to the right number, and none meets another inside."""
    (place / "counter").write_text("0")

    def work(parent: Connection[Any, Any]) -> None:
        parent.recv()
        rounds(place, 10)
        parent.send("done")

    with forked(work) as one, forked(work) as two:
        one.tell("go")
        two.tell("go")
        assert [one.hear(), two.hear()] == ["done", "done"]
    assert (place / "counter").read_text() == "60"


# --- Waiting ---


def test_a_timeout_is_an_error_that_names_the_lock_file(clock: Clock, place: Path, lock_file: Path) -> None:
    """It says how long was waited, that nothing was saved, and what to do: not to delete the file."""
    with flocked(lock_file):
        before = descriptors()
        with pytest.raises(LockTimeoutError) as caught:
            hold_once(StoreLock(place, NAME, 2.5))
        assert descriptors() == before, "while the error is kept"
    assert caught.value.path == lock_file
    message = str(caught.value)
    assert message.startswith(f"{lock_file}: the store's lock was not to be had within 2.5 s: another process holds it")
    assert all(part in message for part in ("nothing was saved", "fuser", "lock_timeout", "Do not delete the file"))
    assert sum(clock.slept) == pytest.approx(2.5)


def test_a_lock_without_a_timeout_is_tried_once(clock: Clock, lock: StoreLock, lock_file: Path) -> None:
    """A free lock is taken, a taken one is reported at once."""
    assert hold_once(lock) == "held"
    with flocked(lock_file), pytest.raises(LockTimeoutError, match="within 0 s"):
        hold_once(lock)
    assert not clock.slept


def test_pauses_grow_to_a_bound(monkeypatch: pytest.MonkeyPatch, clock: Clock, place: Path, lock_file: Path) -> None:
    """The first is short, so that a short hold costs little; none is long, so that nobody starves."""
    monkeypatch.setattr(lock_module, "random", SimpleNamespace(random=lambda: 0.5))
    with flocked(lock_file), pytest.raises(LockTimeoutError):
        hold_once(StoreLock(place, NAME, 1))
    pauses = clock.slept[:-1]
    assert pauses[0] == pytest.approx(0.0001)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(0.01)
    assert len(pauses) > 100
    assert clock.slept[-1] <= pauses[-1]


@pytest.mark.parametrize(("chance", "first", "longest"), [(0.0, 0.00005, 0.005), (1.0, 0.00015, 0.015)])
def test_pauses_vary(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, lock_file: Path, *, chance: float, first: float, longest: float
) -> None:
    """Waiters that march in step would all try, and fail, at once."""
    monkeypatch.setattr(lock_module, "random", SimpleNamespace(random=lambda: chance))
    with flocked(lock_file), pytest.raises(LockTimeoutError):
        hold_once(StoreLock(lock_file.parent, NAME, 1))
    assert clock.slept[0] == pytest.approx(first)
    assert max(clock.slept) == pytest.approx(longest)


# --- The queue ---


@contextmanager
def queued(lock_file: Path) -> Iterator[int]:
    """Head the queue, as a process does that waits."""
    fd = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        assert lock_module._heads_the_queue(fd)
        yield fd
    finally:
        os.close(fd)


def test_who_comes_stands_aside_for_the_one_who_waits(clock: Clock, place: Path, lock_file: Path) -> None:
    """Though the lock is free just now: whoever had it would take it again and again."""
    with queued(lock_file):
        assert hold_once(StoreLock(place, NAME, 1)) == "held"
    assert sum(clock.slept) >= 0.05
    assert clock.slept[0] == pytest.approx(0.02, rel=0.51)


def test_one_who_heads_the_queue_and_hangs_holds_nobody_up_for_long(clock: Clock, place: Path, lock_file: Path) -> None:
    """Only the lock itself keeps others out."""
    with queued(lock_file):
        assert hold_once(StoreLock(place, NAME, 1)) == "held"
    assert sum(clock.slept) <= 0.12


def test_one_who_had_to_wait_holds_back_the_next_time(clock: Clock, place: Path, lock_file: Path) -> None:
    """Somebody else may wait just now, and is about to look at the queue; when nobody did, it stops doing so."""
    lock = StoreLock(place, NAME, 1)
    with queued(lock_file):
        hold_once(lock)
    for slept in (1, 0):
        clock.slept.clear()
        hold_once(lock)
        assert len(clock.slept) == slept
        assert sum(clock.slept) <= 0.0015
        clock.now_s += 0.1


def test_without_time_to_wait_nobody_stands_aside(clock: Clock, place: Path, lock_file: Path) -> None:
    """The lock is free."""
    with queued(lock_file):
        assert hold_once(StoreLock(place, NAME, 0)) == "held"
    assert clock.slept == []


def test_who_has_the_lock_does_not_head_the_queue_any_more(lock: StoreLock, lock_file: Path) -> None:
    """The next one steps there meanwhile."""
    with lock.held(), queued(lock_file):
        pass


def test_the_next_one_heads_the_queue_when_the_first_one_is_gone(
    monkeypatch: pytest.MonkeyPatch, place: Path, lock_file: Path
) -> None:
    """It asks more often from then on."""
    with flocked(lock_file), queued(lock_file) as head:
        copy = os.dup(head)

        def gone() -> None:
            if len(moving.slept) == 3:
                lock_module._leave_queue(copy)

        moving = Clock(gone)
        monkeypatch.setattr(lock_module, "time", moving)
        monkeypatch.setattr(lock_module, "random", SimpleNamespace(random=lambda: 0.5))
        with pytest.raises(LockTimeoutError):
            hold_once(StoreLock(place, NAME, 1))
        os.close(copy)
    expected = (0.02, 0.02 / (1 + 2 / 3), 0.02 / (1 + 0.032 / 0.03), 0.0001, 0.0001)
    assert moving.slept[:5] == [pytest.approx(pause_s) for pause_s in expected]


@pytest.mark.parametrize("queue", [None, -1], ids=["a system without", "a file system without"])
def test_without_such_locks_there_is_no_queue(
    monkeypatch: pytest.MonkeyPatch, lock: StoreLock, lock_file: Path, queue: int | None
) -> None:
    """Then whoever asks first is first."""
    monkeypatch.setattr(lock_module, "_QUEUE", queue)
    assert hold_once(lock) == "held"
    with flocked(lock_file), pytest.raises(LockTimeoutError):
        hold_once(lock)


def is_queue_empty(lock_file: Path) -> bool:
    """Tell whether nobody waits."""
    fd = os.open(lock_file, os.O_RDWR)
    try:
        return lock_module._heads_the_queue(fd)
    finally:
        os.close(fd)


def test_one_who_saves_all_the_time_lets_others_in(place: Path) -> None:
    """Without the queue a waiter would have to ask in the moment in which it is free."""
    turns = place / "turns"

    def greedy(parent: Connection[Any, Any]) -> None:
        lock = StoreLock(place, NAME, TIMEOUT_S)
        with lock.held():
            parent.send("held")
            parent.recv()
        while not (place / "enough").exists():
            with lock.held(), turns.open("ab") as file:
                file.write(b".")
        parent.send("done")

    with forked(greedy) as holder:
        assert holder.hear() == "held"
        waiter = threading.Thread(target=lambda: hold_once(StoreLock(place, NAME, TIMEOUT_S)))
        waiter.start()
        ends = time.monotonic() + TIMEOUT_S
        while is_queue_empty(place / f".{NAME}.lock"):
            assert time.monotonic() < ends
            time.sleep(0.001)
        holder.tell("go on")
        waiter.join(TIMEOUT_S)
        before = turns.stat().st_size if turns.exists() else 0
        (place / "enough").touch()
        assert holder.hear() == "done"
    # A waiter that the system lets sleep for long stands aside in vain.
    assert before <= 100


def test_the_last_pause_ends_with_the_timeout(clock: Clock, place: Path, lock_file: Path) -> None:
    """Nobody waits for longer than was asked."""
    with flocked(lock_file), pytest.raises(LockTimeoutError):
        hold_once(StoreLock(place, NAME, 0.00004))
    assert clock.slept == [pytest.approx(0.00004)]


def test_waiting_for_a_thread_counts_too(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, place: Path, lock_file: Path
) -> None:
    """The timeout is one for both locks, not one for each."""
    lock = StoreLock(place, NAME, 3)

    @contextmanager
    def slow(_timeout_s: float, _path: Path) -> Iterator[None]:
        clock.now_s += 2
        yield

    monkeypatch.setattr(lock._threads, "held", slow)
    with flocked(lock_file), pytest.raises(LockTimeoutError):
        hold_once(lock)
    assert sum(clock.slept) == pytest.approx(1)


def test_waiting_may_have_no_end(place: Path) -> None:
    """Infinity is a number of seconds, which threading does not take."""
    assert hold_once(StoreLock(place, NAME, math.inf)) == "held"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interrupted_wait_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, place: Path, lock_file: Path, error: type[BaseException]
) -> None:
    """Ctrl-C while waiting goes through, and both locks are free for the next."""

    def interrupted() -> None:
        raise error

    lock = StoreLock(place, NAME, 10)
    with flocked(lock_file), monkeypatch.context() as patch:
        patch.setattr(lock_module, "time", Clock(interrupted))
        with pytest.raises(error):
            hold_once(lock)
    assert hold_once(lock) == "held"


# --- A lock file that somebody deletes or replaces ---


def test_a_lock_file_deleted_while_held_is_noticed(lock: StoreLock, lock_file: Path) -> None:
    """Another process could hold a new one: the write must not go on."""
    with lock.held() as held:
        held.verify()
        lock_file.unlink()
        with pytest.raises(
            StoreFileError, match="deleted or replaced while it was locked; nothing was saved"
        ) as caught:
            held.verify()
    assert caught.value.path == lock_file
    assert hold_once(lock) == "held"


def test_a_lock_file_replaced_while_held_is_noticed(lock: StoreLock, lock_file: Path) -> None:
    """A file of the same name is not the same lock."""
    with lock.held() as held:
        lock_file.rename(lock_file.with_name("moved"))
        lock_file.touch(mode=0o600)
        with pytest.raises(StoreFileError, match="deleted or replaced while it was locked"):
            held.verify()
        lock_file.unlink()
        lock_file.symlink_to("moved")
        with pytest.raises(StoreFileError, match="deleted or replaced while it was locked"):
            held.verify()


@pytest.mark.parametrize("put_back", [False, True], ids=["deleted", "replaced"])
def test_a_lock_file_deleted_while_waiting_is_noticed(
    monkeypatch: pytest.MonkeyPatch, place: Path, lock_file: Path, *, put_back: bool
) -> None:
    """The waiter gets a lock that nobody else asks for any more, and takes the one that all ask for now."""
    with flocked(lock_file) as fd:

        def replaced_and_released() -> None:
            lock_file.unlink(missing_ok=True)
            if put_back:
                lock_file.touch(mode=0o600)
            fcntl.flock(fd, fcntl.LOCK_UN)

        monkeypatch.setattr(lock_module, "time", Clock(replaced_and_released))
        with StoreLock(place, NAME, 10).held() as held:
            held.verify()
            with pytest.raises(BlockingIOError), flocked(lock_file):
                pass


def test_after_a_lock_file_was_replaced_the_new_one_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, place: Path, lock_file: Path
) -> None:
    """Who holds the new file holds the lock, though the old one was to be had."""
    new = place / "new"
    with flocked(lock_file) as old_fd, flocked(new):

        def replaced_and_released() -> None:
            if new.exists():
                new.rename(lock_file)
                fcntl.flock(old_fd, fcntl.LOCK_UN)

        monkeypatch.setattr(lock_module, "time", Clock(replaced_and_released))
        with pytest.raises(LockTimeoutError, match="another process holds it"):
            hold_once(StoreLock(place, NAME, 1))


def test_a_file_system_whose_inode_numbers_change_costs_the_timeout(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, place: Path
) -> None:
    """Some network file systems show a file under another number each time; that must not go on for ever."""
    calls = []

    def never_the_same(*_args: object) -> bool:
        clock.now_s += 0.1
        calls.append(1)
        assert len(calls) < 1000, "no end"
        return False

    monkeypatch.setattr(lock_module, "_is_at", never_the_same)
    with pytest.raises((LockTimeoutError, StoreFileError)):
        hold_once(StoreLock(place, NAME, 5))
    assert clock.slept, "it does not spin"


# --- Holders that die or hang ---


def test_a_killed_holder_costs_nothing(lock: StoreLock, place: Path) -> None:
    """The kernel gives the lock back: no file has to be cleaned up, nothing has to be waited for."""
    with forked(holds_until_told(StoreLock(place, NAME, 0))) as holder:
        assert holder.hear() == "held"
        holder.kill()
        assert hold_once(lock) == "held"


def test_a_lock_is_not_broken_for_its_age(clock: Clock, place: Path) -> None:
    """A holder that hangs keeps the lock, however old the file is; it costs the timeout."""
    with forked(holds_until_told(StoreLock(place, NAME, 0))) as holder:
        assert holder.hear() == "held"
        os.kill(holder.pid, signal.SIGSTOP)
        lock = StoreLock(place, NAME, 10)
        os.utime(lock.path, (0, 0))
        before = lock.path.stat()
        with pytest.raises(LockTimeoutError, match="within 10 s: another process holds it"):
            hold_once(lock)
        assert os.path.samestat(before, lock.path.stat())
    assert sum(clock.slept) == pytest.approx(10)


# --- Forks ---


def test_a_lock_made_before_a_fork_works_in_parent_and_child(lock: StoreLock) -> None:
    """Servers make the store first and fork their workers then; each keeps the other out."""
    hold_once(lock)
    with forked(holds_until_told(lock)) as child:
        assert child.hear() == "held"
        with pytest.raises(LockTimeoutError, match="another process holds it"):
            hold_once(lock)
        child.tell("let go")
        assert child.hear() == "free"
        assert hold_once(lock) == "held"


@forks_beside_threads
def test_a_child_forked_while_a_thread_holds_the_lock_is_not_blocked_for_ever(lock: StoreLock) -> None:
    """The holder does not exist there; the child waits for the parent's file lock like any process, and gets it."""

    def work(parent: Connection[Any, Any]) -> None:
        try:
            hold_once(lock)
        except LockTimeoutError as error:
            parent.send(error.problem)
        parent.recv()
        parent.send(hold_once(lock))

    with held_in_thread(lock) as release, forked(work) as child:
        assert "another process holds it" in child.hear()
        release()
        child.tell("try again")
        assert child.hear() == "held"


@forks_beside_threads
def test_a_child_forked_while_a_thread_holds_the_lock_does_not_keep_it(lock: StoreLock) -> None:
    """When the parent has released it, it is free, whatever the child does."""

    def work(parent: Connection[Any, Any]) -> None:
        parent.send("born")
        parent.recv()

    with held_in_thread(lock) as release, forked(work) as child:
        assert child.hear() == "born"
        release()
        assert hold_once(lock) == "held"


def test_a_copy_of_the_descriptor_does_not_keep_the_lock(lock: StoreLock) -> None:
    """A child that was forked around Python has such a copy; releasing unlocks, and does not just close."""
    copies = []
    try:
        with lock.held():
            assert lock._descriptor is not None
            copies.append(os.dup(lock._descriptor.fd))
        assert hold_once(lock) == "held"
    finally:
        os.close(copies[0])


def forked_sleeper() -> int:
    """Return the process id of a new child that does nothing, once it is there."""
    is_born, birth = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            signal.alarm(int(TIMEOUT_S))
            os.write(birth, b"!")  # What it does on its way out of fork() is done.
            signal.pause()
        finally:
            os._exit(0)
    os.read(is_born, 1)
    os.close(is_born)
    os.close(birth)
    return pid


@contextmanager
def orphan_of(work: Callable[[Connection[Any, Any]], object]) -> Iterator[None]:
    """Let a process do some work until it tells the id of a child of its own; kill it, and keep that child."""
    with forked(work) as parent:
        orphan = parent.hear()
        assert isinstance(orphan, int), orphan
        try:
            parent.kill()
            yield
        finally:
            os.kill(orphan, signal.SIGKILL)


@forks_beside_threads
def test_a_child_forked_while_a_thread_holds_the_lock_does_not_keep_it_when_the_parent_dies(lock: StoreLock) -> None:
    """The child closes its copy of the descriptor, which would keep the lock for as long as the child lives."""

    def work(test: Connection[Any, Any]) -> None:
        with held_in_thread(lock):
            test.send(forked_sleeper())
            test.recv()

    with orphan_of(work):
        assert hold_once(lock) == "held"


@forks_beside_threads
def test_a_child_forked_while_a_thread_waits_does_not_keep_the_lock_when_the_parent_dies(
    monkeypatch: pytest.MonkeyPatch, lock: StoreLock, place: Path, lock_file: Path
) -> None:
    """The copy of a descriptor that is locked later is as good as one that is locked already."""
    waits, may_go_on, is_held = threading.Event(), threading.Event(), threading.Event()

    def while_waiting() -> None:
        waits.set()
        may_go_on.wait(TIMEOUT_S)

    def hold() -> None:
        with StoreLock(place, NAME, TIMEOUT_S).held():
            is_held.set()
            threading.Event().wait(TIMEOUT_S)

    def work(test: Connection[Any, Any]) -> None:
        monkeypatch.setattr(lock_module, "time", Clock(while_waiting))
        with flocked(lock_file):
            threading.Thread(target=hold, daemon=True).start()
            waits.wait(TIMEOUT_S)
            child = forked_sleeper()
        may_go_on.set()
        is_held.wait(TIMEOUT_S)
        test.send(child)
        test.recv()

    with orphan_of(work):
        assert hold_once(lock) == "held"


def test_a_thread_lock_is_free_in_a_child_whoever_held_it() -> None:
    """The thread that held it in the parent does not exist there; in the parent it stays taken."""
    lock = ThreadLock()

    def work(parent: Connection[Any, Any]) -> None:
        with lock.held(0, None):
            parent.send("held")

    with lock.held(0, None):
        with forked(work) as child:
            assert child.hear() == "held"
        assert not is_free(lock)
    assert is_free(lock)


def test_renewing_frees_the_locks_of_threads_and_closes_the_descriptor(lock: StoreLock, lock_file: Path) -> None:
    """What happens in a child, without one; the block that held the lock ends without harm, and the lock is free."""
    with lock.held():
        assert lock._descriptor is not None
        fd = lock._descriptor.fd
        lock_module._after_fork_in_child()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        assert is_free(lock._threads)
        with flocked(lock_file):
            pass
        lock.after_fork()
    assert hold_once(lock) == "held"


def test_a_child_forked_by_the_holder_itself_does_not_hold(lock: StoreLock) -> None:
    """It may not save, and leaving the block it closes no file of its own that has got the number."""

    def work(parent: Connection[Any, Any]) -> None:
        parent.send(leave_as_child())
        parent.recv()

    def leave_as_child() -> list[object]:
        with pytest.raises(OSError, match="Bad file descriptor"):
            held.verify()
        mine = os.open(lock.path.parent, os.O_RDONLY)
        block.__exit__(None, None, None)
        with pytest.raises(LockTimeoutError, match="another process holds it"):
            hold_once(lock)
        return [mine, os.path.samestat(os.fstat(mine), lock.path.parent.stat())]

    block = lock.held()
    held = block.__enter__()
    assert lock._descriptor is not None
    number = lock._descriptor.fd
    with forked(work) as child:
        assert child.hear() == [number, True]
        held.verify()
    block.__exit__(None, None, None)
    assert hold_once(lock) == "held"


# --- What a fork waits for ---


def is_free_for_others(lock: threading.RLock) -> bool:
    """Tell whether another thread gets a lock at once."""
    answers: list[bool] = []

    def ask() -> None:
        answers.append(lock.acquire(blocking=False))
        if answers[0]:
            lock.release()

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return answers[0]


def test_no_fork_comes_between_opening_the_lock_file_and_noting_it(
    monkeypatch: pytest.MonkeyPatch, lock: StoreLock, lock_file: Path
) -> None:
    """The child would have a copy that nothing in it knows of."""
    system_open, seen = os.open, []

    def watched(path: str, *args: Any, **kwargs: Any) -> int:
        if path == lock_file.name:
            seen.append(is_free_for_others(lock_module._no_fork))
        return system_open(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", watched)
        with lock.held():
            assert is_free_for_others(lock_module._no_fork)
    assert seen == [False, False]


def test_no_fork_comes_in_the_middle_of_an_import(monkeypatch: pytest.MonkeyPatch, lock: StoreLock) -> None:
    """The child would wait for ever for a module that nobody imports there."""
    system_import, seen = builtins.__import__, []

    def watched(name: str, *args: Any) -> Any:
        if name == "filelock":
            seen.append(is_free_for_others(lock_module._no_fork))
        return system_import(name, *args)

    monkeypatch.setattr(builtins, "__import__", watched)
    assert hold_once(lock) == "held"
    assert seen == [False]


def test_a_fork_waits_for_what_it_must_not_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """But not for ever, since what it waits for may wait for it; and it lets go afterwards, in parent and child."""
    done: list[object] = []
    fake = SimpleNamespace(acquire=lambda *, timeout: done.append(timeout), release=lambda: done.append("released"))
    monkeypatch.setattr(lock_module, "_no_fork", fake)
    with forked(lambda parent: parent.send(done)) as child:
        heard = child.hear()
    assert done == [lock_module._LONGEST_IMPORT_S, "released"]
    assert heard[0] == lock_module._LONGEST_IMPORT_S
    assert 0 < lock_module._LONGEST_IMPORT_S <= 10


@forks_beside_threads
def test_a_fork_that_could_not_wait_leaves_the_child_able_to_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """An import that takes longer than a fork waits is of a thread that does not exist in the child."""
    monkeypatch.setattr(lock_module, "_LONGEST_IMPORT_S", 0.01)
    is_held, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with lock_module._no_fork:
            is_held.set()
            may_end.wait(TIMEOUT_S)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert is_held.wait(TIMEOUT_S)
        with forked(lambda parent: parent.send(lock_module._no_fork.acquire(timeout=0.1))) as child:
            assert child.hear() is True
    finally:
        may_end.set()
        thread.join()


def test_a_process_without_descriptors_to_import_with_gets_a_typed_error(
    monkeypatch: pytest.MonkeyPatch, lock: StoreLock, lock_file: Path
) -> None:
    """The first save imports, and may find that too many files are open."""
    system_import = builtins.__import__

    def failing_import(name: str, *args: Any) -> Any:
        if name == "filelock":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return system_import(name, *args)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", failing_import)
        with pytest.raises(StoreFileError, match="the store cannot be locked; nothing was saved: too many open files"):
            hold_once(lock)
    assert not lock_file.exists()
    assert hold_once(lock) == "held"


# --- The lock between threads ---


def is_free(lock: ThreadLock) -> bool:
    """Tell whether another thread gets a lock at once."""
    answers: list[bool] = []

    def ask() -> None:
        with suppress(LockTimeoutError), lock.held(0, None):
            answers.append(True)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return bool(answers)


def test_a_thread_lock_is_taken_once() -> None:
    """Taken, it is refused to others and to its holder; given back, it is to be had again."""
    lock = ThreadLock()
    with lock.held(math.inf, None):
        assert not is_free(lock)
        with pytest.raises(LockTimeoutError, match="this thread is saving already"), lock.held(math.inf, None):
            pass
        assert not is_free(lock)
    assert is_free(lock)


def test_a_thread_lock_that_was_not_to_be_had_stays_with_its_holder() -> None:
    """A waiter that gives up gives nothing back."""
    lock = ThreadLock()
    with lock.held(0, None):
        assert not is_free(lock)
        assert not is_free(lock)
        with pytest.raises(LockTimeoutError, match="this thread is saving already"), lock.held(0, None):
            pass


def interrupted_at(line: int, lock: ThreadLock, strike: Callable[[], None], inside: Callable[[], None]) -> bool:
    """Hold a lock, with a strike before the given line of those that run; tell whether there are as many."""
    code = ThreadLock.held.__wrapped__.__code__  # type: ignore[attr-defined] # of the generator
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if frame.f_code is not code:
            return None
        lines += event == "line"
        if event == "line" and lines == line:
            sys.settrace(None)
            strike()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with suppress(KeyboardInterrupt), lock.held(0, None):
            inside()
    finally:
        sys.settrace(before)
    return lines >= line


def test_an_exception_at_any_line_of_a_hold_locks_nobody_out() -> None:
    """The handler of a signal may raise one anywhere; the thread is let in again, and after it the others."""

    def strike() -> None:
        raise KeyboardInterrupt

    line = 1
    while interrupted_at(line, lock := ThreadLock(), strike, lambda: None):
        with lock.held(0, None):
            assert not is_free(lock)
        assert is_free(lock)
        line += 1
    assert line > 10


def test_a_handler_of_a_signal_that_saves_takes_the_lock_from_nobody() -> None:
    """It is refused, or done before and after; whoever is inside stays the only one."""
    line, refused = 1, 0

    def strike() -> None:
        nonlocal refused
        try:
            with lock.held(0, None):
                pass
        except LockTimeoutError:
            refused += 1

    def inside() -> None:
        alone.append(not is_free(lock))

    while True:
        lock, alone = ThreadLock(), list[bool]()
        if not interrupted_at(line, lock, strike, inside):
            break
        assert alone == [True], f"at line {line}"
        assert is_free(lock)
        line += 1
    assert line > 8
    assert refused > 2


# --- Lock files that are not to be trusted ---


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o777])
def test_a_new_lock_file_is_private_whatever_the_umask(
    lock: StoreLock, lock_file: Path, umask: Callable[[int], int], mask: int
) -> None:
    """Who can open it can hold up every save."""
    umask(mask)
    with lock.held():
        assert stat.S_IMODE(lock_file.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o644, 0o666, 0o640, 0o602])
def test_a_loose_lock_file_is_tightened_with_a_warning(
    lock: StoreLock, lock_file: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    """It is the same file afterwards, and one line of the log says so."""
    lock_file.touch()
    lock_file.chmod(mode)
    before = lock_file.stat()
    hold_once(lock)
    hold_once(lock)
    assert os.path.samestat(before, lock_file.stat())
    assert stat.S_IMODE(lock_file.stat().st_mode) == 0o600
    assert caplog.messages == [f"{lock_file}: mode was {mode:04o} and let other users in; it is 0600 now"]


def test_a_lock_file_of_another_user_is_refused(
    monkeypatch: pytest.MonkeyPatch, lock: StoreLock, lock_file: Path
) -> None:
    """Its owner could hold it for ever."""
    lock_file.touch(mode=0o600)
    if os.geteuid() == 0:
        os.chown(lock_file, OTHER_UID, OTHER_UID)
        os.chown(lock_file.parent, SOMEBODY, SOMEBODY)
        me = SOMEBODY
    else:
        me = 0  # Root may use it; so the folder has to be ours for the check of the file to be reached.
        monkeypatch.setattr("zoho_keystore._fs.permissions.is_root", lambda: False)
        monkeypatch.setattr("zoho_keystore._fs.permissions.require_directory", lambda *_args: None)
    monkeypatch.setattr(os, "geteuid", lambda: me)
    owner = lock_file.stat().st_uid
    with pytest.raises(
        UnsafeFileError, match=f"the lock file is not to be trusted: it belongs to user {owner}"
    ) as caught:
        hold_once(lock)
    assert caught.value.path == lock_file
    assert "who put it there" in caught.value.advice


def test_a_refused_lock_file_is_closed_while_its_error_is_kept(lock: StoreLock, lock_file: Path) -> None:
    """Programs keep errors, and the SDK's errors keep ours as their cause."""
    os.mkfifo(lock_file, 0o600)
    with pytest.raises(UnsafeFileError) as kept:
        hold_once(lock)
    still_open = [name for name in descriptors() if name.endswith(lock_file.name)]
    traceback.clear_frames(kept.tb)
    assert not still_open


@needs_root
def test_another_user_can_neither_take_nor_read_our_lock_file(public: Path, umask: Callable[[int], int]) -> None:
    """A real process of another user, in a folder that all may write to, without a umask."""
    umask(0)
    lock = StoreLock(public, NAME, 0)
    hold_once(lock)
    assert as_user(OTHER_UID, lambda: os.open(lock.path, os.O_RDONLY)).startswith("PermissionError: ")
    assert as_user(OTHER_UID, lambda: os.open(lock.path, os.O_RDWR)).startswith("PermissionError: ")
    assert as_user(OTHER_UID, lambda: hold_once(StoreLock(public, NAME, 0))).startswith(
        f"StoreFileError: {lock.path}: the lock file cannot be opened or locked: permission denied"
    )


@needs_root
def test_a_lock_file_that_another_user_has_planted_is_refused(public: Path) -> None:
    """A real user meets the lock file of another one that is open to all."""
    lock = StoreLock(public, NAME, 0)
    assert as_user(OTHER_UID, lambda: hold_once(lock)) == "held"
    lock.path.chmod(0o666)
    assert as_user(SOMEBODY, lambda: hold_once(lock)).startswith(
        f"UnsafeFileError: {lock.path}: the lock file is not to be trusted: it belongs to user {OTHER_UID}"
    )
    assert stat.S_IMODE(lock.path.stat().st_mode) == 0o666


@needs_root
@pytest.mark.parametrize("store_of", [None, 0, SOMEBODY])
def test_a_lock_file_that_another_user_has_planted_for_root_is_refused(public: Path, store_of: int | None) -> None:
    """Root may use the lock file of the store's owner, but not one of just anybody, who could hold it for ever."""
    lock = StoreLock(public, NAME, 0)
    assert as_user(OTHER_UID, lambda: hold_once(lock)) == "held"
    if store_of is not None:
        (public / NAME).touch()
        os.chown(public / NAME, store_of, store_of)
    with pytest.raises(UnsafeFileError, match=f"the lock file is not to be trusted: it belongs to user {OTHER_UID}"):
        hold_once(lock)


@needs_root
def test_root_may_use_the_lock_of_a_user_and_leaves_it_to_them(public: Path) -> None:
    """And a lock file that root has to make belongs to the owner of the store."""
    public.chmod(0o755)
    os.chown(public, OTHER_UID, OTHER_UID)
    (public / NAME).touch()
    os.chown(public / NAME, OTHER_UID, OTHER_UID)
    lock = StoreLock(public, NAME, 0)
    hold_once(lock)
    assert lock.path.stat().st_uid == OTHER_UID
    assert as_user(OTHER_UID, lambda: hold_once(lock)) == "held"
    hold_once(lock)
    assert lock.path.stat().st_uid == OTHER_UID


@pytest.mark.parametrize("target", ["there", "nowhere"])
def test_a_link_at_the_name_of_the_lock_is_refused(lock: StoreLock, lock_file: Path, target: str) -> None:
    """It may lead to a file that must not be made, locked, or given another mode."""
    there = lock_file.with_name("there")
    there.touch()
    there.chmod(0o644)
    lock_file.symlink_to(lock_file.with_name(target))
    with pytest.raises(
        UnsafeFileError, match="cannot be opened or locked: too many levels of symbolic links"
    ) as caught:
        hold_once(lock)
    assert caught.value.path == lock_file
    assert "remove it" in caught.value.advice
    assert stat.S_IMODE(there.stat().st_mode) == 0o644
    assert not lock_file.with_name("nowhere").exists()
    assert lock_file.is_symlink()


@pytest.mark.timeout(10)
def test_a_fifo_at_the_name_of_the_lock_is_refused(lock: StoreLock, lock_file: Path) -> None:
    """It is not waited for."""
    os.mkfifo(lock_file, 0o600)
    with pytest.raises(UnsafeFileError, match="this is a FIFO, not a file"):
        hold_once(lock)


def test_a_folder_at_the_name_of_the_lock_is_refused(lock: StoreLock, lock_file: Path) -> None:
    """It is no lock file, and is left alone."""
    lock_file.mkdir()
    with pytest.raises(StoreFileError, match="the lock file cannot be opened or locked: is a directory"):
        hold_once(lock)
    assert lock_file.is_dir()


def test_a_lock_in_a_missing_folder_is_a_typed_error(place: Path) -> None:
    """The error names the folder; nothing is made."""
    with pytest.raises(StoreFileError, match="missing: the folder cannot be opened: no such file or directory"):
        hold_once(StoreLock(place / "missing", NAME, 0))
    assert not list(place.iterdir())


def test_a_lock_in_a_folder_that_others_may_write_to_is_refused(lock: StoreLock, place: Path) -> None:
    """They could delete the lock file, and hold another one of that name."""
    place.chmod(0o777)
    with pytest.raises(UnsafeFileError, match="mode 0777 lets other users replace files in this folder"):
        hold_once(lock)
    assert not list(place.iterdir())


def test_two_that_make_the_lock_file_at_once_share_it(
    monkeypatch: pytest.MonkeyPatch, place: Path, lock_file: Path
) -> None:
    """The slower one finds it missing, cannot make it any more, and opens that of the faster one."""
    lock = StoreLock(place, NAME, TIMEOUT_S)
    system_open = os.open

    def slower(path: str, flags: int, *args: Any, **kwargs: Any) -> int:
        if path == lock_file.name and not lock_file.exists():
            lock_file.touch(mode=0o600)
            made.append(lock_file.stat())
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        return system_open(path, flags, *args, **kwargs)

    made: list[os.stat_result] = []
    monkeypatch.setattr(os, "open", slower)
    with lock.held():
        assert os.path.samestat(made[0], lock_file.stat())


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EROFS, errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("there", [True, False])
def test_a_lock_file_that_cannot_be_opened_is_a_typed_error(
    monkeypatch: pytest.MonkeyPatch, lock: StoreLock, lock_file: Path, *, number: int, there: bool
) -> None:
    """Whatever the system refuses, the error is ours, and the lock is free for the next attempt."""
    if there:
        lock_file.touch(mode=0o600)
    system_open = os.open

    def refused(path: str, flags: int, *args: Any, **kwargs: Any) -> int:
        if path == lock_file.name and (there or flags & os.O_CREAT):
            raise OSError(number, os.strerror(number))
        return system_open(path, flags, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        with pytest.raises(StoreFileError, match="the lock file cannot be opened") as caught:
            hold_once(lock)
    assert caught.value.path == lock_file
    assert isinstance(caught.value.__cause__, OSError)
    assert hold_once(lock) == "held"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_that_cannot_be_locked_is_a_typed_error(
    monkeypatch: pytest.MonkeyPatch, lock: StoreLock, lock_file: Path, number: int
) -> None:
    """There is no weaker lock to fall back to."""
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", failing(number))
        with pytest.raises(StoreFileError, match="the lock file cannot be opened or locked") as caught:
            hold_once(lock)
    assert caught.value.path == lock_file
    assert not isinstance(caught.value, LockTimeoutError)
    assert hold_once(lock) == "held"


def test_a_lock_file_that_cannot_be_looked_at_is_a_typed_error(
    monkeypatch: pytest.MonkeyPatch, lock: StoreLock, lock_file: Path
) -> None:
    """Whether the lock is the right one is not known then."""
    lock_file.touch(mode=0o600)
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", failing(errno.EIO))
        with pytest.raises(StoreFileError, match="the lock file cannot be opened or locked: input/output error"):
            hold_once(lock)
    assert hold_once(lock) == "held"


def test_an_unlock_that_fails_does_not_fail_the_save(
    monkeypatch: pytest.MonkeyPatch, lock: StoreLock, lock_file: Path
) -> None:
    """What was done under the lock is done; closing the descriptor frees it as well."""
    with monkeypatch.context() as patch, lock.held():
        patch.setattr(fcntl, "flock", failing(errno.EIO))
    with flocked(lock_file):
        pass
    assert hold_once(lock) == "held"


def test_a_lock_file_without_a_mode_is_mended(
    lock: StoreLock, lock_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who made it under an odd umask was killed before it could give the file its mode."""
    lock_file.touch(mode=0o600)
    lock_file.chmod(0)
    really_open = Directory.open

    def opened(self: Directory, name: str, flags: int) -> int:
        if self.status(name).st_mode & 0o600 != 0o600:  # Root would be let in.
            raise PermissionError(errno.EACCES, "Permission denied")
        return really_open(self, name, flags)

    monkeypatch.setattr(Directory, "open", opened)
    with lock.held() as held:
        held.verify()
    assert lock_file.stat().st_mode & 0o777 == 0o600


def test_a_lock_file_that_may_not_be_opened_for_another_reason_is_a_typed_error(
    lock: StoreLock, lock_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to mend."""
    lock_file.touch(mode=0o600)

    def refused(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Directory, "open", refused)
    with pytest.raises(StoreFileError, match="permission denied"), lock.held():
        pass


def test_a_second_name_of_another_file_is_no_lock_file(lock: StoreLock, lock_file: Path) -> None:
    """Somebody would have us change that file's mode."""
    other = lock_file.with_name("other")
    other.touch(mode=0o644)
    os.link(other, lock_file)
    with pytest.raises(UnsafeFileError, match="second name"), lock.held():
        pass
    assert other.stat().st_mode & 0o777 == 0o644


def test_a_thread_that_hangs_in_opening_a_lock_file_stops_no_other_store(lock: StoreLock) -> None:
    """Its disk may be one of a network that is gone."""
    hangs, may_end = threading.Event(), threading.Event()

    def hanging() -> None:
        with lock_module._unforked():
            hangs.set()
            may_end.wait()

    thread = threading.Thread(target=hanging)
    thread.start()
    hangs.wait()
    try:
        with lock.held() as held:
            held.verify()
    finally:
        may_end.set()
        thread.join()

"""Races: processes and threads that write at the same time, are killed, hang, fork, or make the store together.

Processes are brought to a point by pipes, never by waiting for a while. Whatever is started here ends with the process
that started it.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import json
import math
import mmap
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, cast

import filelock
from cryptography.fernet import Fernet

from faults import Result, Store, StoreProblem, mutate
from faults.model import token
from faults.mutants import _put
from zoho_keystore._fs import atomic
from zoho_keystore._fs.directory import Directory
from zoho_keystore._fs.lock import HeldLock, StoreLock, ThreadLock
from zoho_keystore._fs.owned_fd import OwnedFd
from zoho_keystore._storage.file import FileStorage
from zoho_keystore.errors import KeystoreError, LockTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

    from zoho_keystore._keystore import Keystore
    from zoho_keystore._storage.snapshot import Table

P = ParamSpec("P")
#: What a writer says in the end: the id and the name of each token that it has saved, and its slowest save in seconds.
_Report = tuple[list[tuple[str, str]], float]

FORK = multiprocessing.get_context("fork")
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
#: For how long a process is waited for that has to say something, in seconds.
_PATIENCE_S = 600.0
#: A lock timeout that is waited for in full only where the lock is stuck, in seconds.
_STUCK_S = 4.0
#: What the slowest save may take, in seconds.
_SLOWEST_SAVE_S = 5.0


# --- Processes -------------------------------------------------------------------------------------------------------


def apart(attack: Callable[Concatenate[Path, P], Result]) -> Callable[Concatenate[Path, P], Result]:
    """Make an attack run in a fresh process: one that has a single thread and so may fork, and that a mutant may spoil.

    Its arguments besides the folder are to be named, and are numbers or texts; ``progress`` is called in this process.
    """

    @functools.wraps(attack)
    def run(directory: Path, /, *_: P.args, **options: P.kwargs) -> Result:
        given: dict[str, Any] = dict(options)
        progress = given.pop("progress", lambda: None)
        program = "import sys; sys.path.insert(0, sys.argv[1]); from faults.races import serve; serve()"
        command = [sys.executable, "-P", "-c", program, str(Path(__file__).parents[1])]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            said = ""
            try:
                task, answers = cast("Any", server.stdin), cast("Any", server.stdout)
                with task:
                    json.dump([attack.__module__, attack.__name__, str(directory), given], task)
                for said in iter(answers.readline, ""):
                    if said == "\n":
                        progress()
            except BaseException:
                server.kill()
                raise
        if server.returncode:
            msg = "the attack itself failed; its standard error tells why"
            raise RuntimeError(msg)
        return Result(**json.loads(said))

    return run


def serve() -> None:
    """Run the attack that standard input names, and print its result: the inner half of :func:`apart`."""
    _end_with(os.getppid())
    # Some attacks fork beside threads on purpose, which Python warns of from 3.12 on.
    warnings.simplefilter("ignore", DeprecationWarning)
    module, name, directory, options = json.load(sys.stdin)
    attack = getattr(importlib.import_module(module), name).__wrapped__
    if "progress" in attack.__kwdefaults__:
        options["progress"] = functools.partial(print, flush=True)
    print(json.dumps(asdict(attack(Path(directory), **options))), flush=True)


def _end_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class Child:
    """A forked process that is spoken with over a pipe, and killed at the end of the ``with`` block.

    Args:
        work: What it does with its end of the pipe; what it raises, :meth:`hear` raises.
        options: Further arguments of the work.
    """

    def __init__(self, work: Callable[..., None], **options: object) -> None:
        self.pipe, theirs = FORK.Pipe()
        self._process = FORK.Process(target=_child, args=(os.getpid(), self.pipe, theirs, work, options))
        self._process.start()
        theirs.close()

    def tell(self, what: object = None) -> None:
        """Say something to the process."""
        # One that has failed meanwhile says so when it is heard.
        with suppress(ConnectionError):
            self.pipe.send(what)

    def hear(self) -> Any:
        """Return what the process says next.

        Raises:
            StoreProblem: It failed, died or hangs.
        """
        try:
            return _require_success(self.pipe.recv() if self.pipe.poll(_PATIENCE_S) else TimeoutError("it hangs"))
        except (EOFError, ConnectionError) as error:
            return _require_success(error)

    def signal(self, number: int) -> None:
        """Send the process a signal."""
        os.kill(cast("int", self._process.pid), number)

    def kill(self) -> None:
        """Kill the process, even if it is stopped, and wait until it is gone."""
        self._process.kill()
        self._process.join()

    def listen(self) -> None:
        """Raise what the process has failed with, if it has, as :meth:`hear` does; also after its end."""
        with suppress(EOFError, ConnectionError):
            while self.pipe.poll():
                _require_success(self.pipe.recv())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.pipe.close()


def _require_success(said: Any) -> Any:
    if isinstance(said, Exception):
        msg = f"a process failed: {type(said).__name__}: {said}"
        raise StoreProblem(msg) from said
    return said


def _child(
    parent: int, parents_end: Connection, pipe: Connection, work: Callable[..., None], options: dict[str, object]
) -> None:
    # Else it would never see the end of the pipe, having the other end too.
    parents_end.close()
    _end_with(parent)
    _speak(pipe, work, options)


def _speak(pipe: Connection, work: Callable[..., None], options: dict[str, object]) -> None:
    try:
        work(pipe, **options)
    except Exception as error:  # noqa: BLE001 - raised again where it is heard
        # Nobody may be there to hear it any more.
        with suppress(OSError):
            pipe.send(error)


@contextmanager
def noted(result: Result, where: str = "") -> Iterator[None]:
    """Write down what goes wrong inside as a failure of the store."""
    try:
        yield
    except (StoreProblem, KeystoreError) as problem:
        result.failures.append(f"{where}{type(problem).__name__}: {problem}")


def spoiled(directory: Path, mutant: str | None) -> Store:
    """Take a protection out of this process, and return a store that is still to be made."""
    if mutant in MORE_MUTANTS:
        MORE_MUTANTS[mutant]()
    else:
        mutate(mutant)
    return Store(directory / "tokens.keystore", Fernet.generate_key())


def vault_of(keystore: Keystore) -> FileStorage:
    """Return the vault under a keystore."""
    return cast("FileStorage", keystore._storage)


# --- Mutants besides those of faults.mutants -------------------------------------------------------------------------


def _soft_lock() -> None:
    @contextmanager
    def held(self: StoreLock, _longest_wait_s: float = math.inf) -> Iterator[HeldLock]:
        deadline = time.monotonic() + self._timeout_s
        with Directory.opened(self.path.parent) as directory:
            while True:
                with suppress(FileExistsError):
                    descriptor = OwnedFd(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
                    break
                if time.monotonic() >= deadline:
                    raise LockTimeoutError("the lock file is there", path=self.path)
                time.sleep(0.001)
            try:
                yield HeldLock(directory, self.path.name, descriptor)
            finally:
                os.unlink(self.path)

    _put(StoreLock, held=held)


def _lock_broken_by_age() -> None:
    opened = StoreLock._opened

    def breaking(self: StoreLock, directory: Directory) -> OwnedFd | None:
        if self.path.exists() and time.time() - self.path.stat().st_mtime > _SLOWEST_SAVE_S:
            self.path.unlink()
        return opened(self, directory)

    _put(StoreLock, _opened=breaking)


def _creation_that_overwrites() -> None:
    _put(atomic, _place_new=Directory.replace)


def _reader_takes_the_lock() -> None:
    current = FileStorage._current

    def locking(self: FileStorage) -> Table:
        with self._lock.held():
            return current(self)

    _put(FileStorage, _current=locking)


def _fork_keeps_descriptor() -> None:
    _put(StoreLock, after_fork=lambda _self: None)


def _fork_keeps_thread_lock() -> None:
    _put(ThreadLock, after_fork=lambda _self: None)


#: What each of them takes out, by name.
MORE_MUTANTS: dict[str, Callable[[], None]] = {
    "soft lock": _soft_lock,
    "lock broken by age": _lock_broken_by_age,
    "reader takes the lock": _reader_takes_the_lock,
    "creation that overwrites": _creation_that_overwrites,
    "fork keeps the lock's descriptor": _fork_keeps_descriptor,
    "fork keeps the thread lock": _fork_keeps_thread_lock,
}


# --- Nothing is lost between writers ---------------------------------------------------------------------------------


@apart
def writers(
    directory: Path,
    *,
    processes: int = 24,
    threads: int = 1,
    saves: int = 20,
    lock_timeout: float = 10.0,
    mutant: str | None = None,
) -> Result:
    """Let processes, each with threads that share a store, save tokens at the same time: all of them are kept."""
    store = spoiled(directory, mutant)
    result = Result(f"{processes} processes x {threads} threads that save", processes * threads * saves)
    opened = functools.partial(store.open, lock_timeout=lock_timeout)
    with noted(result), ExitStack() as stack:
        children = [
            stack.enter_context(Child(_save_many, opened=opened, who=f"{number}", threads=threads, saves=saves))
            for number in range(processes)
        ]
        set_off(children)
        _compare(store, [child.hear() for child in children], result)
    return result


@apart
def forks(directory: Path, *, processes: int = 8, saves: int = 20, mutant: str | None = None) -> Result:
    """Let a process and forks of it save at the same time, all with the store that was opened before the forks."""
    store = spoiled(directory, mutant)
    result = Result(f"a process and {processes} forks of it that save", 1 + (1 + processes) * saves)
    with noted(result), ExitStack() as stack:
        keystore = store.open()
        before = _saved(keystore, "before", 1)
        children = [
            stack.enter_context(Child(_save_many, opened=lambda: keystore, who=f"{number}", threads=1, saves=saves))
            for number in range(processes)
        ]
        set_off(children)
        _compare(store, [before, _saved(keystore, "own", saves), *(child.hear() for child in children)], result)
    return result


@apart
def creators(directory: Path, *, processes: int = 8, rounds: int = 20, mutant: str | None = None) -> Result:
    """Let processes make a store at the same moment: they make one, and it holds what each of them saves."""
    store = spoiled(directory, mutant)
    result = Result(f"{processes} processes that make the store", processes * rounds)
    with noted(result), ExitStack() as stack:
        children = [stack.enter_context(Child(_create, who=f"{number}")) for number in range(processes)]
        for number in range(rounds):
            made = replace(store, path=directory / f"{number}" / store.path.name)
            made.path.parent.mkdir(mode=0o700)
            for child in children:
                child.tell(made)
            heard = [child.hear() for child in children]
            if len({store_id for store_id, _ in heard}) > 1:
                result.failures.append(f"round {number}: more than one store was made")
            _compare(made, [report for _, report in heard], result)
    return result


def set_off(children: list[Child]) -> None:
    """Let processes that have said that they are ready begin, at the same moment."""
    for child in children:
        child.hear()
    for child in children:
        child.tell()


def _save_many(pipe: Connection, *, opened: Callable[[], Keystore], who: str, threads: int, saves: int) -> None:
    keystore = opened()
    pipe.send("ready")
    pipe.recv()
    with ThreadPoolExecutor(threads) as pool:
        reports = list(pool.map(lambda thread: _saved(keystore, f"{who}-{thread}", saves), range(threads)))
    pipe.send(([saved for ids, _ in reports for saved in ids], max(slowest for _, slowest in reports)))


def _create(pipe: Connection, *, who: str) -> None:
    while True:
        keystore = pipe.recv().open()
        pipe.send((vault_of(keystore)._current().header.store_id, _saved(keystore, who, 1)))


def _saved(keystore: Keystore, who: str, saves: int) -> _Report:
    report = []
    slowest = 0.0
    for number in range(saves):
        name = f"{who}-{number}"
        start = time.monotonic()
        id = keystore.save(token(name)).id
        slowest = max(slowest, time.monotonic() - start)
        found = keystore.get(id)
        if found is None or found.refresh_token != name:
            msg = f"{name} is not there after its save"
            raise StoreProblem(msg)
        report.append((id, name))
    return report, slowest


def _compare(store: Store, reports: list[_Report], result: Result) -> None:
    """Compare what writers were told with what the file holds; to be called when nobody writes any more."""
    acknowledged = [saved for ids, _ in reports for saved in ids]
    slowest = max(slowest for _, slowest in reports)
    result.figures["slowest save, s"] = max(round(slowest, 3), result.figures.get("slowest save, s", 0))
    held = store.tokens() or {}
    if lost := [name for id, name in acknowledged if held.get(id) != name]:
        result.failures.append(f"{len(lost)} of {len(acknowledged)} tokens are lost, such as {lost[0]}")
    if len(dict(acknowledged)) < len(acknowledged):
        result.failures.append("an id was given twice")
    if len(held) > len(acknowledged):
        result.failures.append(f"{len(held)} tokens are there, of which {len(acknowledged)} were saved")
    if slowest >= _SLOWEST_SAVE_S:
        result.failures.append(f"a save took {slowest:.1f} s")
    if left := store.leftovers():
        result.failures.append(f"left behind: {left}")
    store.require_private()


# --- Holders of the lock that are killed, hang, or are forked --------------------------------------------------------


@apart
def killed_holders(
    directory: Path, *, kills: int = 20, lock_timeout: float = _STUCK_S, mutant: str | None = None
) -> Result:
    """Kill processes inside a transaction: the next writer has the lock at once, and finds nothing of theirs."""
    store = spoiled(directory, mutant)
    result = Result("holders of the lock that are killed", kills)
    with noted(result):
        keystore = store.open(lock_timeout=lock_timeout)
        reports = []
        for number in range(kills):
            with Child(_hold, store=store) as holder:
                holder.hear()
            reports.append(_saved(keystore, f"{number}", 1))
        _compare(store, reports, result)
    return result


@apart
def hanging_holder(directory: Path, *, lock_timeout: float = 2.0, mutant: str | None = None) -> Result:
    """Stop a process inside a transaction: writers wait for the lock timeout, readers for nothing, nobody breaks in."""
    store = spoiled(directory, mutant)
    result = Result("a holder of the lock that hangs")
    lock = store.path.with_name(f".{store.path.name}.lock")
    with noted(result):
        keystore = store.open(lock_timeout=lock_timeout)
        reports = [_saved(keystore, "before", 1)]
        # As old as can be, and with the number of a process that cannot be: no reason to take it away from anybody.
        lock.write_text("4194305")
        lock.chmod(0o600)
        number = lock.stat().st_ino
        with Child(_hold, store=store) as holder, Child(_read_on, store=store, lock_timeout=lock_timeout) as reader:
            holder.hear()
            holder.signal(signal.SIGSTOP)
            os.utime(lock, (0, 0))
            set_off([reader])
            start = time.monotonic()
            try:
                keystore.save(token("broken in"))
                result.failures.append("a lock was broken that a process held")
            except LockTimeoutError as error:
                if error.path != lock or str(lock) not in str(error):
                    result.failures.append(f"the error does not name the lock file: {error}")
            waited = time.monotonic() - start
            reader.tell()
            result.tried, slowest = reader.hear()
            holder.signal(signal.SIGCONT)
            holder.tell()
            reports.append(holder.hear())
        reports.append(_saved(keystore, "after", 1))
        result.figures |= {"waited, s": round(waited, 3), "slowest read, s": round(slowest, 4)}
        if not lock_timeout <= waited < lock_timeout + _SLOWEST_SAVE_S:
            result.failures.append(f"a writer waited {waited:.2f} s, with a timeout of {lock_timeout:g} s")
        if slowest >= lock_timeout:
            result.failures.append(f"a reader waited {slowest:.2f} s")
        if not lock.exists() or lock.stat().st_ino != number:
            result.failures.append("the lock file was deleted or replaced")
        _compare(store, reports, result)
    return result


@apart
def forks_beside_threads(directory: Path, *, lock_timeout: float = _STUCK_S, mutant: str | None = None) -> Result:
    """Fork while another thread holds the lock or waits for it: the fork can save, and has no part in that lock."""
    store = spoiled(directory, mutant)
    result = Result("forks beside a thread that holds the lock or waits for it")
    for waits in (False, True):
        for dies in (False, True):
            result.tried += 1
            one = replace(store, path=directory / f"{result.tried}" / store.path.name)
            one.path.parent.mkdir(mode=0o700)
            with noted(result, f"waits={waits}, dies={dies}: "):
                _fork_beside_a_thread(one, result, lock_timeout, waits=waits, dies=dies)
    return result


def _hold(pipe: Connection, *, store: Store) -> None:
    with store.open()._storage.transaction() as transaction:
        transaction.put(replace(token("held"), id="held"))
        pipe.send("inside")
        pipe.recv()
    pipe.send(([("held", "held")], 0.0))


def _read_on(pipe: Connection, *, store: Store, lock_timeout: float) -> None:
    keystore = store.open(lock_timeout=lock_timeout)
    pipe.send("ready")
    pipe.recv()
    reads, slowest = 0, 0.0
    while not pipe.poll():
        start = time.monotonic()
        # One that has read before, and one that comes new.
        for reading in (keystore, store.open(lock_timeout=lock_timeout)):
            if not reading.records():
                msg = "a reader found nothing"
                raise StoreProblem(msg)
        reads += 1
        slowest = max(slowest, time.monotonic() - start)
    pipe.send((reads, slowest))


def _fork_beside_a_thread(store: Store, result: Result, lock_timeout: float, *, waits: bool, dies: bool) -> None:
    keystore = store.open(lock_timeout=lock_timeout)
    reports = [_saved(keystore, "before", 1)]
    leave, told = FORK.Pipe()
    with ExitStack() as stack:
        holder = stack.enter_context(Child(_hold, store=store)) if waits else None
        if holder is not None:
            holder.hear()
        # The parent's thread and the fork both speak over the parent's pipe.
        parent = stack.enter_context(Child(_parent, keystore=keystore, told=told, waits=waits))
        steps = [parent.hear()]
        if holder is not None:
            holder.kill()
        steps.append(parent.hear())
        if sorted(steps) != ["a thread is inside", "the fork was refused"]:
            result.failures.append(f"steps in another order: {steps}")
        if dies:
            parent.kill()
        else:
            leave.send("leave")
            reports.append(parent.hear())
        reports.append(_saved(keystore, "after", 1))
        parent.tell()
        reports.append(parent.hear())
        _compare(store, reports, result)


def _parent(pipe: Connection, *, keystore: Keystore, told: Connection, waits: bool) -> None:
    arrived = threading.Event()

    def work() -> None:
        with vault_of(keystore).transaction() as transaction:
            transaction.put(replace(token("thread"), id="thread"))
            pipe.send("a thread is inside")
            arrived.set()
            told.recv()
        pipe.send(([("thread", "thread")], 0.0))

    if waits:
        lock_descriptor = filelock.lock_descriptor

        def noticed(fd: int, **options: Any) -> bool:
            # Not set again: a fork in that moment would have a copy of the event that is locked for ever.
            if not (locked := lock_descriptor(fd, **options)) and not arrived.is_set():
                arrived.set()
            return locked

        vault_of(keystore)._lock._calls = noticed, filelock.unlock_descriptor
    threading.Thread(target=_speak, args=(pipe, lambda _: work(), {}), daemon=True).start()
    arrived.wait()
    fork = FORK.Process(target=_speak, args=(pipe, _fork, {"keystore": keystore}))
    fork.start()
    fork.join()


def _fork(pipe: Connection, *, keystore: Keystore) -> None:
    lock = vault_of(keystore)._lock
    patience, lock._timeout_s = lock._timeout_s, 0.0
    try:
        keystore.save(token("broken in"))
    except LockTimeoutError:
        pipe.send("the fork was refused")
    else:
        pipe.send("the fork broke in")
    lock._timeout_s = patience
    pipe.recv()
    pipe.send(_saved(keystore, "fork", 1))


# --- Every acknowledged change counts, whoever is killed -------------------------------------------------------------


class Ledger:
    """What the thread of each counter has begun, and what was acknowledged to it, in memory that no kill takes away."""

    def __init__(self, counters: int) -> None:
        shared = memoryview(mmap.mmap(-1, 8 * (2 * counters + 1))).cast("q")
        self.begun, self.acknowledged = shared[:counters], shared[counters:-1]
        self._stop = shared[-1:]

    @property
    def stopped(self) -> bool:
        """Whether all threads are to end after what they do now."""
        return bool(self._stop[0])

    def stop(self) -> None:
        """End all threads after what they do now."""
        self._stop[0] = 1

    def settle(self, counters: range, store: Store) -> None:
        """Compare counters that nobody raises at the moment with the ledger, and go on from what the file holds.

        Raises:
            StoreProblem: An acknowledged change does not count, or one counts that was not begun.
        """
        document = store.document() or {"tokens": []}
        values = {held["id"]: int(held["redirect_url"]) for held in document["tokens"]}
        for counter in counters:
            value = values[f"{counter}"]
            if not self.acknowledged[counter] <= value <= self.begun[counter]:
                msg = f"a counter is {value}, acknowledged {self.acknowledged[counter]}, begun {self.begun[counter]}"
                raise StoreProblem(msg)
            self.begun[counter] = self.acknowledged[counter] = value
        # Raised together with each of them, so this holds in every state, whoever is at work.
        if (total := values.pop("total")) != (total_of_all := sum(values.values())):
            msg = f"the total is {total}, and all counters together are {total_of_all}"
            raise StoreProblem(msg)


@apart
def read_modify_write(
    directory: Path,
    *,
    increments: int,
    processes: int = 8,
    threads: int = 4,
    kill_every_s: float = 0.1,
    mutant: str | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Result:
    """Let threads raise a number each, and one together, while processes are killed: each acknowledged one counts.

    Args:
        directory: Where the store is made.
        increments: When so many are acknowledged, it ends.
        processes: How many processes; one that is killed is replaced at once.
        threads: How many threads each of them has, with one store.
        kill_every_s: How much time passes from one kill to the next on average, in seconds.
        mutant: The protection to take out.
        progress: Called for each increment.
    """
    store = spoiled(directory, mutant)
    result = Result(f"{processes} processes x {threads} threads that read, modify and write, under kills")
    counters = range(processes * threads)
    shares = [counters[first : first + threads] for first in counters[::threads]]
    ledger = Ledger(len(counters))
    kills = 0
    start = time.monotonic()
    with noted(result), ExitStack() as stack:
        keystore = store.open()
        for id in (*map(str, counters), "total"):
            keystore.save(replace(token(id), id=id, redirect_url="0"))
        children = [Child(_raise_numbers, store=store, ledger=ledger, counters=share) for share in shares]
        stack.callback(_end, children)
        while result.tried < increments:
            time.sleep(random.uniform(0, 2 * kill_every_s))  # noqa: S311 - when to kill is no secret
            victim = random.randrange(processes)  # noqa: S311 - nor is whom
            children[victim].kill()
            kills += 1
            for child in children:
                child.listen()
            ledger.settle(shares[victim], store)
            children[victim].pipe.close()
            children[victim] = Child(_raise_numbers, store=store, ledger=ledger, counters=shares[victim])
            done = sum(ledger.acknowledged)
            for _ in range(done - result.tried):
                progress()
            result.tried = done
        ledger.stop()
        for child in children:
            child.hear()
        ledger.settle(counters, store)
        result.tried = sum(ledger.acknowledged)
        keystore.clear()
        if left := store.leftovers():
            result.failures.append(f"left behind: {left}")
    result.figures |= {"kills": kills, "a second": round(result.tried / (time.monotonic() - start))}
    return result


def _end(children: list[Child]) -> None:
    for child in children:
        child.kill()


def _raise_numbers(pipe: Connection, *, store: Store, ledger: Ledger, counters: range) -> None:
    storage = store.open()._storage

    def work(_: Connection, *, counter: int) -> None:
        while not ledger.stopped:
            number = ledger.begun[counter] = ledger.begun[counter] + 1
            with storage.transaction() as transaction:
                for id in (f"{counter}", "total"):
                    record: Any = transaction.get(id)
                    transaction.put(replace(record, redirect_url=f"{int(record.redirect_url) + 1}"))
            ledger.acknowledged[counter] = number

    with ThreadPoolExecutor(len(counters)) as pool:
        # Each thread speaks for itself: what fails is to be known before the process is killed.
        list(pool.map(lambda counter: _speak(pipe, work, {"counter": counter}), counters))
    pipe.send("done")

"""Races: processes and threads that save at the same time, are killed, hang, fork, or make the store together.

Processes are brought to a point by pipes, never by waiting for a while.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing import Pipe
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from cryptography.fernet import Fernet

from faults import Attempt
from faults.mutants import set_lock_timeout
from faults.processes import Child, engine, speak, start_together, timed
from faults.store import AnyStore, Store, StoreProblem, token
from support import held
from zoho_keystore.errors import LockTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

    from zoho_keystore._keystore import Keystore

#: A lock timeout that is waited for in full only where the lock is stuck, in seconds.
_STUCK_S = 4.0
#: What the slowest save may take, in seconds.
_SLOWEST_SAVE_S = 5.0
SLOWEST = "slowest save, s"


class _Report(NamedTuple):
    """What a writer says in the end: the id and the name of each token that it has saved, and its slowest save."""

    saved: list[tuple[str, str]]
    slowest_s: float = 0.0


#: Names a store that is still to be made, in an empty directory or elsewhere.
Make: TypeAlias = "Callable[[Path], AnyStore]"


def store_in(directory: Path) -> Store:
    """Name the file of a store that is still to be made."""
    return Store(directory / "tokens.keystore", Fernet.generate_key())


def _saved(keystore: Keystore, who: str, saves: int = 1) -> _Report:
    report = _Report([])
    for number in range(saves):
        name = f"{who}-{number}"
        start = time.monotonic()
        id = keystore.save(token(name)).id
        report = report._replace(slowest_s=max(report.slowest_s, time.monotonic() - start))
        found = keystore.get(id)
        if found is None or found.refresh_token != name:
            raise StoreProblem(f"{name} is not there after its save")
        report.saved.append((id, name))
    return report


def _compared(store: AnyStore, reports: Sequence[_Report], slowest_save_s: float = _SLOWEST_SAVE_S) -> Attempt:
    """Compare what writers were told with what the file holds; to be called when no process writes any more.

    Raises:
        StoreProblem: It is not the same, or a save was too slow, or a file is left or open to others.
    """
    acknowledged = [saved for report in reports for saved in report.saved]
    slowest_s = max(report.slowest_s for report in reports)
    held = store.tokens() or {}
    if lost := [name for id, name in acknowledged if held.get(id) != name]:
        raise StoreProblem(f"{len(lost)} of {len(acknowledged)} tokens are lost, such as {lost[0]}")
    if len(dict(acknowledged)) < len(acknowledged):
        raise StoreProblem("an id was given twice")
    if len(held) > len(acknowledged):
        raise StoreProblem(f"{len(held)} tokens are there, of which {len(acknowledged)} were saved")
    if slowest_s >= slowest_save_s:
        raise StoreProblem(f"a save took {slowest_s:.1f} s")
    store.require_no_leftovers()
    store.require_private()
    return Attempt(figures={SLOWEST: round(slowest_s, 3)}, tried=len(acknowledged))


# --- Nothing is lost between writers ---------------------------------------------------------------------------------


@engine("processes and threads that save")
def writers(
    directory: Path,
    *,
    make: Make = store_in,
    processes: int = 24,
    threads: int = 1,
    saves: int = 20,
    slowest_save_s: float = _SLOWEST_SAVE_S,
) -> Generator[Attempt]:
    """Let processes, each with threads that share a store, save tokens at the same time: all of them are kept.

    Args:
        directory: Where to work.
        make: Names the store.
        processes: How many processes.
        threads: How many threads each of them has.
        saves: How often each thread saves.
        slowest_save_s: Less than this a save may take, in seconds.
    """
    store = make(directory)
    with ExitStack() as stack:
        children = [
            stack.enter_context(Child(_save_many, opened=store.open, who=f"{number}", threads=threads, saves=saves))
            for number in range(processes)
        ]
        start_together(children)
        yield _compared(store, [child.hear() for child in children], slowest_save_s)


@engine("a process and its forks that save")
def forks(
    directory: Path,
    *,
    make: Make = store_in,
    processes: int = 8,
    saves: int = 20,
    slowest_save_s: float = _SLOWEST_SAVE_S,
) -> Generator[Attempt]:
    """Let a process and forks of it save at the same time, all with the store that was opened before the forks."""
    store = make(directory)
    keystore = store.open()
    before = _saved(keystore, "before")
    with ExitStack() as stack:
        children = [
            stack.enter_context(Child(_save_many, opened=lambda: keystore, who=f"{number}", threads=1, saves=saves))
            for number in range(processes)
        ]
        start_together(children)
        own = _saved(keystore, "own", saves)
        yield _compared(store, [before, own, *(child.hear() for child in children)], slowest_save_s)


def _save_many(pipe: Connection, *, opened: Callable[[], Keystore], who: str, threads: int, saves: int) -> None:
    keystore = opened()
    pipe.send("ready")
    pipe.recv()
    with ThreadPoolExecutor(threads) as pool:
        reports = list(pool.map(lambda thread: _saved(keystore, f"{who}-{thread}", saves), range(threads)))
    saved = [saved for report in reports for saved in report.saved]
    pipe.send(_Report(saved, max(report.slowest_s for report in reports)))


@engine("processes that make the store")
def creators(
    directory: Path,
    *,
    make: Make = store_in,
    processes: int = 8,
    rounds: int = 20,
    slowest_save_s: float = _SLOWEST_SAVE_S,
) -> Generator[Attempt]:
    """Let processes make a store at the same moment: they make one, and it holds what each of them saves."""
    with ExitStack() as stack:
        children = [stack.enter_context(Child(_create, who=f"{number}")) for number in range(processes)]
        for number in range(rounds):
            own = directory / f"{number}"
            own.mkdir(mode=0o700)
            store = make(own)
            for child in children:
                child.tell(store)
            heard = [child.hear() for child in children]
            if len({store_id for store_id, _ in heard}) > 1:
                raise StoreProblem("more than one store was made")
            yield _compared(store, [report for _, report in heard], slowest_save_s)


def _create(pipe: Connection, *, who: str) -> None:
    while True:
        store = pipe.recv()
        keystore = store.open()
        pipe.send((store.document()["store_id"], _saved(keystore, who)))


@engine("processes that save the same new token")
def same_token(directory: Path, *, make: Make = store_in, processes: int = 8, rounds: int = 10) -> Generator[Attempt]:
    """Let processes save the same new token at the same moment: it becomes one record, and all are told its id."""
    store = make(directory)
    store.open()
    with ExitStack() as stack:
        children = [stack.enter_context(Child(_save_told, store=store)) for _ in range(processes)]
        for child in children:
            child.hear()
        for number in range(1, rounds + 1):
            for child in children:
                child.tell(f"shared-{number}")
            ids = {child.hear() for child in children}
            held = store.tokens() or {}
            if len(held) != number:
                raise StoreProblem(f"{len(held)} records are there after {number} new tokens")
            if {id for id, name in held.items() if name == f"shared-{number}"} != ids:
                raise StoreProblem(f"the processes were told the ids {sorted(ids)}")
            yield Attempt(tried=processes)


def _save_told(pipe: Connection, *, store: AnyStore) -> None:
    keystore = store.open()
    pipe.send("ready")
    while True:
        pipe.send(keystore.save(token(pipe.recv())).id)


# --- Holders of the lock that are killed, hang, or are forked --------------------------------------------------------


@engine("holders of the lock that are killed")
def killed_holders(directory: Path, *, kills: int = 20, lock_timeout: float = _STUCK_S) -> Generator[Attempt]:
    """Kill processes inside a transaction: the next writer has the lock at once, and finds nothing of theirs."""
    store = store_in(directory)
    keystore = store.open(lock_timeout=lock_timeout)
    reports = []
    for number in range(kills):
        with Child(_hold, store=store) as holder:
            holder.hear()
        reports.append(_saved(keystore, f"{number}"))
    yield _compared(store, reports)


@engine("a holder of the lock that hangs")
def hanging_holder(directory: Path, *, lock_timeout: float = 2.0) -> Generator[Attempt]:
    """Stop a process inside a transaction: writers wait for the lock timeout, readers for nothing, the lock holds."""
    store = store_in(directory)
    lock = store.lock_path
    keystore = store.open(lock_timeout=lock_timeout)
    reports = [_saved(keystore, "before")]
    # As old as can be, and with the number of a process that cannot be: no reason to take it away.
    lock.write_text("4194305")
    lock.chmod(0o600)
    number = lock.stat().st_ino
    with Child(_hold, store=store) as holder, Child(_read_on, store=store, lock_timeout=lock_timeout) as reader:
        holder.hear()
        holder.signal(signal.SIGSTOP)
        os.utime(lock, (0, 0))
        start_together([reader])
        waited_s = timed(lambda: _require_refusal(keystore, lock))
        reader.tell()
        reads, slowest_s = reader.hear()
        holder.signal(signal.SIGCONT)
        holder.tell()
        reports.append(holder.hear())
    reports.append(_saved(keystore, "after"))
    if not lock_timeout <= waited_s < lock_timeout + _SLOWEST_SAVE_S:
        raise StoreProblem(f"a writer waited {waited_s:.2f} s, with a timeout of {lock_timeout:g} s")
    if slowest_s >= lock_timeout:
        raise StoreProblem(f"a reader waited {slowest_s:.2f} s")
    if not lock.exists() or lock.stat().st_ino != number:
        raise StoreProblem("the lock file was deleted or replaced")
    _compared(store, reports)
    yield Attempt(figures={"slowest read, s": slowest_s}, tried=reads)


def _require_refusal(keystore: Keystore, lock: Path) -> None:
    try:
        keystore.save(token("broken in"))
    except LockTimeoutError as error:
        if error.path != lock or str(lock) not in str(error):
            raise StoreProblem(f"the error does not name the lock file: {error}") from error
    else:
        raise StoreProblem("a lock was broken that a process holds")


def _hold(pipe: Connection, *, store: Store) -> None:
    with held(store.open()) as transaction:
        transaction.put(replace(token("held"), id="held"))
        pipe.send("inside")
        pipe.recv()
    pipe.send(_Report([("held", "held")]))


def _read_on(pipe: Connection, *, store: Store, lock_timeout: float) -> None:
    keystore = store.open(lock_timeout=lock_timeout)
    pipe.send("ready")
    pipe.recv()
    reads, slowest_s = 0, 0.0
    while not pipe.poll():
        start = time.monotonic()
        # One that has read before, and one that is new.
        for reading in (keystore, store.open(lock_timeout=lock_timeout)):
            if not reading.records():
                raise StoreProblem("a reader found nothing")
        reads += 1
        slowest_s = max(slowest_s, time.monotonic() - start)
    pipe.send((reads, slowest_s))


@engine("forks beside a thread that holds the lock or waits for it")
def forks_beside_threads(directory: Path, *, lock_timeout: float = _STUCK_S) -> Generator[Attempt]:
    """Fork while another thread holds the lock or waits for it: the fork can save, and has no part in that lock."""
    for waits in (False, True):
        for dies in (False, True):
            own = directory / f"{waits}-{dies}"
            own.mkdir(mode=0o700)
            try:
                _fork_beside_a_thread(store_in(own), lock_timeout, waits=waits, dies=dies)
            except (StoreProblem, LockTimeoutError) as problem:
                yield Attempt(f"waits={waits}, dies={dies}: {problem}")
            else:
                yield Attempt()


def _fork_beside_a_thread(store: Store, lock_timeout: float, *, waits: bool, dies: bool) -> None:
    keystore = store.open(lock_timeout=lock_timeout)
    reports = [_saved(keystore, "before")]
    leave, told = Pipe()
    with ExitStack() as stack:
        holder = stack.enter_context(Child(_hold, store=store)) if waits else None
        if holder is not None:
            holder.hear()
        # The parent's thread and the fork both speak over the parent's pipe.
        parent = stack.enter_context(Child(_parent, keystore=keystore, told=told, lock=waits and store.lock_path))
        steps = [parent.hear()]
        if holder is not None:
            holder.kill()
        steps.append(parent.hear())
        if sorted(steps) != ["a thread is inside", "the fork was refused"]:
            raise StoreProblem(f"steps in another order: {steps}")
        if dies:
            parent.kill()
        else:
            leave.send("leave")
            reports.append(parent.hear())
        reports.append(_saved(keystore, "after"))
        parent.tell()
        reports.append(parent.hear())
        _compared(store, reports)


def _parent(pipe: Connection, *, keystore: Keystore, told: Connection, lock: Path | None) -> None:
    """Fork beside a thread that is inside a transaction or, where a lock file is given, waits for its lock."""
    inside = threading.Event()

    def work(_: Connection) -> None:
        with held(keystore) as transaction:
            transaction.put(replace(token("thread"), id="thread"))
            inside.set()
            pipe.send("a thread is inside")
            told.recv()
        pipe.send(_Report([("thread", "thread")]))

    threading.Thread(target=speak, args=(pipe, work), daemon=True).start()
    if lock:
        while not _has_open(lock):
            time.sleep(0.001)
    else:
        inside.wait()
    # Not a Child, which would die with this process.
    if not (pid := os.fork()):
        speak(pipe, _fork, keystore=keystore)
        os._exit(0)
    os.waitpid(pid, 0)


def _has_open(path: Path) -> bool:
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}") == str(path):
                return True
        except FileNotFoundError:
            continue  # It was closed meanwhile.
    return False


def _fork(pipe: Connection, *, keystore: Keystore) -> None:
    timeout_s = set_lock_timeout(keystore, 0.0)
    try:
        keystore.save(token("broken in"))
    except LockTimeoutError:
        pipe.send("the fork was refused")
    else:
        pipe.send("the fork broke in")
    set_lock_timeout(keystore, timeout_s)
    pipe.recv()
    pipe.send(_saved(keystore, "fork"))

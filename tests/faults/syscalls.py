"""System calls: strace kills a real process at each call that a deed makes of the kernel, or lets that call fail.

A worker does the deed between two marks, which it sets by asking for files that are not there. One run is traced whole;
then each call between the marks is struck in a run of its own. What strace counts are the calls of one name since it
came, so each run's trace is looked at too: a strike that landed elsewhere is made again.

Every call is struck but these:

- memory, locks between threads, signal masks and the clock: they are the interpreter's, come a different number of
  times in each run, and change nothing that outlives the process;
- no error is given to calls that have none: the user's id, and random bytes once the system is up.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from faults import Result
from faults.kills import (
    ALL_DEEDS,
    OLD_AND_NEW,
    Attempt,
    Stage,
    do,
    failure_of,
    fork,
    opened,
    recover,
    run,
)
from faults.model import StoreProblem, token
from zoho_keystore.errors import DurabilityUnknownError, KeystoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from faults.kills import Scene
    from faults.model import Store
    from zoho_keystore._keystore import Keystore

_T = TypeVar("_T")

#: What the kernel says when the disk breaks, is full or read-only, when too many files are open, and to interrupt.
ERRORS = ("EIO", "ENOSPC", "EROFS", "EMFILE", "EINTR")

#: What a deed may say of itself; also the names of the figures.
SAVED, UNKNOWN, NOT_SAVED = "told saved", "told durability unknown", "told not saved"

_MEMORY = frozenset(("brk", "madvise", "mmap", "mprotect", "mremap", "munmap"))
_THREADS_SIGNALS_CLOCK = frozenset(
    ("clock_gettime", "clock_nanosleep", "futex", "gettimeofday", "rt_sigaction", "rt_sigprocmask", "sched_yield")
)
_INTERPRETERS_OWN = _MEMORY | _THREADS_SIGNALS_CLOCK
_WITHOUT_ERRORS = frozenset(("getegid", "geteuid", "getgid", "getpid", "getrandom", "getuid"))

_BEGIN, _END = "/no-such-file-the-deed-begins", "/no-such-file-the-deed-ends"

#: What the worker saves after the deed.
_NEXT = "next in the same process"

#: How often a strike that landed elsewhere is made again.
_ATTEMPTS = 3

#: After so many seconds a worker that hangs is ended by the clock.
_WORKER_LIFE_S = 60


def why_not() -> str | None:
    """Return why these engines cannot work here; None if they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    try:
        _under_strace(lambda _: None, "-o", os.devnull)
    except _CannotTraceError as error:
        return str(error)
    return None


def kill_at_every_call(
    directory: Path,
    *,
    deeds: Sequence[str] = ALL_DEEDS,
    times: int | None = None,
    mutant: str | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Result:
    """Kill a process at the system calls that deeds make; the call itself is not executed any more.

    Args:
        directory: Where to work; nothing is left in it.
        deeds: What to do.
        times: How many of the calls to take, evenly spread; None takes all.
        mutant: The protection to take out; then it ends with the first failure.
        progress: Called after each kill.
    """

    def attempts() -> Generator[Attempt]:
        with _Engine.set_in(directory) as engine:
            for call in spread([call for deed in deeds for call in engine.calls(deed)], times):
                yield Attempt(failure_of(f"{call}: killed", partial(engine.kill, call)))

    return run(attempts, Result("SIGKILL at every system call"), mutant, progress)


def fail_every_call(
    directory: Path,
    *,
    deeds: Sequence[str] = ALL_DEEDS,
    errors: Sequence[str] = ERRORS,
    times: int | None = None,
    mutant: str | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Result:
    """Let the system calls that deeds make fail.

    Args:
        directory: Where to work; nothing is left in it.
        deeds: What to do.
        errors: With what, by the names of the errors.
        times: How many pairs of a call and an error to take, evenly spread; None takes all.
        mutant: The protection to take out; then it ends with the first failure.
        progress: Called after each failing call.
    """

    def attempts() -> Generator[Attempt]:
        with _Engine.set_in(directory) as engine:
            calls = [call for deed in deeds for call in engine.calls(deed) if call.can_fail]
            for call, error in spread([(call, error) for call in calls for error in errors], times):
                try:
                    told = engine.fail(call, error)
                except StoreProblem as problem:
                    yield Attempt(f"{call}: {error}: {problem}")
                else:
                    yield Attempt(figures={told: 1})

    return run(attempts, Result("an error from every system call"), mutant, progress)


@dataclass(frozen=True)
class _Call:
    """One system call of a deed.

    Attributes:
        deed: What is being done.
        name: What is called.
        text: The call with its arguments, as it was traced.
        before: How many calls of this name the process made before the deed.
        number: Which one of this name in the deed, from 1.
    """

    deed: str
    name: str
    text: str
    before: int
    number: int

    @property
    def is_end(self) -> bool:
        """Tell whether the deed has returned already."""
        return _END in self.text

    @property
    def can_fail(self) -> bool:
        """Tell whether an error of it is the store's business."""
        return not self.is_end and self.name not in _WITHOUT_ERRORS

    @property
    def is_sync(self) -> bool:
        """Tell whether it is what makes something durable."""
        return self.name in {"fsync", "fdatasync", "syncfs"}

    def __str__(self) -> str:
        return f"{self.deed}, {self.text}"


@dataclass(frozen=True)
class _Report:
    """What a worker says after a deed.

    Attributes:
        told: What the deed said of itself; None if what it raised is no error of ours.
        raised: What it raised.
        tokens: What the file then held, or what was wrong with it.
        leftovers: The files that were left.
        next_raised: What the next save in the same process raised.
        leaked: Descriptors that stayed open when the store was closed, and what they were of.
        unraisable: What was raised where nobody could catch it, and so went to stderr.
    """

    told: str | None
    raised: str | None
    tokens: dict[str, str] | str | None
    leftovers: list[str]
    next_raised: str | None
    leaked: list[str]
    unraisable: list[str]


class Tracer:
    """A scene on which workers do deeds under strace.

    Args:
        scene: The scene.
        trace: The file to write traces to.
    """

    def __init__(self, scene: Scene, trace: Path) -> None:
        self._scene = scene
        self._trace = trace
        self._mark = ""

    def calls(self, deed: str) -> list[_Call]:
        """Return the calls of a deed that can be struck, in their order, with that which marks its end.

        Raises:
            StoreProblem: Nothing is struck, and the deed fails.
        """
        code, said = self._run(deed, "-e", "trace=all")
        if code:
            msg = f"{deed} fails, even unharmed: {said}"
            raise StoreProblem(msg)
        traced = self._lines()
        init, end = (next(i for i, (_, line) in enumerate(traced) if mark in line) for mark in (_BEGIN, _END))
        self._mark = traced[init][0]
        names = [name for name, _ in traced]
        return [
            _Call(
                deed,
                name,
                # Without the result, and without addresses, which say nothing.
                re.sub(r"0x[0-9a-f]+", "…", line.rpartition(" = ")[0].rstrip()),
                names[: init + 1].count(name),
                names[init + 1 : number + 1].count(name),
            )
            for number, (name, line) in enumerate(traced[: end + 1])
            if number > init and name not in _INTERPRETERS_OWN
        ]

    def kill(self, call: _Call) -> None:
        """Kill a worker at a call, and look at what it leaves.

        Raises:
            StoreProblem: What must not be.
        """
        self._strike(call, "signal=SIGKILL")
        self._scene.inspect(call.deed, is_done=call.is_end)

    def _strike(self, call: _Call, how: str) -> tuple[int, str]:
        for _ in range(_ATTEMPTS):
            # The mark's calls are traced too, to see where the deed began. Not with --seccomp-bpf, under which strace
            # 6.1 does not deliver the signal.
            inject = f"inject={call.name}:{how}:when={call.before + call.number}"
            ended = self._run(call.deed, "-e", f"trace={call.name},{self._mark}", "-e", inject)
            if self._has_landed(call):
                return ended
        msg = f"the strike landed elsewhere in {_ATTEMPTS} attempts"
        raise StoreProblem(msg)

    def _has_landed(self, call: _Call) -> bool:
        """Tell whether the call that was struck was the one that was meant."""
        before = number = 0
        begun = False
        for name, line in self._lines():
            if name == call.name:
                before, number = (before, number + 1) if begun else (before + 1, 0)
            if line.endswith(("(INJECTED)", " = ?")):
                return begun and (before, number) == (call.before, call.number)
            begun = begun or _BEGIN in line
        return False

    def _run(self, deed: str, *options: str) -> tuple[int, str]:
        """Let a worker do a deed under strace, with options of strace; return how it ended and what it said."""
        work = self._worker(deed)
        code, said = _under_strace(
            lambda echo_escaped: echo_escaped(work().encode()),
            *("-s", "64", "-o", str(self._trace), *options),
        )
        return code, said.decode()

    def _worker(self, deed: str) -> Callable[[], str]:
        """Prepare a deed, and return what does it between the marks, and returns what the worker is to say."""
        act = self._scene.prepared(deed)

        def work() -> str:
            _set_mark(_BEGIN)
            act()
            _set_mark(_END)
            return "done"

        return work

    def _lines(self) -> list[tuple[str, str]]:
        """Return the calls of the last run, each with its name and its whole line."""
        lines = self._trace.read_text(errors="replace").splitlines()
        found = (re.match(r"(?:\d+ +)?((\w+)\(.*)", line) for line in lines)
        return [(match[2], match[1]) for match in found if match]


class _Engine(Tracer):
    """A stage on which workers do deeds to a store, and tell what came of them."""

    def __init__(self, stage: Stage, trace: Path) -> None:
        super().__init__(stage, trace)
        self._stage = stage

    @classmethod
    @contextmanager
    def set_in(cls, directory: Path) -> Iterator[Self]:
        """Make an engine inside a folder, and clean up in the end."""
        with Stage.set_in(directory) as stage, tempfile.TemporaryDirectory(dir=directory) as traces:
            yield cls(stage, Path(traces) / "trace")

    def fail(self, call: _Call, error: str) -> str:
        """Let a call of a worker fail, look at what it leaves, and return what it told.

        Args:
            call: The call.
            error: The error's name.

        Raises:
            StoreProblem: What must not be.
        """
        code, said = self._strike(call, f"error={error}")
        if code:
            msg = f"the worker ended with {code}: {said}"
            raise StoreProblem(msg)
        report = _Report(**json.loads(said))
        if report.told is None:
            msg = f"it raised {report.raised}"
            raise StoreProblem(msg)
        problems = list(self._problems_in(report, call))
        # Python itself repeats a call that was interrupted.
        if call.is_sync and error != "EINTR" and report.told == SAVED:
            problems.append("nobody knows whether it is on the disk")
        if problems:
            msg = f"{report.told} ({report.raised}), but {'; '.join(problems)}"
            raise StoreProblem(msg)
        recover(self._stage.store)
        return report.told

    def _problems_in(self, report: _Report, call: _Call) -> Iterator[str]:
        state = OLD_AND_NEW[call.deed][report.told != NOT_SAVED]
        if report.tokens != state:
            yield f"the store holds {report.tokens}, not {state}"
        if report.leftovers:
            yield f"left are {', '.join(report.leftovers)}"
        if report.next_raised:
            yield f"the next save in the same process raised {report.next_raised}"
        elif sorted(held := (self._stage.store.tokens() or {}).values()) != sorted([*(state or {}).values(), _NEXT]):
            yield f"after the next save in the same process the store holds {list(held)}"
        # A close that strace lets fail is not executed, while the kernel's own closes the file even then.
        if len(report.leaked) > (call.name == "close"):
            yield f"still open are {', '.join(report.leaked)}"
        if report.unraisable:
            yield f"on stderr is {', '.join(report.unraisable)}"

    def _worker(self, deed: str) -> Callable[[], str]:
        self._stage.reset(deed)
        return lambda: json.dumps(asdict(_work(deed, self._stage.store)))


class _CannotTraceError(Exception):
    """Strace may not trace our own children."""


def _under_strace(work: Callable[[Callable[[bytes], object]], object], *options: str) -> tuple[int, bytes]:
    """Let a child process do something under strace; return its exit code, negative for a signal, and what it said.

    Raises:
        _CannotTraceError: Strace may not; the work was done without it.
    """
    gate, keeper = os.pipe()

    def wait_and_work(echo_escaped: Callable[[bytes], object]) -> None:
        os.close(keeper)
        signal.alarm(_WORKER_LIFE_S)
        echo_escaped(b".")
        # From that word on, it makes the same calls whenever strace comes. It does not read the pipe: how often a call
        # that waits is seen depends on that moment, and deeds read, too.
        select.select([gate], [], [])
        work(echo_escaped)

    child = fork(wait_and_work)
    os.close(gate)
    os.read(child.reading, 1)
    with subprocess.Popen(
        ["strace", "-f", "-p", str(child.pid), *options],  # noqa: S607 - whichever is installed
        stderr=subprocess.PIPE,
        text=True,
    ) as strace:
        assert strace.stderr is not None
        try:
            # As soon as strace says this, the child does nothing that is not traced.
            greeting = strace.stderr.readline().rstrip()
        finally:
            # Whatever has happened, the child goes on, and so ends.
            os.close(keeper)
        ended = child.ended()
        strace.stderr.read()
    if not greeting.endswith("attached"):
        msg = f"strace may not trace: {greeting}"
        raise _CannotTraceError(msg)
    return ended


def _work(deed: str, store: Store) -> _Report:
    """Do a deed between the marks, and tell what came of it."""
    # Warnings are not what is looked at here.
    logging.disable()
    unraisable: list[str] = []
    sys.unraisablehook = lambda what: unraisable.append(repr(what.exc_value))
    descriptors, leftovers = _descriptors(), store.leftovers()
    keystore = opened(store, deed)
    told: str | None = SAVED
    raised = None
    _set_mark(_BEGIN)
    try:
        keystore = do(deed, store, keystore)
    except DurabilityUnknownError as error:
        told, raised = UNKNOWN, repr(error)
    except KeystoreError as error:
        told, raised = NOT_SAVED, repr(error)
    except Exception as error:  # noqa: BLE001 - any other is what must not be
        told, raised = None, repr(error)
    _set_mark(_END)
    try:
        tokens: dict[str, str] | str | None = store.tokens()
    except StoreProblem as problem:
        tokens = str(problem)
    left = [name for name in store.leftovers() if name not in leftovers]
    next_raised = _save_next(store, keystore)
    del keystore
    gc.collect()
    leaked = [f"{number} ({of})" for number, of in _descriptors().items() if number not in descriptors]
    return _Report(told, raised, tokens, left, next_raised, leaked, unraisable)


def _save_next(store: Store, keystore: Keystore | None) -> str | None:
    """Save once more in the same process, close the store, and return what was raised."""
    try:
        keystore = keystore or store.open(lock_timeout=0)
        keystore.save(token(_NEXT))
        keystore.close()
    except Exception as error:  # noqa: BLE001 - as in _work
        return repr(error)
    return None


def _descriptors() -> dict[str, str]:
    """Return the descriptors of this process, and what they are of."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        # The one of the listing itself is gone by now.
        with suppress(OSError):
            found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found


def _set_mark(name: str) -> None:
    with suppress(OSError):
        os.stat(name)


def spread(everything: Sequence[_T], times: int | None) -> Sequence[_T]:
    """Return so many of all, in their order."""
    if times is None or times >= len(everything):
        return everything
    return [everything[number * len(everything) // times] for number in range(times)]

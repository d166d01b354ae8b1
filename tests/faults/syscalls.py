"""System calls: strace kills a real process at each call that an operation makes of the kernel, or lets it fail.

A worker acts between two marks, which it sets by asking for files that are not there. One run is traced whole; then
each call between the marks is struck in a run of its own. What strace counts are the calls of one name since it came,
so each run's trace is looked at too: a strike that landed elsewhere is made again.

Every call is struck but these:

- memory, locks between threads, signal masks and the clock: they are the interpreter's, come a different number of
  times in each run, and change nothing that outlives the process;
- no error is given to calls that have none: the user's id, and random bytes once the system is up.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from faults.failures import SYNCS
from faults.operations import Outcome, attempted, perform, spread
from faults.processes import Child, engine
from faults.ringed import ALL_OPERATIONS, make_operations
from faults.store import StoreProblem

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

    from faults import Attempt
    from faults.operations import Operation

#: What the kernel says when the disk breaks, is full or read-only, when too many files are open, and to interrupt.
ERRORS = ("EIO", "ENOSPC", "EROFS", "EMFILE", "EINTR")

_MEMORY = frozenset(("brk", "madvise", "mmap", "mprotect", "mremap", "munmap"))
_THREADS_SIGNALS_CLOCK = frozenset(
    ("clock_gettime", "clock_nanosleep", "futex", "gettimeofday", "rt_sigaction", "rt_sigprocmask", "sched_yield")
)
_INTERPRETERS_OWN = _MEMORY | _THREADS_SIGNALS_CLOCK
_WITHOUT_ERRORS = frozenset(("getegid", "geteuid", "getgid", "getpid", "getrandom", "getuid"))

_BEGIN, _END = "/no-such-file-the-operation-begins", "/no-such-file-the-operation-ends"

#: How often a strike that landed elsewhere is made again.
_ATTEMPTS = 3

#: After so many seconds a worker that hangs is ended.
_TIMEOUT_S = 60


def missing_for_strace() -> str | None:
    """Tell why these engines cannot work here; None if they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    try:
        _under_strace(lambda _: None, "-o", os.devnull)
    except _CannotTraceError as error:
        return str(error)
    return None


@engine("SIGKILL at every system call")
def kill_at_every_system_call(
    directory: Path, *, operations: Sequence[str] = ALL_OPERATIONS, times: int | None = None
) -> Generator[Attempt]:
    """Kill a process at the system calls of operations; the call itself is not executed any more.

    Args:
        directory: Where to work.
        operations: The names of the operations.
        times: How many of the calls to take, evenly spread; None takes all.
    """
    for tracer, call in spread(_calls(directory, operations), times):
        yield attempted(f"{call}: killed", partial(tracer.kill, call))


@engine("an error of every system call")
def fail_every_system_call(
    directory: Path,
    *,
    operations: Sequence[str] = ALL_OPERATIONS,
    errors: Sequence[str] = ERRORS,
    times: int | None = None,
) -> Generator[Attempt]:
    """Let the system calls of operations fail.

    Args:
        directory: Where to work.
        operations: The names of the operations.
        errors: With what, by the names of the errors.
        times: How many pairs of a call and an error to take, evenly spread; None takes all.
    """
    calls = [(tracer, call) for tracer, call in _calls(directory, operations) if call.can_fail]
    for (tracer, call), error in spread([(one, error) for one in calls for error in errors], times):
        yield attempted(f"{call}: {error}", partial(tracer.fail, call, error))


def _calls(directory: Path, operations: Sequence[str]) -> list[tuple[_Tracer, _Call]]:
    tracers = [_Tracer(operation, directory / "trace") for operation in make_operations(directory, operations)]
    return [(tracer, call) for tracer in tracers for call in tracer.calls()]


@dataclass(frozen=True)
class _Call:
    """One system call of an operation.

    Attributes:
        operation: What is done.
        name: What is called.
        text: The call with its arguments, as it was traced.
        before: How many calls of this name the process made before the operation.
        number: Which one of this name in the operation, from 1.
    """

    operation: str
    name: str
    text: str
    before: int
    number: int

    @property
    def is_end(self) -> bool:
        """Whether the operation has returned already."""
        return _END in self.text

    @property
    def can_fail(self) -> bool:
        """Whether an error of it is the store's business."""
        return not self.is_end and self.name not in _WITHOUT_ERRORS

    def __str__(self) -> str:
        return f"{self.operation}, {self.text}"


class _Tracer:
    """Lets workers perform an operation under strace.

    Args:
        operation: The operation.
        trace: The file to write traces to.
    """

    def __init__(self, operation: Operation, trace: Path) -> None:
        self.operation = operation
        self._trace = trace
        self._mark = ""

    def calls(self) -> list[_Call]:
        """Return the calls of the operation that can be struck, in their order, with that which marks its end.

        Raises:
            StoreProblem: The operation fails without a strike.
        """
        self._run("-e", "trace=all")
        traced = self._lines()
        begin, end = (next(i for i, (_, line) in enumerate(traced) if mark in line) for mark in (_BEGIN, _END))
        self._mark = traced[begin][0]
        names = [name for name, _ in traced]
        return [
            _Call(
                self.operation.name,
                name,
                # Without the result, and without addresses, which say nothing.
                re.sub(r"0x[0-9a-f]+", "…", line.rpartition(" = ")[0].rstrip()),
                names[: begin + 1].count(name),
                names[begin + 1 : number + 1].count(name),
            )
            for number, (name, line) in enumerate(traced[: end + 1])
            if number > begin and name not in _INTERPRETERS_OWN
        ]

    def kill(self, call: _Call) -> None:
        """Kill a worker at a call, and look at what it leaves."""
        self._strike(call, "signal=SIGKILL")
        self.operation.check(Outcome.DONE if call.is_end else Outcome.KILLED)
        self.operation.recover()

    def fail(self, call: _Call, error: str) -> Outcome:
        """Let a call of a worker fail with an error of a name, look at what it leaves, and return what it was told."""
        # A close that strace lets fail is not executed, while the kernel's own closes the file even then.
        outcome = Outcome(self._strike(call, f"error={error}", leaks_allowed=call.name == "close"))
        # Python itself repeats a call that was interrupted.
        if call.name in SYNCS and error != "EINTR" and outcome is Outcome.DONE:
            raise StoreProblem(f"{outcome.value}: but it may not be on the disk")
        self.operation.recover()
        return outcome

    def _strike(self, call: _Call, how: str, *, leaks_allowed: int = 0) -> Any:
        """Strike a worker at a call, and return what it said, if it could.

        Raises:
            StoreProblem: It said so, or the strike landed elsewhere.
        """
        for _ in range(_ATTEMPTS):
            # The mark's calls are traced too, to see where the operation began. Not with --seccomp-bpf, under which
            # strace 6.1 does not deliver the signal.
            inject = f"inject={call.name}:{how}:when={call.before + call.number}"
            options = ("-e", f"trace={call.name},{self._mark}", "-e", inject)
            try:
                said = self._run(*options, leaks_allowed=leaks_allowed, may_die="SIGKILL" in how)
            except StoreProblem:
                if self._has_landed(call):
                    raise
            else:
                if self._has_landed(call):
                    return said
        raise StoreProblem(f"the strike landed elsewhere in {_ATTEMPTS} attempts")

    def _has_landed(self, call: _Call) -> bool:
        """Tell whether the call that was struck is the one that was meant."""
        before = number = 0
        begun = False
        for name, line in self._lines():
            if name == call.name:
                before, number = (before, number + 1) if begun else (before + 1, 0)
            if line.endswith(("(INJECTED)", " = ?")):
                return begun and (before, number) == (call.before, call.number)
            begun = begun or _BEGIN in line
        return False

    def _run(self, *options: str, leaks_allowed: int = 0, may_die: bool = False) -> Any:
        """Let a worker perform the operation under strace, with options of strace, and return what it said."""
        # Before the worker begins: what an earlier strike has left must not change what strace counts.
        act = self.operation.prepare()

        def work(pipe: Connection) -> None:
            pipe.send(perform(self.operation, _marked(), act=act, leaks_allowed=leaks_allowed).value)

        return _under_strace(work, "-s", "64", "-o", str(self._trace), *options, may_die=may_die)

    def _lines(self) -> list[tuple[str, str]]:
        """Return the calls of the last run, each with its name and its whole line."""
        lines = self._trace.read_text(errors="replace").splitlines()
        found = (re.match(r"(?:\d+ +)?((\w+)\(.*)", line) for line in lines)
        return [(match[2], match[1]) for match in found if match]


@contextmanager
def _marked() -> Iterator[None]:
    with suppress(OSError):
        os.stat(_BEGIN)
    try:
        yield
    finally:
        with suppress(OSError):
            os.stat(_END)


class _CannotTraceError(Exception):
    """Strace may not trace our own children."""


def _under_strace(work: Callable[[Connection], object], *options: str, may_die: bool = False) -> Any:
    """Let a child process do something under strace; return what it said, or None if it was killed and may be.

    Raises:
        StoreProblem: It failed or died.
        _CannotTraceError: Strace may not trace; the work was done without it.
    """
    gate, keeper = os.pipe()

    def wait_and_work(pipe: Connection) -> None:
        os.close(keeper)
        signal.alarm(_TIMEOUT_S)
        pipe.send("ready")
        # From here on, it makes the same calls whenever strace comes. It does not read the pipe: how often a call
        # that waits is seen depends on that moment, and operations read, too.
        select.select([gate], [], [])
        work(pipe)

    with Child(wait_and_work) as child:
        os.close(gate)
        child.hear()
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
            status = child.wait()
            strace.stderr.read()
        if not greeting.endswith("attached"):
            raise _CannotTraceError(f"strace may not trace: {greeting}")
        if status == -signal.SIGKILL and may_die:
            return None
        said = None
        while child.pipe.poll():
            try:
                said = child.hear()
            except StoreProblem:
                if status:
                    raise
                break
        return said

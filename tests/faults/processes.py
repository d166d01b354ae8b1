"""Processes: engines that run in a fork of their own, and child processes that speak with their parent over a pipe.

An engine runs in a fork because a mutant cannot be undone, and because a crash or a hang has to be a failure like any
other. The calling process should have a single thread: Python warns of a fork otherwise.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import closing, suppress
from multiprocessing import Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, Self, TypeAlias, TypeVar

# Imported by a store when it is made: here once, not in each fork, nor by a user who cannot read root's Python.
import filelock  # noqa: F401 - see above

from faults import Attempt, Result
from faults.mutants import MUTANTS
from faults.store import StoreProblem
from zoho_keystore.errors import KeystoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from multiprocessing.connection import Connection

P = ParamSpec("P")
T = TypeVar("T")
Mutant: TypeAlias = "str | Callable[[], object] | None"

#: How long to wait for a process that has something to say, in seconds.
TIMEOUT_S = 600.0
_PR_SET_PDEATHSIG = 1
_libc: Any = ctypes.CDLL(None) if sys.platform != "win32" else None


class _Failed(NamedTuple):
    """What a process says of the exception that ended it."""

    summary: str
    traceback: str
    is_problem: bool


def die_with_parent(parent: int) -> None:
    """Have this process killed when its parent dies. A change of user undoes it."""
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class Child:
    """A forked process that speaks with this one over a pipe; a ``with`` block kills it in the end.

    Args:
        work: What the process does with its end of the pipe. What it raises, :meth:`hear` raises.
        options: Further arguments of the work.
    """

    def __init__(self, work: Callable[..., object], **options: Any) -> None:
        self.pipe, theirs = Pipe()
        self._status: int | None = None
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid:
            theirs.close()
            return
        status = 1
        try:
            # Else the process would never see the end of the pipe, having the other end too.
            self.pipe.close()
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which kills its children.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            die_with_parent(parent)
            status = 0 if speak(theirs, work, **options) else 1
        finally:
            os._exit(status)

    def tell(self, what: object = None) -> None:
        """Send something to the process. One that has failed meanwhile reports that when it is heard."""
        with suppress(ConnectionError):
            self.pipe.send(what)

    def hear(self, timeout_s: float = TIMEOUT_S) -> Any:
        """Return what the process says next.

        Raises:
            StoreProblem: It failed, died or hangs.
        """
        try:
            if not self.pipe.poll(timeout_s):
                raise StoreProblem(f"a process did nothing for {timeout_s:g} s")
            said = self.pipe.recv()
        except (EOFError, ConnectionError):
            raise StoreProblem(f"a process ended with status {self.wait()}") from None
        if isinstance(said, _Failed):
            raise StoreProblem(f"a process failed: {said.summary}")
        return said

    def listen(self) -> None:
        """Raise what the process has failed with, if it has, as :meth:`hear` does; also after its end."""
        with suppress(EOFError, ConnectionError):
            while self.pipe.poll():
                if isinstance(said := self.pipe.recv(), _Failed):
                    raise StoreProblem(f"a process failed: {said.summary}")

    def messages(self) -> list[Any]:
        """Wait for the end, and return all that the process has said."""
        said = []
        with suppress(EOFError, ConnectionError):
            while True:
                said.append(self.pipe.recv())
        return said

    def signal(self, number: int) -> None:
        """Send the process a signal."""
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Wait for the end, and return the exit code, negative for a signal."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status

    def kill(self) -> None:
        """Kill the process, even if it is stopped, and wait until it is gone."""
        if self._status is None:
            self.signal(signal.SIGKILL)
            self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.pipe.close()


def speak(pipe: Connection, work: Callable[..., object], **options: Any) -> bool:
    """Do some work that speaks over a pipe; what it raises is said there too. Return whether it raised nothing."""
    try:
        work(pipe, **options)
    except BaseException as error:  # noqa: BLE001 - a forked process must never go on with its parent's work
        is_problem = isinstance(error, StoreProblem | KeystoreError)
        with suppress(OSError):
            pipe.send(_Failed(f"{type(error).__name__}: {error}", traceback.format_exc(), is_problem))
        return False
    return True


def start_together(children: Sequence[Child]) -> None:
    """Wait until each process has said that it is ready, and then tell them to start."""
    for child in children:
        child.hear()
    for child in children:
        child.tell()


def in_child(work: Callable[[], T]) -> T:
    """Do something in a child process, and return what it returns, which has to be picklable.

    Raises:
        RuntimeError: It raised something; the text is its traceback.
    """
    with Child(lambda pipe: pipe.send((work(),))) as child:
        said = child.messages() or [_Failed("", "a child process died before it was done", is_problem=False)]
    if isinstance(said[0], _Failed):
        raise RuntimeError(said[0].traceback)  # noqa: TRY004 - it is what the child has failed with
    result: T = said[0][0]
    return result


def become(uid: int) -> None:
    """Change the user of this process, which is in no group then but one of the same number.

    All that it imports must be imported already: root's Python may be out of that user's reach.
    """
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    die_with_parent(os.getppid())


def as_user(uid: int, work: Callable[[], T]) -> T:
    """Do something as another user in a child process, and return what it returns."""

    def switched() -> T:
        become(uid)
        return work()

    return in_child(switched)


def mutate(mutant: Mutant) -> None:
    """Take a protection out of this process's store, by the name of the mutant; None leaves the store as it is."""
    if mutant is not None:
        (MUTANTS[mutant] if isinstance(mutant, str) else mutant)()


def engine(
    method: str, *, setup: Callable[[], object] = lambda: None
) -> Callable[[Callable[Concatenate[Path, P], Generator[Attempt]]], Callable[..., Result]]:
    """Make an engine of a generator of attempts, which runs in a fork and works in a directory that is empty.

    The engine takes the directory to make that one in, the arguments of the generator, and besides:

    - ``mutant``: the protection to take out, by name or as a function;
    - ``stops_at_failure``: whether to end with the first failure, as it does with a mutant by default;
    - ``progress``: called after each attempt, with the number of tries that it stands for;
    - ``silence_s``: after so many seconds without an attempt, the process hangs.

    A ``StoreProblem`` or ``KeystoreError`` that the generator raises is a failure of the store, and so are a crash and
    a hang; any other exception is raised as a ``RuntimeError``.

    Args:
        method: What the engine does, in a few words.
        setup: Called first in the fork.
    """

    def decorate(attack: Callable[Concatenate[Path, P], Generator[Attempt]]) -> Callable[..., Result]:
        def work(pipe: Connection, *, directory: Path, mutant: Mutant, stops: bool, options: dict[str, Any]) -> None:
            sys.settrace(None)  # Coverage would be slower than all the rest.
            warnings.simplefilter("ignore", DeprecationWarning)  # Some attacks fork beside threads on purpose.
            # Else each fork copies the pages of all objects as soon as it collects garbage.
            gc.freeze()
            setup()
            mutate(mutant)
            with closing(attack(directory, **options)) as attempts:  # type: ignore[call-arg] # options are its keyword arguments
                for attempt in attempts:
                    pipe.send(attempt)
                    if stops and attempt.failure:
                        break

        @functools.wraps(attack)
        def run(
            directory: Path,
            *,
            mutant: Mutant = None,
            progress: Callable[[int], object] = lambda _tried: None,
            stops_at_failure: bool | None = None,
            silence_s: float = TIMEOUT_S,
            **options: Any,
        ) -> Result:
            result = Result(method)
            with tempfile.TemporaryDirectory(dir=directory) as own:
                stops = mutant is not None if stops_at_failure is None else stops_at_failure
                with Child(work, directory=Path(own), mutant=mutant, stops=stops, options=options) as child:
                    for attempt in _attempts(child, result, silence_s):
                        result.add(attempt)
                        progress(attempt.tried)
            return result

        return run

    return decorate


def _attempts(child: Child, result: Result, silence_s: float) -> Iterator[Attempt]:
    """Yield what the process of an engine reports."""
    while child.pipe.poll(silence_s):
        try:
            said = child.pipe.recv()
        except EOFError:
            if status := child.wait():
                yield Attempt(f"the process ended with status {status} after {result.tried} tries", tried=0)
            return
        if isinstance(said, Attempt):
            yield said
        elif said.is_problem:
            yield Attempt(said.summary)
            return
        else:
            raise RuntimeError(f"the engine failed: {said.traceback}")
    yield Attempt(f"the process did nothing for {silence_s:g} s after {result.tried} tries", tried=0)


def timed(work: Callable[[], object]) -> float:
    """Do something, and return how long it took, in seconds."""
    started = time.monotonic()
    work()
    return time.monotonic() - started

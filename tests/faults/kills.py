"""Kills: a process dies by SIGKILL at each call of an operation, or at any moment of a loop of operations.

What a kill leaves is looked at from outside, without the package under test; then the next process has to succeed at
once and leave the directory clean.
"""

from __future__ import annotations

import itertools
import random
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Protocol

from cryptography.fernet import Fernet

from faults import Attempt
from faults.injector import FaultInjector, Point, kill
from faults.operations import Outcome, attempted, spread
from faults.processes import Child, engine
from faults.ringed import ALL_OPERATIONS, make_operations
from faults.store import Store, StoreProblem
from zoho_keystore._records import TokenRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

    from faults.operations import Operation
    from zoho_keystore._keystore import Keystore

#: The name of a figure.
ACKNOWLEDGED = "acknowledged"

#: The name of the point behind the last call.
_RETURN = "return"


@engine("SIGKILL at every call of an operation")
def kill_at_every_call(
    directory: Path, *, operations: Sequence[str] = ALL_OPERATIONS, times: int | None = None
) -> Generator[Attempt]:
    """Kill operations before their first call, after each call, and half-way through each write.

    Args:
        directory: Where to work.
        operations: The names of the operations.
        times: How many of the points to take; None takes each once.
    """
    yield from kill_operations(make_operations(directory, operations), times)


def kill_operations(operations: Iterable[Operation], times: int | None) -> Iterator[Attempt]:
    """Kill operations at so many of their points, evenly spread; None takes each point once."""
    injector = FaultInjector()
    victims = [(operation, point) for operation in operations for point in _points(injector, operation)]
    for operation, point in spread(victims, times):
        yield attempted(f"{operation.name}, killed {point}", partial(_kill_at, injector, operation, point))


def _points(injector: FaultInjector, operation: Operation) -> list[Point]:
    with Child(_note_calls, injector=injector, act=operation.prepare()) as child:
        calls = child.hear()
    operation.check(Outcome.DONE)
    points = [Point(0, calls[0])]
    for number, name in enumerate(calls):
        # Before a call is the same moment as after the one before it.
        points += [Point(number, name, moment) for moment in (("half", "after") if name == "write" else ("after",))]
    return [*points, Point(len(calls), _RETURN, "at")]


def _note_calls(pipe: Connection, *, injector: FaultInjector, act: Callable[[], object]) -> None:
    pipe.send([call.name for call in injector.calls(act)])


def _kill_at(injector: FaultInjector, operation: Operation, point: Point) -> None:
    def work(pipe: Connection) -> None:
        with injector.striking(kill(point)):
            act()
        pipe.send(_RETURN)
        signal.raise_signal(signal.SIGKILL)

    act = operation.prepare()
    with Child(work) as child:
        said = child.messages()
        returned = point.name == _RETURN
        if child.wait() != -signal.SIGKILL or said != [_RETURN] * returned:
            raise StoreProblem(f"the operation took another way: {said or child.wait()}")
    operation.check(Outcome.DONE if returned else Outcome.KILLED)
    operation.recover()


# --- At any moment ---------------------------------------------------------------------------------------------------


class Loop(Protocol):
    """Something that a process does again and again, with a number that counts up."""

    #: After how many acknowledged rounds a process is killed, at most.
    rounds: int

    def reset(self) -> None:
        """Make everything new."""
        ...

    def step(self, number: int) -> None:
        """Do it once."""
        ...

    def check(self, acknowledged: int) -> int:
        """Look at what a kill has left, recover, and return the number of the last round that counts.

        Raises:
            StoreProblem: A guarantee was not kept.
        """
        ...


@engine("SIGKILL at any moment")
def kill_at_any_moment(directory: Path, *, loop: Callable[[Path], Loop], times: int) -> Generator[Attempt]:
    """Kill a process from outside that does something in a loop and acknowledges each round.

    Args:
        directory: Where to work.
        loop: Makes what is done.
        times: How often to kill.
    """
    running = loop(directory)
    running.reset()
    last = 0
    for _ in range(times):
        acknowledged = before = last
        try:
            acknowledged = _killed_in(running, last + 1)
            last = running.check(acknowledged)
        except StoreProblem as problem:
            yield Attempt(f"killed after round {acknowledged}: {problem}")
            # What is lost now must not fail every kill from here on.
            running.reset()
            last = 0
        else:
            yield Attempt(figures={ACKNOWLEDGED: acknowledged - before})


def _killed_in(running: Loop, first: int) -> int:
    """Kill a process in the loop, and return the number of the last round that it has acknowledged."""

    def work(pipe: Connection) -> None:
        pipe.send(first - 1)
        for number in itertools.count(first):
            running.step(number)
            pipe.send(number)

    with Child(work) as child:
        acknowledged: int = child.hear()
        # A moment of the round that is under way, however long one takes on this disk.
        longest_s = 0.01
        for _ in range(random.randrange(running.rounds)):  # noqa: S311 - no secret
            began = time.monotonic()
            acknowledged = child.hear()
            longest_s = time.monotonic() - began
        time.sleep(random.uniform(0, longest_s))  # noqa: S311 - no secret
        child.kill()
        while child.pipe.poll():
            try:
                acknowledged = child.hear()
            except StoreProblem:
                if child.wait() != -signal.SIGKILL:
                    raise
                break
    return acknowledged


class Saves:
    """Saves of the tokens 1, 2, 3, … under five ids in turn."""

    rounds = 5

    def __init__(self, directory: Path) -> None:
        self._store = Store(directory / "tokens.keystore", Fernet.generate_key())
        # Opened in the process that is killed, and not in this one.
        self._keystore: Keystore | None = None

    def reset(self) -> None:
        """Remove the store."""
        for path in self._store.path.parent.iterdir():
            path.unlink()

    def step(self, number: int) -> None:
        """Save a token."""
        self._keystore = self._keystore or self._store.open()
        self._keystore.save(_numbered(number))

    def check(self, acknowledged: int) -> int:
        """Make sure that the store holds the saves that were acknowledged or one more, and save again."""
        found = self._store.tokens() or {}
        for number in (acknowledged, acknowledged + 1):
            records = map(_numbered, range(max(1, number - self.rounds + 1), number + 1))
            if found == {record.id: record.refresh_token for record in records}:
                break
        else:
            raise StoreProblem(f"the store holds {found} after {acknowledged} saves were acknowledged")
        # Without any waiting: a killed process must not leave a lock behind.
        self._store.open(lock_timeout=0).save(_numbered(number + 1))
        self._store.require_no_leftovers()
        self._store.require_private()
        return number + 1


def _numbered(number: int) -> TokenRecord:
    return TokenRecord(id=str(number % Saves.rounds + 1), refresh_token=f"s{number}")

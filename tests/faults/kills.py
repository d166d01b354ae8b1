"""Kills: a process that works on a store dies by SIGKILL, at each operation of a deed or at any moment.

The process is a fork that counts what it asks of the operating system (every function of ``os``, and ``flock``) and
kills itself before or after one of these operations, or in the middle of a write. What a kill leaves is looked at from
outside, without the package under test; then one more save has to succeed at once and leave the folder clean.

The engines work in a fork of the process that calls them, since a mutant does not come back from being one. So that
process should have a single thread (Python warns of a fork otherwise).
"""

from __future__ import annotations

import fcntl
import gc
import itertools
import json
import os
import random
import shutil
import signal
import stat
import tempfile
import time
import traceback
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

# Imported by the store when it first takes the lock: here once, not in each of a hundred thousand forks.
import filelock  # noqa: F401 - see above
from cryptography.fernet import Fernet

from faults import Result, mutate
from faults.model import BEFORE, DEEDS, Store, StoreProblem, prepare, token
from zoho_keystore._records import TokenRecord
from zoho_keystore.errors import KeystoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from zoho_keystore._keystore import Keystore

    State = dict[str, str] | None

CREATE = "create"
#: As "save", in a folder as a killed writer leaves it.
SAVE_AFTER_A_KILL = "save after a kill"

#: What the store holds before and after a deed, by the deed's name; None is no file.
OLD_AND_NEW: dict[str, tuple[State, State]] = {
    CREATE: (None, {}),
    SAVE_AFTER_A_KILL: (BEFORE, DEEDS["save"][1]),
    **{name: (BEFORE, after) for name, (_, after) in DEEDS.items()},
}
#: The names of all deeds.
ALL_DEEDS = tuple(OLD_AND_NEW)

#: The name of a figure.
ACKNOWLEDGED = "saves acknowledged"


def fork_kills(
    directory: Path, *, times: int | None, mutant: str | None = None, progress: Callable[[], None] = lambda: None
) -> Result:
    """Kill deeds before and after each of their operations, and half-way through a write.

    Args:
        directory: Where to work; nothing is left in it.
        times: How many points to take at random; None takes each point once.
        mutant: The protection to take out; then it ends with the first failure.
        progress: Called after each kill.
    """
    result = Result("SIGKILL at every operation" if times is None else "SIGKILL at random operations")

    def attempts() -> Generator[Attempt]:
        with Stage.set_in(directory) as stage:
            victims = Victims(stage)
            points = [point for deed in ALL_DEEDS for point in victims.points(deed)]
            chosen = points if times is None else random.choices(points, k=times)  # noqa: S311 - no secret
            for point in chosen:
                yield Attempt(failure_of(str(point), partial(victims.kill, point)))

    return run(attempts, result, mutant, progress)


def random_kills(
    directory: Path, *, times: int, mutant: str | None = None, progress: Callable[[], None] = lambda: None
) -> Result:
    """Kill a process that saves all the time and acknowledges each save, from outside and at any moment.

    Args:
        directory: Where to work; nothing is left in it.
        times: How often to kill.
        mutant: The protection to take out; then it ends with the first failure.
        progress: Called after each kill.
    """
    result = Result("SIGKILL at any moment")

    def attempts() -> Generator[Attempt]:
        with Stage.set_in(directory) as stage:
            saved = 0
            for _ in range(times):
                first = saved + 1
                acknowledged = 0
                try:
                    acknowledged = _killed_while_saving(stage.store, first)
                    saved = _number_found(stage.store, acknowledged) + 1
                    recover(stage.store, _numbered(saved))
                except StoreProblem as problem:
                    yield Attempt(f"killed after save {acknowledged}: {problem}")
                    # What is lost now is not to fail every kill from here on.
                    stage.reset(CREATE)
                    saved = 0
                else:
                    yield Attempt(figures={ACKNOWLEDGED: acknowledged + 1 - first})

    return run(attempts, result, mutant, progress)


def failure_of(what: str, attempt: Callable[[], None]) -> str | None:
    """Make an attempt, and return what went wrong, if anything."""
    try:
        attempt()
    except StoreProblem as problem:
        return f"{what}: {problem}"
    return None


class Attempt(NamedTuple):
    """What became of one attempt: what went wrong, if anything, and what is to be added to the figures."""

    failure: str | None = None
    figures: dict[str, float] = {}  # noqa: RUF012 - not changed

    def as_line(self) -> bytes:
        """Return it as a line of JSON, a list."""
        return json.dumps(self).encode() + b"\n"


class Scene(Protocol):
    """A place for deeds that are killed."""

    def prepared(self, deed: str) -> Callable[[], object]:
        """Make everything as it has to be before a deed, and return what does it."""
        ...

    def inspect(self, deed: str, *, is_done: bool) -> None:
        """Look at what a kill has left of a deed, and go on from there.

        Args:
            deed: The deed.
            is_done: Whether it had returned already.

        Raises:
            StoreProblem: What must not be.
        """
        ...


class Stage:
    """A folder of its own with a store, which every deed finds as if nothing had been done before.

    Args:
        directory: The folder; it is to be empty.

    Raises:
        StoreProblem: A store that nobody harms is not what was saved to it.
    """

    def __init__(self, directory: Path) -> None:
        self.store = Store(directory / "tokens.keystore", Fernet.generate_key())
        prepare(self.store)
        if (found := self.store.tokens()) != BEFORE:
            msg = f"the store holds {found} after {BEFORE} was saved"
            raise StoreProblem(msg)
        self._sealed = self.store.path.read_bytes()
        self.reset(CREATE)

    @classmethod
    @contextmanager
    def set_in(cls, directory: Path) -> Iterator[Stage]:
        """Set a stage inside a folder, and take it away in the end."""
        place = Path(tempfile.mkdtemp(dir=directory))
        try:
            yield cls(place)
        finally:
            shutil.rmtree(place)

    def reset(self, deed: str) -> None:
        """Make the folder what it has to be before a deed."""
        path = self.store.path
        for there in path.parent.iterdir():
            there.unlink()
        if deed == CREATE:
            return
        _write(path, self._sealed)
        if deed == SAVE_AFTER_A_KILL:
            _write(path.with_name(f".{path.name}.0123456789abcdef.tmp"), self._sealed[:100])
        else:
            _write(path.with_name(f".{path.name}.lock"), b"")

    def prepared(self, deed: str) -> Callable[[], object]:
        """Make the folder what it has to be, open the store if it is to be there, and return what does the deed."""
        self.reset(deed)
        return partial(do, deed, self.store, opened(self.store, deed))

    def inspect(self, deed: str, *, is_done: bool) -> None:
        """Make sure that the store is the old one or the new one, and that the next save goes on from it.

        Raises:
            StoreProblem: It is not, or does not.
        """
        require_old_or_new(self.store, deed, new=True if is_done else None)
        recover(self.store)


def opened(store: Store, deed: str) -> Keystore | None:
    """Open a store for a deed; None when the deed is to make it. Nobody else is there, so no lock is waited for."""
    return None if deed == CREATE else store.open(lock_timeout=0)


def do(deed: str, store: Store, keystore: Keystore | None) -> Keystore:
    """Do a deed to what :func:`opened` has opened."""
    if keystore is None:
        return store.open(lock_timeout=0)
    act, _ = DEEDS["save" if deed == SAVE_AFTER_A_KILL else deed]
    act(keystore)
    return keystore


def require_old_or_new(store: Store, deed: str, *, new: bool | None = None) -> None:
    """Make sure that a store is what it was before a deed or what it is after it, and shut to others.

    Args:
        store: The store.
        deed: What was to be done to it.
        new: Which of the two it has to be; None is either.

    Raises:
        StoreProblem: It is neither, or somebody else may read or write a file.
    """
    states = OLD_AND_NEW[deed]
    allowed = states if new is None else states[new : new + 1]
    found = store.tokens()
    if found not in allowed:
        msg = f"the store holds {found}, and not {' or '.join(map(str, allowed))}"
        raise StoreProblem(msg)
    for path in store.path.parent.iterdir():
        if path.lstat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            msg = f"{path.name} is open to others"
            raise StoreProblem(msg)


def recover(store: Store, record: TokenRecord | None = None) -> None:
    """Save once more, which has to succeed at once and clean up what a kill has left.

    Args:
        store: The store.
        record: What to save; None is a new token.

    Raises:
        StoreProblem: It does not succeed, it loses a token, or a file is left or open to others.
    """
    before = store.tokens() or {}
    record = token("next") if record is None else record
    try:
        # Without any waiting: a killed process must not leave a lock behind.
        keystore = store.open(lock_timeout=0)
        keystore.save(record)
        keystore.close()
    except (KeystoreError, OSError) as error:
        msg = f"the next save fails: {error!r}"
        raise StoreProblem(msg) from error
    after = store.tokens() or {}
    id = record.id or next(iter(after.keys() - before.keys()), "")
    if after != before | {id: record.refresh_token}:
        msg = f"the next save made {after} of {before}"
        raise StoreProblem(msg)
    if leftovers := store.leftovers():
        msg = f"left after the next save: {', '.join(leftovers)}"
        raise StoreProblem(msg)
    store.require_private()


#: The name of the point behind the last operation, and what the deed says there.
RETURN = "return"
_DONE = b"done"


@dataclass(frozen=True)
class Point:
    """Where a deed is killed.

    Attributes:
        deed: What is being done.
        number: Which of its operations, from 0; the one behind the last is the return of the deed.
        name: What this operation is.
        moment: "before", "half" or "after".
    """

    deed: str
    number: int
    name: str
    moment: str

    def __str__(self) -> str:
        return f"{self.deed}, killed {self.moment} operation {self.number} ({self.name})"


class Operations:
    """What this process asks of the operating system, counted while :meth:`watched`; at one point it is killed.

    Making it puts a counter before every function concerned, for as long as this process lives.
    """

    #: They touch no file.
    _HARMLESS = frozenset({"_exit", "fspath", "getegid", "geteuid", "getgid", "getpid", "getuid", "urandom"})

    def __init__(self) -> None:
        self.names: list[str] = []
        self._watching = False
        self.point: Point | None = None
        fcntl.flock = self._counted("flock", fcntl.flock)
        for name, function in vars(os).copy().items():
            if isinstance(function, BuiltinFunctionType) and name not in self._HARMLESS:
                setattr(os, name, self._counted(name, function))

    @contextmanager
    def watched(self, point: Point | None = None) -> Iterator[None]:
        """Count, and die when the point is reached."""
        self.names, self.point, self._watching = [], point, True
        try:
            yield
        finally:
            self._watching = False

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            if not self._watching:
                return function(*args, **options)
            number = len(self.names)
            self.names.append(name)
            if self.point is None:
                return function(*args, **options)
            return self.performed(self.point, number, function, *args, **options)

        return counted

    def performed(self, point: Point, number: int, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Do what the operation of a number does, unless the point is reached."""
        if number != point.number:
            return function(*args, **options)
        try:
            if point.moment == "half":
                descriptor, content = args
                function(descriptor, content[: len(content) // 2])
            elif point.moment == "after":
                function(*args, **options)
        finally:
            signal.raise_signal(signal.SIGKILL)
        raise AssertionError


class Victims:
    """Processes that do deeds, to be killed at them."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._operations = Operations()

    def points(self, deed: str) -> list[Point]:
        """Return all points at which a deed can be killed; it is done once to learn them."""

        def work(echo_escaped: Callable[[bytes], object]) -> None:
            with self._operations.watched():
                act()
            echo_escaped("\n".join(self._operations.names).encode())

        act = self._scene.prepared(deed)
        code, said = fork(work).ended()
        if code:
            msg = f"{deed} fails, even unharmed: {said.decode()}"
            raise StoreProblem(msg)
        names = said.decode().split()
        # Before an operation is the same moment as after the one before it.
        points = [Point(deed, 0, names[0], "before")]
        for number, name in enumerate(names):
            if name == "write":
                points.append(Point(deed, number, name, "half"))
            points.append(Point(deed, number, name, "after"))
        return [*points, Point(deed, len(names), RETURN, "after")]

    def kill(self, point: Point) -> None:
        """Do a deed, killed at a point, and look at what it leaves.

        Raises:
            StoreProblem: What must not be.
        """

        def work(echo_escaped: Callable[[bytes], object]) -> None:
            with self._operations.watched(point):
                act()
            echo_escaped(_DONE)
            signal.raise_signal(signal.SIGKILL)

        act = self._scene.prepared(point.deed)
        code, said = fork(work).ended()
        returned = point.name == RETURN
        if code != -signal.SIGKILL or said != (_DONE if returned else b""):
            msg = f"the deed went another way: {said.decode() or code}"
            raise StoreProblem(msg)
        self._scene.inspect(point.deed, is_done=returned)


#: The continuous writer saves tokens 1, 2, 3, … under so many ids in turn.
_IDS = 5
#: For so long a process lives at most that is killed before it has acknowledged a save.
_LONGEST_LIFE_S = 0.01


def _numbered(number: int) -> TokenRecord:
    return TokenRecord(id=str(number % _IDS + 1), refresh_token=f"s{number}")


def _killed_while_saving(store: Store, first: int) -> int:
    """Kill a process that saves all the time, and return the number of its last save that was acknowledged.

    Raises:
        StoreProblem: A save failed before.
    """

    def work(echo_escaped: Callable[[bytes], object]) -> None:
        keystore = store.open()
        for number in itertools.count(first):
            keystore.save(_numbered(number))
            echo_escaped(b".")

    child = fork(work)
    said = b""
    # A moment of the save that is under way after so many of them, however long one takes on this disk.
    longest_s = _LONGEST_LIFE_S
    for _ in range(random.randrange(_IDS)):  # noqa: S311 - no secret
        began = time.monotonic()
        said += os.read(child.reading, 1)
        longest_s = time.monotonic() - began
    time.sleep(random.uniform(0, longest_s))  # noqa: S311 - no secret
    os.kill(child.pid, signal.SIGKILL)
    said += child.ended()[1]
    if said.strip(b"."):
        msg = f"a save failed: {said.decode()}"
        raise StoreProblem(msg)
    return first - 1 + len(said)


def _number_found(store: Store, acknowledged: int) -> int:
    """Return how many saves the store holds.

    Raises:
        StoreProblem: Neither those that were acknowledged nor one more.
    """
    found = store.tokens() or {}
    for number in (acknowledged, acknowledged + 1):
        records = map(_numbered, range(max(1, number - _IDS + 1), number + 1))
        if found == {record.id: record.refresh_token for record in records}:
            return number
    msg = f"the store holds {found} after {acknowledged} saves were acknowledged"
    raise StoreProblem(msg)


class Child(NamedTuple):
    """A forked process, and the pipe through which it speaks."""

    pid: int
    reading: int

    def ended(self) -> tuple[int, bytes]:
        """Wait for the end; return the exit code, negative for a signal, and what it said."""
        with open(self.reading, "rb") as pipe:
            said = pipe.read()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), said


def fork(work: Callable[[Callable[[bytes], object]], None]) -> Child:
    """Let a child process do something, which it can speak of; what is raised there, it says, and ends."""
    reading, writing = os.pipe()

    def echo_escaped(text: bytes) -> None:
        os.write(writing, text)

    pid = os.fork()
    if pid:
        os.close(writing)
        return Child(pid, reading)
    try:
        os.close(reading)
        work(echo_escaped)
        os._exit(0)
    except BaseException:  # noqa: BLE001 - whatever it is, the child must not go on as a second caller
        echo_escaped(traceback.format_exc().encode())
    finally:
        os._exit(1)


def run(
    attempts: Callable[[], Generator[Attempt]], result: Result, mutant: str | None, progress: Callable[[], None]
) -> Result:
    """Make attempts in a process of their own, whose store is the mutant; return the result with what they gave."""

    def work(echo_escaped: Callable[[bytes], object]) -> None:
        mutate(mutant)
        # Else each child copies the pages of all objects of the caller as soon as it collects garbage.
        gc.freeze()
        # Closing it takes the folder away, also when saying fails because the caller is gone.
        with closing(attempts()) as made:
            try:
                for attempt in made:
                    echo_escaped(attempt.as_line())
                    if mutant is not None and attempt.failure:
                        break
            except StoreProblem as problem:
                echo_escaped(Attempt(f"before anything was done to it: {problem}").as_line())

    child = fork(work)
    unexpected = []
    try:
        with open(child.reading, encoding="utf-8") as lines:
            for line in lines:
                if not line.startswith("["):
                    unexpected.append(line)
                    continue
                attempt = Attempt(*json.loads(line))
                result.tried += 1
                if attempt.failure:
                    result.failures.append(attempt.failure)
                for name, amount in attempt.figures.items():
                    result.figures[name] = result.figures.get(name, 0) + amount
                progress()
    finally:
        _, status = os.waitpid(child.pid, 0)
    if status:
        msg = f"the engine failed: {''.join(unexpected) or status}"
        raise RuntimeError(msg)
    return result


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)

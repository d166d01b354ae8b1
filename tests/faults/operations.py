"""Operations: what is attacked. Each prepares a directory, acts, and knows which states may be found afterwards."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from cryptography.fernet import Fernet

from faults import Attempt
from faults.store import TOKENS, Store, StoreProblem, token, write_private
from zoho_keystore._fs.directory import make_directories
from zoho_keystore._operations.backup import restore
from zoho_keystore._records import TokenRecord
from zoho_keystore.errors import DurabilityUnknownError, KeystoreError, RotationUnfinishedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from zoho_keystore._keystore import Keystore

T = TypeVar("T")


class Outcome(Enum):
    """What became of an operation, as the process that asked for it knows; the values name figures."""

    KILLED = "killed"
    DONE = "done"
    DURABILITY_UNKNOWN = "durability unknown"
    UNFINISHED = "unfinished"
    REFUSED = "refused"


class Operation(Protocol):
    """Something that is done to files in a directory.

    Attributes:
        name: What is done.
        store: The store that it is done to.
    """

    name: str
    store: Store

    def prepare(self) -> Callable[[], object]:
        """Make the directory what it has to be, without the package under test, and return what acts."""
        ...

    def check(self, outcome: Outcome) -> None:
        """Make sure that the directory is in a state that fits the outcome.

        Raises:
            StoreProblem: It is not.
        """
        ...

    def use_again(self) -> None:
        """Use what has acted once more, in the same process."""
        ...

    def recover(self) -> None:
        """Do what the next process does: it succeeds at once, loses nothing, and cleans up.

        Raises:
            StoreProblem: It does not.
        """
        ...

    def leftovers(self) -> list[str]:
        """Return the names of files that should not be there."""
        ...


def outcome_of(act: Callable[[], object]) -> tuple[Outcome, str]:
    """Act, and return what came of it and what the error says.

    Raises:
        StoreProblem: It raised what is none of the package's errors.
    """
    try:
        act()
    except DurabilityUnknownError as error:
        return Outcome.DURABILITY_UNKNOWN, str(error)
    except RotationUnfinishedError as error:
        return Outcome.UNFINISHED, str(error)
    except KeystoreError as error:
        return Outcome.REFUSED, str(error)
    except StoreProblem:
        raise
    except BaseException as error:
        # What cryptography raises when Rust gets no memory is no Exception, and nothing that a store can foresee.
        if type(error).__name__ == "PanicException":
            return Outcome.REFUSED, "memory"
        raise StoreProblem(f"it raised {error!r}, which is none of the package's errors") from error
    return Outcome.DONE, ""


def perform(
    operation: Operation,
    trouble: AbstractContextManager[Any] | None = None,
    advice: Sequence[str] = ("",),
    *,
    act: Callable[[], object] | None = None,
    leaks_allowed: int = 0,
) -> Outcome:
    """Perform an operation in trouble, and look at what it leaves in the directory and in this process.

    Args:
        operation: The operation.
        trouble: Entered before it acts, and left afterwards.
        advice: Of these texts the error's has to hold one.
        act: What acts, if the operation is prepared already.
        leaks_allowed: How many descriptors may stay open.

    Raises:
        StoreProblem: A guarantee was not kept.
    """
    unraisable: list[str] = []

    def note(what: sys.UnraisableHookArgs) -> None:
        # Where there is no memory left, the Rust code of cryptography reports that itself, besides the MemoryError.
        if not (isinstance(what.exc_value, MemoryError) and _last_module(what).startswith("cryptography.")):
            unraisable.append(repr(what.exc_value))

    hook, sys.unraisablehook = sys.unraisablehook, note
    act = act or operation.prepare()
    outcome, text = Outcome.KILLED, ""
    descriptors, leftovers = open_descriptors(), operation.leftovers()
    try:
        with trouble or nullcontext():
            outcome, text = outcome_of(act)
        operation.check(outcome)
        if outcome is not Outcome.DONE and not any(words in text for words in advice):
            raise StoreProblem(f"it does not say what to do: {text}")
        if left := set(operation.leftovers()).difference(leftovers):
            raise StoreProblem(f"left behind: {', '.join(left)}")
        operation.use_again()
        gc.collect()
        leaked = [f"{number} ({of})" for number, of in open_descriptors().items() if number not in descriptors]
        if len(leaked) > leaks_allowed:
            raise StoreProblem(f"still open are {', '.join(leaked)}")
        if unraisable:
            raise StoreProblem(f"on stderr is {', '.join(unraisable)}")
    except StoreProblem as problem:
        raise StoreProblem(f"{outcome.value}: {problem} {text}") from problem
    finally:
        sys.unraisablehook = hook
    return outcome


def _last_module(what: sys.UnraisableHookArgs) -> str:
    """Return the name of the module in which what cannot be raised was raised."""
    trace = what.exc_traceback
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))


def attempted(where: str, work: Callable[[], Outcome | None]) -> Attempt:
    """Make an attempt, and report what went wrong, if anything, or else the outcome."""
    try:
        outcome = work()
    except StoreProblem as problem:
        return Attempt(f"{where}: {problem}")
    return Attempt(figures={} if outcome is None else {outcome.value: 1})


def warm_up(operation: Operation) -> None:
    """Perform an operation: what a process imports and caches the first time must not change its later calls."""
    with suppress(StoreProblem):  # A mutant may not recover.
        operation.prepare()()
        operation.recover()


def open_descriptors() -> dict[str, str]:
    """Return the descriptors of this process, and what they are of."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        # The one of the listing itself is gone by now.
        with suppress(OSError):
            found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found


def spread(everything: Sequence[T], times: int | None) -> Sequence[T]:
    """Return so many of all, evenly spread; more than there are by going through all of them again."""
    if times is None:
        return everything
    if times >= len(everything):
        return [everything[number % len(everything)] for number in range(times)]
    return [everything[number * len(everything) // times] for number in range(times)]


class _Change(NamedTuple):
    """What an operation does to a store, and what the store holds before and after; None is no file."""

    act: Callable[[Keystore], object]
    new: dict[str, str]
    old: dict[str, str] | None = TOKENS


_SAVE = _Change(lambda keystore: keystore.save(token("r4")), TOKENS | {"4": "r4"})
_CHANGES = {
    "create": _Change(lambda _: None, {}, None),
    "save": _SAVE,
    "save again": _Change(
        lambda keystore: keystore.save(TokenRecord(id="2", refresh_token="r2b")), TOKENS | {"2": "r2b"}
    ),
    # In a directory as a killed writer leaves it.
    "save after a kill": _SAVE,
    "delete": _Change(lambda keystore: keystore.delete("2"), {"1": "r1", "3": "r3"}),
    "clear": _Change(lambda keystore: keystore.clear(), {}),
    "restore": _Change(lambda _: None, {"1": "backup"}),
}
STORE_OPERATIONS = tuple(_CHANGES)

_BALLAST = "ballast"


class StoreOperation:
    """An operation on a store that is alone in its directory.

    Args:
        name: One of :data:`STORE_OPERATIONS`.
        directory: Where to make the directory of the store.
        ballast: By how many bytes the store is larger than its tokens.
        opens_late: Whether acting includes opening the store.
    """

    def __init__(self, name: str, directory: Path, *, ballast: int = 0, opens_late: bool = False) -> None:
        self.name = name
        key = Fernet.generate_key()
        self.store = Store(directory / "data" / "tokens.keystore", key)
        self._key = key
        self._change = _CHANGES[name]
        self._copy = directory / "copy"
        self._ballast = {_BALLAST: "b" * ballast} if ballast else {}
        self._opens_late = opens_late
        old = self._change.old
        self._sealed = None if old is None else self.store.sealed(old | self._ballast)
        self._keystore: Keystore | None = None

    def prepare(self) -> Callable[[], object]:
        """Make the directory, and open the store if it is to be open before the operation."""
        path = self.store.path
        self._keystore = None
        shutil.rmtree(path.parent, ignore_errors=True)
        if self._sealed is None:
            path.parent.parent.mkdir(mode=0o700, exist_ok=True)
            return self._act
        path.parent.mkdir(mode=0o700, parents=True)
        write_private(path, self._sealed)
        if self.name == "save after a kill":
            write_private(path.with_name(f".{path.name}.0123456789abcdef.tmp"), self._sealed[:100])
        else:
            write_private(self.store.lock_path, b"")
        if self.name == "restore":
            write_private(self._copy, self.store.sealed({"1": "backup"}))
            os.environ["STORE_KEY"] = self._key.decode()
        elif not self._opens_late:
            self._opened()
        return self._act

    def _act(self) -> None:
        if self.name == "restore":
            restore(self.store.path, self._copy, key="env:STORE_KEY", lock_timeout=0)
        else:
            self._change.act(self._keystore or self._opened())

    def _opened(self) -> Keystore:
        make_directories(self.store.path.parent)
        # No other process is there, so no lock is waited for.
        self._keystore = self.store.open(lock_timeout=0)
        return self._keystore

    def check(self, outcome: Outcome) -> None:
        """Make sure that the store is what it was or what it was to become, and shut to others."""
        old, new = self._change.old, self._change.new
        states = {
            Outcome.KILLED: (old, new),
            Outcome.DONE: (new,),
            Outcome.DURABILITY_UNKNOWN: (new,),
            Outcome.REFUSED: (old,),
        }
        if (found := self._found()) not in (allowed := states.get(outcome, ())):
            raise StoreProblem(f"the store holds {found}, and not {' or '.join(map(str, allowed))}")
        if outcome is Outcome.REFUSED and self._sealed is not None and self.store.path.read_bytes() != self._sealed:
            raise StoreProblem("it was refused, and the file is not what it was")
        self.store.require_private()

    def _found(self) -> dict[str, str] | None:
        found = self.store.tokens()
        if found is None:
            return None
        has_ballast = found.pop(_BALLAST, None) is not None
        if self._ballast and not has_ballast and self.name not in {"create", "clear", "restore"}:
            raise StoreProblem("a large token is lost")
        return found

    def use_again(self) -> None:
        """Save with the same keystore, which then is closed."""
        self._save("again", self._keystore)
        self._keystore = None

    def recover(self) -> None:
        """Save in a store that was opened anew."""
        self._keystore = None
        self._save("next", None)
        self.store.require_no_leftovers(self._kept())
        self.store.require_private()

    def _save(self, name: str, keystore: Keystore | None) -> None:
        before = self._found() or {}
        try:
            # Without any waiting: a killed process must not leave a lock behind.
            keystore = keystore or self._opened()
            id = keystore.save(token(name)).id
            keystore.close()
        except (KeystoreError, OSError) as error:
            raise StoreProblem(f"the save of {name!r} fails: {error!r}") from error
        if (after := self._found()) != before | {id: name}:
            raise StoreProblem(f"the save of {name!r} made {after} of {before}")

    def leftovers(self) -> list[str]:
        """Return the names of files other than the store, its lock, and the state that a restore has replaced."""
        return [name for name in self.store.leftovers() if name not in self._kept()]

    def _kept(self) -> list[str]:
        # Also the temporary file of such a copy, which no later save removes.
        return [name for name in self.store.leftovers() if f"{self.store.path.name}.replaced-" in name]

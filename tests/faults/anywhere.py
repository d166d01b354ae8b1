"""Races, kills and files in use, on every operating system: processes are started, not forked.

Run as a script, ``python -m faults.anywhere``, it does all of it at full size and prints a line each.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from cryptography.fernet import Fernet

from faults.store import Store, StoreProblem, token
from zoho_keystore.errors import StoreFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: How long a process may take for what it has to do, in seconds. Under Wine, Python starts in a second or two.
TIMEOUT_S = 300.0
_PAUSE_S = 0.005
_ROOT = Path(__file__).parents[2]


class Process:
    """A process of this module that says what it has done in a file; a ``with`` block kills it in the end.

    Args:
        store: The store that it works on.
        role: The name of the function that it runs.
        name: What tells it apart from others.
        arguments: Further arguments of the function.
        mutant: The protection to take out, by its name in :data:`faults.mutants.MUTANTS`.
    """

    def __init__(self, store: Store, role: str, name: str, *arguments: object, mutant: str = "") -> None:
        self.work = store.path.parent.parent
        self.said = self.work / f"{name}.said"
        self.said.touch()
        self._errors = self.work / f"{name}.errors"
        key = store.key if isinstance(store.key, str) else store.key.decode()
        words = [role, str(store.path), key, str(self.work), name, *map(str, arguments)]
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "faults.anywhere", f"--mutant={mutant}", "--", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "tests")])},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def lines(self) -> list[str]:
        """Return the whole lines that the process has written."""
        return self.said.read_text(encoding="ascii").split("\n")[:-1]

    def wait_for_lines(self, number: int) -> None:
        """Wait until the process has written so many lines.

        Raises:
            StoreProblem: It has ended before, or takes too long.
        """
        deadline_s = time.monotonic() + TIMEOUT_S
        while len(self.lines()) < number:
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise StoreProblem(f"a process ended or hangs: {self.problem()}")
            time.sleep(_PAUSE_S)

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()

    def finish(self) -> None:
        """Wait for the end of the process.

        Raises:
            StoreProblem: It has failed.
        """
        if self._process.wait(TIMEOUT_S):
            raise StoreProblem(f"a process failed: {self.problem()}")

    def problem(self) -> str:
        """Return the last line that the process has written on its standard error."""
        return (self._errors.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no message"])[-1]


# --- What the processes do ---


def _say(work: Path, name: str, line: str) -> None:
    with (work / f"{name}.said").open("a", encoding="ascii", newline="\n") as file:
        file.write(f"{line}\n")


def _wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(_PAUSE_S)


def _save(store: Store, work: Path, name: str, number: str) -> None:
    with closing(store.open(lock_timeout=TIMEOUT_S)) as keystore:
        _say(work, name, "ready")
        _wait_for(work / "go")
        for index in range(int(number)):
            keystore.save(token(f"{name}-{index}"))
            _say(work, name, f"{name}-{index}")


def _read(store: Store, work: Path, name: str) -> None:
    with closing(store.open()) as keystore:
        _say(work, name, "ready")
        _wait_for(work / "go")
        known: set[str] = set()
        reads = 0
        while not (work / "stop").exists():
            # A reader that has read before, and one that is new.
            with closing(store.open(create=False)) as other:
                for reader in (keystore, other):
                    found = {record.refresh_token or "" for record in reader.records()}
                    if not known <= found:
                        raise StoreProblem("a reader saw an older state after a newer one")
                    known = found
            reads += 2
        _say(work, name, str(reads))


def _hold(store: Store, work: Path, name: str, seconds: str) -> None:
    with store.path.open("rb"):
        _say(work, name, "ready")
        time.sleep(float(seconds))


_ROLES: dict[str, Callable[..., None]] = {"save": _save, "read": _read, "hold": _hold}


# --- Engines ---


class Figures(NamedTuple):
    """What an engine did.

    Attributes:
        saves: How many saves were acknowledged.
        reads: How often the readers have read.
        seconds: How long it took, without the start of the processes.
    """

    saves: int
    reads: int = 0
    seconds: float = 0.0


@contextmanager
def _new_store(directory: Path) -> Iterator[Store]:
    with tempfile.TemporaryDirectory(dir=directory, ignore_cleanup_errors=True) as work:
        own = Path(work, "store")
        own.mkdir(mode=0o700)
        store = Store(own / "tokens.keystore", Fernet.generate_key())
        store.open().close()
        yield store


def _require_kept(store: Store, saved: Sequence[str]) -> None:
    kept = sorted((store.tokens() or {}).values())
    if lost := set(saved) - set(kept):
        raise StoreProblem(f"{len(lost)} of {len(saved)} acknowledged saves are lost, such as {min(lost)}")
    if len(set(kept)) != len(kept):
        raise StoreProblem("a token was saved twice")


def race(directory: Path, *, writers: int, saves: int, readers: int = 2, mutant: str = "") -> Figures:
    """Let processes save at the same time, beside readers.

    Raises:
        StoreProblem: A save is lost, or a process has failed.
    """
    with _new_store(directory) as store:
        savers = [Process(store, "save", f"w{number}", saves, mutant=mutant) for number in range(writers)]
        others = [Process(store, "read", f"r{number}", mutant=mutant) for number in range(readers)]
        try:
            for process in (*savers, *others):
                process.wait_for_lines(1)
            start_s = time.monotonic()
            (store.path.parent.parent / "go").touch()
            for process in savers:
                process.finish()
            seconds = time.monotonic() - start_s
            (store.path.parent.parent / "stop").touch()
            for process in others:
                process.finish()
        finally:
            for process in (*savers, *others):
                process.kill()
        saved = [line for process in savers for line in process.lines()[1:]]
        if len(saved) != writers * saves:
            raise StoreProblem(f"{len(saved)} of {writers * saves} saves were acknowledged")
        _require_kept(store, saved)
        store.require_no_leftovers()
        return Figures(len(saved), sum(int(process.lines()[1]) for process in others), seconds)


def kill(directory: Path, *, kills: int, started_ahead: int = 3, mutant: str = "") -> Figures:
    """Kill writers at any moment of their saves; the next process is started while one is at work.

    Raises:
        StoreProblem: An acknowledged save is lost, the store does not open, or a process has failed.
    """
    with _new_store(directory) as store:
        work = store.path.parent.parent
        saved: list[str] = []
        (work / "go").touch()
        waiting: list[Process] = []
        try:
            for number in range(kills):
                while len(waiting) < min(started_ahead, kills - number):
                    waiting.append(Process(store, "save", f"k{number + len(waiting)}", 10**6, mutant=mutant))
                process = waiting.pop(0)
                process.wait_for_lines(2)
                time.sleep(random.uniform(0, 0.05))  # noqa: S311 - not a secret
                process.kill()
                saved += process.lines()[1:]
                _require_kept(store, saved)
        finally:
            for process in waiting:
                process.kill()
        with closing(store.open()) as keystore:
            keystore.save(token("after"))
        _require_kept(store, [*saved, "after"])
        return Figures(len(saved))


def save_while_open(directory: Path, seconds: float) -> tuple[float, StoreFileError | None]:
    """Save while another program has the file open; return how long that took, and the error.

    Raises:
        StoreProblem: The state afterwards is neither the old nor the new one.
    """
    with _new_store(directory) as store, closing(store.open()) as keystore:
        keystore.save(token("old"))
        with Process(store, "hold", "holder", seconds) as process:
            process.wait_for_lines(1)
            start_s = time.monotonic()
            error = None
            try:
                keystore.save(token("new"))
            except StoreFileError as caught:
                error = caught
            taken_s = time.monotonic() - start_s
        expected = ["old"] if error else ["new", "old"]
        if sorted((store.tokens() or {}).values()) != expected:
            raise StoreProblem("the store holds neither the old nor the new state")
        if sorted(record.refresh_token or "" for record in keystore.records()) != expected:
            raise StoreProblem("what is read is neither the old nor the new state")
        store.require_no_leftovers()
        return taken_s, error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", nargs="*", metavar="ARGUMENT", help="used for the processes")
    parser.add_argument("--mutant", default="", help="used for the processes")
    parser.add_argument("--kills", type=int, default=200, metavar="N")
    arguments = parser.parse_args()
    if arguments.role:
        if arguments.mutant:
            from faults.mutants import MUTANTS  # noqa: PLC0415 - imports what does not exist on Windows

            MUTANTS[arguments.mutant]()
        role, path, key, work, name, *rest = arguments.role
        _ROLES[role](Store(Path(path), key.encode()), Path(work), name, *rest)
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        _run_all(Path(directory), arguments.kills)


def _run_all(directory: Path, kills: int) -> None:
    for writers, saves in ((4, 25), (8, 50)):
        done = race(directory, writers=writers, saves=saves)
        print(
            f"{writers} processes that save {saves} tokens: {done.saves} of {writers * saves} kept, in "
            f"{done.seconds:.1f} s; {done.reads} reads beside them, no error"
        )
    done = kill(directory, kills=kills)
    print(f"{kills} kills of a writer: none of {done.saves} acknowledged saves lost")
    for seconds in (1, 6):
        taken_s, error = save_while_open(directory, seconds)
        how = f"failed cleanly: {error.problem}" if error else "saved"
        print(f"a save while another program has the file open for {seconds} s: {how}, after {taken_s:.1f} s")
        if os.name == "nt" and (taken_s < seconds / 3 or bool(error) is (seconds == 1)):
            sys.exit("the save should have waited for 1 s, and given up before 6 s are over")


if __name__ == "__main__":
    main()

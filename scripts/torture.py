"""The long campaign against the store: each method until its target is reached or its share of the time is over.

``--minutes`` is the time for all of it; what an engine does in one walk (every system call, every bit) is always done
whole. Run as root to have all methods; those that a machine cannot do are named with the reason.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from faults import Result, disks, hostile, kills, powercuts, races, rotations, secrets, staleness, syscalls

if TYPE_CHECKING:
    from collections.abc import Callable

#: A fuzzing campaign starts here, and the next one where it ended, so that every figure can be had again.
_SEED = 20_260_000_000


@dataclass(frozen=True)
class Method:
    """One way to attack.

    Attributes:
        name: What the table calls it.
        run: Tries so many times, telling each time, and returns what came of it.
        target: How often to try.
        batch: How often to try in one go; 0 for what is one walk, whose length the engine knows.
        share: The part of the time that it may take, in parts of the sum of all.
        why_not: Why this machine cannot do it, or None.
        step: How many tries each telling stands for.
    """

    name: str
    run: Callable[[Path, int, Callable[[], None]], Result]
    target: int
    batch: int = 0
    share: float = 0.0
    why_not: Callable[[], str | None] = lambda: None
    step: int = 1


def _walk(name: str, engine: Callable[..., Result], *, why_not: Callable[[], str | None] = lambda: None) -> Method:
    """Return a method that is one walk."""
    return Method(name, lambda directory, _count, told: engine(directory, progress=told), 1, why_not=why_not)


def _once(engine: Callable[..., Result], name: str = "") -> Method:
    """Return a method that is one walk, of an engine that tells nothing on the way."""
    return Method(name or engine.__name__.replace("_", " "), lambda directory, _count, _told: engine(directory), 1)


def methods() -> list[Method]:
    """Return all methods, with the targets of a full run."""
    started = _SEED

    def fuzz(directory: Path, count: int, told: Callable[[], None]) -> Result:
        nonlocal started
        first, started = started, started + count
        processes = os.cpu_count() or 1
        return hostile.fuzz(directory, inputs=count, seed=first, processes=processes, progress=told)

    def cuts(file_system: str) -> Method:
        def run(directory: Path, count: int, told: Callable[[], None]) -> Result:
            return powercuts.power_cuts(directory, file_system, times=count, progress=told)

        name = f"power cuts, {file_system}"
        return Method(name, run, 10_000, 1_000, 20, partial(powercuts.missing_for, powercuts.FILE_SYSTEMS[file_system]))

    return [
        Method("kills at operations", lambda f, n, t: kills.fork_kills(f, times=n, progress=t), 100_000, 5_000, 10),
        Method("kills at any moment", lambda f, n, t: kills.random_kills(f, times=n, progress=t), 2_000, 100, 3),
        _walk("SIGKILL at every system call", syscalls.kill_at_every_call, why_not=syscalls.why_not),
        _walk("an error at every system call", syscalls.fail_every_call, why_not=syscalls.why_not),
        *[cuts(file_system) for file_system in powercuts.FILE_SYSTEMS],
        *[_disk(trouble) for trouble in disks.TROUBLES],
        *[_once(engine) for engine in (races.writers, races.forks, races.creators, races.killed_holders)],
        *[_once(engine) for engine in (races.hanging_holder, races.forks_beside_threads)],
        Method(
            "read, modify, write under kills",
            lambda f, n, t: races.read_modify_write(f, increments=n, progress=t),
            1_000_000,
            25_000,
            20,
        ),
        Method(
            "finds after replacements",
            lambda f, n, t: staleness.stale_reads(f, replacements=n, progress=t),
            100_000,
            5_000,
            5,
        ),
        Method(
            "finds after saves at one moment",
            lambda f, n, t: staleness.saves_at_one_moment(f, saves=n, progress=t),
            100_000,
            5_000,
            5,
        ),
        Method(
            "finds after writes in place",
            lambda f, n, t: staleness.in_place_writes(f, writes=n, progress=t),
            10_000,
            1_000,
            2,
        ),
        *_of_rotations(),
        _walk("every bit flipped", hostile.flip_every_bit),
        _walk("cut off everywhere", hostile.cut_everywhere),
        _walk("edited everywhere", hostile.edit_everywhere),
        _walk("odd files", hostile.odd_files),
        Method("fuzzed seals and documents", fuzz, 10_000_000, 250_000, 15, step=hostile.STEP),
        _walk("the hunt for secrets", secrets.hunt),
    ]


def _of_rotations() -> list[Method]:
    return [
        _walk("rotations: SIGKILL at every operation", rotations.kill_at_every_operation),
        _walk("rotations: SIGKILL at every system call", rotations.kill_at_every_call, why_not=syscalls.why_not),
        Method(
            "rotations: SIGKILL at any moment",
            lambda f, n, t: rotations.random_kills(f, times=n, progress=t),
            200,
            100,
            1,
        ),
        Method(
            "rotations: beside running processes",
            lambda f, n, _told: rotations.running_processes(f, rotations=n),
            120,
            30,
            1,
        ),
        Method("rotations: two at once", lambda f, n, _told: rotations.at_once(f, rounds=n // 2), 200, 50, 1),
        _walk("rotations: a full disk", rotations.full_disk),
        _walk("rotations: a limit on the size of files", rotations.small_files),
        _once(rotations.key_by_hand, "rotations: a key put into the ring by hand"),
        _once(rotations.beside_a_lease, "rotations: a lease on a refresh"),
        _once(rotations.taken_locks, "rotations: locks that are taken"),
    ]


def _disk(trouble: str) -> Method:
    def run(directory: Path, _count: int, told: Callable[[], None]) -> Result:
        return disks.disks(directory, trouble, progress=told)

    return Method(f"a disk that is {trouble}", run, 1, why_not=disks.TROUBLES[trouble].lacks)


def campaign(method: Method, time_s: float, bar: Progress) -> Result:
    """Run one method until its target or the end of its time."""
    total = Result(method.name)
    task = bar.add_task(method.name, total=method.target if method.batch else None)
    ends = time.monotonic() + time_s

    def told() -> None:
        bar.advance(task, method.step)
        bar.refresh()

    while True:
        count = min(method.batch, method.target - total.tried) if method.batch else 1
        with tempfile.TemporaryDirectory(prefix="torture-") as directory:
            try:
                result = method.run(Path(directory), count, told)
            except RuntimeError as error:
                total.failures.append(f"the attack itself has failed: {error}")
                return total
        total.tried += result.tried
        total.failures += result.failures
        total.figures |= result.figures
        bar.update(task, completed=total.tried)
        if not method.batch or total.tried >= method.target or time.monotonic() >= ends:
            bar.update(task, total=total.tried)
            return total


def show(results: list[Result], left_out: dict[str, str], console: Console) -> None:
    """Print the table of what was done and seen."""
    table = Table("method", title=f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores")
    table.add_column("tried", justify="right")
    table.add_column("failed", justify="right")
    table.add_column("figures")
    for result in results:
        figures = ", ".join(f"{name} {figure:,.6g}" for name, figure in result.figures.items())
        table.add_row(result.method, f"{result.tried:,}", f"{len(result.failures):,}", figures)
    console.print(table)
    for name, reason in left_out.items():
        console.print(f"left out: {name}: {reason}")
    for result in results:
        for failure in result.failures[:20]:
            console.print(f"FAILED: {result.method}: {failure}", style="bold red", markup=False)


def main() -> int:
    """Run the campaign, and return 0 if nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=90.0, metavar="N", help="for all of it; default: 90")
    parser.add_argument("--only", metavar="TEXT", default="", help="only the methods whose names hold this text")
    options = parser.parse_args()
    console = Console()
    chosen = [method for method in methods() if options.only in method.name]
    if not chosen:
        parser.error("no method has this text in its name; there are: " + ", ".join(m.name for m in methods()))
    shares = sum(method.share for method in chosen) or 1.0
    results: list[Result] = []
    left_out: dict[str, str] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Without a thread of its own: engines fork, and a child must not find a lock that a thread held.
    with Progress(*columns, console=console, auto_refresh=False) as bar:
        for method in chosen:
            if (reason := method.why_not()) is not None:
                left_out[method.name] = reason
                continue
            result = campaign(method, options.minutes * 60 * method.share / shares, bar)
            results.append(result)
            # Told at once, so that what was done is known when the rest is broken off.
            console.print(f"{result.method}: tried {result.tried:,}, failed {len(result.failures):,}", markup=False)
    show(results, left_out, console)
    return 1 if any(result.failures for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())

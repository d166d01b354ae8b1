"""Run the fault engines of ``tests/faults`` at length: each until its target or the end of its share of the time.

What an engine does in one walk (every system call, every bit) is always done whole. Run as root to have all engines;
those that a machine cannot run are named with the reason.
"""

from __future__ import annotations

import argparse
import itertools
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
from faults import (
    Attempt,
    Result,
    counters,
    disks,
    failures,
    hostile,
    kills,
    powercuts,
    races,
    rotations,
    secrets,
    sign_ins,
    staleness,
)
from faults.mounts import missing_for
from faults.sql_rotations import kill_rotations
from faults.sql_stores import on_sqlite
from faults.syscalls import fail_every_system_call, kill_at_every_system_call, missing_for_strace
from servers.campaigns import kill_under_load
from servers.catalog import ENTRIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: A fuzzing campaign takes the inputs from here on, and each batch goes on where the last one ended.
_next_inputs = itertools.count(20_260_000_000, 250_000)


@dataclass(frozen=True)
class Campaign:
    """An engine, and how long to run it.

    Attributes:
        name: What the table calls it.
        engine: Called with a directory, with ``progress``, and for what is no walk with the number of tries.
        number: What the engine calls that number; empty for what is one walk.
        target: How often to try.
        batch: How often to try in one go.
        share: The part of the time that it may take, in parts of the sum of all.
        missing: Why this machine cannot run it, or None.
    """

    name: str
    engine: Callable[..., Result]
    number: str = ""
    target: int = 1
    batch: int = 0
    share: float = 0.0
    missing: Callable[[], str | None] = lambda: None


def campaigns() -> Iterator[Campaign]:
    """Yield all campaigns."""
    at_any_moment = kills.kill_at_any_moment
    yield Campaign("kills at calls", kills.kill_at_every_call, "times", 100_000, 5_000, 10)
    yield Campaign("kills at any moment of saves", partial(at_any_moment, loop=kills.Saves), "times", 2_000, 100, 3)
    yield Campaign(
        "kills at any moment of rotations", partial(at_any_moment, loop=rotations.RotationLoop), "times", 200, 100, 1
    )
    yield Campaign("kills of sign-ins", sign_ins.kill_sign_ins)
    yield Campaign("kills at system calls", kill_at_every_system_call, missing=missing_for_strace)
    yield Campaign("failing system calls", fail_every_system_call, missing=missing_for_strace)
    yield Campaign("failing calls", failures.fail_at_every_call)
    yield Campaign("a full disk from a call on", partial(failures.fail_at_every_call, is_full=True))
    for name, file_system in powercuts.FILE_SYSTEMS.items():
        engine = partial(powercuts.power_cuts, file_system=name)
        missing = partial(missing_for, file_system)
        yield Campaign(f"power cuts, {name}", engine, "times", 10_000, 1_000, 20, missing)
    for name, trouble in disks.TROUBLES.items():
        yield Campaign(f"disks: {name}", partial(disks.operations_in_trouble, trouble=name), missing=trouble.lacks)
    for race in (races.writers, races.forks, races.creators, races.killed_holders, races.hanging_holder):
        yield Campaign(f"races: {race.__name__}", race)
    yield Campaign("races: forks beside threads", races.forks_beside_threads)
    yield Campaign("read, modify, write under kills", counters.read_modify_write, "increments", 1_000_000, 25_000, 20)
    after_changes = staleness.finds_after_changes
    yield Campaign("finds after replacements", after_changes, "changes", 100_000, 5_000, 5)
    yield Campaign(
        "finds after replacements, whole seconds", partial(after_changes, is_coarse=True), "changes", 100_000, 5_000, 5
    )
    in_place = partial(after_changes, ways=staleness.WRITES_IN_PLACE, most_at_once=1)
    yield Campaign("finds after writes in place", in_place, "changes", 10_000, 1_000, 2)
    yield Campaign("finds in files that are cut off", staleness.finds_after_damage)
    yield Campaign("rotations beside processes", rotations.beside_processes, "rotations", 120, 30, 1)
    yield Campaign("rotations: two at once", rotations.at_once, "rounds", 200, 25, 1)
    for rotation in (rotations.key_by_hand, rotations.beside_a_lease, rotations.taken_locks):
        yield Campaign(f"rotations: {rotation.__name__}", rotation)
    for race in (races.writers, races.same_token, races.creators, races.forks, counters.raise_together):
        yield Campaign(f"SQLite: {race.__name__}", partial(race, make=on_sqlite))
    counting = partial(counters.read_modify_write, make=on_sqlite)
    yield Campaign("SQLite: read, modify, write under kills", counting, "increments", 100_000, 2_500, 5)
    yield Campaign("SQLite: kills of rotations", partial(kill_rotations, make=on_sqlite))
    for name in ("postgresql15", "postgresql18", "mariadb", "galera"):
        kill = partial(kill_under_load, name=name)
        yield Campaign(f"servers: kills of {name}", kill, "kills", 100, 10, 5, ENTRIES[name].missing)
    for name in hostile.CONTENTS:
        yield Campaign(f"hostile files: {name}", partial(hostile.replaced_files, contents=name))
    yield Campaign("hostile files: odd ones", hostile.odd_files)
    yield Campaign("fuzzed tokens and payloads", _fuzz, "inputs", 10_000_000, 250_000, 15)
    yield Campaign("the hunt for secrets", secrets.hunt)


def _fuzz(directory: Path, *, inputs: int, progress: Callable[[int], object]) -> Result:
    return hostile.fuzz(directory, inputs=inputs, seed=next(_next_inputs), progress=progress)


def run(campaign: Campaign, time_s: float, bar: Progress) -> Result:
    """Run one campaign until its target or the end of its time."""
    total = Result(campaign.name)
    task = bar.add_task(campaign.name, total=campaign.target if campaign.number else None)
    ends = time.monotonic() + time_s

    def told(tried: int) -> None:
        bar.advance(task, tried)
        bar.refresh()

    while True:
        count = {campaign.number: min(campaign.batch, campaign.target - total.tried)} if campaign.number else {}
        with tempfile.TemporaryDirectory(prefix="torture-") as directory:
            try:
                result = campaign.engine(Path(directory), progress=told, **count)
            except RuntimeError as error:
                total.failures.append(f"the engine itself has failed: {error}")
                return total
        total.failures += result.failures
        total.add(Attempt(figures=result.figures, tried=result.tried))
        if not campaign.number or total.tried >= campaign.target or time.monotonic() >= ends:
            bar.update(task, completed=total.tried, total=total.tried)
            return total


def show(results: list[Result], left_out: dict[str, str], console: Console) -> None:
    """Print the table of what was done and seen."""
    table = Table("engine", title=f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores")
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
    """Run the campaigns, and return 0 if nothing failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=90.0, metavar="N", help="for all of it; default: 90")
    parser.add_argument("--only", metavar="TEXT", default="", help="only the campaigns whose names hold this text")
    options = parser.parse_args()
    console = Console()
    chosen = [campaign for campaign in campaigns() if options.only in campaign.name]
    if not chosen:
        parser.error("no campaign has this text in its name; there are: " + ", ".join(c.name for c in campaigns()))
    shares = sum(campaign.share for campaign in chosen) or 1.0
    results: list[Result] = []
    left_out: dict[str, str] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Without a thread of its own: engines fork, and a fork must not find a lock that a thread held.
    with Progress(*columns, console=console, auto_refresh=False) as bar:
        for campaign in chosen:
            if (reason := campaign.missing()) is not None:
                left_out[campaign.name] = reason
                continue
            result = run(campaign, options.minutes * 60 * campaign.share / shares, bar)
            results.append(result)
            # Printed at once, so that what was done is known when the rest is broken off.
            console.print(f"{result.method}: tried {result.tried:,}, failed {len(result.failures):,}", markup=False)
    show(results, left_out, console)
    return 1 if any(result.failures for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())

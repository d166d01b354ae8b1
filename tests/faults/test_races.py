"""Nothing is lost between processes and threads that save at once, whichever of them is killed, hangs or forks."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from faults.counters import KILLS, raise_together, read_modify_write
from faults.races import (
    SLOWEST,
    creators,
    forks,
    forks_beside_threads,
    hanging_holder,
    killed_holders,
    same_token,
    writers,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EIGHT_PROCESSES = partial(writers, processes=8, saves=10)
EIGHT_THREADS = partial(writers, processes=1, threads=8, saves=10)
SHORT_HANG = partial(hanging_holder, lock_timeout=0.2)


@pytest.mark.parametrize(
    ("engine", "least"),
    [
        (writers, 480),
        (EIGHT_THREADS, 80),
        (partial(forks, saves=10), 91),
        (partial(creators, rounds=10), 80),
        (same_token, 80),
        (raise_together, 80),
        (killed_holders, 20),
        (partial(hanging_holder, lock_timeout=0.7), 10),
        (forks_beside_threads, 4),
        (partial(read_modify_write, increments=200, kill_every_s=0.05), 200),
    ],
    ids=[
        "processes",
        "threads",
        "forks",
        "creators",
        "same-token",
        "same-number",
        "killed",
        "hanging",
        "fork-beside-thread",
        "read-modify-write",
    ],
)
def test_race_loses_nothing(engine: Callable[..., Any], least: int, directory: Path) -> None:
    """No id is given twice, no save takes 5 seconds, and readers wait for nothing."""
    result = engine(directory)
    assert result.failures == []
    assert result.tried >= least
    assert result.figures.get(SLOWEST, 0) < 5
    assert result.figures.get(KILLS, 1) > 0


@pytest.mark.mutants
@pytest.mark.parametrize(
    ("engine", "mutant"),
    [
        (EIGHT_PROCESSES, "no lock"),
        (EIGHT_THREADS, "no lock"),
        (same_token, "no lock"),
        (raise_together, "no lock"),
        (partial(forks, processes=4, saves=10), "no lock"),
        (partial(read_modify_write, increments=200, kill_every_s=0.02), "no lock"),
        (SHORT_HANG, "no lock"),
        (EIGHT_PROCESSES, "lock file unlinked"),
        (SHORT_HANG, "lock file unlinked"),
        (SHORT_HANG, "lock broken by age"),
        (partial(killed_holders, kills=1, lock_timeout=0.2), "soft lock"),
        (SHORT_HANG, "reader takes the lock"),
        (partial(forks_beside_threads, lock_timeout=0.2), "fork keeps the lock's descriptor"),
        (partial(creators, rounds=5), "creation that overwrites"),
    ],
)
def test_races_catch_mutant(engine: Callable[..., Any], mutant: str, directory: Path) -> None:
    """Else the engine would prove nothing. A race need not be lost each time, so there are several attempts."""
    if not any(engine(directory, mutant=mutant).failures for _ in range(20)):
        pytest.fail(f"{mutant} survived")

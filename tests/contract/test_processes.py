"""What processes may count on, on every operating system; :mod:`faults.anywhere` does the same at full size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from faults.anywhere import kill, race, save_while_open
from faults.store import StoreProblem

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.needs_cheap_processes
def test_processes_that_save_at_once_lose_nothing(tmp_path: Path) -> None:
    done = race(tmp_path, writers=3, saves=10, readers=1)
    assert done.saves == 30
    assert done.reads > 0


@pytest.mark.needs_cheap_processes
def test_killed_writers_lose_no_acknowledged_save(tmp_path: Path) -> None:
    assert kill(tmp_path, kills=3).saves >= 3


def test_save_while_another_program_reads_the_file_succeeds(tmp_path: Path) -> None:
    _, error = save_while_open(tmp_path, 0.3)
    assert error is None


@pytest.mark.mutants
@pytest.mark.needs_fork
def test_race_catches_a_store_without_lock(tmp_path: Path) -> None:
    """Else it would prove nothing; a race need not be lost each time."""

    def races() -> None:
        for _ in range(20):
            race(tmp_path, writers=3, saves=20, mutant="no lock")

    with pytest.raises(StoreProblem):
        races()


@pytest.mark.mutants
@pytest.mark.needs_fork
def test_kill_catches_saves_that_are_acknowledged_too_early(tmp_path: Path) -> None:
    with pytest.raises(StoreProblem):
        kill(tmp_path, kills=100, mutant="acknowledged before it is written")

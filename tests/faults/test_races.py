"""Nothing is lost between processes and threads that write at once, whoever of them is killed, hangs or forks."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from faults.races import (
    creators,
    forks,
    forks_beside_threads,
    hanging_holder,
    killed_holders,
    read_modify_write,
    writers,
)

if TYPE_CHECKING:
    from pathlib import Path

    from faults import Result


def test_24_processes_save_20_tokens_each_and_none_is_lost(tmp_path: Path) -> None:
    """Nor is an id given twice, nor does any of them wait for 5 seconds."""
    result = writers(tmp_path, processes=24, saves=20)
    assert result.failures == []
    assert result.tried == 480
    assert result.figures["slowest save, s"] < 5


def test_8_threads_save_in_one_store_and_nothing_is_lost(tmp_path: Path) -> None:
    """The lock of a file means nothing to threads of one process, which could all have it."""
    result = writers(tmp_path, processes=1, threads=8, saves=10)
    assert result.failures == []
    assert result.tried == 80


def test_a_store_that_was_made_before_a_fork_serves_the_parent_and_all_children(tmp_path: Path) -> None:
    """As gunicorn and Celery have it."""
    assert forks(tmp_path, processes=8, saves=10).failures == []


def test_processes_that_make_the_store_at_the_same_moment_make_one(tmp_path: Path) -> None:
    """None of them overwrites what another one has just made and filled."""
    assert creators(tmp_path, processes=8, rounds=10).failures == []


def test_a_holder_of_the_lock_that_is_killed_costs_the_next_writer_nothing(tmp_path: Path) -> None:
    """And nothing of what it had not committed is there."""
    assert killed_holders(tmp_path, kills=20).failures == []


def test_a_holder_of_the_lock_that_hangs_costs_writers_the_lock_timeout_and_readers_nothing(tmp_path: Path) -> None:
    """However old its lock file is; and when it goes on, it ends its work."""
    result = hanging_holder(tmp_path, lock_timeout=2)
    assert result.failures == []
    assert result.tried > 10


def test_a_fork_beside_a_thread_that_holds_the_lock_or_waits_for_it_can_save(tmp_path: Path) -> None:
    """And it does not go on holding the lock when its parent is killed."""
    result = forks_beside_threads(tmp_path)
    assert result.failures == []
    assert result.tried == 4


def test_every_acknowledged_change_counts_while_processes_are_killed(tmp_path: Path) -> None:
    """8 processes with 4 threads each read, modify and write; nothing counts that was not begun."""
    result = read_modify_write(tmp_path, increments=200, kill_every_s=0.05)
    assert result.failures == []
    assert result.tried >= 200
    assert result.figures["kills"] > 0


#: By the protection that is taken out, attacks that must notice it.
MUTANTS: dict[str, list[partial[Result]]] = {
    "no lock": [
        partial(writers, processes=8, saves=10),
        partial(writers, processes=1, threads=8, saves=10),
        partial(forks, processes=4, saves=10),
        partial(read_modify_write, increments=200, kill_every_s=0.02),
        partial(hanging_holder, lock_timeout=0.2),
    ],
    "lock file unlinked": [
        partial(writers, processes=8, saves=10),
        partial(hanging_holder, lock_timeout=0.2),
    ],
    "lock broken by age": [partial(hanging_holder, lock_timeout=0.2)],
    "soft lock": [partial(killed_holders, kills=1, lock_timeout=0.2)],
    "reader takes the lock": [partial(hanging_holder, lock_timeout=0.2)],
    "fork keeps the lock's descriptor": [partial(forks_beside_threads, lock_timeout=0.2)],
    "fork keeps the thread lock": [partial(forks_beside_threads, lock_timeout=0.2)],
    "creation that overwrites": [partial(creators, rounds=5)],
}


@pytest.mark.parametrize(
    ("mutant", "attack"),
    [
        pytest.param(mutant, attack, id=f"{attack.func.__name__}-{mutant}")
        for mutant, attacks in MUTANTS.items()
        for attack in attacks
    ],
)
def test_a_store_without_its_protection_is_caught(mutant: str, attack: partial[Result], tmp_path: Path) -> None:
    """Or these tests would prove nothing. A race need not be lost each time, so there are several attempts."""
    for attempt in range(20):
        directory = tmp_path / f"{attempt}"
        directory.mkdir(mode=0o700)
        if attack(directory, mutant=mutant).failures:
            return
    pytest.fail(f"{mutant} survived")

"""The races and the rotations of stores in databases, on SQLite, which needs no server."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from faults import sql_mutants
from faults.counters import raise_together, read_modify_write
from faults.load import ERRORS, under_load
from faults.processes import Child
from faults.races import creators, forks, same_token, writers
from faults.refreshes import MEETINGS, SQL, SQL_WITHOUT_LEASES, meet
from faults.sql_rotations import kill_rotations, rotate_in_a_child, with_ring
from faults.sql_stores import on_sqlite
from faults.store import token

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from pathlib import Path

    from faults.sql_stores import SQLStore

BY_NAME = {meeting.who: meeting for meeting in MEETINGS}


def to_sqlite(directory: Path) -> tuple[str, ...]:
    """Return the address of a database in a directory."""
    return on_sqlite(directory).urls


@pytest.mark.parametrize(
    ("engine", "least"),
    [
        (partial(writers, processes=8, saves=50), 400),
        (partial(writers, processes=1, threads=8, saves=10), 80),
        (same_token, 80),
        (raise_together, 80),
        (partial(creators, rounds=5), 40),
        (partial(forks, saves=5), 46),
        (partial(read_modify_write, increments=200, kill_every_s=0.05), 200),
    ],
    ids=["processes", "threads", "same-token", "same-number", "creators", "forks", "read-modify-write"],
)
def test_race_on_sqlite_loses_nothing(engine: Callable[..., Any], least: int, directory: Path) -> None:
    result = engine(directory, make=on_sqlite)
    assert result.failures == []
    assert result.tried >= least


@pytest.mark.mutants
@pytest.mark.parametrize(
    ("engine", "mutant"),
    [
        (partial(writers, processes=8, saves=10), sql_mutants.no_transaction),
        (same_token, sql_mutants.no_transaction),
        (raise_together, sql_mutants.no_version),
    ],
    ids=["writers-no-transaction", "same-token-no-transaction", "same-number-no-version"],
)
def test_races_on_sqlite_catch_mutant(engine: Callable[..., Any], mutant: Callable[[], None], directory: Path) -> None:
    """Else the engine would prove nothing. A race need not be lost each time, so there are several attempts."""
    if not any(engine(directory, make=on_sqlite, mutant=mutant).failures for _ in range(20)):
        pytest.fail(f"{mutant.__name__} survived")


@pytest.mark.parametrize("who", ["24 processes", "8 children, forked after it was opened"])
def test_one_of_all_on_sqlite_refreshes_an_expired_token(who: str, tmp_path: Path) -> None:
    seen = meet(BY_NAME[who], SQL, tmp_path, sql=to_sqlite(tmp_path))
    assert [outcome.error for outcome in seen.outcomes if outcome.error] == []
    assert seen.refreshes == 1
    assert len({outcome.access_token for outcome in seen.outcomes}) == 1


@pytest.mark.mutants
def test_without_leases_several_refresh_on_sqlite(tmp_path: Path) -> None:
    """So the test above would show it if the store did not make one refresh."""
    assert meet(BY_NAME["8 processes"], SQL_WITHOUT_LEASES, tmp_path, sql=to_sqlite(tmp_path)).refreshes > 1


def test_rotation_on_sqlite_beside_clients_loses_nothing(tmp_path: Path) -> None:
    store = with_ring(on_sqlite(tmp_path), tmp_path)
    result = under_load(store, partial(rotate_in_a_child, store), method="rotations", clients=4)
    assert result.failures == []
    assert result.figures[ERRORS] == 0


def test_rotation_on_sqlite_completes_after_a_kill_at_each_commit(directory: Path) -> None:
    """And all rows are found in between."""
    result = kill_rotations(directory, make=on_sqlite)
    assert result.failures == []
    assert result.tried >= 12


@pytest.mark.mutants
@pytest.mark.parametrize("mutant", [sql_mutants.old_key_dropped_first, sql_mutants.finished_too_early])
def test_kills_of_rotations_on_sqlite_catch_mutant(mutant: Callable[[], None], directory: Path) -> None:
    assert kill_rotations(directory, make=on_sqlite, mutant=mutant).failures


def test_save_of_a_forked_child_is_kept_when_the_parent_closes_the_store(directory: Path) -> None:
    """SQLite's locks are not inherited: a later reader would remove the log into which the child writes."""
    store = on_sqlite(directory)
    keystore = store.open()
    keystore.save(token("before"))
    with Child(_save_as_told, store=store) as child:
        child.hear()
        keystore.close()
        for names in (["before", "first"], ["before", "first", "second"]):
            child.tell(names[-1])
            child.hear()
            assert sorted((store.tokens() or {}).values()) == names
    for path in directory.iterdir():
        path.unlink()


def _save_as_told(pipe: Connection, *, store: SQLStore) -> None:
    keystore = store.open()
    pipe.send("ready")
    while True:
        pipe.send(keystore.save(token(pipe.recv())).id)

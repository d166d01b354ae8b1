"""Keys are rotated beside clients that save, and by processes that are killed at each step."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from faults import sql_mutants
from faults.load import ERRORS, under_load
from faults.sql_rotations import kill_rotations, rotate_in_a_child, with_ring
from faults.sql_stores import on_server
from servers import catalog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from servers.catalog import Running

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]


def find_urls(name: str, running: Running) -> Sequence[str]:
    if needed := catalog.ENTRIES[name].missing():
        pytest.skip(f"needs: {needed}")
    urls: Sequence[str] = running.get(name).urls
    return urls


@pytest.mark.parametrize("name", ["postgresql15", "mariadb", "galera"])
def test_rotation_on_a_server_beside_clients_loses_nothing(name: str, running: Running, tmp_path: Path) -> None:
    store = with_ring(on_server(find_urls(name, running))(tmp_path), tmp_path)
    result = under_load(store, partial(rotate_in_a_child, store), method="rotations", clients=6)
    assert result.failures == []
    assert result.figures[ERRORS] == 0
    assert len(store.keys()) == 1


@pytest.mark.parametrize("name", ["postgresql15", "mariadb"])
def test_rotation_on_a_server_completes_after_a_kill_at_each_commit(
    name: str, running: Running, tmp_path: Path
) -> None:
    """And all rows are found in between."""
    result = kill_rotations(tmp_path, make=on_server(find_urls(name, running)))
    assert result.failures == []
    assert result.tried >= 12


@pytest.mark.parametrize("mutant", [sql_mutants.old_key_dropped_first, sql_mutants.finished_too_early])
def test_kills_of_rotations_on_a_server_catch_mutant(
    mutant: Callable[[], None], running: Running, tmp_path: Path
) -> None:
    make = on_server(find_urls("postgresql15", running))
    assert kill_rotations(tmp_path, make=make, mutant=mutant).failures


@pytest.mark.parametrize("mutant", [sql_mutants.not_announced, sql_mutants.no_version])
def test_rotations_on_a_server_beside_clients_catch_mutant(
    mutant: Callable[[], None], running: Running, tmp_path: Path
) -> None:
    """The rotating process is a mutant; the clients are not."""
    for _ in range(5):
        store = with_ring(on_server(find_urls("postgresql15", running))(tmp_path), tmp_path)
        disturb = partial(rotate_in_a_child, store, 5, mutant)
        if under_load(store, disturb, method="rotations", clients=6).failures:
            return
    pytest.fail("survived")

"""Servers are killed, stopped, rejoined and promoted under load: nothing is lost, and nothing stale is read."""

from __future__ import annotations

import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from faults import sql_mutants
from faults.load import ERRORS, reads_elsewhere, under_load
from faults.sql_stores import on_server
from servers import catalog, mariadb, postgres

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from servers.catalog import Running

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

#: How long a server stays down, in seconds.
_DOWN_S = 0.5


def find(name: str, running: Running) -> Any:
    if needed := catalog.ENTRIES[name].missing():
        pytest.skip(f"needs: {needed}")
    return running.get(name)


def kill_and_restart(server: Any, times: int = 3) -> None:
    for _ in range(times):
        server.kill()
        time.sleep(_DOWN_S)
        server.rejoin()
        time.sleep(_DOWN_S)


@pytest.mark.parametrize("name", ["postgresql15", "postgresql18", "mariadb"])
def test_kill_of_a_single_server_loses_nothing(name: str, running: Running, tmp_path: Path) -> None:
    """It is killed in mid-save, and restarted; clients go on by themselves."""
    server = find(name, running)
    result = under_load(on_server(server.urls)(tmp_path), partial(kill_and_restart, server), method="kills")
    assert result.failures == []
    assert result.figures[ERRORS] == 0


@pytest.mark.parametrize("name", ["postgresql15", "mariadb"])
def test_server_that_stays_down_is_an_error_after_the_lock_timeout(name: str, running: Running, tmp_path: Path) -> None:
    """And not before; when it is back, clients go on."""
    server = find(name, running)

    def stay_down() -> None:
        server.kill()
        time.sleep(4)
        server.rejoin()

    result = under_load(on_server(server.urls, lock_timeout=2)(tmp_path), stay_down, method="down")
    assert result.failures == []
    assert result.figures[ERRORS] > 0


def test_kill_of_a_galera_node_loses_nothing(running: Running, tmp_path: Path) -> None:
    """Its clients wait until it has rejoined; the others go on."""
    cluster = find("galera", running)

    def kill_and_rejoin() -> None:
        cluster.kill(1)
        time.sleep(3)
        cluster.rejoin(1)

    result = under_load(on_server(cluster.urls, lock_timeout=60)(tmp_path), kill_and_rejoin, method="a node killed")
    assert result.failures == []
    assert result.figures[ERRORS] == 0


def test_stop_of_a_galera_node_loses_nothing(running: Running, tmp_path: Path) -> None:
    """For longer than the others wait for it: it has to rejoin, and reads nothing stale meanwhile."""
    cluster = find("galera", running)

    def stop_and_go_on() -> None:
        cluster.pause(2)
        time.sleep(8)
        cluster.resume(2)

    result = under_load(on_server(cluster.urls, lock_timeout=60)(tmp_path), stop_and_go_on, method="a node stopped")
    assert result.failures == []
    assert result.figures[ERRORS] == 0


def test_read_on_another_galera_node_is_never_stale(running: Running, tmp_path: Path) -> None:
    cluster = find("galera", running)
    result = reads_elsewhere(tmp_path, make=on_server(cluster.urls), rounds=200)
    assert result.failures == []
    assert result.tried == 200


def test_read_on_another_galera_node_catches_mutant(running: Running, tmp_path: Path) -> None:
    """A node applies a moment later what another one has committed."""
    cluster = find("galera", running)
    reads = partial(reads_elsewhere, make=on_server(cluster.urls), rounds=500, mutant=sql_mutants.no_causal_reads)
    assert any(reads(tmp_path).failures for _ in range(5))


def lose_primary(cluster: Any) -> None:
    # A primary that does not wait for its standby acknowledges meanwhile what is lost with it.
    cluster.kill(1)
    time.sleep(1)
    cluster.kill(0)
    cluster.restart(1)
    cluster.promote(1)


def test_loss_of_a_primary_with_a_synchronous_standby_loses_nothing(tmp_path: Path) -> None:
    """The standby is promoted, the primary becomes its standby, and is promoted in its turn."""
    if needed := postgres.missing():
        pytest.skip(f"needs: {needed}")
    with closing(postgres.PrimaryAndStandby()) as cluster:
        cluster.start()

        def fail_over_twice() -> None:
            lose_primary(cluster)
            cluster.rejoin(0)
            time.sleep(_DOWN_S)
            cluster.kill(1)
            cluster.promote(0)
            cluster.rejoin(1)

        result = under_load(on_server(cluster.urls)(tmp_path), fail_over_twice, method="promotions")
    assert result.failures == []
    assert result.figures[ERRORS] == 0


def test_loss_of_a_primary_with_an_asynchronous_standby_is_caught(tmp_path: Path) -> None:
    """So the test above would show a loss; no store can promise more than the servers do."""
    if needed := postgres.missing():
        pytest.skip(f"needs: {needed}")
    with closing(postgres.PrimaryAndStandby(is_synchronous=False)) as cluster:
        cluster.start()
        store = on_server(cluster.urls)(tmp_path)
        result = under_load(store, partial(lose_primary, cluster), method="promotions")
    assert result.failures


def test_fail_over_by_patroni_loses_nothing(tmp_path: Path) -> None:
    """The primary's machine is lost; Patroni promotes the standby by itself."""
    if needed := catalog.ENTRIES["patroni"].missing():
        pytest.skip(f"needs: {needed}")
    with closing(catalog.ENTRIES["patroni"].make()) as cluster:
        cluster.start()

        def lose_the_primary() -> None:
            primary = cluster.primary
            cluster.kill(primary)
            cluster.promote(1 - primary)
            cluster.rejoin(primary)

        result = under_load(on_server(cluster.urls)(tmp_path), lose_the_primary, method="Patroni")
    assert result.failures == []
    assert result.figures[ERRORS] == 0


@pytest.mark.parametrize(
    ("make", "missing"),
    [
        (partial(postgres.Postgres, 15), postgres.missing),
        (mariadb.MariaDB, mariadb.missing),
    ],
    ids=["postgresql15", "mariadb"],
)
def test_load_catches_a_failed_commit_taken_for_done(
    make: Callable[[], Any], missing: Callable[[], str | None], tmp_path: Path
) -> None:
    """The server is killed in the middle of commits; a store that ignored that would lose saves."""
    if needed := missing():
        pytest.skip(f"needs: {needed}")
    with closing(make()) as server:
        server.start()
        for _ in range(5):
            store = on_server(server.urls)(tmp_path)
            kills = partial(kill_and_restart, server)
            if under_load(store, kills, method="kills", mutant=sql_mutants.failed_commit_taken_for_done).failures:
                return
    pytest.fail("survived")

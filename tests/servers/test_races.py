"""Nothing is lost between clients that save at once, on each server: one record for a new token, one refresh."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from faults import sql_mutants
from faults.counters import KILLS, raise_together, read_modify_write
from faults.races import creators, forks, same_token, writers
from faults.refreshes import MEETINGS, SQL, SQL_WITHOUT_LEASES, meet
from faults.sql_stores import new_prefix, on_server
from servers import catalog, postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from servers.catalog import Running

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]

#: Of clusters, clients are spread over all nodes.
WHERE = ("postgresql15", "serializable", "pgbouncer", "postgresql18", "mariadb", "galera")
BY_NAME = {meeting.who: meeting for meeting in MEETINGS}

EIGHT = partial(writers, processes=8, saves=50, slowest_save_s=30)
KILLED = partial(read_modify_write, increments=100, processes=4, threads=2, kill_every_s=0.2)


@pytest.fixture(scope="session", params=WHERE)
def urls(request: pytest.FixtureRequest, running: Running) -> Sequence[str]:
    """Give the addresses of a server."""
    return find_urls(request.param, running)


def find_urls(name: str, running: Running) -> Sequence[str]:
    entry = catalog.ENTRIES.get(name, catalog.ENTRIES["postgresql15"])
    needed = postgres.missing_bouncer() if name == "pgbouncer" else entry.missing()
    if needed:
        pytest.skip(f"needs: {needed}")
    if name == "pgbouncer":
        return running.bouncer().urls
    if name == "serializable":
        return [running.get("postgresql15").url_of(postgres.SERIALIZABLE)]
    found: Sequence[str] = running.get(name).urls
    return found


@pytest.mark.parametrize(
    ("engine", "least"),
    [
        (EIGHT, 400),
        (same_token, 80),
        (raise_together, 80),
        (partial(creators, processes=8, rounds=2, slowest_save_s=30), 16),
        (partial(forks, saves=5, slowest_save_s=30), 46),
        (KILLED, 100),
    ],
    ids=["writers", "same-token", "same-number", "creators", "forks", "killed-clients"],
)
def test_race_on_a_server_loses_nothing(
    engine: Callable[..., Any], least: int, urls: Sequence[str], tmp_path: Path
) -> None:
    """All saves are kept, no id is given twice, and a new token becomes one record."""
    result = engine(tmp_path, make=on_server(urls))
    assert result.failures == []
    assert result.tried >= least
    assert result.figures.get(KILLS, 1) > 0


@pytest.mark.parametrize("who", ["24 processes", "8 children, forked after it was opened"])
def test_one_of_all_on_a_server_refreshes_an_expired_token(who: str, urls: Sequence[str], tmp_path: Path) -> None:
    """And all end with the same access token."""
    seen = meet(BY_NAME[who], SQL, tmp_path, sql=tuple(urls), prefix=new_prefix())
    assert [outcome.error for outcome in seen.outcomes if outcome.error] == []
    assert seen.refreshes == 1
    assert len({outcome.access_token for outcome in seen.outcomes}) == 1


def test_without_leases_several_refresh_on_a_server(urls: Sequence[str], tmp_path: Path) -> None:
    """So the test above would show it if the store did not make one refresh."""
    seen = meet(BY_NAME["8 processes"], SQL_WITHOUT_LEASES, tmp_path, sql=tuple(urls), prefix=new_prefix())
    assert seen.refreshes > 1


@pytest.mark.parametrize(
    ("engine", "mutant"),
    [
        (partial(writers, processes=8, saves=10), sql_mutants.no_store_lock),
        (same_token, sql_mutants.no_store_lock),
        (raise_together, sql_mutants.no_version),
    ],
    ids=["writers-no-lock", "same-token-no-lock", "same-number-no-version"],
)
def test_races_on_a_server_catch_mutant(
    engine: Callable[..., Any], mutant: Callable[[], None], urls: Sequence[str], tmp_path: Path
) -> None:
    """Else the engine would prove nothing. A race need not be lost each time, so there are several attempts."""
    if not any(engine(tmp_path, make=on_server(urls), mutant=mutant).failures for _ in range(10)):
        pytest.fail(f"{mutant.__name__} survived")


def test_forks_on_a_server_catch_connections_of_the_parent(urls: Sequence[str], tmp_path: Path) -> None:
    """Processes that share a connection read the answers to each other's statements, or wait for them for ever."""
    race = partial(forks, make=on_server(urls), saves=5, silence_s=10, mutant=sql_mutants.connections_of_the_parent)
    for _ in range(10):
        try:
            if race(tmp_path).failures:
                return
        except RuntimeError as error:
            # An answer of another shape than the statement's own.
            assert "/_storage/sql/" in str(error)  # noqa: PT017 - another error is one of the engine
            return
    pytest.fail("survived")


@pytest.mark.parametrize("name", ["postgresql15", "mariadb"])
def test_creators_on_a_server_catch_mutant(name: str, running: Running, tmp_path: Path) -> None:
    """Tables that another process is making are an error of its own on PostgreSQL, and a warning on MariaDB."""
    engine = partial(creators, rounds=3, make=on_server(find_urls(name, running)))
    if not any(engine(tmp_path, mutant=sql_mutants.one_maker_alone).failures for _ in range(10)):
        pytest.fail("survived")

"""The commands on stores on real servers: copies between all kinds, backups, rotations, doctor, imports."""

from __future__ import annotations

import contextlib
from contextlib import closing
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from servers.shared import RUNNING, address_of, prefix_of
from support import invoke
from zoho_keystore import ImportSourceError, TokenRecord, open_keystore
from zoho_keystore._importers import read
from zoho_keystore._keystore import storage_of
from zoho_keystore._sql.address import parse_address
from zoho_keystore._sql.engine import connect

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from zoho_keystore._storage import Transaction

pytestmark = [pytest.mark.servers, pytest.mark.timeout(180)]

SERVERS = ["postgresql15", "mariadb"]
RECORDS = [
    TokenRecord(id=f"{number}", user_name=f"ü{number}", client_id="c", client_secret="s", refresh_token=f"r{number}")
    for number in range(2, 1_200)
]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the current directory of a user without a key ring."""
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    directory = tmp_path / "work"
    directory.mkdir(mode=0o700)
    monkeypatch.chdir(directory)
    return directory


@contextlib.contextmanager
def store_on(name: str, directory: Path) -> Iterator[str]:
    """Give the address of a store on a server, and drop its tables afterwards."""
    url, prefix = address_of(name), prefix_of(directory)
    yield f"{url}{'&' if '?' in url else '?'}prefix={prefix}"
    engines = connect(parse_address(url))
    with engines.writes.begin() as connection:
        for table in ("store", "token"):
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {prefix}_{table}")
    engines.dispose()


def records_of(place: str) -> Sequence[TokenRecord]:
    with closing(open_keystore(place, create=False)) as keystore:
        return keystore.records()


def put_all(transaction: Transaction) -> None:
    for record in RECORDS:
        transaction.put(record)


def test_copy_between_files_and_servers_keeps_all(work: Path) -> None:
    invoke("--store", "first.keystore", "init")
    with closing(open_keystore("first.keystore")) as keystore:
        storage_of(keystore).transact(put_all)
    with contextlib.ExitStack() as stack:
        stores = [stack.enter_context(store_on(name, work)) for name in SERVERS]
        places = ["first.keystore", *stores, "last.keystore"]
        for source, destination in pairwise(places):
            assert "Copied 1,198 tokens" in invoke("copy", source, destination).stdout
            assert list(records_of(destination)) == RECORDS


@pytest.mark.parametrize("name", SERVERS)
def test_operations_work_on_a_server(name: str, work: Path) -> None:
    with store_on(name, work) as store:
        invoke("--store", store, "init")
        with closing(open_keystore(store)) as keystore:
            storage_of(keystore).transact(put_all)
        invoke("--store", store, "backup", "b.keystore")
        assert list(records_of("b.keystore")) == RECORDS
        invoke("--store", store, "delete", "2", "--yes")
        invoke("--store", store, "rotate", "--quiet")
        invoke("--store", store, "restore", "b.keystore", "--yes")
        assert list(records_of(store)) == RECORDS
        assert "intact, 1,198 tokens" in invoke("--store", store, "verify").stdout
        doctor = invoke("--store", store, "doctor", code=-1).stdout
        assert "opens, and holds 1,198 tokens" in doctor
        assert "not encrypted" not in doctor  # On loopback.


def test_doctor_reads_the_settings_of_a_server(work: Path) -> None:
    """The servers of the tests flush their logs at each commit; here one is told not to."""
    with store_on("mariadb", work) as store:
        invoke("--store", store, "init")
        server = RUNNING.get("mariadb")
        server.sql("SET GLOBAL innodb_flush_log_at_trx_commit = 2")
        try:
            shown = invoke("--store", store, "doctor", code=12).stdout
        finally:
            server.sql("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
    assert "innodb_flush_log_at_trx_commit is 2" in shown


def test_postgresql_table_and_view_of_dbstore_are_read(work: Path) -> None:
    url = address_of("postgresql15")
    table = prefix_of(work)
    columns = "user_name, client_id, client_secret, refresh_token, access_token, grant_token, redirect_url, api_domain"
    typed = ", ".join(f"{name} text" for name in columns.split(", "))
    engines = connect(parse_address(url))
    try:
        with engines.writes.begin() as connection:
            connection.exec_driver_sql(f"CREATE TABLE {table} (id varchar(10), {typed}, expiry_time bigint)")
            connection.exec_driver_sql(
                f"INSERT INTO {table} (id, user_name, client_id, refresh_token, expiry_time) "  # noqa: S608 - ours
                "VALUES ('7', 'Jürgen 😀', 'c', 'r', 1700000000000)"
            )
            connection.exec_driver_sql(f"CREATE VIEW {table}_v AS SELECT * FROM {table}")  # noqa: S608 - ours
            connection.exec_driver_sql(
                f"CREATE FUNCTION {table}_f() RETURNS text LANGUAGE sql AS 'DELETE FROM {table} RETURNING id'"  # noqa: S608 - ours
            )
            others = ", ".join((*columns.split(", "), "expiry_time"))
            connection.exec_driver_sql(f"CREATE VIEW {table}_w AS SELECT {table}_f() AS id, {others} FROM {table}")  # noqa: S608 - ours
        expected = [
            TokenRecord(id="7", user_name="Jürgen 😀", client_id="c", refresh_token="r", expires_in="1700000000000")
        ]
        for name in (table, f"{table}_v", f"public.{table}"):
            found = read(f"{url}?table={name}")
            assert (found.kind, found.records) == ("PostgreSQL table", expected)
        assert "the server reports error 25006" in refusal(f"{url}?table={table}_w")
        assert "the database has no such table" in refusal(f"{url}?table=none")
    finally:
        with engines.writes.begin() as connection:
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {table} CASCADE")
            connection.exec_driver_sql(f"DROP FUNCTION IF EXISTS {table}_f")
        engines.dispose()


def refusal(source: str) -> str:
    with pytest.raises(ImportSourceError) as caught:
        read(source)
    return str(caught.value)

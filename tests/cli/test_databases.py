"""The commands on stores in databases: here in SQLite, on servers in ``tests/servers``."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from support import Terminal, invoke, made_key, refused, usage_error, write_private
from zoho_keystore import StoreFileError, TokenRecord, backup, restore, rotate
from zoho_keystore._cli import list_
from zoho_keystore._fs.private_file import read_prefix
from zoho_keystore._hidden import Hidden
from zoho_keystore._keystore import storage_of
from zoho_keystore._leases import Lease
from zoho_keystore._open import open_keystore, open_sql_storage
from zoho_keystore._operations import copying, databases
from zoho_keystore._operations.ring_keys import prune
from zoho_keystore._operations.setup import init
from zoho_keystore._sql import server
from zoho_keystore._sql.address import parse_address
from zoho_keystore._sql.password import PROMPT
from zoho_keystore._storage.sql import rotation as sql_rotation
from zoho_keystore.errors import ConfigurationError, RotationUnfinishedError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from zoho_keystore._storage import Transaction

ANN = TokenRecord(
    id="3", user_name="ann", client_id="c", client_secret="s", refresh_token="CANARY-rt", access_token="a"
)
BOB = TokenRecord(id="ops", client_id="d", client_secret="s", refresh_token="CANARY-rb", created_at=5, saved_at=7)


@pytest.fixture
def address(work: Path) -> str:
    """Give the address of a store that is not there yet."""
    return f"sqlite:///{work}/tokens.db"


@pytest.fixture
def store(address: str) -> str:
    """Give the address of a store with two tokens."""
    invoke("--store", address, "init")
    fill(address, ANN, BOB)
    return address


def fill(place: str | Path, *records: TokenRecord) -> None:
    def work(transaction: Transaction) -> None:
        for record in records:
            transaction.put(record)

    with closing(open_keystore(place)) as keystore:
        storage_of(keystore).transact(work)


def records_of(place: str | Path, **options: Any) -> Sequence[TokenRecord]:
    with closing(open_keystore(place, create=False, **options)) as keystore:
        return keystore.records()


@pytest.mark.needs_posix_shell
def test_two_stores_mixed_up_are_told_apart(store: str, work: Path) -> None:
    """A database given as a file, imported, or copied without its keys."""
    file = store.removeprefix("sqlite:///")
    assert f"for a store in it, give the address {store}" in refused(4, "--store", file, "list")
    assert "for an encrypted store, copy it into a file" in refused(10, "import", file)
    invoke("--store", "a.keystore", "init", "--keyring", "a.keyring")
    hint = "; if it has keys of its own, name their source: --from-key SPEC"
    assert hint in refused(4, "copy", "a.keystore", "b.keystore")
    assert hint in refused(4, "--store", store, "import", "a.keystore")
    wrong = ("--from-key", f"file:{work / 'b.keyring'}")
    invoke("--store", "b.keystore", "init", "--keyring", "b.keyring")
    assert hint not in refused(4, "copy", "a.keystore", "c.keystore", *wrong)
    assert hint not in refused(4, "--store", store, "import", "a.keystore", *wrong)
    invoke("copy", "a.keystore", "c.keystore", "--from-key", "file:a.keyring")


# --- init ---


@pytest.mark.needs_posix_shell
def test_lost_key_of_a_store_is_not_made_anew(store: str, ring: Path) -> None:
    """A new key would not open it; and init, which the message must not name, refuses as well."""
    ring.unlink()
    for command in ("list", "init", "rotate", "key list", "doctor"):
        shown = invoke("--store", store, *command.split(), code=12 if command == "doctor" else 3).output
        assert f"{store}: the store is there, and its key is not: " in shown, command
        assert "copy the key from another machine" in shown, command
        assert " init" not in shown, command
    assert not ring.exists()


@pytest.mark.needs_posix_shell
@pytest.mark.parametrize("table", ["zoho_keystore_token", "zoho_keystore_store"])
def test_lost_table_is_restored_as_the_message_says(store: str, table: str) -> None:
    """Init makes none of its tables anew: it would hide the loss."""
    invoke("--store", store, "backup", "tokens.backup")

    def drop(table: str) -> None:
        with closing(sqlite3.connect(store.removeprefix("sqlite:///"), isolation_level=None)) as connection:
            connection.execute(f"DROP TABLE IF EXISTS {table}")

    drop(table)
    commands = f"zoho-keystore --store {store} init && zoho-keystore --store {store} restore COPY"
    advice = f"drop the tables zoho_keystore_store and zoho_keystore_token, then: {commands}"
    for command in ("list", "init", "verify", "rotate"):
        assert advice in refused(18, "--store", store, command), command
    assert advice in invoke("--store", store, "doctor", code=12).stdout
    drop("zoho_keystore_store")
    drop("zoho_keystore_token")
    invoke("--store", store, "init")
    invoke("--store", store, "restore", "tokens.backup", "--yes")
    assert [record.id for record in records_of(store)] == ["3", "ops"]


@pytest.mark.needs_posix_shell
def test_init_makes_the_tables_and_the_key_once(address: str, work: Path) -> None:
    shown = invoke("--store", address, "init").stdout
    assert f"Created {address}\n" in shown
    assert f"Open it with EncryptedSQLStore('{address}')." in shown
    assert "Keep a copy of the key" in shown
    again = invoke("--store", address, "init").stdout
    assert f"Exists already: {address}\n" in again
    assert {path.name for path in work.iterdir()} == {"tokens.db"}


def test_init_uses_a_database_of_another_program(address: str, work: Path) -> None:
    with closing(sqlite3.connect(work / "tokens.db")) as connection:
        connection.execute("CREATE TABLE theirs (id)")
    assert "Created" in invoke("--store", address, "init").stdout
    assert records_of(address) == []


def test_init_makes_no_key_for_a_store_that_is_there(store: str, ring: Path) -> None:
    """A new key would not open it, and hide that its own is missing."""
    ring.unlink()
    assert "the key ring cannot be read" in refused(3, "--store", store, "init")
    assert not ring.exists()


def test_init_prints_the_sql_of_the_tables(address: str, work: Path) -> None:
    """For an administrator; whoever may not make tables then uses them."""
    shown = invoke("--store", f"{address}?prefix=mine", "init", "--print-sql").stdout
    assert not list(work.iterdir())
    with closing(sqlite3.connect(work / "tokens.db")) as connection:
        connection.executescript(shown)
    assert "Created" in invoke("--store", f"{address}?prefix=mine", "init").stdout
    assert records_of(f"{address}?prefix=mine") == []
    assert "--print-sql needs the address of a database" in usage_error("init", "--print-sql")
    assert "BIGINT" in invoke("--store", "postgresql://h/d", "init", "--print-sql").stdout
    assert "LONGTEXT" in invoke("--store", "mysql://h/d", "init", "--print-sql").stdout
    assert "GRANT" not in shown + invoke("--store", "mysql://h/d", "init", "--print-sql").stdout


@pytest.mark.parametrize(
    ("address", "user"),
    [("postgresql://an%22n@h/d?prefix=mine", '"an""n"'), ("mysql://an%60n@h/d?prefix=mine", "`an``n`")],
)
def test_init_prints_the_sql_that_permits_the_use_of_the_tables(address: str, user: str, work: Path) -> None:
    """Tables of an administrator are of no use to the user of the address otherwise."""
    shown = invoke("--store", address, "init", "--print-sql").stdout.splitlines()
    assert shown[-2:] == [
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON mine_{table} TO {user};" for table in ("store", "token")
    ]
    assert not list(work.iterdir())


def test_init_uses_tables_that_the_user_may_not_make(address: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they are there, no statement asks for that permission."""
    with closing(sqlite3.connect(work / "tokens.db")) as connection:
        connection.executescript(databases.table_sql(parse_address(address)))
    monkeypatch.setattr("zoho_keystore._storage.sql.statements.Statements.tables", lambda _: ["not permitted"])
    assert "Created" in invoke("--store", address, "init").stdout


# --- The commands ---


@pytest.mark.needs_posix_shell
def test_missing_store_is_an_error_and_makes_no_file(address: str, work: Path) -> None:
    """A mistyped address must not leave an empty database."""
    init()
    for command in (["list"], ["verify"], ["show", "1"], ["backup", "b"], ["rotate"], ["delete", "--all", "--yes"]):
        line = refused(6, "--store", address, *command)
        assert "there is no such database" in line
        assert f"zoho-keystore --store {address} init" in line
    (work / "tokens.db").write_bytes(b"")
    assert "the tables of the store are missing" in refused(6, "--store", address, "list")


@pytest.mark.needs_posix_shell
def test_commands_work_on_a_database(store: str) -> None:
    assert [line.split()[:2] for line in invoke("--store", store, "list").stdout.splitlines()[1:]] == [
        ["3", "ann"],
        ["ops", "-"],
    ]
    assert "CANARY" not in invoke("--store", store, "show", "3").stdout
    assert f"{store}: intact, 2 tokens, sealed with the key" in invoke("--store", store, "verify").stdout
    assert invoke("--store", store, "verify", "--quiet").stdout == ""
    assert f"--store {store} list" in refused(9, "--store", store, "show", "none")
    assert f"--store {store} list" in refused(9, "--store", store, "delete", "none", "--yes")
    invoke("--store", store, "export", "plain.csv", "--plaintext")
    invoke("--store", store, "delete", "--all", "--yes")
    assert f"There are no tokens in {store}." in invoke("--store", store, "list").stderr
    assert f"There are no tokens in {store}." in invoke("--store", store, "delete", "--all").stderr
    assert "2 added" in invoke("--store", store, "import", "plain.csv").stdout


@pytest.mark.needs_posix_shell
def test_address_may_be_in_the_variable(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOHO_KEYSTORE_FILE", store)
    assert len(invoke("list").stdout.splitlines()) == 3
    assert store in invoke("key", "list").stdout


@pytest.mark.needs_posix_shell
def test_import_makes_a_missing_store(address: str, work: Path) -> None:
    """But not in a dry run."""
    init()
    fill(work / "other.keystore", ANN)
    assert "would" in invoke("--store", address, "import", "other.keystore", "--dry-run").stdout.lower()
    assert not (work / "tokens.db").exists()
    result = invoke("--store", address, "import", "other.keystore")
    assert f"Created the store {address}.\n" in result.stderr
    assert "1 added" in result.stdout


def test_import_removes_a_source_that_the_database_holds(store: str, work: Path) -> None:
    invoke("--store", store, "export", "plain.csv", "--plaintext")
    invoke("--store", store, "import", "plain.csv", "--remove-source")
    assert not (work / "plain.csv").exists()


def test_import_keeps_a_source_that_the_database_lacks(store: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names no file of the store, since it has none."""
    invoke("--store", store, "export", "plain.csv", "--plaintext")
    monkeypatch.setattr("zoho_keystore._keystore.Keystore.records", lambda _: [])
    line = invoke("--store", store, "import", "plain.csv", "--remove-source", code=10).stderr
    assert line.startswith("zoho-keystore: the store does not hold the client_secret of the token '3'")
    assert (work / "plain.csv").exists()


def test_password_in_an_address_is_never_printed(work: Path) -> None:
    """Not in the message, and not in the commands that it advises."""
    address = "postgresql://ann:CANARY@127.0.0.1:1/d"
    for command in (
        ["list"],
        ["init"],
        ["doctor"],
        ["rotate"],
        ["key", "list"],
        ["import", "x"],
        ["copy", "x", address],
    ):
        result = invoke("--store", address, *command, code=-1) if command[0] != "copy" else invoke(*command, code=-1)
        assert "CANARY" not in result.output
    assert not list(work.iterdir())


@pytest.mark.needs_posix_shell
def test_server_that_is_not_there_has_an_exit_code(work: Path) -> None:
    init()
    line = refused(18, "--store", "postgresql://ann@127.0.0.1:1/d", "list")
    assert "Check the host, the port and the parameters in the address" in line
    assert "Connection refused" in line
    refused(18, "--store", "mysql://ann@127.0.0.1:1/d", "init")
    assert work.is_dir()


@pytest.mark.needs_posix_shell
@pytest.mark.usefixtures("work")
def test_missing_key_of_a_missing_store_names_init(address: str) -> None:
    line = refused(3, "--store", address, "list")
    assert "no key is set" in line
    assert f"--store {address} init" in line


def test_completion_of_ids_asks_no_database(store: str) -> None:
    """It could ask for a password in the middle of the line."""
    from click.testing import CliRunner  # noqa: PLC0415 - used here alone

    from zoho_keystore._cli import main  # noqa: PLC0415 - as above

    variables = {"_ZOHO_KEYSTORE_COMPLETE": "bash_complete", "COMP_WORDS": f"zoho-keystore --store {store} show o"}
    variables["COMP_CWORD"] = "4"
    assert "ops" not in CliRunner().invoke(main, [], prog_name="zoho-keystore", env=variables).output
    assert list_


# --- copy ---


def test_copy_keeps_ids_times_and_order_between_all_kinds(store: str, work: Path) -> None:
    """And what the store knows of ids that were used, and of tokens that were deleted; but no lease."""
    with closing(open_keystore(store)) as keystore:
        keystore.save(TokenRecord(client_id="c", client_secret="s", refresh_token="gone"))
        keystore.delete("4")
    fill(store, replace(ANN, refresh={"owner": {"host": "h", "pid": 1}, "deadline": 4102444800000}))
    before = copying.without_leases(records_of(store))
    places = [store, "file.keystore", f"sqlite:///{work}/other.db", f"{store}?prefix=more", "again.keystore"]
    for source, destination in pairwise(places):
        shown = invoke("copy", source, destination).stdout
        assert shown.startswith("Copied 2 tokens from ")
        assert list(records_of(destination)) == before
    assert all(Lease.of(record.refresh) is None for record in records_of("again.keystore"))
    with closing(open_keystore("again.keystore")) as keystore:
        assert keystore.save(TokenRecord(client_id="c", client_secret="s", refresh_token="new")).id == "5"
        assert len(storage_of(keystore).header().retired) == 1


def test_copy_needs_an_empty_destination(store: str, work: Path) -> None:
    invoke("copy", store, "a.keystore")
    before = (work / "a.keystore").read_bytes()
    line = refused(6, "copy", store, "a.keystore")
    assert "holds 2 tokens already; nothing was copied" in line
    assert (work / "a.keystore").read_bytes() == before
    assert "the two stores are the same" in refused(6, "copy", store, store)
    # By another name: what tells two stores apart is not in their addresses.
    os.link("tokens.db", "linked.db")
    assert "the two stores are the same" in refused(6, "copy", store, f"sqlite:///{work}/linked.db")
    os.link("a.keystore", "b.keystore")
    assert "the two stores are the same" in refused(6, "copy", "a.keystore", "b.keystore")
    assert "leave --store out" in usage_error("--store", store, "copy", "a", "b")


def test_copy_takes_two_sources_of_keys(store: str, work: Path) -> None:
    other = f"file:{write_private(work.parent / 'keys' / 'other', made_key('other'))}"
    invoke("--key", other, "copy", store, "a.keystore", "--from-key", f"file:{default_ring(work)}")
    assert len(records_of("a.keystore", key=other)) == 2
    assert "the key is wrong" in refused(4, "--store", "a.keystore", "list")


def default_ring(work: Path) -> Path:
    return work.parent / "config" / "zoho-keystore" / "keyring"


@pytest.mark.parametrize(
    ("which", "problem"),
    [(1, "does not hold what was copied"), (2, "has changed since it was read")],
)
def test_copy_compares_both_stores_afterwards(
    store: str, work: Path, monkeypatch: pytest.MonkeyPatch, which: int, problem: str
) -> None:
    """A program that saves to one of them meanwhile would lose its token."""
    strip = copying.without_leases
    calls = 0

    def changed(records: Any) -> list[TokenRecord]:
        nonlocal calls
        calls += 1
        return strip(records)[1 if calls == which + 1 else 0 :]

    monkeypatch.setattr(copying, "without_leases", changed)
    monkeypatch.setenv("ZOHO_KEYSTORE_FILE", store)
    line = refused(6, "copy", store, "a.keystore")
    assert problem in line
    # Without --store, it would delete the tokens of the source, which is the default store here.
    assert f"(zoho-keystore --store {work / 'a.keystore'} delete --all)" in line


@pytest.mark.needs_posix_shell
def test_copy_prints_commands_for_the_store_that_they_are_meant_for(store: str, work: Path) -> None:
    """And with its source of keys: pasted as they are, they would otherwise work on the default store."""
    init()
    key = f"file:{default_ring(work)}"
    missing, line = work / "none.keystore", ["copy", "none.keystore", store]
    assert f"zoho-keystore --store {missing} init" in refused(6, *line)
    assert f"zoho-keystore --store {missing} --key {key} init" in refused(6, *line, "--from-key", key)
    fill(work / "a.keystore", BOB)
    for options, printed in (([], ""), (["--from-key", key], f" --from-key {key}")):
        shown = refused(6, "--key", key, "copy", "a.keystore", store, *options)
        assert shown.rstrip().endswith(
            f"zoho-keystore --store {store} --key {key} import {work / 'a.keystore'}{printed}"
        )
    # No command imports a store in a database.
    assert (
        refused(6, "copy", store, "a.keystore")
        .rstrip()
        .endswith("Give an empty destination, or copy the source into a new file, and import that")
    )


def test_copy_reports_its_progress(store: str) -> None:
    done: list[tuple[int, int]] = []
    copied = copying.copy(store, "a.keystore", progress=lambda *numbers: done.append(numbers))
    assert copied.count == 2
    assert done == [(1, 2), (2, 2)]


# --- backup and restore ---


def test_backup_of_a_database_opens_as_a_file(store: str, work: Path) -> None:
    (work / "copies").mkdir()
    assert invoke("--store", store, "backup", "b.keystore").stdout == f"Copied to {work / 'b.keystore'}\n"
    assert "tokens.db." in invoke("--store", store, "backup", "copies/").stdout
    [dated] = (work / "copies").iterdir()
    for path in (work / "b.keystore", dated):
        assert list(records_of(path)) == list(records_of(store))
        assert path.stat().st_mode & 0o77 == 0 or os.name == "nt"
    assert "1 token" not in refused(6, "--store", store, "backup", "b.keystore")


def test_backup_of_a_server_is_named_after_its_database() -> None:
    assert databases.file_name(parse_address("postgresql://h/zoho")) == "zoho"
    assert databases.file_name(parse_address("postgresql://h")) == "database"


def test_restore_replaces_the_tokens_of_a_database(store: str, work: Path) -> None:
    """What it replaces is kept; ids and deleted tokens stay known."""
    copy = backup(store, "b.keystore")
    with closing(open_keystore(store)) as keystore:
        keystore.delete("3")
        keystore.save(TokenRecord(client_id="c", client_secret="s", refresh_token="later"))
        name = keystore.name
    shown = invoke("--store", store, "restore", "b.keystore", "--yes")
    assert "1 token would be lost: 4" in shown.stderr
    assert "1 token would be back again: 3" in shown.stderr
    assert records_of(store) == records_of(copy)
    [kept] = work.glob("b.keystore.replaced-*")
    assert shown.stdout == f"Restored {name}. The replaced tokens are kept as {kept}\n"
    assert [record.id for record in records_of(kept)] == ["ops", "4"]
    with closing(open_keystore(store)) as keystore:
        assert keystore.save(TokenRecord(client_id="c", client_secret="s", refresh_token="newest")).id == "5"


def test_restore_makes_a_missing_store_in_a_database(store: str, work: Path) -> None:
    with closing(open_keystore(store)) as keystore:
        keystore.save(TokenRecord(client_id="c", client_secret="s", refresh_token="gone"))
        keystore.delete("4")
    copy = backup(store, "b.keystore")
    other = f"sqlite:///{work}/other.db"
    assert "Restored" in invoke("--store", other, "restore", "b.keystore", "--yes").stdout
    assert records_of(other) == records_of(copy)
    assert not list(work.glob("*.replaced-*"))
    with closing(open_keystore(other)) as keystore:
        assert keystore.save(TokenRecord(client_id="c", client_secret="s", refresh_token="new")).id == "5"


def test_restore_refuses_when_the_database_changes_meanwhile(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state that is replaced would be kept nowhere."""
    backup(store, "b.keystore")
    seal = databases.sealed

    def overtaken(*arguments: Any) -> bytes:
        fill(store, replace(ANN, access_token="refreshed"))
        return seal(*arguments)

    monkeypatch.setattr(databases, "sealed", overtaken)
    with pytest.raises(StoreFileError, match="has changed meanwhile"):
        restore(store, "b.keystore")
    assert records_of(store)[0].access_token == "refreshed"


def test_backup_is_decrypted_again_before_it_is_written(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoho_keystore._keys.ring.KeyRing.decrypt_with_primary", lambda *_: b"other")
    assert "does not decrypt to the same records" in refused(6, "--store", store, "backup", "b.keystore")
    assert not os.path.exists("b.keystore")


# --- Keys ---


@pytest.mark.needs_posix_shell
def test_rotate_seals_all_rows_anew(store: str) -> None:
    before = records_of(store)
    shown = invoke("--store", store, "rotate").stdout
    assert f"{store} is sealed with the key" in shown
    assert f"zoho-keystore --store {store} key prune " in shown
    assert records_of(store) == before
    assert invoke("--store", store, "rotate", "--drop-old", "--quiet").stdout == ""
    listed = invoke("--store", store, "key", "list").stdout.splitlines()
    assert len(listed) == 2
    assert listed[1].split()[1:] == ["primary", store]


@pytest.mark.needs_posix_shell
def test_rotate_that_was_interrupted_is_finished(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ring has both keys meanwhile, and no third key is made."""
    with monkeypatch.context() as patch:
        patch.setattr(sql_rotation.KeyRotation, "_seal_batch", stopping)
        with pytest.raises(RotationUnfinishedError):
            rotate(store)
    with closing(open_sql_storage(parse_address(store), key=Hidden(None), create=False)) as storage:
        names = storage.key_names()
    assert len(names) == 2
    listed = invoke("--store", store, "key", "list").stdout
    assert listed.count(store) == 2
    assert "seals this store; nothing was dropped" in refused(2, "--store", store, "key", "prune", names[1], "--yes")
    done: list[tuple[int, int]] = []
    assert rotate(store, progress=lambda *numbers: done.append(numbers)).fingerprint == names[0]
    assert done[-1] == (2, 2)
    assert "Dropped" in invoke("--store", store, "key", "prune", "--all-retired", "--yes").stdout
    assert len(records_of(store)) == 2


def stopping(*_: object, **__: object) -> list[int]:
    raise StoreUnavailableError("the server is gone", "Wait")


@pytest.mark.needs_posix_shell
def test_rotate_of_keys_that_cannot_be_changed_here(store: str, ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = next(line for line in ring.read_text(encoding="utf-8").splitlines() if line and line[0] != "#")
    monkeypatch.setenv("KEYS", f"{made_key('new').decode()},{old}")
    rotation = rotate(store, key="env:KEYS")
    assert rotation.path == store
    assert rotation.manual_distribution
    assert len(records_of(store, key="env:KEYS")) == 2


def test_key_of_a_backup_beside_a_database_is_kept(store: str, work: Path, ring: Path) -> None:
    """As beside a file: without it, the backup could not be opened any more."""
    invoke("--store", store, "backup", "b.keystore")
    invoke("--store", store, "rotate")
    before = ring.read_text()
    assert str(work / "b.keystore") in invoke("--store", store, "key", "list").stdout
    assert "Nothing was dropped" in invoke("--store", store, "key", "prune", "--all-retired", "--yes").stdout
    assert ring.read_text() == before
    assert len(records_of("b.keystore")) == 2


@pytest.mark.needs_posix_shell
def test_keys_of_a_store_on_a_server_are_dropped_by_name_alone(ring: Path) -> None:
    """Where its backups are is not known, and the server need not be asked for that."""
    init()
    address = "postgresql://ann@127.0.0.1:1/d"
    line = refused(2, "--store", address, "key", "prune", "--all-retired", "--yes")
    assert "no key was dropped" in line
    assert f"zoho-keystore --store {address} key list" in line
    # The server cannot be asked, so it may need the key.
    assert invoke("--store", address, "key", "list").stdout.rstrip().endswith(address)
    with pytest.raises(ConfigurationError, match="Name the keys to drop"):
        prune(address)
    assert ring.exists()


def test_key_list_opens_no_file_of_the_database(store: str, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing one would release the locks that SQLite holds for this process."""
    opened: list[str] = []

    def noting(path: Path, length: int) -> Any:
        opened.append(path.name)
        return read_prefix(path, length)

    for module in ("key_usage", "doctor"):
        monkeypatch.setattr(f"zoho_keystore._operations.{module}.read_prefix", noting)
    write_private(work / "other", b"x")
    with closing(open_keystore(store)):
        invoke("--store", store, "key", "list")
        assert set(opened) == {"other", "tokens.keystore"}
        invoke("--store", store, "doctor")
    assert set(opened) == {"other", "tokens.keystore"}


@pytest.mark.needs_posix_shell
def test_key_list_of_a_database_that_is_gone_needs_every_key(store: str, work: Path) -> None:
    (work / "tokens.db").unlink()
    assert store in invoke("--store", store, "key", "list").stdout


def test_default_store_counts_beside_a_database(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be sealed with a key of this ring; also where the variable names the database."""
    default = init().store
    for _ in range(2):
        assert str(default) in invoke("--store", store, "key", "list").stdout
        monkeypatch.setenv("ZOHO_KEYSTORE_FILE", store)


# --- doctor ---


@pytest.mark.needs_posix_shell
def test_doctor_examines_a_database(store: str) -> None:
    shown = invoke("--store", store, "doctor").stdout
    assert f"✓ {store}: opens, and holds 2 tokens\n" in shown
    assert "No problems found." in shown


@pytest.mark.needs_posix_shell
def test_doctor_reports_what_the_server_is_like(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [server.Finding("Server 1.0"), server.Finding("fsync is off", "Switch it on")]
    monkeypatch.setattr(server, "examine", lambda _: found)
    shown = invoke("--store", store, "doctor", code=12).stdout
    assert f"✓ {store}: Server 1.0\n" in shown
    assert f"✗ {store}: fsync is off\n  → Switch it on\n" in shown


@pytest.mark.needs_posix_shell
def test_doctor_reports_a_missing_store_missing_keys_and_plain_text(address: str, work: Path) -> None:
    write_private(work / "tokens.csv", b"id,client_id,refresh_token,access_token", b"1,c,r,a")
    shown = invoke("--store", address, "doctor", code=12).stdout
    assert "no key is set" in shown
    assert "there is no such database" in shown
    assert f"zoho-keystore --store {address} import --remove-source" in shown


def test_doctor_reports_a_server_that_is_not_there(work: Path) -> None:
    init()
    shown = invoke("--store", "postgresql://ann@127.0.0.1:1/d", "doctor", code=12).stdout
    assert shown.count("127.0.0.1:1/d") == 1, "one cause is one problem"
    assert "the database cannot be used" in shown
    assert "zoho-keystore" not in shown.partition("✗")[2], "the user runs doctor already"
    assert work.is_dir()


def test_doctor_reports_an_address_that_cannot_be_used() -> None:
    assert "a password in the address" in invoke("--store", "mysql://a:CANARY@h/d", "doctor", code=12).stdout


# --- Passwords ---


def test_prompt_asks_once_for_each_database() -> None:
    asked: list[str] = []

    def ask(name: str) -> str:
        asked.append(name)
        return "hunter2"

    PROMPT.use(ask)
    try:
        assert [PROMPT.answer("a"), PROMPT.answer("a"), PROMPT.answer("b")] == ["hunter2", None, "hunter2"]
        assert (PROMPT.known("a"), PROMPT.known("c")) == ("hunter2", None)
    finally:
        PROMPT.use(None)
    assert asked == ["a", "b"]
    assert (PROMPT.known("a"), PROMPT.answer("a")) == (None, None)


ASKING = """
import pymysql
from zoho_keystore._cli import main

def connect(*, password=None, **_):
    if password is None:
        raise pymysql.err.OperationalError(1045, "Access denied")
    raise pymysql.err.OperationalError(1047, f"{len(password)} characters")

pymysql.connect = connect
main(prog_name="zoho-keystore")
"""


@pytest.mark.needs_pty
@pytest.mark.parametrize("command", [["list"], ["rotate"], ["copy", "mysql://ann@127.0.0.1:1/d", "a.keystore"]])
def test_password_is_asked_for_without_echo_when_the_server_refuses(work: Path, command: list[str]) -> None:
    """Commands with a progress bar begin to show it later: it would erase the question."""
    init()
    address = "mysql://ann@127.0.0.1:1/d"
    options = [] if "copy" in command else ["--store", address]
    terminal = Terminal(*options, *command, code=ASKING)
    terminal.answer(f"Password of {address}", "hunter2\n")
    shown = terminal.wait(18)
    assert "7 characters" in shown
    assert "hunter2" not in shown
    assert "\x1b" not in shown
    assert work.is_dir()


def test_records_without_leases_are_otherwise_the_same() -> None:
    assert copying.without_leases([replace(BOB, refresh={"deadline": 1})]) == [BOB]

"""``import`` and ``export``, with each kind of source."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from zohocrmsdk.src.com.zoho.api.authenticator.store.file_store import FileStore

from support import Terminal, invoke, refused, run_program, run_python, usage_error
from zoho_keystore import _importers
from zoho_keystore._cli import import_
from zoho_keystore._importers import filestore, rows
from zoho_keystore._open import open_keystore
from zoho_keystore._records import TokenRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

ADA = TokenRecord(
    id="7",
    user_name="ada@example.com:77",
    client_id="1000.C",
    client_secret="cs-CANARY",
    refresh_token="rt-CANARY",
    access_token="at-CANARY",
    expires_in="4102444800000",
    redirect_url="https://example.com/?a=b,c",
    api_domain="https://www.zohoapis.eu",
)
EVE = TokenRecord(id="8", client_id="1000.E", client_secret="s", refresh_token="r-CANARY")
OTHER = Fernet.generate_key()


def credentials(records: Sequence[TokenRecord]) -> list[list[str | None]]:
    """Return the fields that an import copies."""
    return [[getattr(record, name) for name in rows.FIELDS] for record in records]


def stored() -> list[list[str | None]]:
    """Return those fields of the tokens in the user's store."""
    with closing(open_keystore(create=False)) as keystore:
        return credentials(keystore.records())


def put(record: TokenRecord) -> None:
    """Put a record into the user's store as it is."""
    with closing(open_keystore(create=False)) as keystore:
        storage: Any = keystore._storage
        with storage.transaction() as transaction:
            transaction.put(record)


def make_csv(path: Path, *records: TokenRecord) -> Path:
    """Write a FileStore file."""
    path.write_bytes(filestore.export(records))
    return path


def make_sqlite(path: Path, *records: TokenRecord) -> Path:
    """Create a database of the SQLite sample."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"CREATE TABLE oauthtoken ({', '.join(rows.COLUMNS)})")
        marks = ", ".join("?" * len(rows.COLUMNS))
        connection.executemany(f"INSERT INTO oauthtoken VALUES ({marks})", credentials(records))  # noqa: S608 - ours
        connection.commit()
    return path


def make_keystore(path: Path, *records: TokenRecord) -> Path:
    """Create another keystore, with another key."""
    with closing(open_keystore(path, key=OTHER)) as made:
        made.import_records(records)
    return path


@pytest.mark.parametrize(
    ("kind", "make"),
    [("FileStore file", make_csv), ("SQLite database", make_sqlite), ("keystore", make_keystore)],
)
def test_import_copies_each_kind_of_source_once(
    kind: str, make: Callable[..., Path], work: Path, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second import changes nothing; the source stays as it is until --remove-source deletes it."""
    options = ["--from-key", "env:OTHER"] if kind == "keystore" else []
    monkeypatch.setenv("OTHER", OTHER.decode())
    source = make(work / "source", ADA, EVE)
    before, was_empty = source.read_bytes(), empty.read_bytes()
    dry = invoke("import", source, *options, "--dry-run").stdout
    assert dry.splitlines()[3] == f"{source} ({kind}): 2 added; nothing was stored."
    assert empty.read_bytes() == was_empty
    assert invoke("import", source, *options).stdout == f"{source} ({kind}): 2 added.\n"
    assert stored() == credentials([ADA, EVE])
    state = empty.read_bytes()
    unchanged = f"{source} ({kind}): 2 unchanged (the stored one is as good).\n"
    assert invoke("import", source, *options).stdout == unchanged
    assert source.read_bytes() == before
    assert invoke("import", source, *options, "--remove-source").stdout == (
        f"{unchanged}Deleted {source}. Copies in backups, version control and the disk's free space remain.\n"
    )
    assert not source.exists()
    assert empty.read_bytes() == state


@pytest.mark.usefixtures("empty")
def test_import_of_two_records_of_one_sign_in_stores_the_later_and_removes_the_source(work: Path) -> None:
    """The check of the stored secrets does not expect the access token that the later one replaced."""
    later = replace(ADA, id="9", access_token="z", expires_in="5" * 13)
    source = make_csv(work / "source", ADA, later)
    assert invoke("import", source, "--remove-source").stdout.startswith(
        f"{source} (FileStore file): 1 added, 1 updated (expires later than the stored one).\n"
    )
    assert not source.exists()
    assert [record[:1] + record[5:6] for record in stored()] == [["7", "z"]]


@pytest.mark.usefixtures("empty")
def test_import_of_two_sign_ins_of_one_user_keeps_both(work: Path) -> None:
    """Two refresh tokens, of other scopes, whichever expires later; a newer one without an expiry, too."""
    other = replace(ADA, id="9", refresh_token="other", access_token="z", expires_in="5" * 13)
    no_expiry = replace(ADA, id="10", refresh_token="newest", access_token=None, expires_in=None)
    source = make_csv(work / "source", ADA, other, no_expiry)
    assert "3 added.\n" in invoke("import", source, "--remove-source").stdout
    assert not source.exists()
    assert [(record[0], record[4]) for record in stored()] == [("7", "rt-CANARY"), ("9", "other"), ("10", "newest")]


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize(
    ("record", "difference"),
    [
        # A record without a token is not stored, and its secret would be lost.
        (TokenRecord(id="10", client_id="c", client_secret="CANARY"), "the client_secret of the token '10'"),
        (TokenRecord(client_id="c", client_secret="CANARY"), "the client_secret of token 2"),
        # Of one sign-in: the stored record keeps its own grant token and client secret.
        (replace(ADA, id="11", grant_token="CANARY"), "the grant_token of the token '11'"),
        (replace(ADA, id="12", client_secret="CANARY"), "the client_secret of the token '12'"),
        # Without an expiry nothing tells which access token is older.
        (replace(ADA, id="13", access_token="CANARY", expires_in=None), "the access_token of the token '13'"),
    ],
)
def test_import_keeps_a_source_with_a_secret_that_the_store_does_not_hold(
    record: TokenRecord, difference: str, work: Path
) -> None:
    """The difference is named, without the value, and nothing else."""
    source = make_csv(work / "source", replace(ADA, grant_token="g"), record)
    result = invoke("import", source, "--remove-source", code=10)
    assert f"the store does not hold {difference} of the source; the source was not deleted" in result.stderr
    assert "CANARY" not in result.output
    assert source.exists()


@pytest.mark.usefixtures("empty")
def test_import_reads_whole_rows_names_the_others_and_keeps_the_source(work: Path) -> None:
    source = work / "source"
    damaged = "".join(f"{number},CANARY\n" for number in range(12))
    source.write_bytes(filestore.export([ADA, EVE]) + damaged.encode())
    assert "4 has 2 fields instead of 10" in invoke("import", source, "--dry-run", code=10).stderr
    assert stored() == []
    assert "; and 2 more. Correct" in invoke("import", source, "--dry-run", code=10).stderr
    for options, more in ((["--remove-source"], "; the source was not deleted"), ([], "")):
        result = invoke("import", source, *options, code=10)
        assert "CANARY" not in result.output
        assert result.stderr.startswith(f"zoho-keystore: {source}: 12 rows cannot be read: line 4 has 2 fields instead")
        assert result.stderr.endswith(
            f"; line 13 has 2 fields instead of 10; and 2 more; the other rows were imported{more}. "
            "Correct the source, and run the import again\n"
        )
        assert stored() == credentials([ADA, EVE])
    assert source.exists()


@pytest.mark.usefixtures("empty")
def test_import_keeps_ids_in_any_order_and_reuses_none(work: Path) -> None:
    """A deleted record's id is not given to another one."""
    invoke("import", make_csv(work / "source", ADA, replace(EVE, id="5")))
    assert [record[0] for record in stored()] == ["7", "5"]
    invoke("delete", "7", "5", "--yes")
    invoke("import", work / "source")
    assert [record[0] for record in stored()] == ["8", "9"]


@pytest.mark.usefixtures("empty")
def test_import_names_the_only_row_that_cannot_be_read(work: Path) -> None:
    source = work / "source"
    source.write_bytes(filestore.export([ADA]) + b"1,2\n")
    line = invoke("import", source, code=10).stderr
    assert f"{source}: 1 row cannot be read: line 3 has 2 fields instead of 10; the other rows were imported." in line


@pytest.mark.usefixtures("empty")
def test_import_of_repeated_and_missing_ids_gives_new_ones(work: Path) -> None:
    source = make_csv(work / "source", ADA, replace(EVE, id="7"), replace(EVE, id="", refresh_token="third"))
    assert "3 added" in invoke("import", source, "--remove-source").stdout
    assert [(record[0], record[4]) for record in stored()] == [("7", "rt-CANARY"), ("8", "r-CANARY"), ("9", "third")]


def test_import_creates_a_missing_store(work: Path, empty: Path) -> None:
    """As login does; a dry run and a source that cannot be read do not."""
    new, source = work / "new.keystore", make_csv(work / "source", ADA)
    assert "1 added; nothing was stored" in invoke("--store", new, "import", source, "--dry-run").stdout
    refused(10, "--store", new, "import", empty.parent)
    assert not new.exists()
    done = run_program("import", source, "--store", new)
    assert (done.stdout, done.stderr) == (f"{source} (FileStore file): 1 added.\n", f"Created the store {new}.\n")
    with closing(open_keystore(new)) as keystore:
        assert [record.id for record in keystore.records()] == ["7"]


def test_import_on_a_new_machine_creates_the_key_ring(work: Path, ring: Path) -> None:
    """As login does, so that moving in is one command; a dry run does not."""
    source = make_csv(work / "source", ADA)
    invoke("import", source, "--dry-run")
    assert not ring.exists()
    done = invoke("import", source)
    assert done.stderr.startswith(f"Created the key ring file:{ring}. Keep a copy of it: ")
    assert [record[0] for record in stored()] == ["7"]


@pytest.mark.usefixtures("empty")
def test_import_remove_source_of_a_database_with_other_tables_is_refused(work: Path) -> None:
    """Before anything is imported."""
    source = make_sqlite(work / "source", ADA)
    with closing(sqlite3.connect(source)) as connection:
        connection.execute("CREATE TABLE invoices (id)")
    line = refused(10, "import", source, "--remove-source")
    assert "the database has other tables too (invoices), so it is not deleted; nothing was imported" in line
    assert stored() == []
    assert source.exists()
    assert "1 added" in invoke("import", source).stdout


@pytest.mark.usefixtures("empty")
def test_import_remove_source_deletes_the_files_beside_a_database(work: Path) -> None:
    """A writer that was killed leaves a write-ahead log with tokens in plain text."""
    source = work / "source"
    with closing(sqlite3.connect(work / "running", isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = wal")
        writer.execute(f"CREATE TABLE oauthtoken ({', '.join(rows.COLUMNS)})")
        writer.execute("INSERT INTO oauthtoken (id, refresh_token) VALUES ('7', 'r')")
        for suffix in ("", "-wal"):
            shutil.copy(work / f"running{suffix}", f"{source}{suffix}")
    shown = invoke("import", source, "--remove-source").stdout
    assert f"Deleted {source}-wal, " in shown
    assert f", {source}. Copies" in shown
    assert [path.name for path in work.iterdir() if path.name.startswith("source")] == []
    assert [record[0] for record in stored()] == ["7"]


@pytest.mark.usefixtures("empty")
def test_import_remove_source_deletes_no_other_file(work: Path) -> None:
    """Only databases have side files."""
    source = make_csv(work / "source", ADA)
    (work / "source-journal").write_bytes(b"my diary")
    assert f"Deleted {source}. Copies" in invoke("import", source, "--remove-source").stdout
    assert os.listdir(work) == ["source-journal"]


@pytest.mark.needs_modes
@pytest.mark.usefixtures("empty")
def test_import_of_a_keystore_keeps_its_mode_and_the_time_of_creation(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER", OTHER.decode())
    source = make_keystore(work / "source", ADA)
    with closing(open_keystore(source, key=OTHER)) as made:
        created_at = made.records()[0].created_at
    source.chmod(0o644)
    for options in (["--dry-run"], []):
        invoke("import", source, "--from-key", "env:OTHER", *options)
        assert source.stat().st_mode & 0o777 == 0o644
    with closing(open_keystore()) as keystore:
        assert keystore.records()[0].created_at == created_at


@pytest.mark.needs_modes
def test_export_and_import_keep_every_field(store: Path, work: Path) -> None:
    """The SDK's FileStore reads the file too; the file is private."""
    before = stored()
    assert invoke("export", "plain.txt", "--plaintext").stdout == (
        f"Wrote 2 tokens in plain text to {work / 'plain.txt'}. Delete it as soon as you can.\n"
    )
    path = work / "plain.txt"
    assert path.stat().st_mode & 0o777 == 0o600
    tokens = FileStore(str(path)).get_tokens()
    assert [token.get_id() for token in tokens] == ["1", "2"]
    assert tokens[0].get_refresh_token() == "1000.refresh-token-CANARY"
    store.unlink()
    invoke("init")
    invoke("import", path)
    assert stored() == before


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("has_unnamed", [True, False])
def test_export_removes_what_a_killed_export_has_left(
    work: Path, monkeypatch: pytest.MonkeyPatch, *, has_unnamed: bool
) -> None:
    """Without O_TMPFILE the content has a hidden name for a moment."""
    left = work / f".plain.txt.{'0a' * 8}.tmp"
    left.write_bytes(b"")
    if not has_unnamed:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    invoke("export", "plain.txt", "--plaintext")
    assert os.listdir(work) == ["plain.txt"]
    assert "Give another name" in refused(6, "export", "plain.txt", "--plaintext")


@pytest.mark.needs_modes
@pytest.mark.usefixtures("store")
def test_export_into_a_shared_directory_is_refused_and_leaves_its_mode(work: Path) -> None:
    (work / "shared").mkdir()
    (work / "shared").chmod(0o777)
    assert "Use a directory of your own" in refused(6, "export", "shared/plain.txt", "--plaintext")
    assert (work / "shared").stat().st_mode & 0o777 == 0o777


@pytest.mark.usefixtures("store")
def test_export_needs_a_confirmation_and_replaces_no_file(work: Path) -> None:
    assert "Give --plaintext to confirm" in usage_error("export", "plain.txt")
    (work / "plain.txt").write_bytes(b"mine")
    refused(6, "export", "plain.txt", "--plaintext")
    assert (work / "plain.txt").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(b"\x80\xff" * 99), "this is not a file of the SDK's FileStore"),
        (lambda path: path.write_bytes(b"a,b\n1,2\n"), "this is not a file of the SDK's FileStore"),
        (lambda path: path.write_bytes(filestore.export([ADA])[:-9]), "has no line end"),
        (lambda path: path.mkdir(), "a directory"),
        (lambda _path: None, "no such file"),
        (lambda path: sqlite3.connect(path).execute("CREATE TABLE t (a)").connection.close(), "no table oauthtoken"),
    ],
    ids=["empty", "binary", "other columns", "cut off", "directory", "missing", "other table"],
)
def test_import_of_an_unreadable_source_is_one_line_and_changes_nothing(
    make: Callable[[Path], object], problem: str, store: Path, work: Path
) -> None:
    """The source is not removed either."""
    source = work / "source"
    make(source)
    before = store.read_bytes(), source.exists()
    for options in ([], ["--dry-run"], ["--remove-source"]):
        line = refused(10, "import", source, *options)
        assert problem in line
        assert "CANARY" not in line
    assert (store.read_bytes(), source.exists()) == before


@pytest.mark.usefixtures("store")
def test_import_exit_codes_tell_addresses_and_keystores_apart(work: Path) -> None:
    """An unknown address, a password in an address, a keystore without its key, and with a wrong key."""
    assert "address of an unknown kind" in refused(2, "import", "oracle://u:CANARY@h/d")
    assert "CANARY" not in refused(2, "import", "mysql://u:CANARY@h/d")
    line = refused(3, "import", make_keystore(work / "source", ADA), "--from-key", "env:NOT_SET")
    assert "NOT_SET is not set. Name the source of the other keystore's keys: --from-key SPEC" in line
    assert "the key is wrong" in refused(4, "import", work / "source")


def test_import_remove_source_is_refused_where_it_cannot_work(
    store: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a dry run, for the store itself, for a table on a server."""
    source = make_csv(work / "source", ADA)
    assert "Give one of them" in usage_error("import", source, "--remove-source", "--dry-run")
    assert "the store itself" in usage_error("import", store, "--remove-source")
    table = _importers.ImportSource(kind="MySQL table", name="t on h", path=None, records=[ADA])
    asked: list[object] = []

    def read(_source: str, *, password: object, **_options: object) -> _importers.ImportSource:
        asked.append(password)
        return table

    monkeypatch.setattr(import_, "read", read)
    before = store.read_bytes()
    assert "Drop the table yourself" in usage_error("import", "mysql://u@h/d", "--remove-source")
    assert store.read_bytes() == before
    assert invoke("import", "mysql://u@h/d").stdout == "t on h (MySQL table): 1 added.\n"
    assert asked == [None, None]  # No prompt without a terminal.
    assert source.exists()


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda source: make_csv(source, ADA, EVE), "the source has changed since it was read"),
        (
            lambda _source: open_keystore().delete("7"),
            "the store does not hold the client_secret of the token '7', the refresh_token of the token '7'",
        ),
        (
            lambda _source: put(replace(ADA, access_token="old", expires_in="1000")),
            "the store does not hold the access_token of the token '7' of the source",
        ),
    ],
    ids=["source changes", "token is deleted", "older state is put back"],
)
def test_import_remove_source_keeps_a_source_after_a_change(
    change: Callable[[Path], object], message: str, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process changes the source or the store between the import and the deletion."""
    source = make_csv(work / "source", ADA)
    original = import_._require_stored

    def after_change(*args: Any) -> None:
        change(source)
        original(*args)

    monkeypatch.setattr(import_, "_require_stored", after_change)
    assert message in invoke("import", source, "--remove-source", code=10).stderr
    assert source.exists()


@pytest.mark.usefixtures("empty")
def test_import_remove_source_that_fails_is_one_line(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens are stored by then."""
    source = make_csv(work / "source", ADA)

    original = os.unlink

    def unlink(path: object, **options: Any) -> None:
        if path == source:
            raise PermissionError(1, "Operation not permitted")
        original(path, **options)  # type: ignore[arg-type] # of the package's own temporary files

    monkeypatch.setattr(os, "unlink", unlink)
    result = invoke("import", source, "--remove-source", code=6)
    assert result.stderr.startswith(f"zoho-keystore: {source}: its tokens are stored, but the source cannot be deleted")
    assert result.stderr.count("\n") == 1
    assert stored() == credentials([ADA])


def many(number: int) -> list[TokenRecord]:
    """Return a number of tokens."""
    return [replace(EVE, id=str(n), refresh_token=f"r{n}") for n in range(1, number + 1)]


@pytest.mark.needs_pty
@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize(("number", "has_bar"), [(1_000, True), (999, False)])
def test_import_of_many_records_shows_a_bar_on_a_terminal(number: int, work: Path, *, has_bar: bool) -> None:
    source = make_csv(work / "source", *many(number))
    shown = Terminal("import", source, "--dry-run").wait()
    assert (f"/{number}" in shown) is has_bar
    assert ("importing" in shown) is has_bar
    done = run_program("import", source)
    assert (done.stdout, done.stderr) == (f"{source} (FileStore file): {number:,} added.\n", "")


INTERRUPTED = """
import os, signal
from rich.progress import Progress
from zoho_keystore._cli import main

# A test runner that was started in the background ignores SIGINT, and its children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
original, count = Progress.update, 0

def update(self, *args, **fields):
    global count
    count += 1
    if count == 500:
        os.kill(os.getpid(), signal.SIGINT)
    return original(self, *args, **fields)

Progress.update = update
main(prog_name="zoho-keystore")
"""


@pytest.mark.needs_modes
def test_import_that_is_interrupted_imports_nothing(empty: Path, work: Path) -> None:
    """Ctrl-C after 500 of 1,000 records leaves the source, the store, and no temporary files."""
    source = make_csv(work / "source", *many(1_000))
    before, beside = empty.read_bytes(), {*os.listdir(empty.parent)}
    done = run_python("-c", INTERRUPTED, "import", source, "--remove-source")
    assert (done.returncode, done.stdout, done.stderr.strip()) == (1, "", "Aborted!")
    assert empty.read_bytes() == before
    assert {*os.listdir(empty.parent)} - beside <= {f".{empty.name}.lock"}
    invoke("import", source)


MYSQL = """
import sys
from zoho_keystore import _importers
from zoho_keystore._cli import main

_importers.dbstore.read = lambda address, ask: sys.exit(print("given:", len(ask())))
main(prog_name="zoho-keystore")
"""


@pytest.mark.needs_pty
@pytest.mark.usefixtures("empty")
def test_import_asks_for_the_database_password_without_echo() -> None:
    terminal = Terminal("import", "mysql://user@host/zohooauth", code=MYSQL)
    terminal.answer("Password of the database", "hunter2\n")
    shown = terminal.wait()
    assert "given: 7" in shown
    assert "hunter2" not in shown

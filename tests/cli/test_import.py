"""``import`` and ``export``, with each kind of source."""

from __future__ import annotations

import os
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
def test_import_of_two_records_of_one_token_stores_the_later_and_removes_the_source(work: Path) -> None:
    """The check of the stored tokens does not expect the earlier one, nor the one without a token."""
    later = replace(ADA, id="9", refresh_token="r", access_token="z", expires_in="5" * 13)
    source = make_csv(work / "source", ADA, later, TokenRecord(id="10", client_id="without a token"))
    assert invoke("import", source, "--remove-source").stdout.startswith(
        f"{source} (FileStore file): 1 added, 1 updated (expires later than the stored one), "
        "1 skipped (holds no token).\n"
    )
    assert not source.exists()
    assert [record[:1] + record[5:6] for record in stored()] == [["7", "z"]]


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
def test_export_needs_a_confirmation_and_replaces_no_file(work: Path) -> None:
    assert "Give --plaintext to confirm" in usage_error("export", "plain.txt")
    (work / "plain.txt").write_bytes(b"mine")
    refused(6, "export", "plain.txt", "--plaintext")
    assert (work / "plain.txt").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(b"\x80\xff" * 99), "is not UTF-8 text"),
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
    assert "address of an unknown kind" in refused(2, "import", "postgres://u:CANARY@h/d")
    assert "CANARY" not in refused(2, "import", "mysql://u:CANARY@h/d")
    assert "key" in refused(3, "import", make_keystore(work / "source", ADA), "--from-key", "env:NOT_SET")
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
        (lambda _source: open_keystore().delete("7"), "the token '7' is not in the store as it was imported"),
    ],
    ids=["source changes", "token is deleted"],
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

    def unlink(*_args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(import_, "os", type("Os", (), {"unlink": unlink}))
    result = invoke("import", source, "--remove-source", code=6)
    assert result.stderr.startswith(f"zoho-keystore: {source}: its tokens are stored, but the source cannot be deleted")
    assert result.stderr.count("\n") == 1
    assert stored() == credentials([ADA])


def many(number: int) -> list[TokenRecord]:
    """Return a number of tokens."""
    return [replace(EVE, id=str(n), refresh_token=f"r{n}") for n in range(1, number + 1)]


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
original, count = Progress.advance, 0

def advance(self, *args):
    global count
    count += 1
    if count == 500:
        os.kill(os.getpid(), signal.SIGINT)
    return original(self, *args)

Progress.advance = advance
main(prog_name="zoho-keystore")
"""


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

_importers.mysql.read = lambda address, ask: sys.exit(print("given:", len(ask())))
main(prog_name="zoho-keystore")
"""


@pytest.mark.usefixtures("empty")
def test_import_asks_for_the_database_password_without_echo() -> None:
    terminal = Terminal("import", "mysql://user@host/zohooauth", code=MYSQL)
    terminal.answer("Password of the database", "hunter2\n")
    shown = terminal.wait()
    assert "given: 7" in shown
    assert "hunter2" not in shown

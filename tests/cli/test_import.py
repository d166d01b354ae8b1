"""Moving in, from each kind of source, by the program."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from zohocrmsdk.src.com.zoho.api.authenticator.store.file_store import FileStore

from support import Terminal, invoke, program, refused, used_wrongly
from zoho_keystore import _importers
from zoho_keystore._cli import common, import_
from zoho_keystore._importers import filestore, rows
from zoho_keystore._open import open_keystore
from zoho_keystore._records import CREDENTIAL_FIELDS, TokenRecord

if TYPE_CHECKING:
    from collections.abc import Callable
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


def credentials(records: Any) -> list[list[str | None]]:
    """Return what an import takes over."""
    return [[getattr(record, name) for name in ("id", *CREDENTIAL_FIELDS)] for record in records]


def stored() -> list[list[str | None]]:
    """Return what is in the user's store."""
    with closing(open_keystore(create=False)) as keystore:
        return credentials(keystore.records())


def csv(path: Path, *records: TokenRecord) -> Path:
    """Make a file of FileStore."""
    path.write_bytes(filestore.export(records))
    return path


def sqlite(path: Path, *records: TokenRecord) -> Path:
    """Make a database of the sample."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"CREATE TABLE oauthtoken ({', '.join(rows.COLUMNS)})")
        marks = ", ".join("?" * len(rows.COLUMNS))
        connection.executemany(f"INSERT INTO oauthtoken VALUES ({marks})", credentials(records))  # noqa: S608 - ours
        connection.commit()
    return path


def keystore(path: Path, *records: TokenRecord) -> Path:
    """Make another _keystore, sealed with another key."""
    with closing(open_keystore(path, key=OTHER)) as made:
        made.import_records(records)
    return path


MAKERS = {"FileStore file": csv, "SQLite database": sqlite, "keystore": keystore}


@pytest.fixture(params=MAKERS)
def kind(request: pytest.FixtureRequest, empty: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a kind of source, with a store for it, and the other keystore's key at hand."""
    assert empty.exists()
    monkeypatch.setenv("OTHER", OTHER.decode())
    return str(request.param)


def arguments(kind: str, source: Path) -> list[object]:
    """Return how a source is named."""
    return [source, *(["--from-key", "env:OTHER"] if kind == "keystore" else [])]


def test_each_kind_is_taken_over_exactly_and_once(kind: str, work: Path, empty: Path) -> None:
    """A dry run changes nothing, nor does the same import done again; the source stays as it is."""
    source = MAKERS[kind](work / "source", ADA, EVE)
    before, was_empty = source.read_bytes(), empty.read_bytes()
    shown = invoke("import", *arguments(kind, source), "--dry-run").stdout.splitlines()
    assert [line.split()[:3] for line in shown[:3]] == [
        ["ID", "USER", "CLIENT"],
        ["7", "ada@example.com:77", "1000.C"],
        ["8", "-", "1000.E"],
    ]
    assert shown[3] == f"{source} ({kind}): 2 added; nothing was stored."
    assert empty.read_bytes() == was_empty
    assert invoke("import", *arguments(kind, source)).stdout == f"{source} ({kind}): 2 added.\n"
    assert stored() == credentials([ADA, EVE])
    state = empty.read_bytes()
    again = invoke("import", *arguments(kind, source)).stdout
    assert again == f"{source} ({kind}): 2 left, as the stored ones are as good.\n"
    assert empty.read_bytes() == state
    assert source.read_bytes() == before


def test_the_source_is_deleted_when_it_is_stored_and_that_is_wanted(kind: str, work: Path) -> None:
    """And it is told where copies may remain."""
    source = MAKERS[kind](work / "source", ADA, EVE, TokenRecord(id="9", client_id="c"))
    invoke("import", *arguments(kind, source))
    done = invoke("import", *arguments(kind, source), "--remove-source").stdout.splitlines()
    assert done[1:] == [f"Deleted {source}. Copies in backups, version control and the disk's free space remain."]
    assert not source.exists()
    assert stored() == credentials([ADA, EVE])


@pytest.mark.usefixtures("empty")
def test_of_two_that_mean_the_same_token_the_later_one_is_stored_and_the_source_goes(work: Path) -> None:
    """The earlier one is not missed when the import is verified."""
    later = TokenRecord(id="9", user_name=ADA.user_name, client_id=ADA.client_id, refresh_token="r", access_token="z")
    later = TokenRecord.adopt({**{n: getattr(later, n) for n in ("id", *CREDENTIAL_FIELDS)}, "expires_in": "5" * 13})
    source = csv(work / "source", ADA, later, TokenRecord(id="10", client_id="without a token"))
    shown = invoke("import", source, "--remove-source").stdout
    assert "1 added, 1 updated, as they expire later here, 1 left out, as they hold no token." in shown
    assert not source.exists()
    assert [record[:1] + record[5:6] for record in stored()] == [["7", "z"]]


def test_what_comes_from_an_export_is_the_same(store: Path, work: Path) -> None:
    """To FileStore, as the SDK reads it, and back; the file is private."""
    before = stored()
    invoke("export", "plain.txt", "--plaintext")
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
def test_an_export_is_asked_for_by_name_and_replaces_nothing(work: Path) -> None:
    """Plain text is what the store is against."""
    assert "Give --plaintext if you mean it" in used_wrongly("export", "plain.txt")
    (work / "plain.txt").write_bytes(b"mine")
    assert "there is a file already" in refused(6, "export", "plain.txt", "--plaintext")
    assert (work / "plain.txt").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_bytes(b"\x80\xff" * 99), "is not UTF-8 text"),
        (lambda path: path.write_bytes(b"a,b\n1,2\n"), "this is neither a file of the SDK's FileStore"),
        (lambda path: path.write_bytes(filestore.export([ADA])[:-9]), "has no line end"),
        (lambda path: path.mkdir(), "this is a folder"),
        (lambda _path: None, "no such file"),
        (lambda path: sqlite3.connect(path).execute("CREATE TABLE t (a)").connection.close(), "no table oauthtoken"),
    ],
    ids=["empty", "binary", "other columns", "cut off", "folder", "missing", "other table"],
)
def test_what_cannot_be_imported_is_one_line_and_changes_nothing(
    make: Callable[[Path], object], problem: str, store: Path, work: Path
) -> None:
    """Nor is it removed."""
    source = work / "source"
    make(source)
    before = store.read_bytes()
    for options in ([], ["--dry-run"], ["--remove-source"]):
        line = refused(10, "import", source, *options)
        assert problem in line
        assert "CANARY" not in line
    assert store.read_bytes() == before


@pytest.mark.usefixtures("store")
def test_other_words_for_sources_are_refused(work: Path) -> None:
    """As wrong uses, or as what they are."""
    assert "address of no known kind" in refused(2, "import", "postgres://u:CANARY@h/d")
    assert "CANARY" not in refused(2, "import", "mysql://u:CANARY@h/d")
    assert "key" in refused(3, "import", keystore(work / "source", ADA), "--from-key", "env:NOT_SET")
    assert "the key is wrong" in refused(4, "import", work / "source")


def test_a_source_is_not_removed_where_that_would_be_wrong(
    store: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in a dry run, nor the store itself, nor a table on a server."""
    source = csv(work / "source", ADA)
    assert "Give one of them" in used_wrongly("import", source, "--remove-source", "--dry-run")
    assert "the store itself" in used_wrongly("import", store, "--remove-source")
    table = _importers.Found(kind="MySQL table", name="t on h", path=None, records=[ADA])
    monkeypatch.setattr(import_, "read", lambda *_args, **_options: table)
    before = store.read_bytes()
    assert "Drop the table yourself" in used_wrongly("import", "mysql://u@h/d", "--remove-source")
    assert store.read_bytes() == before
    assert invoke("import", "mysql://u@h/d").stdout == "t on h (MySQL table): 1 added.\n"
    assert source.exists()


@pytest.mark.usefixtures("empty")
def test_a_source_that_changes_meanwhile_is_left(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that it belongs to may have saved another token there."""
    source = csv(work / "source", ADA)
    really_require = import_._require_stored

    def require(*args: Any) -> None:
        really_require(*args)
        csv(source, ADA, EVE)

    monkeypatch.setattr(import_, "_require_stored", require)
    result = invoke("import", source, "--remove-source", code=10)
    assert "the source has changed since it was read" in result.stderr
    assert source.exists()
    assert stored() == credentials([ADA])


@pytest.mark.usefixtures("empty")
def test_a_token_that_somebody_changes_meanwhile_keeps_the_source(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is not in the store as it was imported."""
    source = csv(work / "source", ADA)
    really_say = common.echo_escaped

    def echo_escaped(text: str) -> None:
        really_say(text)
        with closing(open_keystore()) as other:
            other.delete("7")

    monkeypatch.setattr(import_, "echo_escaped", echo_escaped)
    result = invoke("import", source, "--remove-source", code=10)
    assert "the token '7' is not in the store as it was imported" in result.stderr
    assert source.exists()


@pytest.mark.usefixtures("empty")
def test_a_source_that_cannot_be_deleted_is_one_line(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tokens are stored by then."""
    source = csv(work / "source", ADA)

    def unlink(*_args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(import_, "os", type("Os", (), {"unlink": unlink}))
        result = invoke("import", source, "--remove-source", code=6)
    assert result.stderr.startswith(f"zoho-keystore: {source}: its tokens are stored, but the source cannot be deleted")
    assert result.stderr.count("\n") == 1
    assert stored() == credentials([ADA])


def many(number: int) -> list[TokenRecord]:
    """Return so many tokens."""
    return [
        TokenRecord(id=str(n), client_id="c", client_secret="s", refresh_token=f"r{n}") for n in range(1, number + 1)
    ]


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize(("number", "has_bar"), [(1_000, True), (999, False)])
def test_many_records_show_a_bar_on_a_terminal(number: int, work: Path, *, has_bar: bool) -> None:
    """Which is gone in the end; elsewhere there is none."""
    source = csv(work / "source", *many(number))
    shown = Terminal("import", source, "--dry-run").ends()
    assert (f"/{number}" in shown) is has_bar
    assert ("importing" in shown) is has_bar
    done = program("import", source)
    assert (done.stdout, done.stderr) == (f"{source} (FileStore file): {number:,} added.\n", "")


INTERRUPTED = """
import os, signal
from zoho_keystore import _keystore
from zoho_keystore._cli import main

# A test runner that was started in the background ignores it, and so would its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
really_take, count = _keystore.Keystore._taken, 0

def taken(self, transaction, record):
    global count
    count += 1
    if count == 500:
        os.kill(os.getpid(), signal.SIGINT)
    return really_take(self, transaction, record)

_keystore.Keystore._taken = taken
main(prog_name="zoho-keystore")
"""


def test_an_import_that_is_interrupted_imports_nothing(empty: Path, work: Path) -> None:
    """Ctrl-C in the middle leaves the source, the store, and nothing beside them."""
    source = csv(work / "source", *many(1_000))
    before, beside = empty.read_bytes(), sorted(os.listdir(empty.parent))
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "import", str(source), "--remove-source"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip() == "Aborted!"
    assert empty.read_bytes() == before
    assert {*os.listdir(empty.parent)} - {*beside} <= {f".{empty.name}.lock"}
    assert source.exists()
    assert invoke("import", source).exit_code == 0


MYSQL = """
import sys
from zoho_keystore import _importers
from zoho_keystore._cli import main

_importers.mysql.read = lambda address, ask: sys.exit(print("given:", len(ask())))
main(prog_name="zoho-keystore")
"""


@pytest.mark.usefixtures("empty")
def test_the_password_of_a_server_is_asked_for_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal; elsewhere there is nobody to ask."""
    terminal = Terminal("import", "mysql://user@host/zohooauth", code=MYSQL)
    terminal.answers("Password of the database", "hunter2\n")
    shown = terminal.ends()
    assert "given: 7" in shown
    assert "hunter2" not in shown
    asked: list[object] = []

    def read(_source: str, *, password: object, **_options: object) -> _importers.Found:
        asked.append(password)
        return _importers.Found(kind="k", name="n", path=None, records=[])

    monkeypatch.setattr(import_, "read", read)
    assert invoke("import", "mysql://u@h/d").stdout == "n (k): no tokens.\n"
    assert asked == [None]

from __future__ import annotations

import csv
import hashlib
import os
import pickle
import shutil
import socket
import sqlite3
import sys
import tempfile
import traceback
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mysql.connector
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zohocrmsdk.src.com.zoho.api.authenticator.store.file_store import FileStore
from zohocrmsdk.src.com.zoho.crm.api.user_signature import UserSignature

from zoho_keystore import _importers
from zoho_keystore._importers import filestore, read, rows, sqlite
from zoho_keystore._importers import mysql as mysql_importer
from zoho_keystore._open import open_keystore
from zoho_keystore._records import CREDENTIAL_FIELDS, TokenRecord
from zoho_keystore.errors import (
    CannotOpenError,
    ConfigurationError,
    ImportSourceError,
    InvalidTokenError,
    KeyUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")

SECRET = "hunter2-secret"
ADA = TokenRecord(
    id="1",
    user_name="ada@example.com:77",
    client_id="1000.C",
    client_secret=f"{SECRET}-cs",
    refresh_token=f"{SECRET}-rt",
    access_token=f"{SECRET}-at",
    grant_token=f"{SECRET}-gt",
    expires_in="1700000000000",
    redirect_url="https://example.com/?a=b,c",
    api_domain="https://www.zohoapis.eu",
)
BOB = TokenRecord(id="2", client_id="1000.D", refresh_token=f"{SECRET}-bob")
HEADING = ",".join(filestore.HEADING)
NINE = HEADING.removesuffix(",api_domain")
ROW = f"1,ada,c,s,{SECRET},a,g,1700000000000,u,https://www.zohoapis.eu"


def sdk_token(record: TokenRecord) -> OAuthToken:
    """Return the token of the SDK that a record stands for."""
    fields = {name: getattr(record, name) for name in CREDENTIAL_FIELDS if name not in ("user_name", "expires_in")}
    token = OAuthToken(id=record.id, user_signature=record.user_name and UserSignature(record.user_name), **fields)
    token.set_expires_in(record.expires_in)
    return token


def sdk_record(token: OAuthToken) -> TokenRecord:
    """Return the record that a token of the SDK stands for."""
    signature = token.get_user_signature()
    return TokenRecord(
        user_name=None if signature is None else signature.get_name(),
        **{name: getattr(token, f"get_{name}")() for name in ("id", *CREDENTIAL_FIELDS) if name != "user_name"},
    )


def refused(source: object, *, kind: type[Exception] = ImportSourceError, **options: Any) -> str:
    """Return what the error for a source says, after a look at whether a secret is in its reach."""
    with pytest.raises(kind) as caught:
        read(str(source), **options)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    shown = "".join(traceback.format_exception(error)) + repr(error) + str(pickle.dumps(error))
    assert SECRET not in shown
    assert "\n" not in str(error)
    return str(error)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give a path for a source, with what an address must not trip over."""
    directory = tmp_path / "a folder?mode=rw#%41"
    directory.mkdir()
    return directory / "tokens of ada"


# --- The SDK's FileStore ---


def test_what_filestore_has_written_is_read(source: Path) -> None:
    """Every field, with what is awkward in a CSV, and in the order of the file."""
    store = FileStore(str(source))
    awkward = replace(BOB, user_name='Bob "the, builder"\nnew line ', grant_token=" ; '")
    for record in (ADA, awkward, TokenRecord(id="production", access_token="a")):
        store.save_token(sdk_token(record))
    found = read(str(source))
    assert found == _importers.Found(
        kind="FileStore file",
        name=str(source),
        path=source,
        records=[ADA, awkward, TokenRecord(id="production", access_token="a")],
    )
    assert SECRET not in repr(found)
    assert filestore.export(found.records) == source.read_bytes()


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
MAYBE = st.none() | TEXT
RECORD = st.builds(
    TokenRecord,
    id=TEXT,
    expires_in=st.none() | st.integers(0, 10**17).map(str),
    **{name: MAYBE for name in CREDENTIAL_FIELDS if name != "expires_in"},
)
RECORDS = st.lists(RECORD, max_size=4, unique_by=lambda record: _as_read(record.id))


def _as_read(text: Any) -> Any:
    return text and text.replace("\r\n", "\n").replace("\r", "\n")


@given(records=RECORDS)
def test_an_export_is_what_filestore_writes_and_both_read_the_same_from_it(records: list[TokenRecord]) -> None:
    """The SDK loses carriage returns when it reads, and so nobody can tell them from line feeds."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "sdk_tokens.txt")
        path.write_bytes(filestore.export(records))
        as_read = [
            replace(record, **{name: _as_read(getattr(record, name)) for name in ("id", *CREDENTIAL_FIELDS)})
            for record in records
        ]
        assert [sdk_record(token) for token in FileStore(str(path)).get_tokens()] == as_read
        assert read(str(path)).records == as_read
        theirs = Path(directory, "theirs.txt")
        FileStore(str(theirs))
        with theirs.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(FileStore.set_token(sdk_token(record)) for record in records)
        assert theirs.read_bytes() == path.read_bytes()


def test_half_of_a_surrogate_pair_is_not_exported(source: Path) -> None:
    """No UTF-8 file can hold it, and the error is not to carry the text."""
    with pytest.raises(InvalidTokenError, match=r"^token 2 has half of a character") as caught:
        filestore.export([ADA, replace(BOB, user_name=f"{SECRET}\ud800")])
    assert caught.value.__context__ is None
    assert not source.exists()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_blank_rows_and_a_byte_order_mark_do_not_matter(source: Path, end: str, mark: str) -> None:
    """The SDK itself ends lines in two ways, and editors do the rest."""
    source.write_bytes((mark + end.join([HEADING, "", ROW, " ", ROW.replace("1", "2", 1), ""])).encode())
    assert [record.id for record in read(str(source)).records] == ["1", "2"]


@pytest.mark.parametrize("end", ["\r\n", "\r\r\n"])
def test_nine_columns_are_read_as_filestore_widens_them(source: Path, end: str) -> None:
    """Before and after the SDK has added the tenth, which makes a row of one empty field of a blank one."""
    row = ROW.rsplit(",", 1)[0]
    source.write_bytes(end.join([NINE, row, row.replace("1", "2", 1), ""]).encode())
    before = read(str(source)).records
    FileStore(str(source))
    assert source.read_text().startswith(HEADING)
    assert read(str(source)).records == before
    assert [(record.id, record.redirect_url, record.api_domain) for record in before] == [
        ("1", "u", None),
        ("2", "u", None),
    ]


def test_a_heading_alone_is_no_tokens(source: Path) -> None:
    """As the SDK leaves it after delete_tokens()."""
    FileStore(str(source)).delete_tokens()
    assert read(str(source)).records == []
    source.write_text(HEADING)
    assert read(str(source)).records == []


def test_a_last_line_without_an_end_is_read_when_nothing_can_be_missing(source: Path) -> None:
    """An empty last field is an unknown server, which the SDK copes with."""
    source.write_text(f"{HEADING}\n2,,,,r,,,,,")
    assert read(str(source)).records == [TokenRecord(id="2", refresh_token="r")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b"\r\n \n", "the file is empty"),
        (bytes(range(1, 256)), "not UTF-8 text"),
        (HEADING.encode() + b"\r\n1,\xff", "line 2 is not UTF-8 text"),
        (HEADING.encode() + b"\r\n" + bytes(512), "line 2 has a NUL in it"),
        (f"{SECRET},b,c\n".encode(), "neither a file of the SDK's FileStore nor"),
        (ROW.encode() + b"\n", "neither a file of the SDK's FileStore nor"),
        (HEADING.replace("redirect_uri", "redirect_url").encode(), "neither a file of"),
        (f"{HEADING}\n\n{ROW},{SECRET}\n".encode(), "line 3 has 11 fields instead of 10"),
        (f"{HEADING}\n{ROW}\n2,{SECRET}\n".encode(), "line 3 has 2 fields instead of 10"),
        (f"{NINE}\n{ROW}\n".encode(), "line 2 has 10 fields instead of 9"),
        (f'{HEADING}\n2,"a\nb",,,,,,,,\n2,,,,,,,,,\n'.encode(), "line 4 has the same id as line 2"),
        (f"{HEADING}\n,ada,,,{SECRET},,,,,\n".encode(), "line 2 has no id"),
        (f"{HEADING}\n{'7' * 256},,,,r,,,,,\n".encode(), "the id of line 2 has 256 characters"),
        (f"{HEADING}\n1,,,,,,,{SECRET},,\n".encode(), "the expiry of line 2 is not a whole number"),
        (f"{HEADING}\n1,,,,,,,1.7e12,,\n".encode(), "the expiry of line 2 is not a whole number"),
        (f'{HEADING}\n{ROW}\n2,"{SECRET}\n3,,,,,,,,,\n'.encode(), "from line 3 on this is not CSV"),
        (f'{HEADING}\n2,"{SECRET}"x,,,,,,,,\n'.encode(), "from line 2 on this is not CSV"),
        (f"{HEADING}\n2,{SECRET * 20_000},,,,,,,,\n".encode(), "from line 2 on this is not CSV"),
        (f"{HEADING}\n{ROW[:-1]}".encode(), "line 2, the last one, has no line end"),
    ],
)
def test_what_is_no_file_of_filestore_is_refused(source: Path, content: bytes, says: str) -> None:
    """With the file and the line, and nothing of what stands there."""
    source.write_bytes(content)
    message = refused(source)
    assert message.startswith(f"{source}: ")
    assert says in message


@given(cut=st.integers(1, 400))
def test_a_file_that_was_cut_off_yields_whole_tokens_or_none(cut: int) -> None:
    """A killed save leaves any beginning of the file; a token that was cut in two must not be imported."""
    records = [ADA, replace(ADA, id="2", user_name='"\n')]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "tokens")
        path.write_bytes(filestore.export(records)[:cut])
        with suppress(ImportSourceError):
            found = read(str(path)).records
            whole = [replace(record, api_domain=None) for record in records]
            assert found == records[: len(found)] or found[-1] in whole


# --- Which source it is ---


def test_a_missing_file_is_named(source: Path) -> None:
    """And is not made."""
    assert refused(source).startswith(f"{source}: the file cannot be read: no such file or directory. ")
    assert not source.exists()


def test_what_is_no_regular_file_is_refused(source: Path) -> None:
    """A FIFO is not waited for."""
    assert "this is a folder, not a file" in refused(source.parent)
    os.mkfifo(source)
    assert "this is a FIFO, not a file" in refused(source)


def test_a_file_of_more_than_the_limit_is_refused(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is read."""
    source.write_bytes(filestore.export([ADA]))
    monkeypatch.setattr(_importers, "MAX_FILE_BYTES", source.stat().st_size - 1)
    assert "bytes are more than an import reads" in refused(source)
    monkeypatch.setattr(_importers, "MAX_FILE_BYTES", source.stat().st_size)
    assert read(str(source)).records == [ADA]


@pytest.mark.parametrize("address", [f"postgres://ada:{SECRET}@host/db", f" mysql://ada:{SECRET}@host/db"])
def test_another_address_is_not_taken_for_a_file(address: str) -> None:
    """Nor repeated, since there may be a password in it."""
    assert "address of no known kind" in refused(address, kind=ConfigurationError)


@pytest.mark.parametrize("before", ["", "mysql://", "mariadb://"])
def test_a_key_is_not_taken_for_a_file_or_a_server(before: str) -> None:
    """And not repeated; one of letters and digits alone could be the name of a host."""
    key = "k" * 42 + "A="
    message = refused(before + key, kind=ConfigurationError)
    assert "looks like a key" in message
    assert key not in message


# --- Another keystore ---


def test_another_keystore_is_read_with_its_own_key(
    store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays as it was, the times of saving and leases stay there, and fields of a later release come along."""
    records = [ADA, replace(BOB, id="b", user_name=""), replace(ADA, id="3", unknown={"later": [1]})]
    with closing(open_keystore(store_path, key=key)) as keystore:
        for record in records:
            keystore.save(record)
    before = store_path.read_bytes()
    monkeypatch.setenv("OTHER", key.decode())
    found = read(str(store_path), from_key="env:OTHER")
    assert (found.kind, found.path) == ("keystore", store_path)
    assert found.records == [ADA, replace(BOB, id="b"), records[2]]
    monkeypatch.setenv("ZOHO_KEYSTORE_KEY", key.decode())
    assert read(str(store_path)).records == found.records
    assert store_path.read_bytes() == before


def test_a_keystore_that_does_not_open_is_its_own_error(
    store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a key, and with a damaged file."""
    open_keystore(store_path, key=key).close()
    with pytest.raises(KeyUnavailableError):
        read(str(store_path))
    monkeypatch.setenv("ZOHO_KEYSTORE_KEY", key.decode())
    store_path.write_bytes(store_path.read_bytes()[:-8])
    with pytest.raises(CannotOpenError):
        read(str(store_path))


# --- The SQLite sample ---

SAMPLE = (
    "CREATE TABLE oauthtoken (id varchar(10) NOT NULL, user_name varchar(255), client_id varchar(255), "
    "client_secret varchar(255), refresh_token varchar(255), access_token varchar(255), grant_token varchar(255), "
    "expiry_time varchar(20), redirect_url varchar(255), api_domain varchar(255), primary key (id))"
)


def make_database(path: Path, rows: Iterable[Sequence[object]] = (), table: str = SAMPLE, mode: str = "delete") -> None:
    """Make a database with a table and rows."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute(table)
        for row in rows:
            connection.execute(f"INSERT INTO oauthtoken VALUES ({','.join('?' * len(row))})", row)  # noqa: S608 - ours
        connection.commit()


def values(record: TokenRecord) -> list[str | None]:
    """Return the row of a table that a record stands for."""
    return [getattr(record, name) for name in rows.FIELDS]


def files(path: Path) -> dict[str, str]:
    """Return the files in the folder of a path, and what tells whether they have changed."""
    return {
        file.name: f"{file.stat().st_mtime_ns} {hashlib.sha256(file.read_bytes()).hexdigest()}"
        for file in path.parent.iterdir()
    }


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_the_samples_database_is_read_and_left_as_it_is(source: Path, mode: str) -> None:
    """With and without a write-ahead log, whose two files are not left beside it."""
    make_database(source, [values(BOB), values(ADA)], mode=mode)
    before = files(source)
    found = read(str(source))
    assert (found.kind, found.name, found.path) == ("SQLite database", str(source), source)
    assert found.records == [BOB, ADA]
    assert files(source) == before


def test_what_is_only_in_the_write_ahead_log_is_read(source: Path) -> None:
    """While the program that writes it runs, and after it was killed."""
    make_database(source, mode="wal")
    with closing(sqlite3.connect(source, isolation_level=None)) as writer:
        writer.execute("INSERT INTO oauthtoken (id, refresh_token) VALUES ('9', 'r')")
        assert [record.id for record in read(str(source)).records] == ["9"]
        killed = source.with_name("killed")
        shutil.copy(source, killed)
        shutil.copy(f"{source}-wal", f"{killed}-wal")
    assert [record.id for record in read(str(killed)).records] == ["9"]


def test_a_database_that_changes_while_it_is_read_is_refused(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where SQLite was told that nobody would, since the log was not in use."""
    make_database(source, [values(ADA)], mode="wal")
    read_table = sqlite._table

    def meanwhile(path: Path, *, immutable: bool) -> Any:
        with closing(sqlite3.connect(path)) as writer:
            writer.execute("DELETE FROM oauthtoken")
            writer.commit()
        return read_table(path, immutable=immutable)

    monkeypatch.setattr(sqlite, "_table", meanwhile)
    assert "another program has changed the database meanwhile" in refused(source)


def test_columns_may_be_in_any_order_and_numbers_are_text(source: Path) -> None:
    """Tables that somebody made by hand: more columns, no api_domain, numbers, and bytes."""
    table = (
        "CREATE TABLE OAuthToken (extra, redirect_url, expiry_time INTEGER, grant_token, access_token, refresh_token, "
        "client_secret, client_id BLOB, User_Name, id INTEGER PRIMARY KEY)"
    )
    row = [1.5, "", 1700000000000, None, "a", "r", "s", b"c\xc3\xa9", "ada", 12]
    make_database(source, [row], table)
    assert read(str(source)).records == [
        TokenRecord(
            id="12",
            user_name="ada",
            client_id="cé",
            client_secret="s",
            refresh_token="r",
            access_token="a",
            expires_in="1700000000000",
        )
    ]


def test_a_table_without_rows_is_no_tokens(source: Path) -> None:
    """As the sample leaves it after its start."""
    make_database(source)
    assert read(str(source)).records == []


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (["", *values(ADA)[1:]], "row 2 has no id"),
        (values(BOB), "row 2 has the same id as row 1"),
        ([*values(ADA)[:7], SECRET, None, None], "the expiry of row 2 is not a whole number"),
        (
            [*values(ADA)[:4], f"{SECRET}\xff".encode("latin-1"), *[None] * 5],
            "refresh_token of row 2 is not UTF-8 text",
        ),
        ([*values(ADA)[:4], 1.5, *[None] * 5], "refresh_token of row 2 is neither text nor a whole number"),
    ],
)
def test_a_row_that_is_no_token_is_named(source: Path, row: Sequence[object], says: str) -> None:
    """By its number, and nothing of what stands there."""
    table = "CREATE TABLE oauthtoken (" + ",".join(rows.COLUMNS) + ")"
    make_database(source, [values(BOB), row], table)
    message = refused(source)
    assert message.startswith(f"{source}: {says}")


def test_text_that_is_no_utf8_is_not_quoted(source: Path) -> None:
    """SQLite's own message would."""
    make_database(source)
    with closing(sqlite3.connect(source)) as connection:
        text = f"{SECRET}\xff".encode("latin-1").hex()
        connection.execute(f"INSERT INTO oauthtoken (id, user_name) VALUES ('1', CAST(x'{text}' AS TEXT))")  # noqa: S608 - ours
        connection.commit()
    assert "user_name of row 1 is not UTF-8 text" in refused(source)


def test_a_database_without_the_table_or_its_columns_is_refused(source: Path) -> None:
    """It belongs to something else."""
    make_database(source, table="CREATE TABLE oauthtoken (id, user_name, redirect_uri, api_domain, other)")
    assert "the table oauthtoken lacks the columns client_id, client_secret, refresh_token" in refused(source)
    source.unlink()
    make_database(source, table="CREATE TABLE other (id)")
    assert "the database has no table oauthtoken" in refused(source)
    source.unlink()
    make_database(source, table=SAMPLE.replace("redirect_url", "redirect_uri"))
    assert "lacks the column redirect_url." in refused(source)


def test_a_locked_database_is_waited_for_and_then_refused(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that has it is to finish first."""
    monkeypatch.setattr(sqlite, "LOCK_TIMEOUT_S", 0.1)
    make_database(source, [values(ADA)])
    with closing(sqlite3.connect(source, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        assert "locked by another program" in refused(source)


def test_a_change_that_was_stopped_half_way_is_not_undone_by_a_reader(source: Path) -> None:
    """Undoing it would change the file; reading on would take what was never committed."""
    make_database(source, [values(ADA)])
    killed = source.with_name("killed")
    with closing(sqlite3.connect(source, isolation_level=None)) as writer:
        writer.execute("PRAGMA cache_size = 1")
        writer.execute("BEGIN IMMEDIATE")
        writer.executemany(
            "INSERT INTO oauthtoken (id, grant_token) VALUES (?, ?)", [(f"x{n}", "x" * 3000) for n in range(50)]
        )
        shutil.copy(source, killed)
        shutil.copy(f"{source}-journal", f"{killed}-journal")
    before = files(killed)
    assert "in the middle of a change" in refused(killed)
    assert files(killed) == before


def test_a_damaged_database_is_refused(source: Path) -> None:
    """Cut short, or with another content behind its beginning."""
    make_database(source, [values(replace(ADA, id=str(number))) for number in range(200)])
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) // 2])
    assert "the database is damaged" in refused(source)
    source.write_bytes(sqlite.MAGIC + SECRET.encode() * 300)
    assert "begins like an SQLite database, and is none" in refused(source)


def test_a_database_that_goes_away_is_refused(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at what it is and its opening."""
    make_database(source)
    monkeypatch.setattr(sqlite, "_has_wal", lambda path: path.unlink())
    assert "the database cannot be read (SQLite error 0)" in refused(source)


# --- The SDK's DBStore ---


class Server:
    """What stands in for the library's connection; the real one is in ``tests/sdk/test_mysql_import.py``."""

    def __init__(self, *answers: list[Sequence[object]] | Exception, names: Sequence[str] = rows.COLUMNS) -> None:
        self.column_names = names
        self.options: dict[str, Any] = {}
        self.calls: list[str] = []
        self._answers = [*answers]

    def connect(self, **options: Any) -> Server:
        """Take a connection, or fail."""
        self.options = options
        if isinstance(self._answers[0], Exception):
            raise self._answers[0]
        return self

    def cursor(self) -> Server:
        """Be one's own cursor."""
        return self

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: self.calls.append(f"{name} {args}{kwargs}")

    def fetchall(self) -> object:
        """Return the rows."""
        return self._answers[0]


def serve(monkeypatch: pytest.MonkeyPatch, *answers: Any, **options: Any) -> Server:
    """Let the library connect to a server that answers so."""
    server = Server(*answers, **options)
    monkeypatch.setattr(mysql.connector, "connect", server.connect)
    return server


def test_a_table_is_read_in_a_transaction_that_cannot_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the connection is closed."""
    server = serve(monkeypatch, [values(ADA), values(BOB)])
    found = read("mysql://ada@127.0.0.1")
    assert found == _importers.Found(
        kind="MySQL table",
        name="mysql://ada@127.0.0.1:3306/zohooauth?table=oauthtoken",
        path=None,
        records=[ADA, BOB],
    )
    assert server.calls == [
        "execute ('SET SESSION lock_wait_timeout = 10',){}",
        "execute ('START TRANSACTION READ ONLY',){}",
        "execute ('SELECT * FROM `oauthtoken`',){}",
        "rollback (){}",
        "close (){}",
        "close (){}",
    ]
    assert server.options == {
        "user": "ada",
        "password": "",
        "host": "127.0.0.1",
        "port": 3306,
        "unix_socket": None,
        "database": "zohooauth",
        "charset": "utf8mb4",
        "connection_timeout": 10,
        "allow_local_infile": False,
    }


@pytest.mark.parametrize(
    ("address", "name", "options"),
    [
        (
            "mariadb://a%40b@[::1]:99/other?table=T_1",
            "mariadb://a%40b@[::1]:99/other?table=T_1",
            {"user": "a@b", "host": "::1", "port": 99, "database": "other"},
        ),
        (
            "MySQL://ada@/?unix_socket=~/my+sock",
            "mysql://ada@/zohooauth?table=oauthtoken&unix_socket=~/my%20sock",
            {"user": "ada", "unix_socket": "HOME/my sock"},
        ),
    ],
)
def test_an_address_says_where_the_table_is(
    monkeypatch: pytest.MonkeyPatch, address: str, name: str, options: dict[str, object]
) -> None:
    """All of it may be left out but the user."""
    server = serve(monkeypatch, [])
    monkeypatch.setenv("HOME", "HOME")
    found = read(address)
    assert (found.name, found.records) == (name, [])
    assert options.items() <= server.options.items()


@pytest.mark.parametrize(
    ("address", "says"),
    [
        (f"mysql://ada:{SECRET}@host/db", "there is a password in the address"),
        ("mysql://ada:@host/db", "there is a password in the address"),
        (f"mysql://ada@host/db?password={SECRET}", "there is a password in the address"),
        (f"mysql://ada:1#{SECRET}@host/db", "is not understood"),
        (f"mysql://ada:1/{SECRET}@host/db", "is not understood"),
        (f"mysql://ada:1/{SECRET}@host", "is not understood"),
        (f"mysql://ada:{SECRET}", "is not understood"),
        (f"mysql://ada:1?{SECRET}@host", "is not understood"),
        (f"mysql://[{SECRET}", "is not understood"),
        ("mysql://ada@host:0/db", "is not understood"),
        (f"mysql://ada@host/db?tabel={SECRET}", "a parameter that is not known"),
        ("mysql://ada@host/db?option_file=", "a parameter that is not known, or empty"),
        (f"mysql://ada@host/db?table={SECRET}`--", "not the name of a table"),
        (f"mysql://ada@host/db?table={'t' * 65}", "not the name of a table"),
    ],
)
def test_an_address_that_cannot_be_meant_is_not_repeated(address: str, says: str) -> None:
    """A password with a special character in it may be anywhere."""
    assert says in refused(address, kind=ConfigurationError)


def test_the_password_comes_from_the_first_place_that_has_one(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable, the option file, whoever is asked, nothing."""
    server = serve(monkeypatch, [])
    source.write_text("[client]\nuser = bob\nhost = other\nport = 3307\npassword = \"100% of '#'\"\n")
    for folded in ("mysql://ada@host", f"mysql:///?option_file={str(source).replace('%', '%25').replace('#', '%23')}"):
        read(folded)
        assert server.options["password"] == ("100% of '#'" if "option" in folded else "")
        read(folded, password=lambda: "asked")
        assert server.options["password"] == ("100% of '#'" if "option" in folded else "asked")
        with monkeypatch.context() as patch:
            patch.setenv("ZOHO_KEYSTORE_MYSQL_PASSWORD", "set")
            read(folded, password=lambda: pytest.fail("asked"))
            assert server.options["password"] == "set"
    assert (server.options["user"], server.options["host"], server.options["port"]) == ("bob", "other", 3307)
    assert server.options["database"] == "zohooauth"


def test_what_the_address_names_no_option_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Least of all which server the tokens are taken from."""
    server = serve(monkeypatch, [])
    options = tmp_path / "my.cnf"
    options.write_text("[client]\nuser=bob\nhost=other\nport=3307\nsocket=/other\ndatabase=other\nlocal-infile=1\n")
    read(f"mysql://ada@host/db?option_file={options}")
    names = ("user", "host", "port", "unix_socket", "database", "allow_local_infile")
    assert [server.options[name] for name in names] == ["ada", "host", 3306, None, "db", False]
    read(f"mysql://ada@host/db?unix_socket=/ours&option_file={options}")
    assert server.options["unix_socket"] == "/ours"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read: no such file or directory"),
        (f"[client]\npassword = {SECRET}\n={SECRET}\n", "cannot be read: it is not understood"),
        (f"password = {SECRET}\n", "no user is named"),
    ],
)
def test_an_option_file_that_does_not_help_is_refused(source: Path, content: str | None, says: str) -> None:
    """And its lines are not quoted, as the library does."""
    path = source.parent.parent / "my.cnf"
    if content is not None:
        path.write_text(content)
    message = refused(f"mysql:///?option_file={path}")
    assert message.startswith("mysql:///zohooauth?table=oauthtoken: ")
    assert says in message


def test_a_folder_is_no_option_file(tmp_path: Path) -> None:
    """As little as a FIFO, which would be waited for."""
    assert "this is a folder, not a file" in refused(f"mysql://ada@host?option_file={tmp_path}")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (mysql.connector.ProgrammingError(SECRET, 1045), "the server denies access"),
        (mysql.connector.ProgrammingError(SECRET, 1049), "the server has no such database"),
        (mysql.connector.ProgrammingError(SECRET, 1146), "the database has no such table"),
        (mysql.connector.DatabaseError(SECRET, 9999), "the server has failed (error 9999)"),
        (ValueError(SECRET), "what answers is not understood (ValueError)"),
    ],
)
def test_what_the_server_refuses_is_told_without_its_words(
    monkeypatch: pytest.MonkeyPatch, error: Exception, says: str
) -> None:
    """They may hold what it was asked for."""
    monkeypatch.setenv("ZOHO_KEYSTORE_MYSQL_PASSWORD", SECRET)
    serve(monkeypatch, error)
    assert refused("mysql://ada@host").startswith(f"mysql://ada@host:3306/zohooauth?table=oauthtoken: {says}. ")


def test_a_table_of_a_server_is_checked_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its columns and its rows."""
    serve(monkeypatch, [], names=["id"])
    assert "the table t lacks the columns user_name, " in refused("mysql://ada@host?table=t")
    serve(monkeypatch, [[bytearray(b"1"), *values(BOB)[1:]], ["1", *values(BOB)[1:]]])
    assert "row 2 has the same id as row 1" in refused("mysql://ada@host")


def test_a_server_that_is_not_there_is_unreachable() -> None:
    """The real library, and a port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert "the server cannot be reached" in refused(f"mysql://ada@127.0.0.1:{port}")


@pytest.mark.timeout(10)
def test_a_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real library, and something else that listens."""
    monkeypatch.setattr(mysql_importer, "CONNECT_TIMEOUT_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        message = refused(f"mysql://ada@127.0.0.1:{silent.getsockname()[1]}")
    # Releases of the library number a time-out differently.
    assert "the server cannot be reached" in message or "the server has not answered in time" in message


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setitem(sys.modules, "mysql.connector", None)
    assert 'pip install "zoho_keystore[mysql]"' in refused("mysql://ada@host")

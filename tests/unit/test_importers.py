from __future__ import annotations

import csv
import hashlib
import os
import pickle
import shutil
import socket
import sqlite3
import ssl
import sys
import tempfile
import threading
import traceback
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import psycopg
import pymysql
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zohocrmsdk.src.com.zoho.api.authenticator.store.file_store import FileStore
from zohocrmsdk.src.com.zoho.crm.api.user_signature import UserSignature

from zoho_keystore import _importers
from zoho_keystore._importers import ImportSource, dbstore, filestore, read, rows, sqlite
from zoho_keystore._open import open_keystore
from zoho_keystore._records import CREDENTIAL_FIELDS, TokenRecord
from zoho_keystore._sql import engine
from zoho_keystore._sql.address import parse_address as parse_sql_address
from zoho_keystore.errors import (
    CannotOpenError,
    ConfigurationError,
    ImportSourceError,
    InvalidTokenError,
    KeyUnavailableError,
    MalformedKeyError,
    StoreFileError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

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
HEADER = ",".join(filestore.HEADER)
NINE = HEADER.removesuffix(",api_domain")
ROW = f"1,ada,c,s,{SECRET},a,g,1700000000000,u,https://www.zohoapis.eu"


def sdk_token(record: TokenRecord) -> OAuthToken:
    """Return the SDK's token for a record."""
    fields = {name: getattr(record, name) for name in CREDENTIAL_FIELDS if name not in ("user_name", "expires_in")}
    token = OAuthToken(id=record.id, user_signature=record.user_name and UserSignature(record.user_name), **fields)
    token.set_expires_in(record.expires_in)
    return token


def sdk_record(token: OAuthToken) -> TokenRecord:
    """Return the record for a token of the SDK."""
    signature = token.get_user_signature()
    return TokenRecord(
        user_name=None if signature is None else signature.get_name(),
        **{name: getattr(token, f"get_{name}")() for name in ("id", *CREDENTIAL_FIELDS) if name != "user_name"},
    )


def ids(source: object) -> list[str]:
    """Return the ids of the tokens in a source."""
    return [record.id for record in read(str(source)).records]


def refused(source: object, *, kind: type[Exception] = ImportSourceError, **options: Any) -> str:
    """Return the message of the error for a source, which must not lead to a secret."""
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
    """Give a path for a source, with characters that are special in an SQLite URI."""
    directory = tmp_path / ("a folder?mode=rw#%41" if os.name == "posix" else "a folder#%41")
    directory.mkdir()
    return directory / "tokens of ada"


# --- The SDK's FileStore --------------------------------------------------------------------------------------------


def test_filestore_file_of_the_sdk_is_read(source: Path) -> None:
    """Every field, with quotes, commas and line ends inside, in the order of the file."""
    store = FileStore(str(source))
    awkward = replace(BOB, user_name='Bob "the, builder"\nnew line ', grant_token=" ; '")
    records = [ADA, awkward, TokenRecord(id="production", access_token="a")]
    for record in records:
        store.save_token(sdk_token(record))
    found = read(str(source))
    assert found == ImportSource(kind="FileStore file", name=str(source), path=source, records=records)
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


@pytest.mark.needs_modes
@settings(deadline=None)
@given(records=RECORDS)
def test_filestore_export_equals_the_file_of_the_sdk(records: list[TokenRecord]) -> None:
    """Both read the same from it. The SDK turns carriage returns into line feeds when it reads."""
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


def test_filestore_export_refuses_a_lone_surrogate() -> None:
    with pytest.raises(InvalidTokenError, match=r"^token 2 has a lone surrogate") as caught:
        filestore.export([ADA, replace(BOB, grant_token=f"{SECRET}\ud800")])
    assert caught.value.__context__ is None
    frames = [frame.f_locals for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    assert SECRET not in repr(frames[1:])


@pytest.mark.parametrize(
    "content",
    [
        *(
            (mark + end.join([HEADER, "", ROW, " ", ROW.replace("1", "2", 1), ""])).encode()
            for end in ("\n", "\r\n", "\r\r\n", "\r")
            for mark in ("", "\ufeff")
        ),
        f"{HEADER}\n{ROW}\n2,,,,r,,,,,".encode(),
    ],
)
def test_filestore_line_ends_blank_rows_and_byte_order_mark_are_accepted(source: Path, content: bytes) -> None:
    """And a last line without an end, if its last field is empty: a value that was cut off would be there."""
    source.write_bytes(content)
    assert ids(source) == ["1", "2"]


@pytest.mark.parametrize("end", ["\r\n", "\r\r\n"])
def test_filestore_file_of_nine_columns_is_read(source: Path, end: str) -> None:
    """Before and after the SDK adds the tenth column, which turns a blank line into a row of one empty field."""
    row = ROW.rsplit(",", 1)[0]
    source.write_bytes(end.join([NINE, row, row.replace("1", "2", 1), ""]).encode())
    before = read(str(source)).records
    FileStore(str(source))
    assert source.read_text().startswith(HEADER)
    assert read(str(source)).records == before
    assert [(record.id, record.redirect_url, record.api_domain) for record in before] == [
        ("1", "u", None),
        ("2", "u", None),
    ]


def test_filestore_header_alone_has_no_tokens(source: Path) -> None:
    FileStore(str(source)).delete_tokens()
    assert ids(source) == []
    source.write_text(HEADER)
    assert ids(source) == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is empty"),
        (b"\r\n \n", "the file is empty"),
        (bytes(range(1, 256)), "not a file of the SDK's FileStore, nor"),
        (f"{HEADER}\r\n1,".encode() + b"\xff" + b",,,,,,,,\n", "line 2 is not UTF-8 text"),
        (f"{HEADER}\r\n1,".encode() + bytes(512) + b",,,,,,,,\n", "line 2 contains a NUL"),
        (HEADER.encode() + b"\r\n" + bytes(512), "line 2, the last one, has no line end"),
        (f"{SECRET},b,c\n", "not a file of the SDK's FileStore, nor"),
        (f"{ROW}\n", "not a file of the SDK's FileStore, nor"),
        (
            "user_mail,client_id,refresh_token,access_token,grant_token,expiry_time\n",
            "the file lacks the columns id, client_secret, redirect_url.",
        ),
        (f"{HEADER}\n\n{ROW},{SECRET}\n", "line 3 has 11 fields instead of 10"),
        (f"{NINE}\n{ROW}\n", "line 2 has 10 fields instead of 9"),
        (f"{HEADER}\n{'7' * 256},,,,r,,,,,\n", "the id of line 2 has 256 characters"),
        (f"{HEADER}\n1,,,,,,,{SECRET},,\n", "expiry_time of line 2 is not a whole number"),
        (f"{HEADER}\n1,,,,,,,1.7e12,,\n", "expiry_time of line 2 is not a whole number"),
        (f"{NINE.replace('expiry_time', 'expires_in')}\n1,,,,,,,x,\n", "expires_in of line 2 is not a whole number"),
        (f'{HEADER}\n2,"{SECRET}"x,,,,,,,,\n', "from line 2 on this is not CSV"),
        (f"{HEADER}\n2,{SECRET * 20_000},,,,,,,,\n", "from line 2 on this is not CSV"),
        (f"{HEADER}\n{ROW[:-1]}", "line 2, the last one, has no line end"),
    ],
)
def test_filestore_damaged_file_is_refused(source: Path, content: bytes | str, problem: str) -> None:
    """With the file and the line, and no value."""
    source.write_bytes(content.encode() if isinstance(content, str) else content)
    message = refused(source)
    assert message.startswith(f"{source}: ")
    assert problem in message


ROW_OF_URLS = ROW.replace(",u,", ",https://example.com,")
#: The first lines of Zoho's SDKs: of the release 2.1 for Python, and of the SDKs for PHP, JavaScript, C#, Java.
OTHER_HEADERS = [
    NINE.replace("user_name", "user_mail"),
    NINE.replace("user_name", "user_mail").replace("redirect_uri", "redirect_url"),
    HEADER.replace("redirect_uri", "redirect_url"),
    f"\ufeff{HEADER.upper()}",
    HEADER.replace("expiry_time", "expires_in"),
]


@pytest.mark.parametrize("header", OTHER_HEADERS)
def test_filestore_columns_are_taken_by_their_meaning(source: Path, header: str) -> None:
    """The SDKs for other languages end no line at the end."""
    row = ROW if "api_domain" in header.lower() else ROW.rsplit(",", 1)[0]
    end = "\n" if "redirect_uri" in header else ""
    source.write_text(f"{header}\n{row}{end}", encoding="utf-8")
    [found] = read(str(source)).records
    assert (found.user_name, found.refresh_token, found.expires_in) == ("ada", SECRET, "1700000000000")
    assert (found.redirect_url, found.api_domain) == ("u", "https://www.zohoapis.eu" if row == ROW else None)


def test_filestore_columns_may_be_in_any_order(source: Path) -> None:
    """Of user_name and user_mail, user_name counts, which newer releases write; other columns are ignored."""
    names, values = ",".join(reversed(HEADER.split(","))), ",".join(reversed(ROW.split(",")))
    for header, row in ((f"user_mail,{names},note", f"old,{values},x"), (f"{names},note,user_mail", f"{values},x,old")):
        source.write_text(f"{header}\n{row}\n")
        assert read(str(source)).records[0].user_name == "ada"
        assert read(str(source)).records[0].api_domain == "https://www.zohoapis.eu"
    # A row of another width is in another order than the header says, or in the SDK's.
    source.write_text(f"{names}\n{values}\n{ROW_OF_URLS.rsplit(',', 1)[0]}\n")
    assert ids(source) == ["1"]
    assert read(str(source)).skipped == ["line 3 has 9 fields instead of 10"]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_filestore_file_of_a_spreadsheet_is_read(source: Path, delimiter: str) -> None:
    """With its user's delimiter, padded and empty rows, quotes, and UTF-16."""
    rows = [[*HEADER.split(","), ""], [*ROW.split(","), "", ""], [""] * 11]
    text = "".join(delimiter.join(f'"{value}"' for value in row) + "\r\n" for row in rows)
    source.write_text(text, encoding="utf-16")
    assert read(str(source)).records[0].refresh_token == SECRET
    assert ids(source) == ["1"]


@pytest.mark.parametrize(
    ("lines", "taken", "problems"),
    [
        # A header and ids that are repeated, and rows without an id: two FileStores wrote at once.
        ([HEADER, ROW, HEADER, ROW, ROW[1:]], ["1", "1", ""], []),
        # A row that lost its beginning, and two rows in one line.
        (
            [HEADER, ROW, ROW[20:], ROW + ROW, ROW],
            ["1", "1"],
            ["line 3 has 6 fields instead of 10", "line 4 has 19 fields instead of 10"],
        ),
        # The header is gone, and rows of two releases.
        ([ROW_OF_URLS, ROW_OF_URLS.rsplit(",", 1)[0]], ["1", "1"], []),
        ([NINE, ROW_OF_URLS], ["1"], []),
        # Nothing tells whether a field of these is missing, or which one.
        ([HEADER, ROW, ROW_OF_URLS.rsplit(",", 1)[0].replace("1700000000000", "")], ["1"], ["line 3 has 9 fields"]),
        # Disks leave NULs, editors other encodings and open quotes.
        (
            [HEADER, ROW, f"2,{chr(0)},,,,,,,,", "3,\udcff,,,,,,,,"],
            ["1"],
            ["line 3 contains a NUL", "line 4 is not UTF-8"],
        ),
        ([HEADER, ROW, f'2,"{SECRET}', ROW], ["1"], ["from line 3 on this is not CSV"]),
        ([HEADER, ROW, f"2{ROW[1:]}!"], ["1", "2"], []),
    ],
)
def test_filestore_rows_that_are_whole_are_read_and_the_others_named(
    source: Path, lines: list[str], taken: list[str], problems: list[str]
) -> None:
    source.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
    found = read(str(source))
    assert [record.id for record in found.records] == taken
    assert {record.refresh_token for record in found.records} == {SECRET}
    assert len(found.skipped) == len(problems)
    assert all(map(str.startswith, found.skipped, problems))
    assert SECRET not in repr(found)
    parsed = filestore.parse(source.read_bytes())
    assert repr(parsed) == f"<{len(taken)} records, {len(problems)} skipped>"
    assert repr(rows.Row("line 2", {"id": SECRET})) == "<Row line 2>"


def test_filestore_last_line_without_an_end_is_named(source: Path) -> None:
    """The value that was cut off could be the server's address."""
    source.write_text(f"{HEADER}\n{ROW}\n{ROW.replace('1', '2', 1)[:-1]}")
    found = read(str(source))
    assert [record.id for record in found.records] == ["1"]
    assert found.skipped == ["line 3, the last one, has no line end and may have been cut off"]


@settings(deadline=None)
@given(cut=st.integers(1, 400))
def test_filestore_file_that_was_cut_off_yields_whole_tokens_or_none(cut: int) -> None:
    """A killed save leaves any prefix of the file."""
    records = [ADA, replace(ADA, id="2", user_name='"\n')]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "tokens")
        path.write_bytes(filestore.export(records)[:cut])
        with suppress(ImportSourceError):
            found = read(str(path)).records
            whole = [replace(record, api_domain=None) for record in records]
            assert found == records[: len(found)] or found[-1] in whole


# --- The kind of a source, and other keystores ----------------------------------------------------------------------


@pytest.mark.needs_special_files
def test_read_refuses_a_missing_file_a_directory_and_a_fifo(source: Path) -> None:
    """It does not wait for a writer of the FIFO."""
    assert refused(source).startswith(f"{source}: the file cannot be read: no such file or directory. ")
    assert not source.exists()
    assert "a directory, not a file" in refused(source.parent)
    os.mkfifo(source)
    assert "a FIFO, not a file" in refused(source)


def test_read_refuses_a_file_above_the_limit(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source.write_bytes(filestore.export([ADA]))
    size = source.stat().st_size
    monkeypatch.setattr(_importers, "MAX_FILE_BYTES", size - 1)
    assert f"the file has {size} bytes, the limit of an import is {size - 1}" in refused(source)
    monkeypatch.setattr(_importers, "MAX_FILE_BYTES", size)
    assert ids(source) == ["1"]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (f"oracle://ada:{SECRET}@host/db", "address of an unknown kind"),
        (f" mysql://ada:{SECRET}@host/db", "address of an unknown kind"),
        *((f"{prefix}{'k' * 42}A=", "looks like a key") for prefix in ("", "mysql://", "mariadb://")),
    ],
)
def test_read_does_not_repeat_an_unknown_address_or_a_key(source: str, problem: str) -> None:
    """An address may hold a password; a key of letters only could be a host name."""
    message = refused(source, kind=ConfigurationError)
    assert problem in message
    assert "kkk" not in message


@pytest.mark.needs_modes
def test_keystore_is_read_with_its_own_key(store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown fields and the time of creation are kept, times of saving are not; the file and its mode stay."""
    records = [ADA, replace(BOB, id="b", user_name=""), replace(ADA, id="3", unknown={"later": [1]})]
    with closing(open_keystore(store_path, key=key)) as keystore:
        for record in records:
            keystore.save(record)
        times = [record.created_at for record in keystore.records()]
    before = store_path.read_bytes()
    store_path.chmod(0o644)
    monkeypatch.setenv("OTHER", key.decode())
    found = read(str(store_path), from_key="env:OTHER")
    assert (found.kind, found.path) == ("keystore", store_path)
    assert [record.created_at for record in found.records] == times
    kept = [replace(one, created_at=0, signed_in_at=0, issued_at=0) for one in found.records]
    assert kept == [ADA, replace(BOB, id="b"), records[2]]
    assert store_path.read_bytes() == before
    assert store_path.stat().st_mode & 0o777 == 0o644
    with pytest.raises(KeyUnavailableError, match="Name the source of the other keystore's keys: --from-key SPEC"):
        read(str(store_path))
    monkeypatch.setenv("BAD", "hunter2")
    with pytest.raises(MalformedKeyError, match="44 characters"):
        read(str(store_path), from_key="env:BAD")
    monkeypatch.setenv("ZOHO_KEYSTORE_KEY", key.decode())
    assert read(str(store_path)).records == found.records
    store_path.write_bytes(before[:-8])
    with pytest.raises(CannotOpenError):
        read(str(store_path))


def test_keystore_that_vanishes_is_named(store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at its first bytes and the reading."""
    open_keystore(store_path, key=key).close()
    monkeypatch.setenv("OTHER", key.decode())
    original: Any = vars(_importers)["key_ring"]

    def key_ring(spec: str) -> object:
        store_path.unlink()
        return original(spec)

    monkeypatch.setattr(_importers, "key_ring", key_ring)
    with pytest.raises(StoreFileError, match="the file cannot be read: no such file"):
        read(str(store_path), from_key="env:OTHER")


# --- The SQLite sample ----------------------------------------------------------------------------------------------

SAMPLE = (
    "CREATE TABLE oauthtoken (id varchar(10) NOT NULL, user_name varchar(255), client_id varchar(255), "
    "client_secret varchar(255), refresh_token varchar(255), access_token varchar(255), grant_token varchar(255), "
    "expiry_time varchar(20), redirect_url varchar(255), api_domain varchar(255), primary key (id))"
)
UNTYPED = f"CREATE TABLE oauthtoken ({','.join(rows.COLUMNS)})"


def make_database(path: Path, rows: Iterable[Sequence[object]] = (), table: str = SAMPLE, mode: str = "delete") -> None:
    """Create a database with a table and rows."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.executescript(table)
        for row in rows:
            connection.execute(f"INSERT INTO oauthtoken VALUES ({','.join('?' * len(row))})", row)  # noqa: S608 - ours
        connection.commit()


def values(record: TokenRecord) -> list[str | None]:
    """Return the row of a table for a record."""
    return [getattr(record, name) for name in rows.FIELDS]


def files(path: Path) -> dict[str, str]:
    """Return the files beside a path, with their times and digests."""
    return {
        file.name: f"{file.stat().st_mtime_ns} {hashlib.sha256(file.read_bytes()).hexdigest()}"
        for file in path.parent.iterdir()
    }


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("records", [[BOB, ADA], []])
def test_sqlite_database_is_read_and_left_unchanged(source: Path, mode: str, records: list[TokenRecord]) -> None:
    """With a write-ahead log, no -wal and -shm files are left beside it."""
    make_database(source, map(values, records), mode=mode)
    before = files(source)
    assert read(str(source)) == ImportSource(kind="SQLite database", name=str(source), path=source, records=records)
    assert files(source) == before


def test_sqlite_write_ahead_log_is_read(source: Path) -> None:
    """While its writer runs, and after it was killed."""
    make_database(source, mode="wal")
    with closing(sqlite3.connect(source, isolation_level=None)) as writer:
        writer.execute("INSERT INTO oauthtoken (id, refresh_token) VALUES ('9', 'r')")
        assert ids(source) == ["9"]
        killed = source.with_name("killed")
        shutil.copy(source, killed)
        shutil.copy(f"{source}-wal", f"{killed}-wal")
    assert ids(killed) == ["9"]


def test_sqlite_database_that_changes_during_the_import_is_refused(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite does not notice it: the database was opened as immutable, since no log was in use."""
    make_database(source, [values(ADA)], mode="wal")
    connect = sqlite3.connect

    def change(*args: Any, **options: Any) -> Any:
        with closing(connect(source)) as writer:
            writer.execute("DELETE FROM oauthtoken")
            writer.commit()
        return connect(*args, **options)

    monkeypatch.setattr(sqlite3, "connect", change)
    assert "another program changed the database during the import" in refused(source)


def test_sqlite_columns_may_be_in_any_order_and_of_any_type(source: Path) -> None:
    """Numbers and bytes become text; additional columns are ignored, and api_domain may be missing."""
    table = (
        "CREATE TABLE OAuthToken (extra, redirect_url, expiry_time INTEGER, grant_token, access_token, refresh_token, "
        "client_secret, client_id BLOB, User_Name, id INTEGER PRIMARY KEY)"
    )
    make_database(source, [[1.5, "", 1700000000000, None, "a", "r", "s", b"c\xc3\xa9", "ada", 12]], table)
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


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (["7" * 256, *values(ADA)[1:]], "the id of row 2 has 256 characters"),
        ([*values(ADA)[:7], SECRET, None, None], "expiry_time of row 2 is not a whole number"),
        ([*values(ADA)[:4], f"{SECRET}\xff".encode("latin-1"), *[None] * 5], "refresh_token of row 2 is not UTF-8"),
        ([*values(ADA)[:4], 1.5, *[None] * 5], "refresh_token of row 2 is neither text nor a whole number"),
    ],
)
def test_sqlite_row_that_is_no_token_is_named(source: Path, row: Sequence[object], problem: str) -> None:
    """The others are read, also those with a repeated id and without one."""
    make_database(source, [values(BOB), row, values(BOB), [None, *values(BOB)[1:]]], UNTYPED)
    found = read(str(source))
    assert found.records == [BOB, BOB, replace(BOB, id="")]
    assert len(found.skipped) == 1
    assert found.skipped[0].startswith(problem)
    source.unlink()
    make_database(source, [row], UNTYPED)
    assert refused(source).startswith(f"{source}: {problem.replace('row 2', 'row 1')}")


def test_sqlite_generated_columns_are_not_computed(source: Path) -> None:
    """A small file could fill the memory with them; a long stored value is no token either."""
    table = UNTYPED.replace("api_domain", "api_domain, extra AS (zeroblob(500000000))")
    make_database(source, table=table)
    columns, marks = ",".join(rows.COLUMNS), ",".join("?" * 10)
    insert = f"INSERT INTO oauthtoken ({columns}) VALUES ({marks})"  # noqa: S608 - ours
    with closing(sqlite3.connect(source)) as connection:
        connection.execute(insert, values(BOB))
        connection.commit()
    assert read(str(source)).records == [BOB]
    with closing(sqlite3.connect(source)) as connection:
        connection.execute(insert, [*values(BOB)[:5], "x" * (sqlite.MAX_VALUE_BYTES + 1), *values(BOB)[6:]])
        connection.commit()
    assert "a value has more than 1,048,576 bytes, so it is not a token" in refused(source)
    source.unlink()
    make_database(source, table=UNTYPED.replace("access_token", "access_token AS (zeroblob(500000000))"))
    assert "the table oauthtoken lacks the column access_token." in refused(source)


def test_read_without_enough_memory_is_refused(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_database(source, [values(ADA)])
    monkeypatch.setattr(sqlite, "read", Mock(side_effect=MemoryError))
    assert "there is not enough memory to read it" in refused(source)


def test_sqlite_other_tables_and_side_files_are_named(source: Path) -> None:
    """A database that holds more than tokens must not be deleted, and what is beside it has tokens too."""
    make_database(source, [values(ADA)])
    with closing(sqlite3.connect(source)) as connection:
        connection.executescript(
            "CREATE TABLE invoices (id INTEGER PRIMARY KEY AUTOINCREMENT); CREATE TABLE sqlitex (id)"
        )
    source.with_name(f"{source.name}-journal").write_bytes(b"")
    found = read(str(source))
    assert found.other_tables == ["invoices", "sqlitex"]
    assert found.files == [source.with_name(f"{source.name}-journal"), source]
    assert ImportSource(kind="MySQL table", name="t", path=None, records=[]).files == []


def test_sqlite_text_that_is_not_utf8_is_not_quoted(source: Path) -> None:
    """SQLite's own message would quote it."""
    make_database(source)
    with closing(sqlite3.connect(source)) as connection:
        text = f"{SECRET}\xff".encode("latin-1").hex()
        connection.execute(f"INSERT INTO oauthtoken (id, user_name) VALUES ('1', CAST(x'{text}' AS TEXT))")  # noqa: S608 - ours
        connection.commit()
    assert "user_name of row 1 is not UTF-8 text" in refused(source)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ("CREATE TABLE other (id)", "the database has no table oauthtoken"),
        (SAMPLE.replace("redirect_url", "redirection"), "the table oauthtoken lacks the column redirect_url."),
        (
            "CREATE TABLE oauthtoken (id, user_name, redirect_uri, api_domain, other)",
            "the table oauthtoken lacks the columns client_id, client_secret, refresh_token",
        ),
    ],
)
def test_sqlite_database_without_table_or_columns_is_refused(source: Path, table: str, problem: str) -> None:
    make_database(source, table=table)
    assert problem in refused(source)


def test_sqlite_table_or_view_of_an_address_is_read(source: Path) -> None:
    """Without the library of the other databases."""
    make_database(source, [values(ADA), values(BOB)])
    with closing(sqlite3.connect(source)) as connection:
        connection.execute("CREATE VIEW old AS SELECT * FROM oauthtoken WHERE id = 2")
    path = shutil.copy(source, source.parent.parent / "a.db")
    assert read(f"sqlite:///{path}").records == [ADA, BOB]
    found = read(f"SQLite:///{path}?table=OLD")
    assert (found.records, found.other_tables, found.kind) == ([BOB], ["oauthtoken"], "SQLite database")
    assert "no table none" in refused(f"sqlite:///{path}?table=none")
    filestore_file = source.parent.parent / "tokens.csv"
    filestore_file.write_text(HEADER)
    assert "not an SQLite database" in refused(f"sqlite:///{filestore_file}")


def test_sqlite_view_that_computes_without_end_is_refused(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "READ_TIMEOUT_S", 0.05)
    make_database(source)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) AS id FROM n"
    with closing(sqlite3.connect(source)) as connection:
        others = ",".join(f"NULL AS {name}" for name in rows.COLUMNS[1:])
        connection.execute("DROP TABLE oauthtoken")
        connection.execute(f"CREATE VIEW oauthtoken AS SELECT id, {others} FROM ({endless})")  # noqa: S608 - ours
    assert "reading takes longer than" in refused(source)


def test_sqlite_table_of_older_releases_is_read(source: Path) -> None:
    """With user_mail instead of user_name."""
    table = SAMPLE.replace("user_name", "user_mail").replace("redirect_url", "redirect_uri")
    make_database(source, [values(ADA)], table)
    assert read(str(source)).records == [ADA]


def test_sqlite_locked_database_is_refused_after_the_timeout(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "LOCK_TIMEOUT_S", 0.1)
    make_database(source, [values(ADA)])
    with closing(sqlite3.connect(source, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        assert "locked by another program" in refused(source)


def test_sqlite_database_of_a_killed_writer_is_not_rolled_back(source: Path) -> None:
    """That would change the file; ignoring the journal would read what was never committed."""
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
    assert "killed in the middle of a change" in refused(killed)
    assert files(killed) == before


def test_sqlite_damaged_or_vanished_database_is_refused(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut short, overwritten behind its first bytes, deleted after the look at its first bytes."""
    make_database(source, [values(replace(ADA, id=str(number))) for number in range(200)])
    whole = source.read_bytes()
    source.write_bytes(whole[: len(whole) // 2])
    assert "the database is damaged" in refused(source)
    source.write_bytes(sqlite.MAGIC + SECRET.encode() * 300)
    assert "starts like an SQLite database, but is damaged" in refused(source)
    monkeypatch.setattr(sqlite, "_has_wal", lambda path: path.unlink())
    assert "the database cannot be read (SQLite error 0)" in refused(source)


# --- The SDK's DBStore ----------------------------------------------------------------------------------------------


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Mock]:
    """Give a function that puts an SQLite database in place of the server; real servers are in ``tests/sdk``."""

    def serve(rows: Sequence[Sequence[object]] = (), table: str = UNTYPED, error: Exception | None = None) -> Mock:
        path = tmp_path / f"server-{os.urandom(4).hex()}"
        make_database(path, rows, table)

        def connect(_address: object, **_: object) -> engine.Engines:
            if error is not None:
                raise error
            return engine.connect(parse_sql_address(f"sqlite:///{path}"))

        mock = Mock(side_effect=connect)
        monkeypatch.setattr(dbstore, "connect", mock)
        return mock

    return serve


@pytest.mark.parametrize(
    ("address", "kind"),
    [("mysql://ada@127.0.0.1", "MySQL table"), ("postgresql://ada@127.0.0.1", "PostgreSQL table")],
)
def test_dbstore_table_is_read(serve: Callable[..., Mock], address: str, kind: str) -> None:
    connect = serve([values(ADA), values(BOB)])
    assert read(address) == ImportSource(kind=kind, name=address, path=None, records=[ADA, BOB])
    assert connect.call_args.kwargs["lock_timeout"] == 10
    arguments = connect.call_args.kwargs["connect_args"]
    assert (arguments["user"], arguments["host"], arguments["connect_timeout"]) == ("ada", "127.0.0.1", 10)
    assert "zohooauth" in (arguments.get("database"), arguments.get("dbname"))


@pytest.mark.needs_posix_shell("unix_socket")
@pytest.mark.parametrize(
    ("address", "options"),
    [
        (
            "mariadb://a%40b@[::1]:99/other?table=T_1",
            {"user": "a@b", "host": "::1", "port": 99, "database": "other"},
        ),
        ("MySQL://ada@/?unix_socket=~/my+sock", {"user": "ada", "unix_socket": "HOME/my sock"}),
        ("postgres://a%40b@[::1]:99/other", {"user": "a@b", "host": "::1", "port": 99, "dbname": "other"}),
        ("postgresql:///?unix_socket=~/pg", {"host": "HOME/pg"}),
    ],
)
def test_dbstore_address_is_decoded(
    serve: Callable[..., Mock], monkeypatch: pytest.MonkeyPatch, address: str, options: dict[str, object]
) -> None:
    connect = serve(table=f"{UNTYPED}; CREATE TABLE T_1 ({','.join(rows.COLUMNS)})")
    monkeypatch.setenv("HOME", "HOME")
    assert read(address).name == address
    assert options.items() <= connect.call_args.kwargs["connect_args"].items()


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        (f"mysql://ada:{SECRET}@host/db", "there is a password in the address"),
        ("mysql://ada:@host/db", "there is a password in the address"),
        (f"mysql://ada@host/db?password={SECRET}", "there is a password in the address"),
        (f"mysql://ada:1#{SECRET}@host/db", "is malformed"),
        (f"mysql://ada:1/{SECRET}@host/db", "is malformed"),
        (f"mysql://ada:1/{SECRET}@host", "is malformed"),
        (f"mysql://ada:{SECRET}", "is malformed"),
        (f"mysql://ada:1?{SECRET}@host", "is malformed"),
        (f"mysql://[{SECRET}", "is malformed"),
        ("mysql://ada@host:0/db", "is malformed"),
        (f"mysql://ada@host/{SECRET}\n", "is malformed"),
        (f"mysql://ada@host/db?tabel={SECRET}", "an unknown or empty parameter"),
        (f"mysql://ada@host/db?ssl={SECRET}", "the value of ssl= is not off"),
        ("mysql://ada@host/db?option_file=", "an unknown or empty parameter"),
        (f"mysql://ada@host/db?table={SECRET}`--", "not the name of a table"),
        (f"mysql://ada@host/db?table={'t' * 65}", "not the name of a table"),
        ("mysql://ada@host/db?table=a.b.c", "not the name of a table"),
        (f"postgresql://ada:{SECRET}@host/db", "there is a password in the address"),
        (f"postgresql://ada@host/db?sslpassword={SECRET}", "there is a password in the address"),
        ("postgresql://ada@host/db?option_file=/my.cnf", "an unknown or empty parameter"),
        ("sqlite://host/a.db", "is malformed"),
        ("sqlite:///", "is malformed"),
        (f"sqlite:///a.db?key={SECRET}", "is malformed"),
        (f"sqlite:///a.db?table={SECRET}`--", "is malformed"),
    ],
)
def test_dbstore_malformed_address_is_not_repeated(address: str, problem: str) -> None:
    """A password with a special character may be in any part of it."""
    assert problem in refused(address, kind=ConfigurationError)


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("is_asked", [False, True])
@pytest.mark.parametrize("is_set", [False, True])
def test_mysql_password_comes_from_variable_option_file_prompt_in_this_order(
    serve: Callable[..., Mock],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    in_file: bool,
    is_asked: bool,
    is_set: bool,
) -> None:
    connect = serve()
    options = tmp_path / "my.cnf"
    options.write_text("[client]\nuser = bob\nhost = localhost\nport = 3307\npassword = \"100% of '#'\"\n")
    if is_set:
        monkeypatch.setenv("ZOHO_KEYSTORE_MYSQL_PASSWORD", "set")
    address = f"mysql:///?option_file={options}" if in_file else "mysql://ada@127.0.0.1"
    read(address, password=(lambda: "asked") if is_asked else None)
    expected = "set" if is_set else "100% of '#'" if in_file else "asked" if is_asked else ""
    assert connect.call_args.kwargs["password"] == expected
    arguments = connect.call_args.kwargs["connect_args"]
    assert [arguments[name] for name in ("user", "host", "port", "database")] == (
        ["bob", "localhost", 3307, "zohooauth"] if in_file else ["ada", "127.0.0.1", 3306, "zohooauth"]
    )


def test_mysql_password_may_be_in_the_variable_of_stores(
    serve: Callable[..., Mock], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable of imports takes precedence: the store may be on another server."""
    connect = serve()
    monkeypatch.setenv("ZOHO_KEYSTORE_SQL_PASSWORD", "of the store")
    read("mysql://ada@127.0.0.1")
    assert connect.call_args.kwargs["password"] == "of the store"
    monkeypatch.setenv("ZOHO_KEYSTORE_MYSQL_PASSWORD", "of the source")
    read("mysql://ada@127.0.0.1")
    assert connect.call_args.kwargs["password"] == "of the source"
    read("postgresql://ada@127.0.0.1")
    assert connect.call_args.kwargs["password"] == "of the store"


def test_postgresql_password_is_asked_for_when_the_server_denies_access(
    serve: Callable[..., Mock], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be in a file of libpq, and a server on this machine may need none."""
    connect = serve([values(ADA)])
    read("postgresql://127.0.0.1", password=lambda: "asked")
    assert connect.call_args.kwargs["password"] != "asked"
    works = connect.side_effect

    def deny(address: object, *, password: str | None, **options: object) -> engine.Engines:
        if password is None:
            raise psycopg.OperationalError("fe_sendauth: no password supplied")
        found: engine.Engines = works(address, **options)
        return found

    connect.side_effect = deny
    assert read("postgresql://127.0.0.1", password=lambda: "asked").records == [ADA]
    assert connect.call_args.kwargs["password"] == "asked"
    assert "the server denies access. Check the user, what it may read" in refused("postgresql://127.0.0.1")
    connect.side_effect = psycopg.OperationalError("connection refused")
    assert "cannot be reached" in refused("postgresql://127.0.0.1", password=lambda: "asked")
    monkeypatch.setenv("ZOHO_KEYSTORE_SQL_PASSWORD", SECRET)
    connect.side_effect = psycopg.OperationalError("password authentication failed")
    assert "~/.pgpass" in refused("postgresql://127.0.0.1", password=lambda: "asked")


def test_mysql_address_takes_precedence_over_the_option_file(serve: Callable[..., Mock], tmp_path: Path) -> None:
    """A socket in the file would lead to another server."""
    connect = serve()
    options = tmp_path / "my.cnf"
    options.write_text(
        "!include other\n[client]\nuser=bob\nhost=other\nport=3307\nsocket=/other\ndatabase=other\nquick\n"
    )
    read(f"mysql://ada@127.0.0.1/db?option_file={options}")
    arguments = connect.call_args.kwargs["connect_args"]
    assert [arguments[name] for name in ("user", "host", "port", "database")] == ["ada", "127.0.0.1", 3306, "db"]
    assert "unix_socket" not in arguments
    read(f"mysql://ada@host/db?unix_socket=/ours&option_file={options}")
    assert connect.call_args.kwargs["connect_args"]["unix_socket"] == "/ours"
    read(f"mysql:///db?option_file={options}")
    assert connect.call_args.kwargs["connect_args"]["unix_socket"] == "/other"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: no such file or directory"),
        (f"[client]\npassword = {SECRET}\n={SECRET}\n", "cannot be read: it is malformed"),
        (f"password = {SECRET}\n", "no user is given"),
        ("[client]\nuser = ada\nport = many\n", "the port in the option file is not a number"),
        ("# " + "x" * 1024 * 1024, "it is too large"),
        ("directory", "a directory, not a file"),
    ],
)
def test_mysql_unusable_option_file_is_refused(tmp_path: Path, content: str | None, problem: str) -> None:
    """Its lines are not quoted; the library's errors do that."""
    path = tmp_path / "my.cnf"
    if content == "directory":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    message = refused(f"mysql:///?option_file={path}")
    assert message.startswith("mysql:///?option_file=")
    assert problem in message


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (pymysql.err.OperationalError(1045, SECRET), "the server denies access"),
        (pymysql.err.OperationalError(1049, SECRET), "the server has no such database"),
        (pymysql.err.ProgrammingError(1146, SECRET), "the database has no such table"),
        (pymysql.err.OperationalError(1205, SECRET), "the table is locked by another connection"),
        (pymysql.err.OperationalError(2013, SECRET), "the server cannot be reached"),
        (pymysql.err.OperationalError(2026, SECRET), dbstore._NO_TLS[0]),
        (pymysql.err.InternalError(9999, SECRET), "the server reports error 9999"),
        (ValueError(SECRET), "the server's answer is malformed (ValueError)"),
        (ConfigurationError("the library pymysql is not installed", "Do it"), "the library pymysql is not installed"),
    ],
)
def test_dbstore_error_of_the_server_is_not_quoted(
    serve: Callable[..., Mock], monkeypatch: pytest.MonkeyPatch, error: Exception, problem: str
) -> None:
    monkeypatch.setenv("ZOHO_KEYSTORE_MYSQL_PASSWORD", SECRET)
    serve(error=error)
    assert refused("mysql://ada@127.0.0.1").startswith(f"mysql://ada@127.0.0.1: {problem}. ")


def test_dbstore_failed_tls_is_told_from_missing_tls(serve: Callable[..., Mock]) -> None:
    """PyMySQL has one number for a certificate that is refused and for a server that is not there."""
    error: Any = pymysql.err.OperationalError(2003, "Can't connect")
    error.original_exception = ssl.SSLError("certificate verify failed")
    serve(error=error)
    assert "TLS failed" in refused("mysql://ada@127.0.0.1")
    serve(error=psycopg.OperationalError("server does not support SSL, but SSL was required"))
    assert "the server offers no TLS" in refused("postgresql://ada@127.0.0.1")


def test_dbstore_table_is_checked_like_an_sqlite_table(serve: Callable[..., Mock]) -> None:
    serve(table="CREATE TABLE t (id)")
    assert "the table t lacks the columns user_name, " in refused("mysql://ada@127.0.0.1?table=t")
    assert "the database has no such table" in refused("mysql://ada@127.0.0.1?table=none")
    serve([[b"1", *values(BOB)[1:]], ["1" * 256, *values(BOB)[1:]]])
    found = read("mysql://ada@127.0.0.1?table=main.oauthtoken")
    assert (found.records, found.skipped) == ([replace(BOB, id="1")], ["the id of row 2 has 256 characters"])


def test_dbstore_table_with_padded_columns_is_read(serve: Callable[..., Mock]) -> None:
    """PostgreSQL fills columns of the type CHAR with blanks: with them, Zoho would refuse the tokens."""
    serve([[f"{value}    " if value else "    " for value in values(ADA)]])
    assert read("postgresql://ada@127.0.0.1").records == [ADA]


@contextmanager
def greeting_server(greeting: bytes) -> Iterator[int]:
    """Give the port of a server that sends its greeting to each client, and closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        is_over = threading.Event()

        def serve() -> None:
            while not is_over.is_set():
                with server.accept()[0] as client, suppress(OSError):
                    client.sendall(greeting)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            is_over.set()
            # Outside Linux, a thread that waits for a connection goes on waiting when its socket is shut down.
            socket.create_connection(server.getsockname()).close()
            thread.join()


def mysql_greeting(capabilities: int) -> bytes:
    """Return a server's greeting."""
    packet = b"\x0a8.0.36\0" + bytes(4) + b"scramble\0" + capabilities.to_bytes(2, "little") + b"\x2d\2\0\xff\xdf\x15"
    packet += bytes(10) + b"scramble1234\0mysql_native_password\0"
    return len(packet).to_bytes(3, "little") + b"\0" + packet


@pytest.mark.parametrize(
    ("greeting", "parameter", "problem"),
    [
        (mysql_greeting(0xF7FF), "", "the server offers no TLS"),
        (mysql_greeting(0xF7FF), "?ssl=off", "the server cannot be reached"),
        # TLS begins, and fails.
        (mysql_greeting(0xFFFF), "", "the server cannot be reached"),
        (b"", "", "the server cannot be reached"),
        (b"hello", "", "the server's answer is malformed"),
    ],
    ids=["no TLS", "off", "TLS", "silence", "another kind"],
)
def test_mysql_without_tls_is_refused_before_the_password_is_sent(
    monkeypatch: pytest.MonkeyPatch, greeting: bytes, parameter: str, problem: str
) -> None:
    """With the real driver: on another machine than this one."""
    monkeypatch.setattr(dbstore, "is_this_machine", lambda *_: False)
    monkeypatch.setenv("ZOHO_KEYSTORE_MYSQL_PASSWORD", SECRET)
    with greeting_server(greeting) as port:
        message = refused(f"mysql://ada@127.0.0.1:{port}{parameter}")
    assert problem in message or "TLS failed" in message


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("mysql://ada@db.example.com", "required"),
        ("mysql://ada@db.example.com?ssl=off", "off"),
        ("mysql://ada@127.0.0.1", "as offered"),
        ("postgresql://ada@db.example.com", "required"),
        ("postgresql://ada@db.example.com?ssl=off", "off"),
        ("postgresql://ada@/db", "as offered"),
    ],
)
def test_dbstore_connection_to_another_machine_needs_tls(
    serve: Callable[..., Mock], address: str, expected: str
) -> None:
    connect = serve()
    read(address)
    arguments = connect.call_args.kwargs["connect_args"]
    is_required = "ssl" in arguments or arguments.get("sslmode") == "require"
    is_off = arguments.get("ssl_disabled", False) or arguments.get("sslmode") == "disable"
    assert (is_required, is_off) == (expected == "required", expected == "off")


def test_postgresql_settings_of_libpq_are_kept(serve: Callable[..., Mock], monkeypatch: pytest.MonkeyPatch) -> None:
    """A stricter mode is not weakened; a host in a variable may be another machine."""
    connect = serve()
    monkeypatch.setenv("PGHOST", "db.example.com")
    read("postgresql:///")
    assert connect.call_args.kwargs["connect_args"]["sslmode"] == "require"
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    read("postgresql:///")
    assert "sslmode" not in connect.call_args.kwargs["connect_args"]


def test_mysql_option_file_names_the_authority_of_certificates(serve: Callable[..., Mock], tmp_path: Path) -> None:
    """With one, the certificate of the server is checked; switching TLS off there is not enough."""
    connect = serve()

    def mode() -> object:
        read(f"mysql:///?option_file={options}")
        return connect.call_args.kwargs["connect_args"]["ssl"].verify_mode

    options = tmp_path / "my.cnf"
    options.write_text("[client]\nuser=bob\nhost=db.example.com\nssl_disabled=True\n")
    assert mode() is ssl.CERT_NONE
    options.write_text(f"[client]\nuser=bob\nhost=db.example.com\nssl_capath={tmp_path}\n")
    assert mode() is ssl.CERT_REQUIRED
    options.write_text("[client]\nuser=bob\nhost=db.example.com\nssl-cert=/missing.pem\n")
    assert "the ssl options of the option file cannot be used: no such file" in refused(
        f"mysql:///?option_file={options}"
    )


@pytest.mark.parametrize(
    ("host", "unix_socket", "is_here"),
    [
        (None, None, True),
        ("localhost", None, True),
        ("127.8.8.8", None, True),
        ("::1", None, True),
        ("db.example.com", "/run/socket", True),
        ("db.example.com", None, False),
        ("10.0.0.1", None, False),
    ],
)
def test_dbstore_connection_to_this_machine_needs_no_tls(
    host: str | None, unix_socket: str | None, *, is_here: bool
) -> None:
    assert dbstore.is_this_machine(host, unix_socket) is is_here


@pytest.mark.timeout(10)
@pytest.mark.parametrize("scheme", ["mysql", "postgresql"])
@pytest.mark.parametrize("is_listening", [False, True])
def test_dbstore_unreachable_or_silent_server_is_refused(
    monkeypatch: pytest.MonkeyPatch, scheme: str, *, is_listening: bool
) -> None:
    """With the real drivers."""
    monkeypatch.setattr(dbstore, "CONNECT_TIMEOUT_S", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{scheme}://ada@127.0.0.1:{server.getsockname()[1]}"
        if not is_listening:
            server.close()
        assert "the server cannot be reached" in refused(address)


@pytest.mark.parametrize(
    ("address", "library", "extra"),
    [
        ("mysql://ada@127.0.0.1", "pymysql", "mysql"),
        ("mysql://ada@127.0.0.1", "sqlalchemy", "mysql"),
        ("postgresql://ada@127.0.0.1", "psycopg", "postgresql"),
    ],
)
def test_dbstore_missing_library_is_named(
    monkeypatch: pytest.MonkeyPatch, address: str, library: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    assert f'pip install "zoho_keystore[{extra}]"' in refused(address)

"""The rows of a store in a database: what they hold and hide, and that rows which were tampered with do not open."""

from __future__ import annotations

import hashlib
import hmac
import json
import traceback
from base64 import urlsafe_b64decode
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from sql_support import column, database, open_storage, put

import zoho_keystore
from support import failure_of, made_key, write_private
from zoho_keystore._keys.ring import fingerprint, key_ring
from zoho_keystore._records import FIELDS, Lookup, MatchRule, TokenRecord
from zoho_keystore._records import fingerprint as token_fingerprint
from zoho_keystore._storage.sql.reading import KnownStore, View
from zoho_keystore._storage.sql.sealing import Sealer
from zoho_keystore.errors import (
    CannotOpenError,
    DocumentError,
    KeystoreError,
    KeyUnavailableError,
    NewerVersionError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zoho_keystore._storage.sql.storage import SQLStorage

KEY = made_key("sql rows")
SECRETS = {
    "client_secret": "the-client-secret",
    "refresh_token": "1000.the-refresh-token",
    "access_token": "1000.the-access-token",
    "grant_token": "1000.the-grant-token",
}
ADA = replace(
    TokenRecord(id="1", user_name="ada@example.com", client_id="client-1", api_domain="https://api.example"),
    **dict[str, Any](SECRETS),
)
EVE = replace(ADA, id="2", user_name="eve@example.com", refresh_token="1000.another-refresh-token")
PACKAGE = Path(zoho_keystore.__file__).parent


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[SQLStorage]:
    """Give a storage with two records."""
    storage = open_storage(tmp_path, KEY)
    put(storage, ADA, EVE)
    yield storage
    storage.close()


def sealed_rows(directory: Path) -> list[str]:
    """Return the documents of all rows."""
    return column(directory, "SELECT sealed FROM zoho_keystore_token ORDER BY seq")


@pytest.mark.usefixtures("storage")
def test_row_is_a_keystore_document_with_one_token(tmp_path: Path) -> None:
    """Three lines of ``cryptography`` open it: this is a promise."""
    [store_id] = column(tmp_path, "SELECT store_id FROM zoho_keystore_store")
    document = json.loads(Fernet(KEY).decrypt(sealed_rows(tmp_path)[0]))
    token = {name: getattr(ADA, name) for name in FIELDS if getattr(ADA, name)} | {"created_at": 0, "saved_at": 0}
    assert document == {
        "format": "zoho-keystore",
        "version": 1,
        "store_id": store_id,
        "generation": 1,
        "next_id": 1,
        "seq": 1,
        "tokens": [token],
    }


def test_header_of_the_store_is_a_keystore_document_without_tokens(storage: SQLStorage, tmp_path: Path) -> None:
    """It keeps what a file's header keeps: the leases on exchanges, and what was deleted."""
    storage.transact(lambda transaction: transaction.remove("2"))
    storage.transact(lambda transaction: transaction.set_exchanges({"key": {"x": 1}}))
    [sealed] = column(tmp_path, "SELECT sealed FROM zoho_keystore_store")
    document = json.loads(Fernet(KEY).decrypt(sealed))
    assert (document["tokens"], document["exchanges"], document["next_id"]) == ([], {"key": {"x": 1}}, 3)
    assert document["retired"] == [token_fingerprint("2", str(EVE.refresh_token))]


def test_database_holds_no_value_and_no_hash_of_one_without_the_key(storage: SQLStorage, tmp_path: Path) -> None:
    """Neither in its tables nor in what it writes beside them."""
    storage.transact(lambda transaction: transaction.remove("2"))
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"zoho_keystore_token" in content
    values = [str(getattr(record, field)) for record in (ADA, EVE) for field in FIELDS[1:] if getattr(record, field)]
    for value in [*values, KEY.decode()]:
        assert value.encode() not in content
        for digest in (hashlib.sha256, hashlib.sha1, hashlib.md5):
            hashed = digest(value.encode())
            assert hashed.digest()[:8] not in content
            assert hashed.hexdigest()[:16].encode() not in content


@pytest.mark.usefixtures("storage")
def test_index_is_a_keyed_fingerprint_of_field_and_value(tmp_path: Path) -> None:
    """Of the store too: two stores under one key show no common values."""
    [store_id] = column(tmp_path, "SELECT store_id FROM zoho_keystore_store")
    key = hmac.digest(urlsafe_b64decode(KEY), b"zoho-keystore blind index\0" + store_id.encode(), "sha256")
    expected = hmac.digest(key, b"user_name\0ada@example.com", "sha256")[:8]
    assert column(tmp_path, "SELECT user_name FROM zoho_keystore_token WHERE seq = 1") == [
        int.from_bytes(expected, "big", signed=True)
    ]
    rows = column(tmp_path, "SELECT client FROM (SELECT access_token AS client FROM zoho_keystore_token)")
    assert rows[0] == rows[1]
    assert column(tmp_path, "SELECT COUNT(*) FROM zoho_keystore_token WHERE access_token = grant_token") == [0]


def test_field_without_a_value_has_no_index(storage: SQLStorage, tmp_path: Path) -> None:
    put(storage, TokenRecord(id="3", user_name=""))
    with database(tmp_path) as connection:
        row = connection.execute(
            "SELECT user_name, refresh_token, grant_token, access_token FROM zoho_keystore_token WHERE seq = 3"
        ).fetchone()
    assert row == (None, None, None, None)


# --- Rows that were tampered with ---


def swap(directory: Path) -> None:
    """Give each of the two rows the document of the other."""
    first, second = sealed_rows(directory)
    column(directory, "UPDATE zoho_keystore_token SET sealed = CASE seq WHEN 1 THEN ? ELSE ? END", second, first)


def copy_row(directory: Path) -> None:
    """Put the first row in a second time, as the record of another place."""
    column(
        directory,
        "INSERT INTO zoho_keystore_token SELECT 9, version, key_name, id, user_name, refresh_token, grant_token, "
        "access_token, sealed FROM zoho_keystore_token WHERE seq = 1",
    )


def from_another_store(directory: Path) -> None:
    """Put a row of another store under the same key into the place of the first row."""
    (directory / "other").mkdir(mode=0o700)
    other = open_storage(directory / "other", KEY)
    put(other, ADA)
    other.close()
    replace_document(directory, sealed_rows(directory / "other")[0])


def replace_document(directory: Path, sealed: object) -> None:
    """Put another document into the first row."""
    column(directory, "UPDATE zoho_keystore_token SET sealed = ? WHERE seq = 1", sealed)


def edit_document(directory: Path, key: bytes = KEY, **changes: object) -> None:
    """Put another document, sealed with a key, into the first row: who has the key could do that."""
    document = json.loads(Fernet(KEY).decrypt(sealed_rows(directory)[0]))
    replace_document(directory, Fernet(key).encrypt(json.dumps(document | changes).encode()).decode())


HOSTILE: dict[str, tuple[Callable[[Path], object], type[KeystoreError], str]] = {
    "swapped": (swap, DocumentError, "belongs into another row"),
    "copied": (copy_row, DocumentError, "seq 9 is damaged, or was edited"),
    "version edited": (
        lambda directory: column(directory, "UPDATE zoho_keystore_token SET version = 7 WHERE seq = 1"),
        DocumentError,
        "another version of it",
    ),
    "of another store": (from_another_store, DocumentError, "belongs into another row"),
    "newer format": (lambda directory: edit_document(directory, version=2), NewerVersionError, "upgrade zoho_keystore"),
    "two tokens": (
        lambda directory: edit_document(directory, tokens=[{"id": "1"}, {"id": "2"}]),
        DocumentError,
        "belongs into another row",
    ),
    "no token": (lambda directory: edit_document(directory, tokens=[]), DocumentError, "belongs into another row"),
    "no document": (lambda directory: edit_document(directory, format="x"), DocumentError, "not a zoho-keystore doc"),
    "another key": (lambda directory: edit_document(directory, made_key("x")), CannotOpenError, "the key is wrong"),
    "garbage": (lambda directory: replace_document(directory, "garbage"), CannotOpenError, "seq 1 does not open"),
    "empty": (lambda directory: replace_document(directory, ""), CannotOpenError, "seq 1 does not open"),
    "bytes": (lambda directory: replace_document(directory, b"\xff\0"), CannotOpenError, "seq 1 does not open"),
    "cut off": (
        lambda directory: replace_document(directory, sealed_rows(directory)[0][:-1]),
        CannotOpenError,
        "seq 1 does not open",
    ),
}


@pytest.mark.parametrize(("tamper", "kind", "text"), HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("is_in_memory", [True, False])
def test_row_that_was_tampered_with_does_not_open(
    storage: SQLStorage,
    tmp_path: Path,
    tamper: Callable[[Path], object],
    kind: type[KeystoreError],
    text: str,
    *,
    is_in_memory: bool,
) -> None:
    """Whether it was opened before or not; and no text shows a secret."""
    used = storage if is_in_memory else open_storage(tmp_path, KEY)
    tamper(tmp_path)
    calls: list[Callable[[], object]] = [
        used.records,
        lambda: used.find([Lookup(MatchRule.USER, "user_name", "ada@example.com")]),
        lambda: used.transact(lambda transaction: transaction.records()),
    ]
    for call in calls:
        error, shown = failure_of(call, kind)
        assert text in str(error)
        assert str(error).startswith(used.name)
        assert error.advice
        assert not any(secret in shown for secret in (*SECRETS.values(), KEY.decode()))
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if PACKAGE in Path(frame.f_code.co_filename).parents:
                assert not any(secret in repr(frame.f_locals) for secret in SECRETS.values())
    used.close()


@pytest.mark.parametrize("field", ["id", "user_name", "refresh_token", "grant_token", "access_token"])
def test_index_that_was_moved_finds_nothing(storage: SQLStorage, tmp_path: Path, field: str) -> None:
    """The field is compared after the row is opened; the other rows are found."""
    column(
        tmp_path,
        f"UPDATE zoho_keystore_token SET {field} = (SELECT {field} FROM zoho_keystore_token WHERE seq = 1), "  # noqa: S608 - a column
        "id = 0 WHERE seq = 2"
        if field != "id"
        else "UPDATE zoho_keystore_token SET id = (SELECT id FROM zoho_keystore_token WHERE seq = 1) WHERE seq = 2",
    )
    match = storage.find([Lookup(MatchRule.USER, field, str(getattr(ADA, field)))])
    assert match is not None
    assert all(getattr(record, field) == getattr(ADA, field) for record in match.records)
    if field == "id":
        assert storage.get("2") is None


def test_row_that_was_removed_or_put_back_is_not_noticed(storage: SQLStorage, tmp_path: Path) -> None:
    """SECURITY.md says so: an old row is as good as it was."""
    [old, _] = sealed_rows(tmp_path)
    put(storage, replace(ADA, access_token="newer"))
    column(tmp_path, "UPDATE zoho_keystore_token SET sealed = ?, version = 1 WHERE seq = 1", old)
    assert storage.get("1") == ADA
    column(tmp_path, "DELETE FROM zoho_keystore_token WHERE seq = 1")
    assert storage.get("1") is None


def test_two_rows_of_one_id_give_the_first(storage: SQLStorage, tmp_path: Path) -> None:
    """They cannot come to be; but a database may have any rows."""
    document = json.loads(Fernet(KEY).decrypt(sealed_rows(tmp_path)[0])) | {"seq": 2}
    column(
        tmp_path,
        "UPDATE zoho_keystore_token SET sealed = ?, id = (SELECT id FROM zoho_keystore_token WHERE seq = 1) "
        "WHERE seq = 2",
        Fernet(KEY).encrypt(json.dumps(document).encode()).decode(),
    )
    assert storage.get("1") == ADA
    assert storage.transact(lambda transaction: transaction.get("1")) == ADA


def test_counter_of_ids_that_was_set_back_gives_no_id_of_another_record(storage: SQLStorage, tmp_path: Path) -> None:
    """A program that asks for the new id would get the token of the other record."""
    column(tmp_path, "UPDATE zoho_keystore_store SET next_id = 1")
    taken = [record.id for record in storage.records()]
    assert storage.transact(lambda transaction: transaction.new_id()) not in taken


@pytest.mark.parametrize("counter", ["next_id", "next_seq"])
def test_counter_that_is_no_number_is_damage(storage: SQLStorage, tmp_path: Path, counter: str) -> None:
    """SQLite keeps any text in a column of numbers."""
    column(tmp_path, f"UPDATE zoho_keystore_store SET {counter} = 'x'")  # noqa: S608 - a name from above
    for use in (storage.exchanges, lambda: open_storage(tmp_path, KEY)):
        with pytest.raises(DocumentError, match="the store's own row is damaged, or was edited"):
            use()


HEADERS: dict[str, tuple[str, type[KeystoreError], str]] = {
    "garbage": ("garbage", CannotOpenError, "the store's own row does not open"),
    "a token's row": ("row", DocumentError, "belongs to another store or row"),
    "of another store": ("other", DocumentError, "belongs to another store or row"),
}


@pytest.mark.parametrize(("sealed", "kind", "text"), HEADERS.values(), ids=HEADERS)
def test_header_that_was_tampered_with_does_not_open(
    storage: SQLStorage, tmp_path: Path, sealed: str, kind: type[KeystoreError], text: str
) -> None:
    """A wrong key and a wrong store show when the store is opened."""
    if sealed == "row":
        sealed = sealed_rows(tmp_path)[0]
    elif sealed == "other":
        (tmp_path / "other").mkdir(mode=0o700)
        open_storage(tmp_path / "other", KEY).close()
        [sealed] = column(tmp_path / "other", "SELECT sealed FROM zoho_keystore_store")
    column(tmp_path, "UPDATE zoho_keystore_store SET sealed = ?", sealed)
    for use in (storage.exchanges, lambda: open_storage(tmp_path, KEY)):
        with pytest.raises(kind, match=text):
            use()


def test_tables_of_a_newer_release_are_left(storage: SQLStorage, tmp_path: Path) -> None:
    column(tmp_path, "UPDATE zoho_keystore_store SET format = 2")
    for use in (storage.records, lambda: storage.get("1"), lambda: open_storage(tmp_path, KEY)):
        with pytest.raises(NewerVersionError, match=r"the tables have version 2, and this release knows version 1"):
            use()


# --- Keys ---


def ring(path: Path, *keys: bytes) -> str:
    """Write a key ring, and return its spec."""
    return f"file:{write_private(path, *keys)}"


NEW = made_key("sql rows, new")


@pytest.mark.parametrize("use", ["get", "find", "records", "transact", "exchanges"])
def test_key_that_another_process_has_brought_is_loaded(tmp_path: Path, use: str) -> None:
    """The source is asked when a live key is not known."""
    spec = ring(tmp_path / "ring", KEY)
    storage, other = open_storage(tmp_path, spec), open_storage(tmp_path, spec)
    put(storage, ADA)
    assert other.get("1") == ADA
    ring(tmp_path / "ring", NEW, KEY)
    storage.reencrypt(key_ring(spec))
    uses: dict[str, Callable[[], object]] = {
        "get": lambda: other.get("1") == ADA,
        "find": lambda: other.find([Lookup(MatchRule.ID, "id", "1")]),
        "records": other.records,
        "transact": lambda: other.transact(lambda transaction: transaction.new_id()),
        "exchanges": lambda: other.exchanges() == {},
    }
    assert uses[use]()
    put(other, EVE)
    assert [record.id for record in storage.records()] == ["1", "2"]
    storage.close()
    other.close()


def test_live_key_that_is_missing_is_named(tmp_path: Path) -> None:
    """Its rows must not look as if they were absent."""
    spec = ring(tmp_path / "ring", KEY)
    storage, other = open_storage(tmp_path, spec), open_storage(tmp_path, KEY)
    put(storage, ADA)
    ring(tmp_path / "ring", NEW, KEY)
    storage.reencrypt(key_ring(spec))
    for use in (lambda: other.get("1"), lambda: put(other, EVE), other.exchanges):
        with pytest.raises(CannotOpenError, match=f"sealed with the key {fingerprint(NEW)}, which is not among"):
            use()
    storage.close()
    other.close()


def test_source_of_keys_that_fails_is_told(tmp_path: Path) -> None:
    spec = ring(tmp_path / "ring", KEY)
    storage, other = open_storage(tmp_path, spec), open_storage(tmp_path, spec)
    ring(tmp_path / "ring", NEW, KEY)
    storage.reencrypt(key_ring(spec))
    (tmp_path / "ring").unlink()
    with pytest.raises(CannotOpenError, match="loading the keys again failed"):
        other.get("1")
    storage.close()
    other.close()


def test_keys_that_change_with_each_statement_are_an_error(
    storage: SQLStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not an endless loop."""
    see, number = KnownStore.see, count()

    def other(self: KnownStore, *columns: Any) -> View:
        sealer = Sealer(self.keys, f"store {next(number)}", self.name)
        return see(self, *columns)._replace(sealer=sealer)

    monkeypatch.setattr(KnownStore, "see", other)
    with pytest.raises(CannotOpenError, match="the keys of the store change with each statement"):
        storage.get("1")


def test_key_that_left_the_ring_too_early_is_named_and_shows_nothing(storage: SQLStorage) -> None:
    """Another thread has loaded a ring without it."""
    known = storage.require_open()
    known.keys._keys = key_ring(NEW)._keys
    sealer = Sealer(known.keys, known.view.sealer.store_id, storage.name)
    known._view = known.view._replace(sealer=sealer)
    known._header = None
    for use in (lambda: storage.get("1"), lambda: sealer.seal(ADA, 1, 1, fingerprint(KEY))):
        error, shown = failure_of(use, KeyUnavailableError)
        assert fingerprint(KEY) in str(error)
        assert not any(secret in shown for secret in SECRETS.values())
        for frame, _ in traceback.walk_tb(error.__traceback__):
            assert PACKAGE not in Path(frame.f_code.co_filename).parents or not any(
                secret in repr(frame.f_locals) for secret in SECRETS.values()
            )


def test_reprs_show_no_secret(storage: SQLStorage) -> None:
    """Also those of what is inside."""
    known = storage.require_open()
    sealer: Any = known.view.sealer
    rows = list(known._opened.values())
    held = [storage, known, sealer, sealer._index_keys, sealer._index_keys._known, *known.keys._keys, *rows]
    for one in held:
        shown = repr(one) + repr(getattr(one, "__dict__", ""))
        assert not any(secret in shown for secret in (*SECRETS.values(), KEY.decode()))
        assert repr(urlsafe_b64decode(KEY)) not in shown

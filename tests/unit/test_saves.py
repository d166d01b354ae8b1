"""Which save wins, and which token an import takes for a stored one: `docs/saves.md` says so in words."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet

from support import failing, held, write_private
from zoho_keystore import rotate
from zoho_keystore._leases import Lease, RefreshCoordinator
from zoho_keystore._open import open_keystore, open_memory_keystore
from zoho_keystore._records import TokenRecord, fingerprint
from zoho_keystore._saving import ImportResult
from zoho_keystore._storage.file import FileStorage
from zoho_keystore._storage.memory import MemoryStorage
from zoho_keystore.errors import CannotOpenError, DocumentError, LockTimeoutError, StoreFileError, TokenNotFoundError

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoho_keystore._keystore import Keystore

NOW_MS = 1_800_000_000_000
ADA = TokenRecord(
    user_name="ada",
    client_id="c",
    client_secret="s",
    refresh_token="r1",
    access_token="a1",
    grant_token="g1",
    expires_in=str(NOW_MS),
)


def token(number: int, **changes: Any) -> TokenRecord:
    """Return a token of another sign-in of the same user and client."""
    fields = {"refresh_token": f"r{number}", "grant_token": f"g{number}", "access_token": f"a{number}", **changes}
    return replace(ADA, **fields)


def later(milliseconds: int) -> str:
    return str(NOW_MS + milliseconds)


@pytest.fixture(params=["file", "memory"])
def keystore(request: pytest.FixtureRequest, store_path: Path, key: bytes) -> Keystore:
    return open_keystore(store_path, key=key) if request.param == "file" else open_memory_keystore()


def stored(keystore: Keystore) -> list[tuple[str, str | None, str | None]]:
    return [(record.id, record.refresh_token, record.access_token) for record in keystore.records()]


class TestOlderPair:
    """Two processes refresh the same token; the slower one saves last."""

    @pytest.fixture(autouse=True)
    def _stored(self, keystore: Keystore) -> None:
        keystore.save(replace(ADA, access_token="newer", expires_in=later(1000)))

    @pytest.mark.parametrize("id", ["", "1"])
    def test_save_of_older_pair_keeps_the_newer_one(self, keystore: Keystore, id: str) -> None:
        record = keystore.save(replace(ADA, id=id, access_token="older", expires_in=later(999)))
        assert (record.access_token, record.expires_in) == ("newer", later(1000))
        assert keystore.records() == [record]

    def test_save_of_older_pair_keeps_what_else_the_token_brings(self, keystore: Keystore) -> None:
        given = replace(ADA, id="1", access_token="older", expires_in=later(999), api_domain="https://api")
        assert keystore.save(given).api_domain == "https://api"

    def test_save_of_access_token_that_cannot_be_refreshed_replaces_any(self, keystore: Keystore) -> None:
        """A program got it elsewhere; no slower process refreshes."""
        stored = keystore.save(TokenRecord(access_token="a, 1", expires_in=later(10)))
        given = replace(stored, access_token="a, 0", expires_in=later(9))
        assert keystore.save(given).access_token == "a, 0"

    def test_save_of_older_pair_without_refresh_token_keeps_the_newer_one(self, keystore: Keystore) -> None:
        given = replace(ADA, id="1", refresh_token=None, access_token="older", expires_in=later(999))
        assert keystore.save(given).access_token == "newer"

    @pytest.mark.parametrize("expires_in", [later(1000), later(1001), None])
    def test_save_of_pair_that_is_not_older_replaces_it(self, keystore: Keystore, expires_in: str | None) -> None:
        record = keystore.save(replace(ADA, id="1", access_token="other", expires_in=expires_in))
        assert (record.access_token, record.expires_in) == ("other", expires_in)

    def test_save_of_stored_access_token_changes_its_expiry(self, keystore: Keystore) -> None:
        """How a refresh is forced."""
        record = keystore.save(replace(ADA, id="1", access_token="newer", expires_in=later(-1)))
        assert record.expires_in == later(-1)

    def test_save_of_another_refresh_token_replaces_the_pair(self, keystore: Keystore) -> None:
        """A new sign-in: its access token may expire earlier."""
        record = keystore.save(token(2, id="1", expires_in=later(1)))
        assert (record.refresh_token, record.access_token, record.expires_in) == ("r2", "a2", later(1))


class TestReplacedRefreshToken:
    """A process holds the token of the sign-in before."""

    @pytest.fixture(autouse=True)
    def _signed_in_again(self, keystore: Keystore) -> None:
        keystore.save(ADA)
        keystore.save(token(2, client_id="c2", client_secret="s2", id="1"))

    def test_save_by_id_of_old_refresh_token_changes_nothing(
        self, keystore: Keystore, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Neither the tokens nor the client that they belong to."""
        before = list(keystore.records())
        filled: list[TokenRecord] = []
        given = replace(ADA, id="1", access_token="refreshed", expires_in=later(9_999_999))
        assert keystore.save(given, on_saved=filled.append) == before[0]
        assert keystore.records() == before
        assert filled == before
        assert "token '1' was signed in again; its new refresh token stays" in caplog.text

    def test_save_without_id_of_old_refresh_token_signs_in_with_it(self, keystore: Keystore) -> None:
        """A program that names that refresh token, and not the record, asks for it."""
        record = keystore.save(replace(ADA, client_id="c2"))
        assert (record.id, record.refresh_token) == ("1", "r1")
        # Now the other one is the old one.
        assert keystore.save(token(2, id="1")).refresh_token == "r1"

    def test_save_by_id_of_unknown_refresh_token_signs_in_with_it(self, keystore: Keystore) -> None:
        assert keystore.save(token(3, id="1")).refresh_token == "r3"

    def test_warning_of_save_is_logged_outside_of_the_lock(self, keystore: Keystore) -> None:
        """A handler of the log may save to this store, or switch to another greenlet."""
        saved: list[TokenRecord] = []

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                if "signed in again" in record.getMessage():
                    saved.append(keystore.save(token(7, user_name="bob")))

        handler = Handler()
        logging.getLogger("zoho_keystore").addHandler(handler)
        try:
            keystore.save(replace(ADA, id="1"))
        finally:
            logging.getLogger("zoho_keystore").removeHandler(handler)
        assert [record.refresh_token for record in saved] == ["r7"]


class TestDeletedToken:
    """A process refreshes a token while it is deleted."""

    @pytest.fixture(autouse=True)
    def _deleted(self, keystore: Keystore) -> None:
        keystore.save(ADA)
        keystore.delete("1")

    def test_save_by_id_is_refused(self, keystore: Keystore) -> None:
        with pytest.raises(TokenNotFoundError, match=r"'1' was deleted; nothing was saved.*without an id"):
            keystore.save(replace(ADA, id="1", access_token="refreshed"))
        assert stored(keystore) == []

    def test_save_by_a_process_that_was_started_since_adds_it_again(self, store_path: Path, key: bytes) -> None:
        """Its token comes from the program: the user has deleted the record, and signs in anew."""
        running = open_keystore(store_path, key=key)
        id = running.save(ADA).id
        running.delete(id)
        started_since = open_keystore(store_path, key=key)
        assert started_since.get_for_use(id) is None
        with pytest.raises(TokenNotFoundError, match="was deleted"):
            running.save(replace(ADA, id=id))
        assert started_since.save(replace(ADA, id=id)).id == id

    def test_save_by_another_id_renames_the_record(self, keystore: Keystore) -> None:
        """The deleted id stays deleted."""
        assert keystore.save(replace(ADA, id="mine")).id == "mine"
        assert keystore.save(replace(ADA, id="mine", access_token="a2", expires_in=later(1))).access_token == "a2"
        with pytest.raises(TokenNotFoundError, match="'1' was deleted"):
            keystore.save(replace(ADA, id="1"))
        assert [record.id for record in keystore.records()] == ["mine"]

    def test_save_by_id_does_not_depend_on_another_record_of_the_token(self, keystore: Keystore) -> None:
        keystore.save(token(2, id="old"))
        keystore.save(token(2, id="mine"))
        keystore.delete("old")
        keystore.save(token(3, id="mine"))
        assert keystore.save(token(2, id="other")).id == "other"
        assert keystore.save(token(2, id="mine")).refresh_token == "r3"

    def test_save_by_id_after_clear_is_refused(self, keystore: Keystore) -> None:
        keystore.save(token(2))
        keystore.clear()
        with pytest.raises(TokenNotFoundError, match="was deleted"):
            keystore.save(token(2, id="2"))

    def test_save_without_id_adds_it_again(self, keystore: Keystore) -> None:
        """Under a new id, and from then on it is saved by id like any other."""
        assert keystore.save(ADA).id == "2"
        assert keystore.save(replace(ADA, id="2", access_token="a2", expires_in=later(1))).access_token == "a2"

    def test_save_by_new_id_after_it_was_added_again_is_allowed(self, keystore: Keystore) -> None:
        """It is no deleted token any more."""
        keystore.save(ADA)
        assert keystore.save(replace(ADA, id="mine")).id == "mine"

    def test_import_adds_it_again(self, keystore: Keystore) -> None:
        [imported] = keystore.import_records([replace(ADA, id="1")])
        assert (imported.result, imported.record.id) == (ImportResult.ADDED, "2")
        keystore.save(replace(ADA, id="2"))

    def test_sign_in_anew_by_id_adds_it_again(self, keystore: Keystore) -> None:
        """Zoho gives another refresh token for another grant."""
        assert keystore.save(token(2, id="1")).id == "1"

    def test_only_fingerprints_of_a_thousand_tokens_are_kept(self, store_path: Path, key: bytes) -> None:
        keystore = open_keystore(store_path, key=key)
        storage = FileStorage(store_path, keystore._storage._keys, lock_timeout=1)  # type: ignore[attr-defined] # a file storage
        with storage.transaction() as transaction:
            for number in range(1500):
                transaction.put(replace(ADA, id="x", refresh_token=f"refresh-{number}"))
        with storage.transaction() as transaction:
            assert not transaction.is_retired(replace(ADA, id="x", refresh_token="refresh-498"))
            assert transaction.is_retired(replace(ADA, id="x", refresh_token="refresh-499"))
            assert not transaction.is_retired(replace(ADA, id="x", refresh_token="refresh-1499"))
        content = Fernet(key).decrypt(store_path.read_bytes())
        assert b"refresh-1498" not in content
        assert fingerprint("x", "refresh-1498").encode() in content


def test_deletion_by_another_process_is_known_to_one_that_holds_the_token(store_path: Path, key: bytes) -> None:
    holder = open_keystore(store_path, key=key)
    holder.save(ADA)
    open_keystore(store_path, key=key).delete("1")
    with pytest.raises(TokenNotFoundError, match="was deleted"):
        holder.save(replace(ADA, id="1"))


class TestUnknownId:
    """A look-up by an id that no record has."""

    def test_find_for_use_of_unknown_id_alone_raises(self, keystore: Keystore) -> None:
        with pytest.raises(TokenNotFoundError) as caught:
            keystore.find_for_use(TokenRecord(id="1", client_id="c", client_secret="s"))
        place = "this store" if keystore.path else "the store in memory"
        assert caught.value.problem == f"there is no token '1' in {place}, which has 0 tokens"
        assert caught.value.path == keystore.path

    @pytest.mark.parametrize("known", [{"user_name": "ada"}, {"refresh_token": "r1"}, {"grant_token": "g1"}])
    def test_find_for_use_of_unknown_id_goes_by_the_other_rules(
        self, keystore: Keystore, known: dict[str, Any]
    ) -> None:
        keystore.save(replace(ADA, expires_in=None))
        found = keystore.find_for_use(replace(TokenRecord(id="9", client_id="c", client_secret="s"), **known))
        assert found is not None
        assert (found.id, found.access_token) == ("9", "a1")

    def test_get_for_use_of_unknown_id_is_logged(self, keystore: Keystore, caplog: pytest.LogCaptureFixture) -> None:
        keystore.save(ADA)
        assert keystore.get_for_use("7") is None
        assert "there is no token '7' in" in caplog.text
        assert "which has 1 token." in caplog.text


class TestImport:
    """Which record is of the same sign-in."""

    def results(self, keystore: Keystore, *given: TokenRecord) -> list[ImportResult]:
        return [imported.result for imported in keystore.import_records(given)]

    @pytest.mark.parametrize("expiries", [(later(1), later(2)), (later(2), later(1)), (later(1), None)])
    def test_import_of_two_sign_ins_of_one_user_keeps_both(
        self, keystore: Keystore, expiries: tuple[str | None, str | None]
    ) -> None:
        """With other scopes, for example."""
        rows = [token(number, id=str(number), expires_in=expiries[number - 1]) for number in (1, 2)]
        for expected in (ImportResult.ADDED, ImportResult.UNCHANGED):
            assert self.results(keystore, *rows) == [expected] * 2
            assert stored(keystore) == [("1", "r1", "a1"), ("2", "r2", "a2")]

    @pytest.mark.parametrize("name", ["refresh_token", "grant_token", "access_token"])
    def test_import_of_part_of_a_sign_in_completes_it(self, keystore: Keystore, name: str) -> None:
        part = TokenRecord(id="5", client_id="c", redirect_url="https://callback", **{name: getattr(ADA, name)})
        keystore.save(ADA)
        assert self.results(keystore, part, part) == [ImportResult.UPDATED, ImportResult.UNCHANGED]
        [record] = keystore.records()
        times: Any = dict.fromkeys(("created_at", "saved_at", "signed_in_at", "issued_at"), 0)
        assert replace(record, **times) == replace(ADA, id="1", redirect_url="https://callback")

    def test_import_of_a_refresh_token_completes_the_record_of_its_grant(self, keystore: Keystore) -> None:
        keystore.save(replace(ADA, refresh_token=None))
        assert self.results(keystore, ADA) == [ImportResult.UPDATED]
        assert stored(keystore) == [("1", "r1", "a1")]

    def test_import_does_not_join_sign_ins_over_a_third_record(self, keystore: Keystore) -> None:
        """The record without a refresh token gets one; the other refresh token stays by itself."""
        rows = [replace(ADA, refresh_token=refresh_token, access_token=None) for refresh_token in (None, "r1", "r2")]
        assert self.results(keystore, *rows) == [ImportResult.ADDED, ImportResult.UPDATED, ImportResult.ADDED]
        assert {refresh_token for _, refresh_token, _ in stored(keystore)} == {"r1", "r2"}

    def test_import_sees_what_it_has_updated(self, keystore: Keystore) -> None:
        """The third row must not put back the state of the first."""
        rows = [replace(ADA, access_token=f"a{n}", expires_in=later(n)) for n in (1, 3, 2)]
        assert self.results(keystore, *rows) == [ImportResult.ADDED, ImportResult.UPDATED, ImportResult.UNCHANGED]
        assert stored(keystore) == [("1", "r1", "a3")]

    def test_import_tells_sign_ins_with_one_access_token_apart(self, keystore: Keystore) -> None:
        rows = [replace(ADA, refresh_token=f"r{n}", grant_token=None) for n in (1, 2)]
        more = replace(rows[0], redirect_url="https://callback")
        assert self.results(keystore, *rows, more) == [ImportResult.ADDED, ImportResult.ADDED, ImportResult.UPDATED]
        assert [record.redirect_url for record in keystore.records()] == ["https://callback", None]

    def test_import_of_same_tokens_of_another_client_is_another_sign_in(self, keystore: Keystore) -> None:
        keystore.save(ADA)
        assert self.results(keystore, replace(ADA, client_id="c2")) == [ImportResult.ADDED]

    def test_token_asks_for_the_record_that_a_program_has_saved(self, keystore: Keystore) -> None:
        """And not for one that was imported from an old file."""
        keystore.save(ADA)
        keystore.import_records([token(2)])
        found = keystore.find(TokenRecord(user_name="ada", client_id="c"))
        assert found is not None
        assert found.refresh_token == "r1"

    def test_import_uses_no_id_of_a_deleted_record(self, keystore: Keystore) -> None:
        for number in (1, 2):
            keystore.save(token(number, user_name=f"user {number}"))
        keystore.delete("2")
        [imported] = keystore.import_records([token(3, id="2")])
        assert imported.record.id == "3"

    def test_import_keeps_free_ids_and_counts_on_from_them(self, keystore: Keystore) -> None:
        rows = [token(1, id="7"), token(2, id="production"), token(3, id="7"), token(4)]
        assert [imported.record.id for imported in keystore.import_records(rows)] == ["7", "production", "8", "9"]

    def test_import_keeps_the_age_of_a_record_of_a_keystore(self, keystore: Keystore) -> None:
        keystore.import_records([replace(ADA, created_at=5, saved_at=6, refresh={"failed_at": 1})])
        [record] = keystore.records()
        assert (record.created_at, record.saved_at, record.refresh) == (5, 6, None)

    @pytest.mark.parametrize("shared", [{}, {"grant_token": "g"}, {"refresh_token": None}])
    def test_import_of_10_000_records_of_one_user_is_not_quadratic(self, shared: dict[str, Any]) -> None:
        """A quadratic one took 123 s for twice as many."""
        keystore = open_memory_keystore()
        keystore.save(token(0))
        keystore.find(TokenRecord(user_name="ada"))  # Indexes are kept up to date from now on.
        rows = [token(number, **shared) for number in range(1, 10_001)]
        started_s = time.process_time()
        keystore.import_records(rows)
        assert time.process_time() - started_s < 10
        assert len(keystore.records()) == 10_001


class TestKeySource:
    """A program that prints keys, and may take half a minute."""

    @pytest.fixture
    def command(self, tmp_path: Path, store_path: Path) -> str:
        """Give a key source that writes down whether the store's lock is free while it is asked."""
        program = tmp_path / "keys.py"
        program.write_text(
            f"import fcntl, os, sys\n"
            f"fd = os.open({str(store_path.with_name('.tokens.keystore.lock'))!r}, os.O_RDWR | os.O_CREAT, 0o600)\n"
            f"log = open({str(tmp_path / 'asked')!r}, 'a')\n"
            f"try:\n"
            f"    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
            f"    log.write('free ')\n"
            f"except OSError:\n"
            f"    log.write('held ')\n"
            f"print(open({str(tmp_path / 'keys')!r}).read())\n"
        )
        return f"command:{sys.executable} {program}"

    @pytest.fixture
    def asked(self, tmp_path: Path) -> Callable[[], list[str]]:
        return lambda: (tmp_path / "asked").read_text().split()

    @pytest.mark.needs_posix_shell
    def test_source_is_asked_without_the_lock_after_a_rotation(
        self, command: str, asked: Callable[[], list[str]], tmp_path: Path, store_path: Path, key: bytes
    ) -> None:
        new = Fernet.generate_key()
        keys = write_private(tmp_path / "keys", key)
        keystore = open_keystore(store_path, key=command)
        keys.write_bytes(new + b"\n" + key)
        ring = write_private(tmp_path / "ring", new, key)
        open_keystore(store_path, key=f"file:{ring}").save(ADA)
        keystore.save(token(2, user_name="bob"))
        assert len(keystore.records()) == 2
        assert asked() == ["free"] * 2

    @pytest.mark.needs_posix_shell
    def test_source_is_asked_without_the_lock_when_it_lacks_the_key(
        self, command: str, asked: Callable[[], list[str]], tmp_path: Path, store_path: Path, key: bytes
    ) -> None:
        write_private(tmp_path / "keys", key)
        keystore = open_keystore(store_path, key=command)
        store_path.write_bytes(Fernet(Fernet.generate_key()).encrypt(b"{}"))
        with pytest.raises(CannotOpenError):
            keystore.save(ADA)
        assert set(asked()) == {"free"}

    @pytest.mark.needs_posix_shell
    def test_source_is_asked_without_the_lock_by_a_rotation(
        self, command: str, asked: Callable[[], list[str]], tmp_path: Path, store_path: Path, key: bytes
    ) -> None:
        write_private(tmp_path / "keys", key)
        open_keystore(store_path, key=command).save(ADA)
        write_private(tmp_path / "keys", Fernet.generate_key(), key)
        rotate(store_path, key=command)
        assert set(asked()) == {"free"}
        assert len(open_keystore(store_path, key=command).records()) == 1

    @pytest.mark.needs_posix_shell
    def test_source_is_asked_without_the_lock_when_a_rotation_cannot_open_the_store(
        self, command: str, asked: Callable[[], list[str]], tmp_path: Path, store_path: Path, key: bytes
    ) -> None:
        """Because of another rotation, right before this one has the lock."""
        write_private(tmp_path / "keys", key)
        keystore = open_keystore(store_path, key=command)
        store_path.write_bytes(Fernet(Fernet.generate_key()).encrypt(b"{}"))
        with pytest.raises(CannotOpenError):
            keystore._storage.reencrypt(pytest.fail)  # type: ignore[attr-defined] # as above
        assert set(asked()) == {"free"}

    def test_keys_that_change_at_each_attempt_end_in_an_error(
        self, store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Three attempts, none of them under the lock, and no endless loop."""
        keystore = open_keystore(store_path, key=key)
        attempts: list[int] = []

        def fails(*, reload_keys: bool = True) -> object:
            attempts.append(reload_keys)
            if not reload_keys:
                raise CannotOpenError("rotated again")
            return None

        monkeypatch.setattr(keystore._storage, "_reload", fails)
        monkeypatch.setattr(keystore._storage, "_state", None)
        with pytest.raises(CannotOpenError, match="rotated again"):
            keystore.save(ADA)
        assert attempts == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("field", "value"), [("exchanges", []), ("exchanges", {"key": 1}), ("retired", {}), ("retired", [1])]
)
def test_open_of_malformed_header_is_refused(store_path: Path, key: bytes, field: str, value: object) -> None:
    open_keystore(store_path, key=key)
    payload = json.loads(Fernet(key).decrypt(store_path.read_bytes()))
    store_path.write_bytes(Fernet(key).encrypt(json.dumps({**payload, field: value}).encode()))
    with pytest.raises(DocumentError, match=f"its {field}"):
        open_keystore(store_path, key=key)


def test_save_without_memory_for_the_newest_state_is_refused(
    store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise MemoryError

    keystore = open_keystore(store_path, key=key)
    monkeypatch.setattr(keystore._storage, "_newest", fails)
    with pytest.raises(StoreFileError, match="nothing was saved: not enough memory"):
        keystore.save(ADA)


def test_another_store_that_takes_the_place_is_logged(
    store_path: Path, key: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    keystore = open_keystore(store_path, key=key)
    other = open_keystore(store_path.with_name("other"), key=key)
    other.save(ADA)
    caplog.clear()
    os.replace(store_path.with_name("other"), store_path)
    for _ in range(3):
        assert len(keystore.records()) == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"{store_path}: another store's file was put here; its tokens are used from now on"
    ]


class TestLeftovers:
    """What a killed writer leaves in the directory."""

    def leave(self, store_path: Path) -> Path:
        leftover = store_path.with_name(f".{store_path.name}.{os.urandom(8).hex()}.tmp")
        return write_private(leftover, b"half")

    def test_first_save_of_a_process_removes_leftovers(self, store_path: Path, key: bytes) -> None:
        open_keystore(store_path, key=key)
        leftover = self.leave(store_path)
        open_keystore(store_path, key=key).save(ADA)
        assert not leftover.exists()

    def test_directory_is_listed_once_a_minute(
        self, store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keystore = open_keystore(store_path, key=key)
        keystore.save(ADA)
        leftover = self.leave(store_path)
        keystore.save(ADA)
        assert leftover.exists()
        monotonic = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: monotonic() + 61)
        keystore.save(ADA)
        assert not leftover.exists()

    @pytest.mark.needs_modes
    def test_leftover_of_a_killed_writer_is_removed(self, store_path: Path, key: bytes) -> None:
        """With a writer that is really killed, in the middle of its write."""
        code = (
            "import os, signal, sys\n"
            "from zoho_keystore import open_keystore\n"
            "from zoho_keystore._records import TokenRecord\n"
            "keystore = open_keystore(sys.argv[1], key=sys.argv[2].encode())\n"
            "os.fsync = lambda _fd: os.kill(os.getpid(), signal.SIGKILL)\n"
            "keystore.save(TokenRecord(access_token='a'))"
        )
        open_keystore(store_path, key=key)
        subprocess.run([sys.executable, "-c", code, str(store_path), key.decode()], check=False)
        assert len(list(store_path.parent.glob(".*.tmp"))) == 1
        open_keystore(store_path, key=key).save(ADA)
        assert list(store_path.parent.glob(".*.tmp")) == []


class TestExchanges:
    """The leases on first exchanges, which stand in the store's header."""

    def exchange(self, storage: MemoryStorage, key: str, now_ms: int = NOW_MS) -> None:
        coordinator = RefreshCoordinator(storage, 10, now_ms=lambda: now_ms, sleep=pytest.fail)  # type: ignore[arg-type] # it takes a text
        coordinator.acquire_exchange(key, lambda _storage: None)

    def test_exchanges_that_fail_are_forgotten(self) -> None:
        storage = MemoryStorage()
        self.exchange(storage, "old")
        self.exchange(storage, "new", NOW_MS + 65_001)
        assert list(storage.exchanges()) == ["new"]

    def test_exchanges_from_a_clock_that_was_wrong_are_forgotten(self) -> None:
        storage = MemoryStorage()
        self.exchange(storage, "future", NOW_MS + 10_000_000)
        self.exchange(storage, "new")
        assert list(storage.exchanges()) == ["new"]

    def test_exchanges_are_limited(self) -> None:
        """A program that is fed with invented grants must not let the store grow."""
        storage = MemoryStorage()
        for number in range(250):
            self.exchange(storage, str(number))
        assert list(storage.exchanges()) == [str(number) for number in range(150, 250)]

    def test_save_of_the_record_ends_the_exchange(self) -> None:
        keystore = open_memory_keystore()
        wanted = TokenRecord(client_id="c", client_secret="s", grant_token="g1")
        assert keystore.find_for_use(wanted) is None
        assert len(keystore._storage.exchanges()) == 1
        keystore.save(ADA)
        assert keystore._storage.exchanges() == {}

    def test_exchange_of_a_grant_is_refused_where_nothing_can_be_saved(
        self, store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The grant would be spent, and its refresh token lost; another refresh token can be had at any time."""
        keystore = open_keystore(store_path, key=key)
        wanted = TokenRecord(client_id="c", client_secret="s", grant_token="g1")
        with monkeypatch.context() as patch:
            patch.setattr("zoho_keystore._platform.replace", failing(errno.ENOSPC))
            with pytest.raises(StoreFileError, match="nothing was saved: no space left"):
                keystore.find_for_use(wanted)
            assert keystore.find_for_use(replace(wanted, refresh_token="r1")) is None
        assert keystore.find_for_use(wanted) is None

    def test_exchange_of_a_grant_is_refused_while_the_lock_hangs(self, store_path: Path, key: bytes) -> None:
        keystore = open_keystore(store_path, key=key, refresh_wait=0.1)
        wanted = TokenRecord(client_id="c", client_secret="s", grant_token="g1")
        with held(open_keystore(store_path, key=key)):
            assert keystore.find_for_use(replace(wanted, refresh_token="r1")) is None
            with pytest.raises(LockTimeoutError):
                keystore.find_for_use(wanted)

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"owner": None, "deadline": None},
            {"owner": {}, "deadline": 2**62},
            {"failed_at": "soon"},
            {"failed_at": True, "deadline": [], "owner": 7},
            {"owner": {"host": "h", "boot": "b", "pid": -1, "thread": 10**30, "started": 0}, "deadline": 10**30},
        ],
    )
    def test_exchange_of_odd_fields_blocks_nothing(self, fields: dict[str, Any]) -> None:
        storage = MemoryStorage()
        with storage.transaction() as transaction:
            transaction.set_exchanges({"key": fields, "other": fields})
        self.exchange(storage, "key")
        lease = Lease.of(storage.exchanges()["key"])
        assert lease is not None
        assert lease.is_running(NOW_MS)
        assert list(storage.exchanges()) == ["key"]


@pytest.mark.needs_modes
def test_the_lock_is_free_while_this_module_asks(tmp_path: Path) -> None:
    """The program of `TestKeySource` tells a held lock from a free one."""
    fd = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    other = os.open(tmp_path / "lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)
    os.close(other)

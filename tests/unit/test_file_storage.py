"""The store in a file: what it makes, what it refuses, and that what it refuses stays byte for byte as it was."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import stat
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet

from zoho_keystore import (
    CannotOpenError,
    DocumentError,
    DurabilityUnknownError,
    KeystoreError,
    NewerVersionError,
    StoreClosedError,
    StoreFileError,
    UnsafeFileError,
)
from zoho_keystore._fs import atomic, permissions
from zoho_keystore._fs.directory import Directory
from zoho_keystore._keys.ring import KeyRing, key_ring
from zoho_keystore._keystore import Keystore
from zoho_keystore._open import open_keystore
from zoho_keystore._records import TokenRecord
from zoho_keystore._storage import codec
from zoho_keystore._storage import file as file_module
from zoho_keystore._storage import state as state_module
from zoho_keystore._storage.file import FileStorage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def token(number: int) -> TokenRecord:
    """Make a token that differs from all others."""
    return TokenRecord(client_id="c", client_secret="s", refresh_token=f"r{number}")


@pytest.fixture
def store(store_path: Path, key: bytes) -> Keystore:
    """Give a store with two tokens."""
    store = open_keystore(store_path, key=key)
    store.save(token(1))
    store.save(token(2))
    return store


def content(path: Path, key: bytes) -> dict[str, Any]:
    """Open the file without this package, as the README shows."""
    document: dict[str, Any] = json.loads(Fernet(key).decrypt(path.read_bytes()))
    return document


def test_a_missing_file_is_made_empty_sealed_and_private(store_path: Path, key: bytes) -> None:
    """At once, so that a folder that cannot be written shows at the start."""
    open_keystore(store_path, key=key)
    made = content(store_path, key)
    assert made.pop("store_id")
    assert made == {"format": "zoho-keystore", "version": 1, "generation": 1, "next_id": 1, "tokens": []}
    assert stat.S_IMODE(store_path.stat().st_mode) == 0o600


@pytest.mark.usefixtures("store")
def test_only_the_store_and_its_lock_file_are_left_in_the_folder(store_path: Path) -> None:
    """No temporary file, and both of them are private."""
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in store_path.parent.iterdir()}
    assert modes == {"tokens.keystore": 0o600, ".tokens.keystore.lock": 0o600}


@pytest.mark.usefixtures("store")
def test_opening_and_reading_leave_the_file_alone(store_path: Path, key: bytes) -> None:
    """Not even its time changes, and no lock is taken."""
    os.unlink(store_path.with_name(".tokens.keystore.lock"))
    before = store_path.stat()
    other = open_keystore(store_path, key=key)
    assert other.find(token(1)) is not None
    assert other.get("2") is not None
    assert store_path.stat() == before
    assert not store_path.with_name(".tokens.keystore.lock").exists()


def test_every_write_counts_the_generation_and_keeps_the_store_id(
    store: Keystore, store_path: Path, key: bytes
) -> None:
    """So that an old file that is put back can be told."""
    before = content(store_path, key)
    store.delete("1")
    after = content(store_path, key)
    assert after["generation"] == before["generation"] + 1
    assert after["store_id"] == before["store_id"]


def test_a_transaction_that_fails_writes_nothing(store: Keystore, store_path: Path) -> None:
    """Not the change before the failure either."""
    before = store_path.read_bytes()
    storage: Any = store._storage
    failing = pytest.raises(ZeroDivisionError)
    with failing, storage.transaction() as transaction:
        transaction.remove("1")
        raise ZeroDivisionError
    assert store_path.read_bytes() == before
    assert len(store.records()) == 2


def seal(key: bytes, text: str) -> bytes:
    """Seal a text as a store would."""
    return Fernet(key).encrypt(text.encode())


BAD_CONTENT: dict[str, tuple[Callable[[bytes, bytes], bytes], type[KeystoreError]]] = {
    "empty": (lambda _old, _key: b"", CannotOpenError),
    "truncated": (lambda old, _key: old[:-1], CannotOpenError),
    "truncated by a block": (lambda old, _key: old[:-4], CannotOpenError),
    "altered": (lambda old, _key: old[:100] + (b"A" if old[100:101] != b"A" else b"B") + old[101:], CannotOpenError),
    "with a line end after it": (lambda old, _key: old + b"\n", CannotOpenError),
    "with text inside": (lambda old, _key: old[:40] + b"!!!!" + old[40:], CannotOpenError),
    "twice": (lambda old, _key: old + old, CannotOpenError),
    "foreign": (lambda _old, _key: b"id,user_name,client_id\n1,ada,c\n", CannotOpenError),
    "binary": (lambda _old, _key: bytes(range(256)), CannotOpenError),
    "sealed with another key": (lambda _old, _key: seal(Fernet.generate_key(), "{}"), CannotOpenError),
    "not JSON": (lambda _old, key: seal(key, "{"), DocumentError),
    "not ours": (lambda _old, key: seal(key, '{"format": "other"}'), DocumentError),
    "malformed": (lambda _old, key: seal(key, '{"format": "zoho-keystore", "version": 1}'), DocumentError),
    "of a newer version": (lambda _old, key: seal(key, '{"format": "zoho-keystore", "version": 2}'), NewerVersionError),
}


@pytest.mark.parametrize("name", BAD_CONTENT)
def test_a_bad_file_is_refused_when_it_is_opened_and_stays_as_it_was(
    name: str, store: Keystore, store_path: Path, key: bytes
) -> None:
    """A file that cannot be opened is never treated as an empty store."""
    store.close()
    make, kind = BAD_CONTENT[name]
    bad = make(store_path.read_bytes(), key)
    store_path.write_bytes(bad)
    with pytest.raises(kind) as caught:
        open_keystore(store_path, key=key)
    assert caught.value.path == store_path
    assert str(store_path) in str(caught.value)
    assert caught.value.advice
    assert store_path.read_bytes() == bad


@pytest.mark.parametrize("name", BAD_CONTENT)
@pytest.mark.parametrize("call", ["save", "delete", "clear", "get", "find", "records"])
def test_a_file_that_goes_bad_while_the_store_is_open_stays_as_it_is(
    name: str, call: str, store: Keystore, store_path: Path, key: bytes
) -> None:
    """Reading and writing both refuse it."""
    make, kind = BAD_CONTENT[name]
    bad = make(store_path.read_bytes(), key)
    store_path.write_bytes(bad)
    arguments: dict[str, tuple[Any, ...]] = {
        "save": (token(3),),
        "delete": ("1",),
        "get": ("1",),
        "find": (token(1),),
    }
    with pytest.raises(kind):
        getattr(store, call)(*arguments.get(call, ()))
    assert store_path.read_bytes() == bad
    assert {path.name for path in store_path.parent.iterdir()} <= {"tokens.keystore", ".tokens.keystore.lock"}


def test_the_wrong_key_and_damage_are_both_named_since_they_cannot_be_told_apart(
    store: Keystore, store_path: Path
) -> None:
    """With what to check."""
    store.close()
    with pytest.raises(CannotOpenError, match=r"key is wrong or the file is damaged") as caught:
        open_keystore(store_path, key=Fernet.generate_key())
    assert "Check that the key" in caught.value.advice
    assert "backup" in caught.value.advice


def test_a_folder_at_the_path_is_refused(tmp_path: Path, key: bytes) -> None:
    """It is not replaced."""
    with pytest.raises(UnsafeFileError, match="folder, not a file"):
        open_keystore(tmp_path, key=key)
    assert tmp_path.is_dir()


def test_a_fifo_at_the_path_is_refused_without_waiting_for_its_other_end(store_path: Path, key: bytes) -> None:
    """Opening one blocks as a rule."""
    os.mkfifo(store_path, 0o600)
    with pytest.raises(UnsafeFileError, match="FIFO"):
        open_keystore(store_path, key=key)


def test_a_path_in_a_missing_folder_is_refused(tmp_path: Path, key: bytes) -> None:
    """Such a path is a typing error more often than not."""
    with pytest.raises(StoreFileError, match=r"no such file or directory.*folder has to be there"):
        open_keystore(tmp_path / "missing" / "tokens.keystore", key=key)
    assert list(tmp_path.iterdir()) == []


def test_a_path_through_a_file_is_refused(tmp_path: Path, key: bytes) -> None:
    """A part of the path is no folder."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreFileError, match="not a directory"):
        open_keystore(tmp_path / "file" / "tokens.keystore", key=key)


def test_a_symbolic_link_is_followed_once_when_the_store_is_opened(
    store: Keystore, store_path: Path, tmp_path: Path, key: bytes
) -> None:
    """A save must replace the file, not the link to it."""
    link = tmp_path / "link.keystore"
    link.symlink_to(store_path)
    linked = open_keystore(link, key=key)
    linked.save(token(3))
    assert linked.path == store_path
    assert link.is_symlink()
    assert len(store.records()) == 3


def test_a_symbolic_link_that_takes_the_place_of_the_store_is_refused(
    store: Keystore, store_path: Path, tmp_path: Path
) -> None:
    """Somebody may lead us elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    shutil.copy(store_path, elsewhere)
    store_path.unlink()
    store_path.symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    for call in (store.records, store.clear):
        with pytest.raises(UnsafeFileError, match="symbolic link"):
            call()
    assert elsewhere.read_bytes() == before


def test_a_store_that_is_gone_is_an_error_and_not_an_empty_store(store: Keystore, store_path: Path) -> None:
    """Whoever moved it away may put it back."""
    store_path.unlink()
    for call in (store.records, store.clear):
        with pytest.raises(StoreFileError, match="the store is gone"):
            call()
    assert not store_path.exists()


def test_a_file_that_is_too_large_is_refused_before_it_is_read(
    store: Keystore, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 MiB, shown here with a smaller limit and a file with a hole."""
    os.truncate(store_path, codec.MAX_SEALED_BYTES + 1)
    monkeypatch.setattr(os, "read", lambda *_: pytest.fail("read"))
    with pytest.raises(StoreFileError, match="more than a store may have"):
        store.records()


def test_a_state_that_would_be_too_large_is_not_written(
    store: Keystore, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could not be read again."""
    before = store_path.read_bytes()
    monkeypatch.setattr(file_module, "MAX_SEALED_BYTES", len(before))
    with pytest.raises(StoreFileError, match="more than a store may have"):
        store.save(token(3))
    assert store_path.read_bytes() == before


def test_a_file_put_in_place_by_others_is_seen_at_once(store: Keystore, store_path: Path, key: bytes) -> None:
    """A backup copied over the store, with the same size and times."""
    other = store_path.with_name("other.keystore")
    shutil.copy2(store_path, other)
    open_keystore(other, key=key).delete("1")
    open_keystore(other, key=key).save(TokenRecord(id="1", client_id="c", client_secret="s", refresh_token="rX"))
    times = (store_path.stat().st_atime_ns, store_path.stat().st_mtime_ns)
    with store_path.open("r+b") as file:
        file.write(other.read_bytes())
        file.truncate()
    os.utime(store_path, ns=times)
    found = store.get("1")
    assert found is not None
    assert found.refresh_token == "rX"


def test_a_writer_looks_at_the_content_when_the_status_is_the_same(
    store: Keystore, store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written in place, with its times set to what they were, a file shows the same status."""
    other = store_path.with_name("other.keystore")
    shutil.copy2(store_path, other)
    open_keystore(other, key=key).save(token(3))
    monkeypatch.setattr(file_module, "stamp", lambda _status: (0, 0, 0, 0, 0))
    monkeypatch.setattr(state_module, "stamp", lambda _status: (0, 0, 0, 0, 0))
    store_path.write_bytes(other.read_bytes())
    storage: Any = store._storage
    storage._state.stamp = (0, 0, 0, 0, 0)
    store.save(token(4))
    assert [record.refresh_token for record in store.records()] == ["r1", "r2", "r3", "r4"]


def test_a_file_that_is_just_being_written_in_place_is_read_again(
    store: Keystore, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``cp`` truncates and then writes; a reader between the two must not take it for damage."""
    whole = store_path.read_bytes()
    store_path.write_bytes(whole[:50])
    monkeypatch.setattr(time, "sleep", lambda _s: store_path.write_bytes(whole))
    assert len(store.records()) == 2


def test_an_older_state_that_is_put_back_is_used_and_warned_of(
    store: Keystore, store_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was saved since is gone, and somebody should know."""
    old = store_path.with_name("old")
    shutil.copy2(store_path, old)
    store.save(token(3))
    old.replace(store_path)
    with caplog.at_level(logging.WARNING):
        assert len(store.records()) == 2
        assert len(store.records()) == 2
    [record] = caplog.records
    assert "older state was put back (write 3 after write 4)" in record.getMessage()


def test_unknown_fields_survive_a_save(store: Keystore, store_path: Path, key: bytes) -> None:
    """A later release of the same format version may have added them."""
    changed = content(store_path, key)
    changed["added"] = {"a": [1, None]}
    changed["tokens"][0]["added"] = {"b": True}
    store_path.write_bytes(seal(key, json.dumps(changed)))
    store.save(token(3))
    after = content(store_path, key)
    assert after["added"] == {"a": [1, None]}
    assert after["tokens"][0] == changed["tokens"][0]


def test_a_save_gives_the_file_a_later_time_than_it_had(store: Keystore, store_path: Path) -> None:
    """Also when the clock has gone back since: two states with one time could be taken for each other."""
    ahead_ns = time.time_ns() + 9 * 10**8
    os.utime(store_path, ns=(ahead_ns, ahead_ns))
    for number in range(3, 6):
        store.save(token(number))
        before_ns, ahead_ns = ahead_ns, store_path.stat().st_mtime_ns
        assert before_ns < ahead_ns < before_ns + 10**6


def test_a_saved_state_is_not_read_back(store: Keystore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known already."""
    store.save(token(3))
    monkeypatch.setattr(FileStorage, "_load", lambda _self: pytest.fail("read back"))
    assert len(store.records()) == 3
    store.save(token(4))
    assert len(store.records()) == 4


def test_a_save_is_done_even_if_the_new_file_cannot_be_opened_again(
    store: Keystore, store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process may have no descriptor left; the next call reads the file."""
    storage: Any = store._storage
    monkeypatch.setattr(storage, "_state_written", lambda *_: None)
    store.save(token(3))
    assert len(store.records()) == 3
    assert len(content(store_path, key)["tokens"]) == 3


def test_two_that_make_the_store_at_once_get_the_same_one(
    store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one opens what the first one made."""
    created = FileStorage._created

    def slow(self: FileStorage) -> Any:
        monkeypatch.setattr(FileStorage, "_created", created)
        open_keystore(store_path, key=key).save(token(1))
        return created(self)

    monkeypatch.setattr(FileStorage, "_created", slow)
    assert len(open_keystore(store_path, key=key).records()) == 1


def test_no_descriptor_is_left_open_by_states_that_came_and_went(store: Keystore, store_path: Path, key: bytes) -> None:
    """None is open but while something is read or written."""
    other = open_keystore(store_path, key=key)
    for number in range(3, 30):
        other.save(token(number))
        assert len(store.records()) == number
    open_ones = {os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")}
    assert not {path for path in open_ones if path.startswith(str(store_path.parent))}


@pytest.mark.parametrize("happens", ["it is replaced", "it is gone"])
def test_a_file_that_is_not_the_one_that_was_read_is_not_made_private(
    store: Keystore, store_path: Path, monkeypatch: pytest.MonkeyPatch, happens: str
) -> None:
    """Whatever has taken its place may be anything."""
    store_path.chmod(0o644)
    really_decode = codec.decode

    def decode(*arguments: Any, **options: Any) -> Any:
        if happens == "it is gone":
            store_path.unlink()
        else:
            other = store_path.with_name("other")
            other.write_bytes(b"not ours")
            other.chmod(0o644)
            other.replace(store_path)
        return really_decode(*arguments, **options)

    monkeypatch.setattr(codec, "decode", decode)
    assert len(store.records()) == 2
    if happens == "it is replaced":
        assert stat.S_IMODE(store_path.stat().st_mode) == 0o644


def test_the_vault_never_asks_for_a_key_itself(store_path: Path, key: bytes) -> None:
    """It is given the ring."""
    storage = FileStorage(store_path, key_ring(key), lock_timeout=1)
    assert storage.records() == []


def failing(error: BaseException) -> Callable[..., Any]:
    """Return a function that fails with an error."""

    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


def test_memory_that_runs_out_during_a_save_is_a_typed_error(
    store: Keystore, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is saved."""
    before = store_path.read_bytes()
    monkeypatch.setattr(codec, "encode", failing(MemoryError()))
    with pytest.raises(StoreFileError, match="nothing was saved: not enough memory"):
        store.save(token(3))
    assert store_path.read_bytes() == before


@pytest.mark.parametrize(("owner", "name"), [(codec, "decode"), (os, "read")], ids=["decoding", "reading"])
def test_memory_that_runs_out_during_a_find_is_a_typed_error(
    owner: object, name: str, store: Keystore, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not be taken for damage."""
    os.utime(store_path)
    monkeypatch.setattr(owner, name, failing(MemoryError()))
    with pytest.raises(StoreFileError, match="not enough memory"):
        store.records()


def test_a_disk_that_cannot_be_read_is_a_typed_error(
    store_path: Path, key: bytes, store: Keystore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what the system says."""
    store.close()
    monkeypatch.setattr(os, "read", failing(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(StoreFileError, match="the store cannot be read: input/output error"):
        open_keystore(store_path, key=key)


@pytest.mark.parametrize(
    ("name", "message"), [("seal", "nothing was saved"), ("uuid4", "the store cannot be made")], ids=["seal", "uuid4"]
)
def test_a_system_without_random_numbers_is_a_typed_error(
    name: str, message: str, store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No store is made then."""
    owner: object = KeyRing if name == "seal" else uuid
    monkeypatch.setattr(owner, name, failing(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(StoreFileError, match=message):
        open_keystore(store_path, key=key)
    assert not store_path.exists()


def test_a_file_that_is_changed_during_a_save_is_not_overwritten(
    store: Keystore, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody copies a backup over it while the new state is on its way to the disk."""
    backup = store_path.read_bytes()
    store.save(token(3))
    sync = atomic._sync_file
    monkeypatch.setattr(atomic, "_sync_file", lambda fd: (sync(fd), store_path.write_bytes(backup)))
    with pytest.raises(StoreFileError, match="somebody else has changed the file meanwhile"):
        store.save(token(4))
    assert store_path.read_bytes() == backup


def test_a_file_that_is_changed_right_after_a_save_is_read(
    store: Keystore, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written is not what is there any more."""
    backup = store_path.read_bytes()
    sync = Directory.sync
    monkeypatch.setattr(Directory, "sync", lambda self: (sync(self), store_path.write_bytes(backup)))
    store.save(token(3))
    assert len(store.records()) == 2


def test_a_save_is_done_even_if_the_new_file_cannot_be_looked_at(
    store: Keystore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next call reads the file."""
    sync, status = Directory.sync, Directory.status

    def synced(self: Directory) -> None:
        sync(self)
        monkeypatch.setattr(Directory, "status", failing(OSError(errno.EIO, "Input/output error")))

    monkeypatch.setattr(Directory, "sync", synced)
    store.save(token(3))
    monkeypatch.setattr(Directory, "sync", sync)
    monkeypatch.setattr(Directory, "status", status)
    assert len(store.records()) == 3


def test_a_save_whose_durability_is_unknown_is_seen_and_can_be_repeated(
    store: Keystore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the caller hears of the record all the same."""
    sync, saved = Directory.sync, list[TokenRecord]()
    monkeypatch.setattr(Directory, "sync", failing(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(DurabilityUnknownError, match="saved, but may not survive a power cut"):
        store.save(token(3), saved=saved.append)
    assert [record.id for record in saved] == ["3"]
    monkeypatch.setattr(Directory, "sync", sync)
    store.save(token(4))
    assert [record.refresh_token for record in store.records()] == ["r1", "r2", "r3", "r4"]


def test_a_store_that_is_closed_during_a_save_stays_closed(
    store: Keystore, store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The save is done, and nothing of it stays in memory."""
    write = atomic.write

    def closing(*arguments: Any, **options: Any) -> os.stat_result:
        store.close()
        return write(*arguments, **options)

    monkeypatch.setattr(atomic, "write", closing)
    store.save(token(3))
    with pytest.raises(StoreClosedError):
        store.records()
    assert len(content(store_path, key)["tokens"]) == 3


@pytest.mark.parametrize("where", ["on a network file system", "where times of files are not kept"])
def test_where_a_status_cannot_be_relied_on_a_file_is_known_by_its_content(
    store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """What others save is seen, and what stays is not read again."""
    if "network" in where:
        monkeypatch.setattr(permissions, "is_remote", lambda _path: True)
    else:
        monkeypatch.setattr(os, "supports_fd", os.supports_fd - {os.utime})
    first, second = open_keystore(store_path, key=key), open_keystore(store_path, key=key)
    for module in (file_module, state_module):
        monkeypatch.setattr(module, "stamp", lambda _status: (0, 0, 0, 0, 0))
    for number in range(1, 4):
        first.save(token(number))
        assert len(second.records()) == number
    monkeypatch.setattr(FileStorage, "_load", lambda _self: pytest.fail("read again"))
    assert len(second.records()) == 3


def test_a_reader_that_was_slower_than_another_one_warns_of_nothing(
    store: Keystore, store_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It has an older state than was seen, and nobody has put it back: the path shows a newer one, or none."""
    storage: Any = store._storage
    slow, _ = storage._load()
    store.save(token(3))
    storage._warn_if_older(slow)
    store_path.unlink()
    storage._warn_if_older(slow)
    assert caplog.records == []


def test_a_bad_file_that_vanishes_is_looked_at_again(
    store: Keystore, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may just be replaced."""
    whole = store_path.read_bytes()
    store_path.write_bytes(whole[:50])
    really_stat = os.stat

    def stat_once(path: Any) -> os.stat_result:
        monkeypatch.setattr(os, "stat", really_stat)
        store_path.write_bytes(whole)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)

    monkeypatch.setattr(time, "sleep", lambda _s: monkeypatch.setattr(os, "stat", stat_once))
    assert len(store.records()) == 2

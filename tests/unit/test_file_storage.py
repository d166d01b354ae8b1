"""The storage in a file: what it creates, what it refuses, and that a refused file stays byte for byte as it was."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import shutil
import signal
import stat
import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet

from support import failing
from zoho_keystore._fs import atomic
from zoho_keystore._fs.directory import Directory
from zoho_keystore._keys.ring import KeyRing, key_ring
from zoho_keystore._keystore import Keystore
from zoho_keystore._open import open_keystore
from zoho_keystore._platform import sync_file
from zoho_keystore._records import TokenRecord
from zoho_keystore._storage import codec
from zoho_keystore._storage import file as file_module
from zoho_keystore._storage.file import FileStorage
from zoho_keystore._storage.store_file import read_store
from zoho_keystore.errors import (
    CannotOpenError,
    DocumentError,
    DurabilityUnknownError,
    KeystoreError,
    LockTimeoutError,
    NewerVersionError,
    StoreClosedError,
    StoreFileError,
    UnsafeFileError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")


def token(number: int) -> TokenRecord:
    """Make a token that differs from all others."""
    return TokenRecord(client_id="c", client_secret="s", refresh_token=f"r{number}")


@pytest.fixture
def storage(store_path: Path, key: bytes) -> FileStorage:
    """Give a storage with two tokens."""
    storage = FileStorage(store_path, key_ring(key), lock_timeout=20)
    for number in (1, 2):
        Keystore(storage).save(token(number))
    return storage


@pytest.fixture
def store(storage: FileStorage) -> Keystore:
    """Give the service on the storage."""
    return Keystore(storage)


def payload(path: Path, key: bytes) -> dict[str, Any]:
    """Open the file without this package, as docs/file-format.md shows."""
    payload: dict[str, Any] = json.loads(Fernet(key).decrypt(path.read_bytes()))
    return payload


def seal(key: bytes, text: str) -> bytes:
    """Encrypt a text as a store would."""
    return Fernet(key).encrypt(text.encode())


def refresh_tokens(store: Keystore | FileStorage) -> list[str | None]:
    """Return the refresh tokens of all records."""
    return [record.refresh_token for record in store.records()]


def fail(error: BaseException) -> Callable[..., Any]:
    """Return a function that raises an error."""

    def fails(*_: object, **__: object) -> Any:
        raise error

    return fails


# --- Creating, reading and writing ---


@pytest.mark.needs_modes
def test_missing_file_is_created_empty_and_private(store_path: Path, key: bytes) -> None:
    """At once, so that a directory that cannot be written shows at the start; no temporary file is left."""
    open_keystore(store_path, key=key)
    created = payload(store_path, key)
    assert created.pop("store_id")
    assert created == {"format": "zoho-keystore", "version": 1, "generation": 1, "next_id": 1, "tokens": []}
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in store_path.parent.iterdir()}
    assert modes == {"tokens.keystore": 0o600, ".tokens.keystore.lock": 0o600}


def test_missing_file_is_not_created_on_request(store_path: Path, key: bytes) -> None:
    with pytest.raises(StoreFileError, match=r"there is no store\. Check the path, or create one: zoho-keystore "):
        open_keystore(store_path, key=key, create=False)
    assert not list(store_path.parent.iterdir())


def test_file_created_by_two_processes_at_once_is_shared(
    store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slower one opens what the faster one has created."""
    write = atomic.write

    def write_slowly(*arguments: Any, **options: Any) -> os.stat_result:
        monkeypatch.setattr(atomic, "write", write)
        shutil.copy(other, store_path)
        return write(*arguments, **options)

    other = store_path.with_name("other")
    open_keystore(other, key=key).save(token(1))
    monkeypatch.setattr(atomic, "write", write_slowly)
    assert refresh_tokens(open_keystore(store_path, key=key)) == ["r1"]


@pytest.mark.usefixtures("store")
def test_reading_takes_no_lock_and_leaves_the_file_alone(store_path: Path, key: bytes) -> None:
    """A store on a read-only file system can be read."""
    store_path.with_name(".tokens.keystore.lock").unlink()
    before = store_path.stat()
    other = open_keystore(store_path, key=key)
    assert other.find(token(1))
    assert other.get("2")
    assert store_path.stat() == before
    assert [path.name for path in store_path.parent.iterdir()] == ["tokens.keystore"]


def test_write_increments_the_generation_and_keeps_unknown_fields(
    store: Keystore, store_path: Path, key: bytes
) -> None:
    """A later release of the same format version may have added some."""
    before = payload(store_path, key)
    before["added"] = {"a": [1, None]}
    before["tokens"][1]["added"] = {"b": True}
    store_path.write_bytes(seal(key, json.dumps(before)))
    store.delete("1")
    after = payload(store_path, key)
    assert len(after.pop("retired")) == 1
    assert after == {**before, "generation": 4, "tokens": before["tokens"][1:]}


def test_written_state_is_not_read_back(store: Keystore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "decode", fail(AssertionError("read back")))
    store.save(token(3))
    store.save(token(4))
    assert refresh_tokens(store) == ["r1", "r2", "r3", "r4"]


def test_transaction_that_fails_writes_nothing(storage: FileStorage, store_path: Path) -> None:
    before = store_path.read_bytes()
    with suppress(ZeroDivisionError), storage.transaction() as transaction:
        transaction.remove("1")
        raise ZeroDivisionError
    assert store_path.read_bytes() == before
    assert refresh_tokens(storage) == ["r1", "r2"]


@pytest.mark.needs_modes
def test_save_from_signal_handler_inside_save_is_refused(storage: FileStorage, store: Keystore) -> None:
    """It would wait for the save that it interrupts, which goes on and is committed."""
    refusals: list[KeystoreError] = []

    def handle(*_: object) -> None:
        try:
            store.save(token(9))
        except KeystoreError as error:
            refusals.append(error)

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with storage.transaction() as transaction:
            transaction.remove("1")
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [type(error) for error in refusals] == [LockTimeoutError]
    assert "this thread is saving already" in str(refusals[0])
    assert refresh_tokens(store) == ["r2"]


@pytest.mark.needs_fork
def test_transaction_is_not_committed_by_a_child_forked_inside(storage: FileStorage, store_path: Path) -> None:
    """Parent and child would both write, the child without the lock."""
    before = store_path.read_bytes()
    block = storage.transaction()
    block.__enter__().remove("1")

    def commit() -> None:
        with pytest.raises(StoreFileError, match="the lock is lost; nothing was saved"):
            block.__exit__(None, None, None)

    child = multiprocessing.get_context("fork").Process(target=commit)
    child.start()
    child.join()
    assert child.exitcode == 0
    assert store_path.read_bytes() == before
    assert not list(store_path.parent.glob(".*.tmp"))
    block.__exit__(None, None, None)
    assert refresh_tokens(storage) == ["r2"]
    child.close()


# --- Files that are refused ---

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
CALLS: dict[str, Callable[[Keystore, bytes], object]] = {
    "save": lambda store, _key: store.save(token(3)),
    "delete": lambda store, _key: store.delete("1"),
    "clear": lambda store, _key: store.clear(),
    "get": lambda store, _key: store.get("1"),
    "find": lambda store, _key: store.find(token(1)),
    "records": lambda store, _key: store.records(),
    "open": lambda store, key: open_keystore(store.path, key=key),
}


@pytest.mark.parametrize("content", BAD_CONTENT)
@pytest.mark.parametrize("call", CALLS)
def test_bad_file_is_refused_and_stays_as_it_is(
    content: str, call: str, store: Keystore, store_path: Path, key: bytes
) -> None:
    """A file that does not open is never treated as an empty store."""
    make, kind = BAD_CONTENT[content]
    bad = make(store_path.read_bytes(), key)
    store_path.write_bytes(bad)
    with pytest.raises(kind) as caught:
        CALLS[call](store, key)
    assert (type(caught.value), caught.value.path) == (kind, store_path)
    assert caught.value.advice
    assert store_path.read_bytes() == bad
    assert {path.name for path in store_path.parent.iterdir()} <= {"tokens.keystore", ".tokens.keystore.lock"}


@pytest.mark.needs_special_files("None", "no such file")
@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (os.mkdir, "path", "this is a directory, not a file"),
        (getattr(os, "mkfifo", None), "path", "this is a FIFO, not a file"),
        (lambda _path: None, "path/store", "no such file or directory.*the directory has to exist"),
        (lambda path: path.touch(), "path/store", "not a directory"),
    ],
)
def test_path_that_cannot_be_a_store_is_refused(
    tmp_path: Path, key: bytes, make: Callable[[Path], object], name: str, message: str
) -> None:
    make(tmp_path / "path")
    before = [path.lstat() for path in tmp_path.rglob("*")]
    with pytest.raises(StoreFileError, match=message):
        open_keystore(tmp_path / name, key=key)
    assert [path.lstat() for path in tmp_path.rglob("*")] == before


@pytest.mark.needs_modes
def test_symlink_is_followed_once_when_the_store_is_opened(
    store: Keystore, store_path: Path, tmp_path: Path, key: bytes
) -> None:
    """A save must replace the file and not the link; a link that takes the file's place later is refused."""
    link = tmp_path / "link.keystore"
    link.symlink_to(store_path)
    linked = open_keystore(link, key=key)
    linked.save(token(3))
    assert linked.path == store_path
    assert link.is_symlink()
    elsewhere = tmp_path / "elsewhere"
    store_path.rename(elsewhere)
    store_path.symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    for call in (store.records, store.clear):
        with pytest.raises(UnsafeFileError, match="symbolic link"):
            call()
    assert elsewhere.read_bytes() == before


def test_file_removed_while_open_is_an_error(store: Keystore, store_path: Path) -> None:
    """A new, empty store would hide that the tokens are gone."""
    store_path.unlink()
    for call in (store.records, store.clear):
        with pytest.raises(StoreFileError, match="the store is gone"):
            call()
    assert not store_path.exists()


def test_file_too_large_is_refused_before_it_is_read(
    store: Keystore, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.truncate(store_path, codec.MAX_SEALED_BYTES + 1)
    monkeypatch.setattr(os, "read", fail(AssertionError("read")))
    with pytest.raises(StoreFileError, match="more than a store may have"):
        store.records()


def test_state_too_large_is_not_written(store: Keystore, store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = store_path.read_bytes()
    monkeypatch.setattr(file_module, "MAX_SEALED_BYTES", len(before))
    with pytest.raises(StoreFileError, match="more than a store may have"):
        store.save(token(3))
    assert store_path.read_bytes() == before


# --- Other programs that change the file ---


@pytest.mark.parametrize("gone_for_a_moment", [False, True])
def test_file_being_written_in_place_is_read_again(
    store: Keystore, store_path: Path, monkeypatch: pytest.MonkeyPatch, *, gone_for_a_moment: bool
) -> None:
    """``cp`` truncates and then writes; a reader between the two must not report damage."""
    whole, system_stat = store_path.read_bytes(), os.stat
    store_path.write_bytes(whole[:50])

    def stat_once(path: Any, **_: Any) -> os.stat_result:
        monkeypatch.setattr(os, "stat", system_stat)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def sleep(_seconds: float) -> None:
        store_path.write_bytes(whole)
        if gone_for_a_moment:
            monkeypatch.setattr(os, "stat", stat_once)

    monkeypatch.setattr(time, "sleep", sleep)
    assert refresh_tokens(store) == ["r1", "r2"]


def test_file_put_back_to_an_older_state_is_used_with_one_warning(
    store: Keystore, store_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was saved since is gone, and the administrator should know."""
    old = store_path.with_name("old")
    shutil.copy2(store_path, old)
    store.save(token(3))
    old.replace(store_path)
    assert refresh_tokens(store) == refresh_tokens(store) == ["r1", "r2"]
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "older state was put back (write 3 after write 4)" in record.getMessage()


def in_decode(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> None:
    """Do some work while the next state that was read is being decoded."""
    decode = codec.decode

    def decode_slowly(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(codec, "decode", decode)
        work()
        return decode(*arguments, **options)

    monkeypatch.setattr(codec, "decode", decode_slowly)


@pytest.mark.parametrize("removed", [False, True])
def test_reader_slower_than_a_save_does_not_warn(
    store: Keystore,
    store_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    removed: bool,
) -> None:
    """It has an older state than the storage has seen, and the path shows a newer one, or none."""

    def save() -> None:
        store.save(token(3))
        if removed:
            store_path.unlink()

    os.utime(store_path)
    in_decode(monkeypatch, save)
    assert refresh_tokens(store) == ["r1", "r2"]
    assert caplog.records == []


@pytest.mark.needs_modes("False")
@pytest.mark.parametrize("removed", [False, True])
def test_file_replaced_after_reading_keeps_its_mode(
    store: Keystore, store_path: Path, monkeypatch: pytest.MonkeyPatch, *, removed: bool
) -> None:
    """Only what is known to be a keystore gets mode 0600."""

    def replace() -> None:
        store_path.unlink()
        if not removed:
            store_path.write_bytes(b"not ours")
            store_path.chmod(0o644)

    store_path.chmod(0o644)
    in_decode(monkeypatch, replace)
    assert refresh_tokens(store) == ["r1", "r2"]
    assert removed or stat.S_IMODE(store_path.stat().st_mode) == 0o644


def test_file_changed_during_a_save_is_not_overwritten(
    store: Keystore, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup is copied over it while the new state is on its way to the disk."""
    backup = store_path.read_bytes()
    store.save(token(3))
    sync = sync_file
    monkeypatch.setattr(atomic, "sync_file", lambda fd: (sync(fd), store_path.write_bytes(backup)))
    with pytest.raises(StoreFileError, match="another program has changed the file meanwhile"):
        store.save(token(4))
    assert store_path.read_bytes() == backup


@pytest.mark.parametrize("is_cut_off", [False, True])
def test_file_changed_right_after_a_save_is_read(
    store: Keystore, store_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_cut_off: bool
) -> None:
    """What was written is not what is there any more, although the first bytes may be the same."""
    backup, sync = store_path.read_bytes(), Directory.sync

    def change(directory: Directory) -> None:
        sync(directory)
        if is_cut_off:
            os.truncate(store_path, 40)
        else:
            store_path.write_bytes(backup)

    monkeypatch.setattr(Directory, "sync", change)
    store.save(token(3))
    if is_cut_off:
        with pytest.raises(CannotOpenError):
            store.records()
    else:
        assert refresh_tokens(store) == ["r1", "r2"]


def test_storage_closed_during_a_save_stays_closed(
    store: Keystore, store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The save is done, and no record of it stays in memory."""
    sync = Directory.sync

    def close(directory: Directory) -> None:
        sync(directory)
        store.close()

    monkeypatch.setattr(Directory, "sync", close)
    store.save(token(3))
    for call in (store.records, store.clear):
        with pytest.raises(StoreClosedError):
            call()
    assert len(payload(store_path, key)["tokens"]) == 3


# --- System calls that fail ---

EIO = OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize(
    ("call", "fault", "message"),
    [
        ("records", (codec, "decode", MemoryError()), "cannot be decrypted: not enough memory"),
        ("records", (os, "read", MemoryError()), "the file cannot be read: not enough memory"),
        ("records", (os, "read", EIO), "the store cannot be read: input/output error"),
        ("save", (codec, "encode", MemoryError()), "nothing was saved: not enough memory"),
        ("save", (KeyRing, "seal", EIO), "nothing was saved: input/output error"),
    ],
)
def test_call_that_fails_in_the_system_is_a_store_file_error(
    call: str, fault: tuple[Any, str, Exception], message: str, store: Keystore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not be reported as damage, and nothing is written."""
    path = store.path or pytest.fail("no file")
    before = path.read_bytes()
    os.utime(path)
    owner, name, error = fault
    monkeypatch.setattr(owner, name, fail(error))
    with pytest.raises(StoreFileError, match=message):
        CALLS[call](store, b"")
    monkeypatch.undo()
    assert path.read_bytes() == before


def test_create_without_random_numbers_is_a_store_file_error(
    store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uuid, "uuid4", failing(errno.EIO))
    with pytest.raises(StoreFileError, match="the store cannot be created"):
        open_keystore(store_path, key=key)
    assert not store_path.exists()


def test_save_without_status_of_the_new_file_succeeds(store: Keystore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The save is done, and the next find reads the file."""
    sync = Directory.sync
    with monkeypatch.context() as patch:
        patch.setattr(
            Directory, "sync", lambda self: (sync(self), patch.setattr(Directory, "status", failing(errno.EIO)))
        )
        store.save(token(3))
    assert refresh_tokens(store) == ["r1", "r2", "r3"]


def test_save_whose_durability_is_unknown_is_visible_and_can_be_repeated(
    store: Keystore, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[TokenRecord] = []
    with monkeypatch.context() as patch:
        patch.setattr(Directory, "sync", failing(errno.EIO))
        with pytest.raises(DurabilityUnknownError, match="saved, but may not survive a power cut"):
            store.save(token(3), on_saved=saved.append)
    assert [record.id for record in saved] == ["3"]
    store.save(token(4))
    assert refresh_tokens(store) == ["r1", "r2", "r3", "r4"]


# --- Encrypting anew ---


def test_reencrypt_uses_the_new_ring_from_then_on(storage: FileStorage, store_path: Path) -> None:
    """Saves too."""
    new = Fernet.generate_key()
    storage.reencrypt(key_ring(new))
    Keystore(storage).save(token(3))
    assert repr(read_store(store_path, key_ring(new))) == "<StoreFile of 3 records, write 5>"
    assert len(payload(store_path, new)["tokens"]) == 3


def test_reencrypt_that_fails_leaves_the_file_as_it_is(
    storage: FileStorage, store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result does not decrypt or has other records, memory runs out, or another thread closes the storage."""
    before, ring = store_path.read_bytes(), key_ring(key)
    for result in (None, json.dumps({**payload(store_path, key), "tokens": []}).encode()):
        with monkeypatch.context() as patch:
            patch.setattr(KeyRing, "decrypt_with_primary", lambda *_, result=result: result)
            with pytest.raises(StoreFileError, match="does not decrypt to the same records"):
                storage.reencrypt(ring)
    with monkeypatch.context() as patch:
        patch.setattr(KeyRing, "seal", fail(MemoryError()))
        with pytest.raises(StoreFileError, match="nothing was encrypted anew: not enough memory"):
            storage.reencrypt(ring)
    storage._next_sweep_s = 0.0
    monkeypatch.setattr(atomic, "remove_stale_temp_files", lambda *_: storage.close())
    with pytest.raises(StoreClosedError):
        storage.reencrypt(ring)
    assert store_path.read_bytes() == before

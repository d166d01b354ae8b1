"""Backups and restores where the command line's tests do not reach: failing disks, other kinds of files."""

from __future__ import annotations

import errno
import os
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet

from support import failing
from zoho_keystore._fs import atomic
from zoho_keystore._fs.directory import Directory
from zoho_keystore._keys.ring import fingerprint
from zoho_keystore._keys.sources import KEY_VARIABLE
from zoho_keystore._open import open_keystore
from zoho_keystore._operations.backup import backup, compare, inspect, restore
from zoho_keystore._records import TokenRecord
from zoho_keystore.errors import (
    CannotOpenError,
    DurabilityUnknownError,
    LockTimeoutError,
    StoreFileError,
    UnsafeFileError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zoho_keystore._keystore import Keystore

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")


@pytest.fixture
def store(
    no_descriptor_is_left: None,  # noqa: ARG001 - closed before it looks
    store_path: Path,
    key: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Keystore]:
    """Give a store with a token, whose key is the default."""
    monkeypatch.setenv(KEY_VARIABLE, key.decode())
    with closing(open_keystore(store_path)) as keystore:
        keystore.save(TokenRecord(access_token="secret-canary"))
        yield keystore


@pytest.fixture
def copy(store: Keystore, tmp_path: Path) -> Path:
    """Give a copy of the store."""
    return backup(store.path, tmp_path / "copy")


def test_inspect_repr_hides_secrets(store: Keystore, store_path: Path, key: bytes) -> None:
    """The records are complete."""
    seen = inspect(store_path)
    assert (seen.fingerprint, seen.header.generation) == (fingerprint(key), 2)
    assert list(seen.records.values()) == store.records()
    assert "canary" not in repr(seen)


@pytest.mark.usefixtures("store")
def test_dated_names_of_one_second_differ(store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of copies in a directory, and of replaced files."""
    monkeypatch.setattr(time, "strftime", lambda *_arguments: "NOW")
    made = [backup(store_path, tmp_path).name for _ in range(3)]
    assert made == ["tokens.keystore.NOW", "tokens.keystore.NOW-2", "tokens.keystore.NOW-3"]
    kept = [restore(store_path, tmp_path / made[0]) for _ in range(2)]
    assert [path and path.name for path in kept] == ["tokens.keystore.replaced-NOW", "tokens.keystore.replaced-NOW-2"]


def test_restore_is_seen_by_running_store(store: Keystore, copy: Path, store_path: Path) -> None:
    """At its next request; and temporary files of killed writers are removed."""
    store.save(TokenRecord(access_token="another"))
    store.save(TokenRecord(id="1", access_token="changed"))
    change = compare(store_path, copy)
    assert (change.lost, change.changed, change.returned, change.store_error) == (("2",), ("1",), (), None)
    leftover = store_path.with_name(f".{store_path.name}.{'0a' * 8}.tmp")
    leftover.touch()
    restore(store_path, copy)
    assert not leftover.exists()
    assert [record.access_token for record in store.records()] == ["secret-canary"]
    assert store.save(TokenRecord(access_token="third")).id


@pytest.mark.parametrize("use", [compare, restore])
def test_copy_that_does_not_open_is_refused(copy: Path, store_path: Path, use: Any) -> None:
    """The store is as it was."""
    before = store_path.read_bytes()
    copy.write_bytes(Fernet(Fernet.generate_key()).encrypt(b"{}"))
    with pytest.raises(CannotOpenError):
        use(store_path, copy)
    copy.unlink()
    with pytest.raises(StoreFileError, match="the file cannot be read: no such file"):
        use(store_path, copy)
    assert store_path.read_bytes() == before
    assert os.listdir(store_path.parent).count(store_path.name) == 1


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("use", [compare, restore])
def test_store_as_its_own_copy_is_refused(store_path: Path, use: Any) -> None:
    """Also under another name."""
    link = store_path.with_name("link")
    link.symlink_to(store_path)
    for path in (store_path, link):
        with pytest.raises(StoreFileError, match="this is the store itself"):
            use(store_path, path)


def test_restore_keeps_directory_in_place_of_store(copy: Path, store_path: Path) -> None:
    """It is another program's."""
    store_path.unlink()
    assert compare(store_path, copy).returned == ("1",)
    store_path.mkdir()
    with pytest.raises(UnsafeFileError, match="this is a directory"):
        restore(store_path, copy)
    assert isinstance(compare(store_path, copy).store_error, UnsafeFileError)
    assert store_path.is_dir()


def test_file_larger_than_a_store_is_not_read(copy: Path, store_path: Path) -> None:
    """Neither as a store, nor as one that is replaced."""
    os.truncate(store_path, 1 << 40)
    for use in (inspect, lambda path: restore(path, copy)):
        with pytest.raises(StoreFileError, match="bytes are more than a store may have"):
            use(store_path)


def test_backup_leaves_no_part_and_replaces_nothing(
    store: Keystore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of a copy could be taken for a copy."""
    copy = tmp_path / "copy"
    for number in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing(number))
            with pytest.raises(StoreFileError, match="nothing was saved"):
                backup(store.path, copy)
        assert not list(tmp_path.glob("*copy*"))
    copy.write_bytes(b"theirs")
    with pytest.raises(StoreFileError, match="there is a file already; it was left as it is"):
        backup(store.path, copy)
    assert copy.read_bytes() == b"theirs"


def test_restore_on_failing_disk_keeps_store(copy: Path, store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No temporary file is left."""
    before = store_path.read_bytes()
    monkeypatch.setattr(Directory, "replace", failing(errno.EIO))
    with pytest.raises(StoreFileError, match="nothing was saved"):
        restore(store_path, copy)
    assert store_path.read_bytes() == before
    assert not list(store_path.parent.glob(".*.tmp"))


def test_restore_that_may_not_be_durable_is_reported(
    copy: Path, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If there was a store, that error is about the kept file: the store is not replaced."""
    monkeypatch.setattr(Directory, "sync", failing(errno.EIO))
    before = store_path.stat()
    with pytest.raises(StoreFileError, match="nothing was restored") as caught:
        restore(store_path, copy)
    assert not isinstance(caught.value, DurabilityUnknownError)
    assert store_path.stat() == before
    store_path.unlink()
    with pytest.raises(DurabilityUnknownError):
        restore(store_path, copy)
    assert store_path.read_bytes() == copy.read_bytes()


def test_restore_lock_timeout_keeps_store(store: Keystore, copy: Path, store_path: Path) -> None:
    """Another writer would lose its save."""
    before = store_path.read_bytes()
    with store._storage.transaction(), pytest.raises(LockTimeoutError):
        restore(store_path, copy, lock_timeout=0)
    assert store_path.read_bytes() == before


@pytest.mark.parametrize(
    ("replaced", "problem"),
    [(".tokens.keystore.lock", "lock"), ("tokens.keystore", "another program made a store there")],
)
def test_restore_checks_lock_and_store_before_rename(
    copy: Path, store_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: str, problem: str
) -> None:
    """Another program replaced the lock file, or made a store without the lock."""
    store_path.unlink()
    really_write = atomic.write

    def write(*args: Any, **options: Any) -> Any:
        path = store_path.with_name(replaced)
        path.unlink(missing_ok=True)
        path.write_bytes(b"theirs")
        return really_write(*args, **options)

    monkeypatch.setattr(atomic, "write", write)
    with pytest.raises(StoreFileError, match=problem):
        restore(store_path, copy)
    assert store_path.exists() is (replaced == store_path.name)
    assert not store_path.exists() or store_path.read_bytes() == b"theirs"

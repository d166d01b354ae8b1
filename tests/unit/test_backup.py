"""Copies and their return, where the command line does not get: disks that fail, files that are no files."""

from __future__ import annotations

import errno
import os
import re
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from cryptography.fernet import Fernet

from support import failing
from zoho_keystore._fs import atomic
from zoho_keystore._fs.directory import Directory
from zoho_keystore._keys.ring import fingerprint
from zoho_keystore._keystore import Keystore
from zoho_keystore._open import open_keystore
from zoho_keystore._operations import backup as backup_module
from zoho_keystore._operations.backup import backup, compare, inspect, make_file, restore
from zoho_keystore._records import TokenRecord
from zoho_keystore._storage import codec
from zoho_keystore.errors import (
    CannotOpenError,
    DurabilityUnknownError,
    KeystoreError,
    LockTimeoutError,
    StoreFileError,
    UnsafeFileError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")


@pytest.fixture(autouse=True)
def spec(key: bytes, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the spec of the key, which is the default too."""
    monkeypatch.setenv("ZOHO_KEYSTORE_KEY", key.decode())
    return "env:ZOHO_KEYSTORE_KEY"


@pytest.fixture
def store(no_descriptor_is_left: None, store_path: Path) -> Iterator[Keystore]:  # noqa: ARG001 - closed before it looks
    """Give a store with a token."""
    with closing(open_keystore(store_path)) as keystore:
        keystore.save(TokenRecord(access_token="secret-canary"))
        yield keystore


@pytest.fixture
def copy(store: Keystore, tmp_path: Path) -> Path:
    """Give a copy of the store."""
    assert store.path is not None
    return backup(store.path, tmp_path / "copy")


def test_what_is_seen_shows_no_secret(store: Keystore, store_path: Path, key: bytes) -> None:
    """Neither do its parts."""
    seen = inspect(store_path)
    assert (seen.path, seen.fingerprint, seen.generation, len(seen.records)) == (store_path, fingerprint(key), 2, 1)
    assert "canary" not in repr(seen)
    assert list(seen.records.values()) == store.records()


@pytest.mark.usefixtures("store")
def test_copies_of_the_same_second_have_names_of_their_own(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a second return fail on what the first one kept."""
    monkeypatch.setattr(time, "strftime", lambda *_arguments: "NOW")
    made = [backup(store_path, tmp_path).name for _ in range(3)]
    assert made == ["tokens.keystore.NOW", "tokens.keystore.NOW-2", "tokens.keystore.NOW-3"]
    kept = [restore(store_path, tmp_path / made[0]) for _ in range(2)]
    assert [path and path.name for path in kept] == ["tokens.keystore.replaced-NOW", "tokens.keystore.replaced-NOW-2"]


def test_a_running_store_goes_on_with_what_was_put_back(store: Keystore, copy: Path, store_path: Path) -> None:
    """At its next look."""
    store.save(TokenRecord(access_token="another"))
    restore(store_path, copy)
    assert len(store.records()) == 1
    assert store.save(TokenRecord(access_token="third")).id


def test_the_copy_has_to_open(store: Keystore, copy: Path, store_path: Path) -> None:
    """With a key of the store; else nothing is changed."""
    before = store_path.read_bytes()
    copy.write_bytes(Fernet(Fernet.generate_key()).encrypt(b"{}"))
    for use in (compare, restore):
        with pytest.raises(CannotOpenError):
            use(store_path, copy)
    copy.unlink()
    with pytest.raises(StoreFileError, match="the file cannot be read: no such file"):
        restore(store_path, copy)
    assert store_path.read_bytes() == before
    assert os.listdir(store_path.parent).count(store_path.name) == len(store.records())


@pytest.mark.usefixtures("store")
def test_the_store_is_no_copy_of_itself(store_path: Path) -> None:
    """Nor under another name of it."""
    link = store_path.with_name("link")
    link.symlink_to(store_path)
    for use in (compare, restore):
        for path in (store_path, link):
            with pytest.raises(StoreFileError, match="this is the store itself"):
                use(store_path, path)


def test_what_is_no_file_is_neither_copied_nor_replaced(copy: Path, store_path: Path) -> None:
    """A folder in the store's place is somebody's."""
    store_path.unlink()
    store_path.mkdir()
    with pytest.raises(UnsafeFileError, match="this is a folder"):
        restore(store_path, copy)
    trouble = compare(store_path, copy).trouble
    assert isinstance(trouble, UnsafeFileError)
    assert store_path.is_dir()


@pytest.mark.usefixtures("store")
def test_a_file_that_is_far_too_large_is_not_read(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no store."""
    monkeypatch.setattr(backup_module, "MAX_SEALED_BYTES", 10)
    with pytest.raises(StoreFileError, match="bytes are more than a store may have"):
        inspect(store_path)
    assert codec.MAX_SEALED_BYTES > 10


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, StoreFileError), (errno.EIO, StoreFileError), (errno.EDQUOT, StoreFileError)]
)
def test_a_copy_is_whole_or_not_there(
    number: int, kind: type[KeystoreError], store: Keystore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the disk fails, nothing is left."""
    assert store.path is not None
    before = sorted(os.listdir(tmp_path))
    monkeypatch.setattr(os, "fsync", failing(number))
    with pytest.raises(kind, match="nothing was saved"):
        backup(store.path, tmp_path / "copy")
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == before


def test_a_return_that_fails_leaves_the_store(copy: Path, store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was kept, which is a copy of it."""
    before = store_path.read_bytes()
    monkeypatch.setattr(Directory, "replace", failing(errno.EIO))
    with pytest.raises(StoreFileError, match="nothing was saved"):
        restore(store_path, copy)
    assert store_path.read_bytes() == before
    assert not [name for name in os.listdir(store_path.parent) if name.endswith(".tmp")]


def test_a_return_that_may_not_survive_a_power_cut_says_so(
    copy: Path, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All see it by then."""
    store_path.unlink()
    monkeypatch.setattr(Directory, "sync", failing(errno.EIO))
    with pytest.raises(DurabilityUnknownError):
        restore(store_path, copy)
    assert store_path.read_bytes() == copy.read_bytes()


def test_a_return_waits_for_the_lock(store: Keystore, copy: Path, store_path: Path) -> None:
    """And gives up."""
    before = store_path.read_bytes()
    with store._storage.transaction(), pytest.raises(LockTimeoutError):
        restore(store_path, copy, lock_timeout=0)
    assert store_path.read_bytes() == before


def test_a_store_that_comes_into_being_meanwhile_is_left(
    copy: Path, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a writer that does not ask for the lock."""
    store_path.unlink()
    really_write = atomic.write

    def write(
        directory: Directory, name: str, content: bytes, *, create: bool, pre_rename_check: Callable[[], None]
    ) -> object:
        store_path.write_bytes(b"theirs")
        return really_write(directory, name, content, create=create, pre_rename_check=pre_rename_check)

    monkeypatch.setattr(atomic, "write", write)
    with pytest.raises(StoreFileError, match="somebody has made a store there meanwhile"):
        restore(store_path, copy)
    assert store_path.read_bytes() == b"theirs"


def test_leftovers_of_writers_go(copy: Path, store_path: Path) -> None:
    """As with each save."""
    leftover = store_path.with_name(f".{store_path.name}.{'0a' * 8}.tmp")
    leftover.write_bytes(b"")
    restore(store_path, copy)
    assert not leftover.exists()


def test_a_file_that_is_made_replaces_none(tmp_path: Path) -> None:
    """Nor does it go into a folder that is not there."""
    path = tmp_path / "file"
    make_file(path, b"mine")
    with pytest.raises(StoreFileError, match="there is a file already; it was left as it is"):
        make_file(path, b"other")
    assert path.read_bytes() == b"mine"
    with pytest.raises(StoreFileError, match="the folder cannot be opened"):
        make_file(tmp_path / "none" / "file", b"")
    assert re.fullmatch(r"0o100600", oct(path.stat().st_mode))

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest
from cryptography.fernet import Fernet

from zoho_keystore._fs.paths import default_key_ring, default_store
from zoho_keystore._keys.ring import fingerprint
from zoho_keystore._keys.sources import KEY_VARIABLE, RING_VARIABLE, WritableKeySource, key_source
from zoho_keystore._open import open_keystore
from zoho_keystore._operations.setup import init
from zoho_keystore._records import TokenRecord
from zoho_keystore.errors import CannotOpenError, KeyUnavailableError, StoreFileError, UnsafeFileError

if TYPE_CHECKING:
    from pathlib import Path


def write_ring(path: Path) -> bytes:
    """Write a key ring with one key, and return the key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    key = Fernet.generate_key()
    path.write_bytes(key)
    path.chmod(0o600)
    return key


def test_init_creates_key_and_store_once() -> None:
    """Afterwards a store without arguments opens."""
    first, second = init(), init()
    assert (first.made_key, first.made_store, second.made_key, second.made_store) == (True, True, False, False)
    assert (first.store, first.source) == (default_store(), f"file:{default_key_ring()}")
    assert first.fingerprints == second.fingerprints
    assert first.is_default
    assert second.is_default
    open_keystore().save(TokenRecord(access_token="a"))
    init()
    assert len(open_keystore().records()) == 1


@pytest.mark.parametrize("prefix", ["file:", ""])
def test_init_creates_the_ring_that_the_variable_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    ring = tmp_path / "keys" / "ring"
    monkeypatch.setenv(RING_VARIABLE, f"{prefix}{ring}")
    done = init()
    assert (done.made_key, done.is_default, done.source) == (True, True, f"file:{ring}")
    assert ring.exists()
    assert not default_key_ring().exists()


def test_init_uses_the_key_of_the_variable(monkeypatch: pytest.MonkeyPatch, key: bytes, store_path: Path) -> None:
    monkeypatch.setenv(KEY_VARIABLE, key.decode())
    done = init(store_path)
    assert (done.made_key, done.made_store, done.is_default) == (False, True, False)
    assert done.fingerprints == (fingerprint(key),)
    assert not default_key_ring().exists()


def test_init_with_another_ring_is_not_the_default(tmp_path: Path) -> None:
    """Without a default ring, and with one that has another key."""
    spec = f"file:{tmp_path / 'ring'}"
    assert not init(key=spec).is_default
    write_ring(default_key_ring())
    assert not init(key=spec).is_default


def test_init_creates_no_key_for_an_existing_store(store_path: Path, key: bytes, tmp_path: Path) -> None:
    """It could not open the store, and would hide that the store's own key is missing."""
    open_keystore(store_path, key=key).close()
    before = store_path.read_bytes()
    ring = tmp_path / "ring"
    for spec in (f"file:{ring}", None):
        with pytest.raises(KeyUnavailableError):
            init(store_path, key=spec)
    assert not ring.exists()
    assert not default_key_ring().exists()
    write_ring(ring)
    with pytest.raises(CannotOpenError):
        init(store_path, key=f"file:{ring}")
    assert store_path.read_bytes() == before


@pytest.mark.parametrize("is_default", [True, False])
def test_missing_key_of_an_existing_store_is_told_apart(store_path: Path, key: bytes, *, is_default: bool) -> None:
    """A new key, as for a new store, would not open it: by init(), and by opening the store."""
    open_keystore(store_path, key=key).close()
    spec = None if is_default else f"file:{store_path.parent}/none"
    for opens in (init, open_keystore):
        with pytest.raises(KeyUnavailableError, match=r"the store is there, and its key is not: .*restore your copy"):
            opens(store_path, key=spec)


@pytest.mark.needs_modes
def test_missing_key_of_a_store_of_another_user_names_the_owner(
    store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That user has the key; the advice is not to move the store away."""
    open_keystore(store_path, key=key).close()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    for opens in (init, open_keystore):
        with pytest.raises(UnsafeFileError, match=r"it belongs to user \d+, and .* Run this as the owner"):
            opens(store_path)


def test_missing_key_of_a_file_that_is_no_store_names_what_it_is(store_path: Path) -> None:
    """FileStore's file, or an SQLite database; an empty file has its own advice."""
    for content, problem in (
        (b"id,user_name,refresh_token,access_token\n", "the plain-text file of the SDK's FileStore"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"", "the file is empty"),
    ):
        store_path.write_bytes(content)
        for opens in (init, open_keystore):
            with pytest.raises(CannotOpenError, match=problem):
                opens(store_path)
        assert store_path.read_bytes() == content


def test_init_keeps_the_key_when_the_store_cannot_be_created(tmp_path: Path) -> None:
    """The next init() uses it."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreFileError):
        init(tmp_path / "file" / "store")
    assert not init(tmp_path / "store").made_key


def test_make_leaves_a_ring_that_another_process_created_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look whether it exists and its creation."""
    ring = tmp_path / "ring"
    source = key_source(f"file:{ring}")
    assert isinstance(source, WritableKeySource)
    theirs = write_ring(ring)
    monkeypatch.setattr("os.path.lexists", lambda _path: False)
    assert not source.create(Fernet.generate_key())
    assert list(source.load()) == [theirs]


def test_init_in_several_threads_creates_one_key() -> None:
    done = []
    threads = [threading.Thread(target=lambda: done.append(init())) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 5
    assert len({one.fingerprints for one in done}) == 1
    assert [one.made_key for one in done].count(True) == 1

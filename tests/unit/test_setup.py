"""The first key ring and the first store; what the command says of them is a test of its own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from cryptography.fernet import Fernet

from zoho_keystore._fs.paths import default_key_ring, default_store
from zoho_keystore._keys.ring import fingerprint
from zoho_keystore._keys.sources import KEY_VARIABLE, RING_VARIABLE, WritableSource, key_source
from zoho_keystore._open import open_keystore
from zoho_keystore._operations.setup import init
from zoho_keystore._records import TokenRecord
from zoho_keystore.errors import CannotOpenError, KeyUnavailableError, StoreFileError

if TYPE_CHECKING:
    from pathlib import Path


def test_the_first_one_makes_both_and_the_second_nothing() -> None:
    """After it a store without arguments opens."""
    first, second = init(), init()
    assert (first.made_key, first.made_store, second.made_key, second.made_store) == (True, True, False, False)
    assert (first.store, first.source) == (default_store(), f"file:{default_key_ring()}")
    assert first.fingerprints == second.fingerprints
    assert first.is_default
    assert second.is_default
    open_keystore().save(TokenRecord(access_token="a"))
    init()
    assert len(open_keystore().records()) == 1


@pytest.mark.parametrize("as_spec", [True, False])
def test_the_ring_that_a_variable_names_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, as_spec: bool
) -> None:
    """With its folder."""
    ring = tmp_path / "keys" / "ring"
    monkeypatch.setenv(RING_VARIABLE, f"file:{ring}" if as_spec else str(ring))
    done = init()
    assert (done.made_key, done.is_default, done.source) == (True, True, f"file:{ring}")
    assert ring.exists()
    assert not default_key_ring().exists()


def test_a_key_that_is_handed_out_is_used(monkeypatch: pytest.MonkeyPatch, key: bytes, store_path: Path) -> None:
    """None is made then."""
    monkeypatch.setenv(KEY_VARIABLE, key.decode())
    done = init(store_path)
    assert (done.made_key, done.made_store, done.is_default) == (False, True, False)
    assert done.fingerprints == (fingerprint(key),)
    assert not default_key_ring().exists()


def test_a_ring_elsewhere_is_not_the_default(tmp_path: Path) -> None:
    """Where there is no default, and where there is another one."""
    spec = f"file:{tmp_path / 'ring'}"
    assert not init(key=spec).is_default
    default_key_ring().parent.mkdir(parents=True, exist_ok=True)
    default_key_ring().write_bytes(Fernet.generate_key())
    default_key_ring().chmod(0o600)
    assert not init(key=spec).is_default


def test_no_key_is_made_for_a_store_that_is_there(store_path: Path, key: bytes, tmp_path: Path) -> None:
    """It would not open it, and who looks for the lost one would be misled."""
    open_keystore(store_path, key=key).close()
    before = store_path.read_bytes()
    with pytest.raises(KeyUnavailableError, match="the key ring cannot be read"):
        init(store_path, key=f"file:{tmp_path / 'ring'}")
    with pytest.raises(KeyUnavailableError):
        init(store_path)
    assert not (tmp_path / "ring").exists()
    assert not default_key_ring().exists()
    (tmp_path / "ring").write_bytes(Fernet.generate_key())
    (tmp_path / "ring").chmod(0o600)
    with pytest.raises(CannotOpenError):
        init(store_path, key=f"file:{tmp_path / 'ring'}")
    assert store_path.read_bytes() == before


def test_where_no_store_can_be_made_it_says_so(tmp_path: Path) -> None:
    """A key that was made stays, and can be used."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreFileError):
        init(tmp_path / "file" / "store")
    assert not init(tmp_path / "store").made_key


def test_a_ring_that_another_process_makes_meanwhile_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its key is the one."""
    theirs, ours = Fernet.generate_key(), Fernet.generate_key()
    ring = tmp_path / "ring"
    source = key_source(f"file:{ring}")
    assert isinstance(source, WritableSource)
    ring.write_bytes(theirs)
    ring.chmod(0o600)
    monkeypatch.setattr("os.path.lexists", lambda _path: False)
    assert not source.make(ours)
    assert list(source.load()) == [theirs]


def test_many_that_begin_at_once_come_to_the_same(tmp_path: Path) -> None:
    """One makes the key, one the store."""
    done = []
    threads = [threading.Thread(target=lambda: done.append(init())) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 5
    assert len({one.fingerprints for one in done}) == 1
    assert [one.made_key for one in done].count(True) == 1
    assert tmp_path.exists()

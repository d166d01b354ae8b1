"""Backups and restores where the command line's tests do not reach: failing disks, other kinds of files."""

from __future__ import annotations

import errno
import os
import shlex
import time
from contextlib import closing
from inspect import signature
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet

from support import IS_ROOT, OTHER_UID, as_other_user, failing, failure_of, held, write_private
from zoho_keystore._fs import atomic
from zoho_keystore._fs.directory import Directory
from zoho_keystore._keys.ring import KeyRing, fingerprint
from zoho_keystore._keys.sources import KEY_VARIABLE
from zoho_keystore._keystore import storage_of
from zoho_keystore._open import open_keystore
from zoho_keystore._operations.backup import backup, compare, inspect, restore
from zoho_keystore._operations.key_usage import key_usage
from zoho_keystore._operations.rotation import rotate
from zoho_keystore._operations.setup import init
from zoho_keystore._records import TokenRecord
from zoho_keystore.errors import (
    CannotOpenError,
    ConfigurationError,
    DurabilityUnknownError,
    LockTimeoutError,
    StoreFileError,
    TokenNotFoundError,
    UnsafeFileError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zoho_keystore._keystore import Keystore

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")

needs_root = pytest.mark.skipif(not IS_ROOT, reason="acts as another user, which only root may")


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


@pytest.mark.parametrize("use", [backup, restore, compare])
def test_address_in_the_place_of_a_copy_is_refused(use: Callable[..., object], store: Keystore) -> None:
    """As a path it would be repeated by a message, with its password."""
    address = "postgresql://ann:canary@h/d"
    error, text = failure_of(lambda: use(store.path, address), ConfigurationError)
    assert "the address of a database was given" in error.problem
    assert "canary" not in text


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


def test_restore_keeps_ids_and_retired_tokens_of_replaced_state(store: Keystore, copy: Path, store_path: Path) -> None:
    """The script of one user would act as another one, and a process that runs for days brings a token back."""
    store.save(TokenRecord(refresh_token="bob's"))
    store.save(TokenRecord(refresh_token="carol's"))
    later = backup(store_path, copy.with_name("later"))
    store.delete("2")
    store.save(TokenRecord(id="3", refresh_token="carol's second"))
    restore(store_path, copy)
    assert [record.id for record in store.records()] == ["1"]
    assert store.save(TokenRecord(refresh_token="dave's")).id == "4"
    with pytest.raises(TokenNotFoundError, match="was deleted"):
        store.save(TokenRecord(id="2", refresh_token="bob's"))
    restore(store_path, later)
    assert [record.id for record in store.records()] == ["1", "2", "3"]
    assert store.save(TokenRecord(refresh_token="erin's")).id == "5"
    # The copy holds these, so they are no longer retired; what the copy does not know stays so.
    assert inspect(store_path).header.retired == ()
    store.delete("2")
    assert store.save(TokenRecord(id="3", refresh_token="carol's")).refresh_token == "carol's"
    restore(store_path, copy)
    assert len(inspect(store_path).header.retired) == 1


def test_restore_seals_with_primary_key(
    store: Keystore, copy: Path, store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of before a rotation needs a retired key, which would be needed again."""
    new = Fernet.generate_key()
    monkeypatch.setenv(KEY_VARIABLE, f"{new.decode()},{key.decode()}")
    restore(store_path, copy)
    assert inspect(store_path).fingerprint == fingerprint(new)
    assert [record.access_token for record in store.records()] == ["secret-canary"]


def test_restore_over_state_that_does_not_open_warns(
    copy: Path, store_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its ids are not known."""
    store_path.write_bytes(Fernet(Fernet.generate_key()).encrypt(b"{}"))
    restore(store_path, copy)
    [message] = [message for message in caplog.messages if "the replaced state" in message]
    assert message.startswith(
        f"{store_path}: the replaced state does not open (the key is wrong or the file is damaged"
    )
    assert message.endswith("so ids that it has assigned since may be assigned again")


def test_restore_verifies_new_content_before_it_replaces_store(
    copy: Path, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect of memory or of the library would lose all tokens."""
    before = store_path.read_bytes()
    monkeypatch.setattr(KeyRing, "decrypt_with_primary", lambda *_arguments: b"{}")
    with pytest.raises(StoreFileError, match="does not decrypt to the same records; the store was left as it is"):
        restore(store_path, copy)
    assert store_path.read_bytes() == before


@pytest.mark.needs_modes
@pytest.mark.usefixtures("store")
def test_backup_into_missing_directory_is_refused(store_path: Path, tmp_path: Path) -> None:
    """A file of that name would be taken for the directory by the next backup."""
    missing = tmp_path / "it's missing"
    with pytest.raises(StoreFileError, match="there is no such directory; nothing was copied") as caught:
        backup(store_path, f"{missing}/")
    assert shlex.split(caught.value.advice.removeprefix("Make it: ")) == ["mkdir", "-m", "700", str(missing)]
    assert not missing.exists()
    missing.mkdir(mode=0o700)
    assert backup(store_path, f"{missing}/").parent == missing


@pytest.mark.needs_modes
@pytest.mark.usefixtures("store")
def test_backup_into_a_shared_directory_is_refused_and_leaves_its_mode(store_path: Path, tmp_path: Path) -> None:
    """The other users who keep backups there could not write to it any more."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(UnsafeFileError, match="Use a directory of your own"):
        backup(store_path, shared)
    assert shared.stat().st_mode & 0o777 == 0o777
    assert os.listdir(shared) == []


@pytest.mark.needs_modes
@pytest.mark.usefixtures("store")
def test_inspect_fails_where_a_save_would(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the constructor does: a monitor has to tell before a refresh token is lost."""
    lock = store_path.with_name(f".{store_path.name}.lock")
    lock.unlink()
    lock.mkdir()
    with pytest.raises(StoreFileError, match="the lock file"):
        inspect(store_path)
    lock.rmdir()
    inspect(store_path)
    store_path.parent.chmod(0o777)
    with monkeypatch.context() as patch:
        patch.setattr(os, "chmod", failing(errno.EPERM))
        for use in (inspect, open_keystore):
            with pytest.raises(UnsafeFileError, match="lets other users replace files in this directory"):
                use(store_path)
    inspect(store_path)
    assert store_path.parent.stat().st_mode & 0o777 == 0o755


@needs_root
def test_files_that_root_makes_belong_to_the_owner_of_the_directory(
    public_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root sets up, backs up, restores and rotates; then the user works on with all of it."""
    os.chown(public_directory, OTHER_UID, OTHER_UID)
    for variable, name in (("XDG_DATA_HOME", "data"), ("XDG_CONFIG_HOME", "config")):
        monkeypatch.setenv(variable, str(public_directory / name))
    store = init().store
    copy = backup(None, public_directory / "copy")
    store.unlink()
    assert restore(None, copy) is None
    assert restore(None, copy) is not None
    rotate()
    made = [public_directory, *public_directory.rglob("*")]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(OTHER_UID, OTHER_UID)}
    assert len(made) == 11

    def work() -> object:
        with closing(open_keystore()) as keystore:
            saved = keystore.save(TokenRecord(refresh_token="r")).id
        return saved, len(rotate().retired), restore(None, backup(None, public_directory / "another")) is not None

    assert as_other_user(work) == "('1', 2, True)"


@needs_root
@pytest.mark.parametrize("is_public", [False, True])
def test_restore_by_root_takes_lock_file_of_the_directory_owner(
    public_directory: Path, key: bytes, monkeypatch: pytest.MonkeyPatch, *, is_public: bool
) -> None:
    """Where the store is gone; not in a directory such as /tmp, where any user could make a lock file and keep it."""
    monkeypatch.setenv(KEY_VARIABLE, key.decode())
    if is_public:
        public_directory.chmod(0o1777)
    else:
        os.chown(public_directory, OTHER_UID, OTHER_UID)
    store = public_directory / "tokens.keystore"

    def work() -> None:
        open_keystore(store).close()

    assert as_other_user(work) == "None"
    copy = backup(store, public_directory / "copy")
    store.unlink()
    if is_public:
        with pytest.raises(UnsafeFileError, match=f"the lock file is not safe to use: it belongs to user {OTHER_UID}"):
            restore(store, copy)
        return
    restore(store, copy)
    assert as_other_user(work) == "None"
    assert store.stat().st_uid == OTHER_UID


@pytest.mark.needs_modes
def test_no_mode_but_the_stores_is_changed(copy: Path, store_path: Path) -> None:
    """A copy, and the directory that it lies in, may be another program's; the store is restricted when it is read."""
    shared = copy.parent / "shared"
    shared.mkdir()
    copy = copy.rename(shared / "copy")
    for path, mode in ((copy, 0o644), (shared, 0o777), (store_path, 0o644)):
        path.chmod(mode)
    other = write_private(store_path.parent / "other")
    other.chmod(0o644)
    compare(store_path, copy)
    key_usage(store_path)
    restore(store_path, copy)
    modes = [path.stat().st_mode & 0o777 for path in (copy, shared, other, store_path)]
    assert modes == [0o644, 0o777, 0o644, 0o600]


@pytest.mark.parametrize("use", [compare, restore])
def test_copy_that_does_not_open_is_refused(copy: Path, store_path: Path, use: Any) -> None:
    """The store is as it was."""
    before = store_path.read_bytes()
    copy.write_bytes(Fernet(Fernet.generate_key()).encrypt(b"{}"))
    with pytest.raises(CannotOpenError):
        use(store_path, copy)
    copy.unlink()
    with pytest.raises(StoreFileError, match="there is no such file"):
        use(store_path, copy)
    assert store_path.read_bytes() == before
    assert os.listdir(store_path.parent).count(store_path.name) == 1


@pytest.mark.needs_modes
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
    assert inspect(store_path).records == inspect(copy).records


def test_restore_waits_as_long_as_every_write() -> None:
    """The documented default."""
    assert signature(restore).parameters["lock_timeout"].default == 10.0


def test_restore_lock_timeout_keeps_store(store: Keystore, copy: Path, store_path: Path) -> None:
    """Another writer would lose its save."""
    before = store_path.read_bytes()
    with held(store), pytest.raises(LockTimeoutError):
        restore(store_path, copy, lock_timeout=0)
    assert store_path.read_bytes() == before


@pytest.mark.needs_directory_fds("lock-lock")
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


def test_lease_is_no_difference_between_a_store_and_its_copy(tmp_path: Path, key: bytes) -> None:
    """Else restore would say that it changes a token which is the same."""
    spec, path = f"file:{write_private(tmp_path / 'ring', key)}", tmp_path / "leased.keystore"
    with closing(open_keystore(path, key=spec, refresh_wait=10)) as leased:
        record = leased.save(TokenRecord(user_name="ann", refresh_token="r", access_token="a", expires_in="1"))
        copied = backup(path, tmp_path / "copy", key=spec)
        leased.get_for_use(record.id)
        assert leased.get(record.id) != record
    assert compare(path, copied, key=spec).changed == ()


def test_restore_of_a_database_remembers_the_tokens_that_were_deleted_before(
    tmp_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the database holds more tokens than are remembered."""
    monkeypatch.setattr("zoho_keystore._storage.headers.MAX_RETIRED", 3)
    spec, url = f"file:{write_private(tmp_path / 'ring', key)}", f"sqlite:///{tmp_path}/s.db"
    with closing(open_keystore(url, key=spec)) as opened:
        for number in range(5):
            opened.save(TokenRecord(user_name=f"user {number}", refresh_token=f"r{number}", access_token="a"))
        copied = backup(url, tmp_path / "copy", key=spec)
        opened.delete(opened.save(TokenRecord(user_name="gone", refresh_token="gone", access_token="a")).id)
        before = storage_of(opened).header().retired
        restore(url, copied, key=spec)
        assert storage_of(opened).header().retired == before != ()

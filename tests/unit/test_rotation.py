"""Rotations that run through, those that cannot be done, and those that stop half-way and are done again.

Kills and races are in ``tests/faults``.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keyring
import pytest
from cryptography.fernet import Fernet
from keyrings.alt.file import PlaintextKeyring

from support import failing
from zoho_keystore._fs import atomic
from zoho_keystore._fs.directory import Directory
from zoho_keystore._keys.ring import fingerprint, key_ring
from zoho_keystore._keys.sources import KEY_VARIABLE, RING_VARIABLE, key_source
from zoho_keystore._keystore import Keystore
from zoho_keystore._open import FILE_VARIABLE, open_keystore
from zoho_keystore._leases import Lease, Owner
from zoho_keystore._operations import rotation
from zoho_keystore._operations.rotation import add_key, prune, rotate, usage
from zoho_keystore._records import TokenRecord
from zoho_keystore.errors import (
    CannotOpenError,
    ConfigurationError,
    DurabilityUnknownError,
    KeystoreError,
    KeyUnavailableError,
    LockTimeoutError,
    RotationUnfinishedError,
    StoreFileError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")

SCRIPT = Path(__file__).parents[2] / "scripts" / "rotate_key.py"
OLD, OLDER = Fernet.generate_key(), Fernet.generate_key()
COMMENTS = (b"# the company's ring\n", b"# made in spring\n", b"# the end\n")


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    """Give a ring of two keys with comments."""
    path = tmp_path / "ring"
    path.write_bytes(COMMENTS[0] + b"\n" + COMMENTS[1] + OLD + b"\n" + OLDER + b"\n" + COMMENTS[2])
    path.chmod(0o600)
    return path


@pytest.fixture
def spec(ring: Path) -> str:
    """Give the spec of the ring."""
    return f"file:{ring}"


@pytest.fixture
def store(no_descriptor_is_left: None, store_path: Path, spec: str) -> Iterator[Keystore]:  # noqa: ARG001 - closed before it looks
    """Give a store with two tokens, sealed with the ring's newest key."""
    with closing(open_keystore(store_path, key=spec)) as keystore:
        for name in ("r1", "r2"):
            keystore.save(TokenRecord(client_id="c", client_secret="s", refresh_token=name))
        yield keystore


def keys_of(spec: str) -> list[bytes]:
    """Return the keys of a ring."""
    return list(key_source(spec).load())


def sealed_with(path: Path, keys: list[bytes]) -> list[bytes]:
    """Return which of some keys open a store."""
    return [key for key in keys if key_ring(key).decrypt_with_primary(path.read_bytes()) is not None]


def tokens(path: Path, key: Any) -> list[str | None]:
    """Return what a store holds."""
    return [record.refresh_token for record in open_keystore(path, key=key, create=False).records()]


# --- Rotations that run through -------------------------------------------------------------------------------------


def test_a_rotation_seals_the_store_with_a_new_key_and_drops_the_old_ones(
    store: Keystore, store_path: Path, ring: Path, spec: str
) -> None:
    """Old keys open nothing afterwards; what is stored and what is said in the ring stays."""
    records = store.records()
    done = rotate(store_path, key=spec)
    [new] = keys_of(spec)
    assert new not in (OLD, OLDER)
    assert sealed_with(store_path, [OLD, OLDER, new]) == [new]
    assert open_keystore(store_path, key=new).records() == records
    assert ring.read_bytes() == COMMENTS[0] + b"\n" + new + b"\n" + COMMENTS[1] + COMMENTS[2]
    assert stat.S_IMODE(ring.stat().st_mode) == stat.S_IMODE(store_path.stat().st_mode) == 0o600
    assert done == rotation.Rotation(
        store_path, spec, fingerprint(new), (fingerprint(OLD), fingerprint(OLDER)), {}, manual_distribution=False
    )


def test_a_running_store_goes_on(store: Keystore, store_path: Path, spec: str) -> None:
    """It asks for its keys again, and saves with the new one."""
    for number in range(3, 6):
        rotate(store_path, key=spec)
        assert len(store.records()) == number - 1
        store.save(TokenRecord(client_id="c", client_secret="s", refresh_token=f"r{number}"))
    assert sealed_with(store_path, keys_of(spec)) == keys_of(spec)


@pytest.mark.usefixtures("store")
def test_old_keys_may_stay(store_path: Path, spec: str) -> None:
    """For stores and backups elsewhere."""
    done = rotate(store_path, key=spec, keep_old=True)
    new, *others = keys_of(spec)
    assert others == [OLD, OLDER]
    assert sealed_with(store_path, [new, OLD, OLDER]) == [new]
    assert (done.dropped, done.needed) == ((), {})


@pytest.mark.usefixtures("store")
def test_keys_that_backups_beside_the_store_are_sealed_with_stay(store_path: Path, spec: str) -> None:
    """Dropped, they would make the backups worthless; the others leave."""
    backup = store_path.with_name("backup of monday")
    backup.write_bytes(store_path.read_bytes())
    (store_path.parent / "gAAAA, and no token").write_bytes(b"gAAAA and so on")
    (store_path.parent / "folder").mkdir()
    os.mkfifo(store_path.parent / "fifo")
    done = rotate(store_path, key=spec)
    assert done.needed == {fingerprint(OLD): (backup,)}
    assert done.dropped == (fingerprint(OLDER),)
    assert keys_of(spec)[1:] == [OLD]
    assert tokens(backup, spec) == ["r1", "r2"]
    backup.unlink()
    assert len(rotate(store_path, key=spec).dropped) == 2


@pytest.mark.usefixtures("store")
def test_a_key_that_the_default_store_is_sealed_with_stays(
    store_path: Path, tmp_path: Path, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One ring may serve several stores."""
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    open_keystore(other / "store", key=spec)
    monkeypatch.setenv(FILE_VARIABLE, str(other / "store"))
    assert rotate(store_path, key=spec).needed == {fingerprint(OLD): (other / "store",)}


def test_the_defaults_are_those_of_the_store(monkeypatch: pytest.MonkeyPatch, ring: Path) -> None:
    """The ring that a variable names, and the store in the data folder."""
    monkeypatch.setenv(RING_VARIABLE, str(ring))
    open_keystore().save(TokenRecord(access_token="a"))
    done = rotate()
    assert done.path.name == "tokens.keystore"
    assert done.source == f"file:{ring}"
    assert len(open_keystore().records()) == 1


@pytest.mark.usefixtures("store")
def test_the_new_key_may_be_brought_along(store_path: Path, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several the newest is taken."""
    new = Fernet.generate_key()
    monkeypatch.setenv("NEW", f"{new.decode()},{OLD.decode()}")
    assert rotate(store_path, key=spec, new="env:NEW").key == fingerprint(new)
    assert keys_of(spec) == [new]
    rotate(store_path, key=spec, new="env:NEW")
    assert keys_of(spec) == [new]


def test_a_lease_outlives_a_rotation(store: Keystore, store_path: Path, spec: str) -> None:
    """Whoever refreshes a token just now goes on doing so."""
    lease = Lease(Owner.current(), 1_800_000_000_000)
    storage: Any = store._storage
    with storage.transaction() as transaction:
        transaction.put(TokenRecord(id="1", refresh_token="r1", refresh=lease.as_fields()))
    rotate(store_path, key=spec)
    assert Lease.of(store.records()[0]) == lease


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[None]:
    """Give a real backend of the system's keyring that needs no desktop."""
    was = keyring.get_keyring()
    backend = PlaintextKeyring()
    backend.file_path = str(tmp_path / "system.cfg")
    keyring.set_keyring(backend)
    yield
    keyring.set_keyring(was)


@pytest.mark.usefixtures("backend")
def test_a_ring_in_the_systems_keyring_is_rotated_too(store_path: Path) -> None:
    """Through the library."""
    spec = "keyring:zoho-keystore/crm"
    keyring.set_password("zoho-keystore", "crm", OLD.decode())
    running = open_keystore(store_path, key=spec)
    running.save(TokenRecord(access_token="a"))
    done = rotate(store_path, key=spec)
    [new] = keys_of(spec)
    assert (done.key, done.dropped) == (fingerprint(new), (fingerprint(OLD),))
    assert len(running.records()) == 1
    assert sealed_with(store_path, [OLD, new]) == [new]


# --- Keys that are handed out by hand -------------------------------------------------------------------------------


@pytest.fixture
def handed_out(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a store whose key is in a variable."""
    monkeypatch.setenv(KEY_VARIABLE, OLD.decode())
    open_keystore(store_path).save(TokenRecord(access_token="a"))
    return store_path


@pytest.mark.parametrize("key", [None, "env:ZOHO_KEYSTORE_KEY", "command:printenv ZOHO_KEYSTORE_KEY"])
def test_where_no_key_can_be_put_the_two_phases_are_explained(handed_out: Path, key: str | None) -> None:
    """And nothing is changed."""
    before = handed_out.read_bytes()
    with pytest.raises(ConfigurationError, match=r"hand NEW,OLD to all processes .* then hand out NEW alone"):
        rotate(handed_out, key=key)
    assert handed_out.read_bytes() == before


def test_once_both_keys_are_handed_out_the_store_is_sealed_with_the_new_one(
    handed_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is the middle step."""
    new = Fernet.generate_key()
    monkeypatch.setenv(KEY_VARIABLE, f"{new.decode()},{OLD.decode()}")
    done = rotate(handed_out)
    assert (done.key, done.source, done.dropped, done.manual_distribution) == (
        fingerprint(new),
        "env:ZOHO_KEYSTORE_KEY",
        (),
        True,
    )
    assert sealed_with(handed_out, [OLD, new]) == [new]


def test_the_middle_step_may_be_done_where_only_the_new_key_is_known_besides(
    handed_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is named by a spec of its own."""
    new = Fernet.generate_key()
    monkeypatch.setenv("NEW", new.decode())
    assert rotate(handed_out, new="env:NEW").key == fingerprint(new)
    assert sealed_with(handed_out, [OLD, new]) == [new]


# --- Rotations that cannot be done ----------------------------------------------------------------------------------


def damage(store: Path) -> None:
    """Change a character into another one that may stand there: else it would be no token at all."""
    content = bytearray(store.read_bytes())
    content[100] = ord("A" if content[100] != ord("A") else "B")
    store.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "kind", "problem"),
    [
        (lambda store, _ring: damage(store), CannotOpenError, "the key is wrong or the file is damaged"),
        (lambda store, _ring: store.write_bytes(b""), CannotOpenError, "the file is empty"),
        (lambda store, _ring: store.unlink(), StoreFileError, "there is no store: no such file"),
        (lambda _store, ring: ring.parent.chmod(0o777), StoreFileError, "lets other users replace files"),
        (lambda _store, ring: ring.chmod(0o644), KeyUnavailableError, "lets other users read or change the keys"),
        (lambda _store, ring: ring.unlink(), KeyUnavailableError, "no such file"),
    ],
)
@pytest.mark.usefixtures("store")
def test_a_rotation_that_cannot_be_done_changes_nothing(
    store_path: Path, ring: Path, spoil: Callable[[Path, Path], object], kind: type[KeystoreError], problem: str
) -> None:
    """And says why."""
    spoil(store_path, ring)
    before = [path.read_bytes() if path.exists() else None for path in (store_path, ring)]
    with pytest.raises(kind, match=problem):
        rotate(store_path, key=f"file:{ring}")
    assert [path.read_bytes() if path.exists() else None for path in (store_path, ring)] == before


def test_a_path_without_a_store_gets_none(tmp_path: Path, spec: str) -> None:
    """Somebody has mistyped it."""
    with pytest.raises(StoreFileError, match="there is no store"):
        rotate(tmp_path / "nothing", key=spec)
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("which", ["store", "ring"])
def test_a_lock_that_is_taken_for_too_long_changes_nothing(
    store: Keystore, store_path: Path, ring: Path, spec: str, which: str
) -> None:
    """The store's, or that of another rotation."""
    before = store_path.read_bytes(), ring.read_bytes()
    storage: Any = store._storage
    source: Any = key_source(spec)
    with storage.transaction() if which == "store" else source.lock(5), pytest.raises(LockTimeoutError):
        rotate(store_path, key=spec, lock_timeout=0.05)
    assert (store_path.read_bytes(), ring.read_bytes()) == before


@pytest.mark.usefixtures("store")
def test_a_ring_that_does_not_keep_the_new_key_is_found_out(
    store_path: Path, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the store is sealed with a key that nobody has."""
    before = store_path.read_bytes()
    monkeypatch.setattr(atomic, "write", lambda *_args, **_options: None)
    with pytest.raises(KeystoreError, match="does not hold the new key that was put there"):
        rotate(store_path, key=spec)
    assert store_path.read_bytes() == before


def test_what_does_not_open_to_the_same_does_not_replace_the_store(
    store: Keystore, store_path: Path, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A faulty memory or library would lose everything."""
    before = store_path.read_bytes()
    storage: Any = store._storage
    with monkeypatch.context() as patch:
        patch.setattr("zoho_keystore._keys.ring.KeyRing.decrypt_with_primary", lambda _ring, _sealed: None)
        with pytest.raises(RotationUnfinishedError, match="does not open to the same"):
            rotate(store_path, key=spec)
    assert store_path.read_bytes() == before
    assert len(storage.records()) == 2


def test_a_rotation_for_which_there_is_not_enough_memory_is_a_typed_error(
    store: Keystore, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is as it was."""
    before = store_path.read_bytes()
    storage: Any = store._storage

    def no_memory(_table: object) -> None:
        raise MemoryError

    monkeypatch.setattr(storage, "_sealed", no_memory)
    with pytest.raises(StoreFileError, match="nothing was sealed anew: not enough memory"):
        storage.reencrypt(lambda _fingerprint: storage._keys)
    assert store_path.read_bytes() == before


# --- Rotations that stop half-way -----------------------------------------------------------------------------------


class DiskFull:
    """A disk on which the write of a number of files works."""

    def __init__(self, works: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self._left = works
        really_create = Directory.create

        def create(directory: Directory, name: str, **options: Any) -> Any:
            if name.endswith(".tmp"):
                self._left -= 1
                if self._left < 0:
                    failing(errno.ENOSPC)()
            return really_create(directory, name, **options)

        monkeypatch.setattr(Directory, "create", create)


@pytest.mark.parametrize(
    ("works", "problem"),
    [
        (0, "nothing was saved: no space left on device"),
        (1, "a new key is in the ring, but the store is not sealed with it: nothing was saved: no space left"),
        (2, "the store is sealed with the new key, but the old ones could not leave the ring: nothing was saved: no"),
    ],
)
@pytest.mark.usefixtures("store")
def test_a_full_disk_loses_nothing_and_doing_it_again_finishes_it(
    store_path: Path, spec: str, works: int, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of the three writes."""
    with monkeypatch.context() as patch:
        DiskFull(works, patch)
        with pytest.raises(KeystoreError, match=problem) as caught:
            rotate(store_path, key=spec)
    assert isinstance(caught.value, RotationUnfinishedError) is (works > 0)
    assert ("then rotate again, which finishes it" in str(caught.value)) is (works > 0)
    assert tokens(store_path, spec) == ["r1", "r2"]
    half_way = keys_of(spec)
    rotate(store_path, key=spec)
    [new] = keys_of(spec)
    assert sealed_with(store_path, [OLD, OLDER, new]) == [new]
    # What joined the ring is used, and no other key made; once the store is sealed with it, it is an old one itself.
    assert (new in half_way) is (works == 1)


@pytest.mark.usefixtures("store")
def test_old_keys_stay_as_long_as_the_new_file_may_not_survive(
    store_path: Path, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut the old file may be back."""
    really_sync = Directory.sync

    def sync(directory: Directory) -> None:
        if directory.path == store_path.parent:
            failing(errno.EIO)()
        really_sync(directory)

    with monkeypatch.context() as patch:
        patch.setattr(Directory, "sync", sync)
        with pytest.raises(DurabilityUnknownError, match="it is saved, but may not survive a power cut"):
            rotate(store_path, key=spec)
    assert set(keys_of(spec)) >= {OLD, OLDER}
    assert tokens(store_path, spec) == ["r1", "r2"]


@pytest.mark.usefixtures("store")
def test_a_store_that_is_not_sealed_with_the_newest_key_gets_that_one(store_path: Path, ring: Path, spec: str) -> None:
    """A rotation was left half-way, or somebody has put a key there; a third one would be one too many."""
    new = Fernet.generate_key()
    ring.write_bytes(new + b"\n" + ring.read_bytes())
    assert rotate(store_path, key=spec).key == fingerprint(new)
    assert keys_of(spec) == [new]


# --- Dropping keys --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("store")
def test_keys_that_nothing_needs_are_dropped(store_path: Path, ring: Path, spec: str) -> None:
    """The newest stays, and what the store is sealed with."""
    new = Fernet.generate_key()
    ring.write_bytes(new + b"\n" + ring.read_bytes())
    assert [(use.fingerprint, use.files) for use in usage(store_path, key=spec)] == [
        (fingerprint(new), ()),
        (fingerprint(OLD), (store_path,)),
        (fingerprint(OLDER), ()),
    ]
    assert prune(store_path, key=spec) == (fingerprint(OLDER),)
    assert prune(store_path, key=spec) == ()
    assert keys_of(spec) == [new, OLD]
    assert tokens(store_path, spec) == ["r1", "r2"]


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("spoil", [Path.unlink, damage])
def test_no_key_is_dropped_of_a_store_that_does_not_open(
    store_path: Path, ring: Path, spec: str, spoil: Callable[[Path], object]
) -> None:
    """It may need any of them."""
    ring.write_bytes(Fernet.generate_key() + b"\n" + ring.read_bytes())
    before = ring.read_bytes()
    spoil(store_path)
    with pytest.raises(KeystoreError, match=r"there is no store|damaged"):
        prune(store_path, key=spec)
    assert ring.read_bytes() == before


def unreadable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep this user from reading a file or folder."""
    really_open, really_list = os.open, os.listdir

    def opens(name: Any, *args: Any, **options: Any) -> int:
        if str(name) == str(path):
            failing(errno.EACCES)()
        return really_open(name, *args, **options)

    def lists(name: Any) -> list[str]:
        if name == path:
            failing(errno.EACCES)()
        return really_list(name)

    monkeypatch.setattr(os, "open", opens)
    monkeypatch.setattr(os, "listdir", lists)


@pytest.mark.usefixtures("store")
def test_a_file_that_cannot_be_read_may_need_any_key(
    store_path: Path, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup of root's, beside the store of a user."""
    secret = store_path.with_name("backup of root")
    secret.write_bytes(store_path.read_bytes())
    unreadable(secret, monkeypatch)
    done = rotate(store_path, key=spec)
    assert done.needed == {fingerprint(OLD): (secret,), fingerprint(OLDER): (secret,)}
    assert keys_of(spec)[1:] == [OLD, OLDER]


@pytest.mark.usefixtures("store")
def test_a_folder_that_cannot_be_listed_may_hold_anything(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So each key may be needed."""
    unreadable(store_path.parent, monkeypatch)
    found = rotation.files_sealed_with([OLDER], store_path)
    assert found == {fingerprint(OLDER): (store_path.parent,)}


def test_keys_are_put_on_top_of_a_ring(ring: Path, spec: str) -> None:
    """The next save seals with the newest."""
    source, name = add_key(spec)
    assert source == f"file:{ring}"
    assert [fingerprint(key) for key in keys_of(spec)] == [name, fingerprint(OLD), fingerprint(OLDER)]


@pytest.mark.parametrize("change", [lambda: add_key("env:MINE"), lambda: prune(key="command:true")])
def test_keys_that_are_handed_out_are_not_changed_from_here(change: Callable[[], object]) -> None:
    """There is no place to write to."""
    with pytest.raises(ConfigurationError, match="cannot be changed from here"):
        change()


# --- The script -----------------------------------------------------------------------------------------------------


def script(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the script."""
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=30
    )


@pytest.mark.usefixtures("store")
def test_the_script_says_what_it_did_by_fingerprints(store_path: Path, ring: Path, spec: str) -> None:
    """And exits with 0."""
    backup = store_path.with_name("backup")
    backup.write_bytes(store_path.read_bytes())
    done = script("--store", store_path, "--key", spec)
    new = keys_of(spec)[0]
    assert done.stdout.splitlines() == [
        f"{store_path} is sealed with the key {fingerprint(new)}.",
        f"The old key {fingerprint(OLDER)} left file:{ring}.",
        f"The old key {fingerprint(OLD)} stays there: {backup} is sealed with it, or unreadable.",
    ]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("store")
def test_the_script_says_nothing_when_it_is_to_be_quiet(store_path: Path, spec: str) -> None:
    """As cron likes it."""
    done = script("--store", store_path, "--key", spec, "--quiet", "--keep-old")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(keys_of(spec)) == 3


def test_the_script_fails_with_one_line(store_path: Path, spec: str) -> None:
    """And a code that is not 0."""
    done = script("--store", store_path, "--key", spec, "--quiet")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{store_path}: there is no store: ")
    assert done.stderr.count("\n") == 1


def test_the_script_tells_what_is_left_to_do_by_hand(handed_out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last phase."""
    new = Fernet.generate_key()
    monkeypatch.setenv("NEW", new.decode())
    done = script("--store", handed_out, "--new-key", "env:NEW")
    assert done.stdout.splitlines()[1] == (
        f"Now hand out {fingerprint(new)} alone, where you handed out env:ZOHO_KEYSTORE_KEY."
    )

"""Rotations: complete, impossible, and interrupted; the use of keys; the script.

Kills, races, taken locks and leases are in ``tests/faults``.
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
from keyrings.alt.file import PlaintextKeyring

from support import failing, made_key, write_private
from zoho_keystore._fs import atomic
from zoho_keystore._fs.directory import Directory
from zoho_keystore._keys.ring import KeyRing, fingerprint, key_ring
from zoho_keystore._keys.sources import KEY_VARIABLE, key_source
from zoho_keystore._open import FILE_VARIABLE, open_keystore
from zoho_keystore._operations.key_usage import KeyUse, key_usage, usage_of
from zoho_keystore._operations.rotation import Rotation, add_key, prune, rotate
from zoho_keystore._records import TokenRecord
from zoho_keystore.errors import (
    CannotOpenError,
    ConfigurationError,
    DurabilityUnknownError,
    KeystoreError,
    KeyUnavailableError,
    RotationUnfinishedError,
    StoreFileError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zoho_keystore._keystore import Keystore

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")

SCRIPT = Path(__file__).parents[2] / "scripts" / "rotate_key.py"
NEW, OLD, OLDER = map(made_key, ("new", "old", "older"))


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    """Give a ring file with two keys and comments."""
    return write_private(tmp_path / "ring", b"# the company's ring", b"", b"# made in spring", OLD, OLDER, b"# the end")


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


def sealed_with(path: Path, *keys: bytes) -> list[bytes]:
    """Return which of some keys decrypt a store."""
    return [key for key in keys if key_ring(key).decrypt_with_primary(path.read_bytes()) is not None]


def tokens(path: Path, key: Any) -> list[str | None]:
    """Return the refresh tokens of a store."""
    with closing(open_keystore(path, key=key, create=False)) as keystore:
        return [record.refresh_token for record in keystore.records()]


# --- Complete rotations ---------------------------------------------------------------------------------------------


def test_rotate_replaces_key_in_store_and_ring(store: Keystore, store_path: Path, ring: Path, spec: str) -> None:
    """Records and comments stay; running processes follow and save with the new key."""
    records = store.records()
    done = rotate(store_path, key=spec)
    [new] = keys_of(spec)
    assert sealed_with(store_path, OLD, OLDER, new) == [new]
    assert ring.read_bytes() == b"# the company's ring\n\n%b\n# made in spring\n# the end\n" % new
    assert stat.S_IMODE(ring.stat().st_mode) == stat.S_IMODE(store_path.stat().st_mode) == 0o600
    dropped = (fingerprint(OLD), fingerprint(OLDER))
    assert done == Rotation(store_path, spec, fingerprint(new), dropped, (), manual_distribution=False)
    assert store.records() == records
    for number in range(3, 5):
        rotate(store_path, key=spec)
        store.save(TokenRecord(client_id="c", client_secret="s", refresh_token=f"r{number}"))
    assert sealed_with(store_path, *keys_of(spec)) == keys_of(spec)
    assert len(store.records()) == 4


@pytest.mark.usefixtures("store")
def test_rotate_keeps_keys_that_other_files_need(
    store_path: Path, tmp_path: Path, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Backups beside the store, until they are gone, and the default store; other kinds of files need no key."""
    default = tmp_path / "default" / "store"
    default.parent.mkdir(mode=0o700)
    open_keystore(default, key=spec).close()
    monkeypatch.setenv(FILE_VARIABLE, str(default))
    backup = store_path.with_name("backup of monday")
    backup.write_bytes(store_path.read_bytes())
    (store_path.parent / "gAAAA, and no token").write_bytes(b"gAAAA and so on")
    (store_path.parent / "huge").write_bytes(b"gAAAA")
    os.truncate(store_path.parent / "huge", 1 << 40)
    (store_path.parent / "link").symlink_to(backup)
    (store_path.parent / "folder").mkdir()
    os.mkfifo(store_path.parent / "fifo")
    done = rotate(store_path, key=spec)
    assert done.kept == (KeyUse(fingerprint(OLD), (default, backup)),)
    assert done.dropped == (fingerprint(OLDER),)
    assert keys_of(spec)[1:] == [OLD]
    assert tokens(backup, spec) == ["r1", "r2"]
    backup.unlink()
    default.unlink()
    assert len(rotate(store_path, key=spec).dropped) == 2


@pytest.mark.usefixtures("store")
def test_rotate_takes_newest_key_of_new_source(store_path: Path, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the store is sealed with it already."""
    monkeypatch.setenv("NEW", f"{NEW.decode()},{OLD.decode()}")
    for _ in range(2):
        assert rotate(store_path, key=spec, new="env:NEW").fingerprint == fingerprint(NEW)
        assert keys_of(spec) == [NEW]


@pytest.mark.usefixtures("store")
def test_rotate_takes_newest_key_of_ring_that_store_lacks(store_path: Path, ring: Path, spec: str) -> None:
    """An earlier rotation was interrupted, or the user added the key: no other is made, and it is made durable."""
    ring.write_bytes(NEW + b"\n" + ring.read_bytes())
    before = ring.stat().st_ino
    done = rotate(store_path, key=spec, keep_old=True)
    assert done == Rotation(store_path, spec, fingerprint(NEW), (), (), manual_distribution=False)
    assert sealed_with(store_path, NEW, OLD) == [NEW]
    assert keys_of(spec) == [NEW, OLD, OLDER]
    assert ring.stat().st_ino != before


def test_rotate_in_system_keyring(store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a real backend that needs no desktop."""
    backend = PlaintextKeyring()
    backend.file_path = str(tmp_path / "system.cfg")
    monkeypatch.setattr(keyring.core, "_keyring_backend", backend)
    keyring.set_password("zoho-keystore", "crm", OLD.decode())
    spec = "keyring:zoho-keystore/crm"
    running = open_keystore(store_path, key=spec)
    running.save(TokenRecord(access_token="a"))
    done = rotate(store_path, key=spec)
    [new] = keys_of(spec)
    assert (done.fingerprint, done.dropped) == (fingerprint(new), (fingerprint(OLD),))
    assert len(running.records()) == 1
    assert sealed_with(store_path, OLD, new) == [new]


# --- Sources that cannot be written ---------------------------------------------------------------------------------


@pytest.fixture
def store_of_variable(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a store whose key is in a variable."""
    monkeypatch.setenv(KEY_VARIABLE, OLD.decode())
    open_keystore(store_path).save(TokenRecord(access_token="a"))
    return store_path


@pytest.mark.parametrize("key", [None, "env:ZOHO_KEYSTORE_KEY", "command:printenv ZOHO_KEYSTORE_KEY"])
def test_rotate_read_only_source_explains_two_phases(store_of_variable: Path, key: str | None) -> None:
    """And changes nothing."""
    before = store_of_variable.read_bytes()
    with pytest.raises(ConfigurationError, match=r"hand NEW,OLD to all processes .* then hand out NEW alone"):
        rotate(store_of_variable, key=key)
    assert store_of_variable.read_bytes() == before


@pytest.mark.parametrize(("value", "new"), [("NEW,OLD", None), ("OLD", "env:NEW")])
def test_rotate_read_only_source_with_new_key(
    store_of_variable: Path, monkeypatch: pytest.MonkeyPatch, value: str, new: str | None
) -> None:
    """The second phase, where both keys are distributed or the new one has a spec; the report names the third."""
    monkeypatch.setenv(KEY_VARIABLE, value.replace("NEW", NEW.decode()).replace("OLD", OLD.decode()))
    monkeypatch.setenv("NEW", NEW.decode())
    done = rotate(store_of_variable, new=new)
    source = "env:ZOHO_KEYSTORE_KEY"
    assert done == Rotation(store_of_variable, source, fingerprint(NEW), (), (), manual_distribution=True)
    assert done.report().endswith(f"\nNow hand out {fingerprint(NEW)} alone, where you handed out {source}.")
    assert sealed_with(store_of_variable, OLD, NEW) == [NEW]


# --- Rotations that are refused -------------------------------------------------------------------------------------


def damage(store: Path) -> None:
    """Replace a character of the token by another one of its alphabet."""
    content = bytearray(store.read_bytes())
    content[100] = ord("A" if content[100] != ord("A") else "B")
    store.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "kind", "problem"),
    [
        (lambda store, _ring: damage(store), CannotOpenError, "the key is wrong or the file is damaged"),
        (lambda store, _ring: store.write_bytes(b""), CannotOpenError, "the file is empty"),
        (lambda store, _ring: store.unlink(), StoreFileError, "there is no store"),
        (lambda _store, ring: ring.parent.chmod(0o777), StoreFileError, "lets other users replace files"),
        (lambda _store, ring: ring.chmod(0o644), KeyUnavailableError, "lets other users read or change the keys"),
        (lambda _store, ring: ring.unlink(), KeyUnavailableError, "no such file"),
    ],
)
@pytest.mark.usefixtures("store")
def test_rotate_refused_changes_nothing(
    store_path: Path, ring: Path, spoil: Callable[[Path, Path], object], kind: type[KeystoreError], problem: str
) -> None:
    """No store is made at a path without one."""
    spoil(store_path, ring)
    before = [path.read_bytes() if path.exists() else None for path in (store_path, ring)]
    with pytest.raises(kind, match=problem):
        rotate(store_path, key=f"file:{ring}")
    assert [path.read_bytes() if path.exists() else None for path in (store_path, ring)] == before


@pytest.mark.usefixtures("store")
def test_rotate_ring_that_loses_new_key_is_detected(
    store_path: Path, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the store is sealed with a key that is lost."""
    before = store_path.read_bytes()
    monkeypatch.setattr(atomic, "write", lambda *_args, **_options: None)
    with pytest.raises(KeystoreError, match="does not hold the new key that was put there"):
        rotate(store_path, key=spec)
    assert store_path.read_bytes() == before


# --- Rotations that are interrupted ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("writes", "problem"),
    [
        (0, "nothing was saved: no space left on device"),
        (1, "a new key is in the ring, but the store is not sealed with it: nothing was saved: no space left"),
        (
            2,
            "sealed with the new key, but the old keys could not be removed from the ring: nothing was saved: no space",
        ),
    ],
)
@pytest.mark.usefixtures("store")
def test_rotate_on_full_disk_is_completed_by_next(
    store_path: Path, spec: str, writes: int, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each of the three writes; the ring opens the store in between."""
    done: list[str] = []
    really_create = Directory.create

    def create(directory: Directory, name: str, **options: Any) -> Any:
        if name.endswith(".tmp"):
            if len(done) == writes:
                failing(errno.ENOSPC)()
            done.append(name)
        return really_create(directory, name, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Directory, "create", create)
        with pytest.raises(KeystoreError, match=problem) as caught:
            rotate(store_path, key=spec)
    assert isinstance(caught.value, RotationUnfinishedError) is (writes > 0)
    assert ("then rotate again, which finishes it" in str(caught.value)) is (writes > 0)
    assert tokens(store_path, spec) == ["r1", "r2"]
    half_way = keys_of(spec)
    rotate(store_path, key=spec)
    [new] = keys_of(spec)
    assert sealed_with(store_path, OLD, OLDER, new) == [new]
    # A key that was added and not used yet is used now; one that the store is sealed with already is replaced.
    assert (new in half_way) is (writes == 1)


@pytest.mark.usefixtures("store")
def test_rotate_that_may_not_be_durable_keeps_old_keys(
    store_path: Path, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut the store may be the old file again."""
    really_sync = Directory.sync

    def sync(directory: Directory) -> None:
        if directory.path == store_path.parent:
            failing(errno.EIO)()
        really_sync(directory)

    with monkeypatch.context() as patch:
        patch.setattr(Directory, "sync", sync)
        with pytest.raises(DurabilityUnknownError, match="may not survive a power cut"):
            rotate(store_path, key=spec)
    assert set(keys_of(spec)) >= {OLD, OLDER}
    assert tokens(store_path, spec) == ["r1", "r2"]


@pytest.mark.parametrize(
    ("fault", "problem"),
    [("decrypt_with_primary", "does not decrypt to the same records"), ("seal", "not enough memory")],
)
def test_rotate_verifies_new_content_before_it_replaces_store(
    store: Keystore, store_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, problem: str
) -> None:
    """A defect of memory or of the library would lose all tokens."""
    before = store_path.read_bytes()

    def fail(*_args: object) -> None:
        if fault == "seal":
            raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(KeyRing, fault, fail)
        with pytest.raises(RotationUnfinishedError, match=problem):
            rotate(store_path, key=f"file:{store_path.parent.parent / 'ring'}")
    assert store_path.read_bytes() == before
    assert len(store.records()) == 2


# --- The keys of a ring ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("store")
def test_prune_removes_unused_keys(store_path: Path, ring: Path, spec: str) -> None:
    """The newest key stays, and the one that the store is sealed with."""
    ring.write_bytes(NEW + b"\n" + ring.read_bytes())
    assert key_usage(store_path, key=spec) == [
        KeyUse(fingerprint(NEW), ()),
        KeyUse(fingerprint(OLD), (store_path,)),
        KeyUse(fingerprint(OLDER), ()),
    ]
    assert prune(store_path, key=spec) == (fingerprint(OLDER),)
    assert prune(store_path, key=spec) == ()
    assert keys_of(spec) == [NEW, OLD]
    assert tokens(store_path, spec) == ["r1", "r2"]


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("spoil", [Path.unlink, damage])
def test_prune_refuses_store_that_does_not_open(
    store_path: Path, ring: Path, spec: str, spoil: Callable[[Path], object]
) -> None:
    """It may need each of the keys."""
    ring.write_bytes(NEW + b"\n" + ring.read_bytes())
    spoil(store_path)
    with pytest.raises(KeystoreError, match=r"there is no store|damaged"):
        prune(store_path, key=spec)
    assert keys_of(spec) == [NEW, OLD, OLDER]


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(("call", "number"), [("open", errno.EACCES), ("open", errno.EIO), ("listdir", errno.EACCES)])
def test_usage_counts_unreadable_file_for_each_key(
    store_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """A backup of root's beside the store, or a directory that this user may not list."""
    path = store_path.parent if call == "listdir" else store_path.with_name("backup of root")
    really = getattr(os, call)
    if call == "open":
        path.write_bytes(store_path.read_bytes())

    def fails(name: Any, *args: Any, **options: Any) -> Any:
        return failing(number)() if name == path else really(name, *args, **options)

    monkeypatch.setattr(os, call, fails)
    assert usage_of([OLDER, NEW], store_path) == [
        KeyUse(fingerprint(OLDER), (path,)),
        KeyUse(fingerprint(NEW), (path,)),
    ]


def test_add_key_puts_key_above_others(ring: Path, spec: str) -> None:
    """The next save seals with it."""
    source, name = add_key(spec)
    assert source == f"file:{ring}"
    assert [fingerprint(key) for key in keys_of(spec)] == [name, fingerprint(OLD), fingerprint(OLDER)]


@pytest.mark.parametrize("change", [lambda: add_key("env:MINE"), lambda: prune(key="command:true")])
def test_read_only_source_is_not_changed(change: Callable[[], object]) -> None:
    """The message says where to change it."""
    with pytest.raises(ConfigurationError, match=r"cannot be changed from here\. Change them where you hand them out"):
        change()


# --- The script -----------------------------------------------------------------------------------------------------


def script(*arguments: object) -> tuple[int, str, str]:
    """Run the script, and return its exit code and output."""
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=30
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.usefixtures("store")
def test_script_reports_fingerprints(store_path: Path, ring: Path, spec: str) -> None:
    """And nothing with ``--quiet``, for cron."""
    backup = store_path.with_name("backup")
    backup.write_bytes(store_path.read_bytes())
    code, out, err = script("--store", store_path, "--key", spec)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"{store_path} is sealed with the key {fingerprint(keys_of(spec)[0])}.",
        f"Removed the old key {fingerprint(OLDER)} from file:{ring}.",
        f"Kept the old key {fingerprint(OLD)}, since these files need it or cannot be read: {backup}.",
    ]
    assert script("--store", store_path, "--key", spec, "--quiet", "--keep-old") == (0, "", "")
    assert len(keys_of(spec)) == 3


def test_script_failure_is_one_line(store_path: Path, spec: str) -> None:
    """With exit code 1."""
    code, out, err = script("--store", store_path, "--key", spec, "--quiet")
    assert (code, out) == (1, "")
    assert err.startswith(f"{store_path}: there is no store")
    assert err.count("\n") == 1

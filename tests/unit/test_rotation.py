"""Rotations: complete, impossible, and interrupted; the use of keys; the script.

Kills, races, taken locks and leases are in ``tests/faults``.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keyring
import pytest
from cryptography.fernet import Fernet
from keyrings.alt.file import PlaintextKeyring

from support import failing, made_key, write_private
from zoho_keystore._fs import atomic
from zoho_keystore._fs.directory import Directory
from zoho_keystore._fs.lock import StoreLock
from zoho_keystore._fs.paths import default_store
from zoho_keystore._hidden import Hidden
from zoho_keystore._keys.ring import KeyRing, fingerprint, key_ring
from zoho_keystore._keys.ring_text import RingKeys
from zoho_keystore._keys.sources import KEY_VARIABLE, key_source
from zoho_keystore._keys.sources.environment import EnvironmentVariable
from zoho_keystore._keys.sources.ring_file import RingFile
from zoho_keystore._open import FILE_VARIABLE, open_keystore
from zoho_keystore._operations.backup import backup
from zoho_keystore._operations.key_usage import KeyUse, key_usage, usage_of
from zoho_keystore._operations.ring_keys import add_key, prune
from zoho_keystore._operations.rotation import Rotation, rotate
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
NEW, OLD, OLDER, OLDEST = map(made_key, ("new", "old", "older", "oldest"))


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


def active_in(spec: str) -> list[bytes]:
    """Return the keys of a ring that are not retired."""
    return list(key_source(spec).load().active)


def sealed_with(path: Path, *keys: bytes) -> list[bytes]:
    """Return which of some keys decrypt a store."""
    return [key for key in keys if key_ring(key).decrypt_with_primary(path.read_bytes()) is not None]


def tokens(path: Path, key: Any) -> list[str | None]:
    """Return the refresh tokens of a store."""
    with closing(open_keystore(path, key=key, create=False)) as keystore:
        return [record.refresh_token for record in keystore.records()]


# --- Complete rotations ---------------------------------------------------------------------------------------------


@pytest.mark.needs_modes
def test_rotate_replaces_key_in_store_and_retires_old_ones(
    store: Keystore, store_path: Path, ring: Path, spec: str
) -> None:
    """Records and comments stay; running processes follow and save with the new key."""
    records = store.records()
    done = rotate(store_path, key=spec)
    [new] = active_in(spec)
    assert sealed_with(store_path, OLD, OLDER, new) == [new]
    today = time.strftime("%Y-%m-%d", time.gmtime()).encode()
    text = b"# the company's ring\n\n%b\n# retired %b\n# made in spring\n%b\n%b\n# the end\n"
    assert ring.read_bytes() == text % (new, today, OLD, OLDER)
    assert stat.S_IMODE(ring.stat().st_mode) == stat.S_IMODE(store_path.stat().st_mode) == 0o600
    retired = (fingerprint(OLD), fingerprint(OLDER))
    assert done == Rotation(store_path, spec, fingerprint(new), retired, (), (), manual_distribution=False)
    assert store.records() == records
    for number in range(3, 5):
        rotate(store_path, key=spec)
        store.save(TokenRecord(client_id="c", client_secret="s", refresh_token=f"r{number}"))
    assert sealed_with(store_path, *keys_of(spec)) == active_in(spec)
    assert len(store.records()) == 4
    assert set(keys_of(spec)) > {OLD, OLDER, new}


@pytest.mark.usefixtures("store")
def test_rotate_keeps_other_stores_of_the_ring_readable(store_path: Path, spec: str, tmp_path: Path) -> None:
    """Also a backup that no look at the directory finds; the other store takes the new key with its next save."""
    other = tmp_path / "elsewhere" / "other.keystore"
    other.parent.mkdir(mode=0o700)
    open_keystore(other, key=spec).close()
    copy = backup(store_path, tmp_path / "elsewhere" / "copy", key=spec)
    for _ in range(2):
        rotate(store_path, key=spec)
    assert tokens(copy, spec) == ["r1", "r2"]
    with closing(open_keystore(other, key=spec)) as keystore:
        assert sealed_with(other, OLD) == [OLD]
        keystore.save(TokenRecord(refresh_token="r"))
    assert sealed_with(other, *keys_of(spec)) == active_in(spec)


@pytest.mark.usefixtures("store")
def test_rotate_drop_old_removes_leaked_keys(store_path: Path, tmp_path: Path, ring: Path, spec: str) -> None:
    """Those of earlier rotations too; the report names the files that are known to need them."""
    copy = backup(store_path, store_path.with_name("copy"), key=spec)
    retired = rotate(store_path, key=spec).fingerprint
    done = rotate(store_path, key=spec, drop_old=True)
    [new] = keys_of(spec)
    assert ring.read_bytes() == b"# the company's ring\n\n%b\n# made in spring\n# the end\n" % new
    dropped = (retired, fingerprint(OLD), fingerprint(OLDER))
    assert done == Rotation(store_path, spec, fingerprint(new), (), dropped, (copy,), manual_distribution=False)
    assert done.report().splitlines()[1:] == [
        (
            f"Dropped the old keys {', '.join(dropped)} from {spec}: what is sealed with them can only be opened with "
            "a copy of the key."
        ),
        f"No longer opens, or could not be read: {copy}",
    ]
    assert tokens(store_path, spec) == ["r1", "r2"]
    with pytest.raises(CannotOpenError):
        tokens(copy, spec)
    write_private(ring, new)
    store = tmp_path / "a store of one key"
    open_keystore(store, key=spec).close()
    write_private(ring, NEW, new)
    assert "from" in rotate(store, key=spec, drop_old=True).report()
    write_private(ring, keys_of(spec)[0])
    assert rotate(store, key=spec, new=spec, drop_old=True).dropped == ()


def test_rotate_uses_sources_without_the_lock_of_the_store(
    store: Keystore, store_path: Path, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A keyring or a program may take half a minute, and other processes would lose their saves meanwhile."""
    monkeypatch.setenv("NEW", NEW.decode())
    calls: list[str] = []

    def watched(name: str, really: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            with StoreLock(store_path.parent, store_path.name, 0).held():
                calls.append(name)
            return really(*args, **options)

        return call

    for kind, name in ((RingFile, "load"), (RingFile, "add"), (RingFile, "remove"), (EnvironmentVariable, "load")):
        monkeypatch.setattr(kind, name, watched(f"{kind.__name__}.{name}", getattr(kind, name)))
    rotate(store_path, key=spec, new="env:NEW", drop_old=True, lock_timeout=1)
    assert set(calls) == {"RingFile.load", "RingFile.add", "RingFile.remove", "EnvironmentVariable.load"}
    assert len(store.records()) == 2


@pytest.mark.usefixtures("store")
def test_rotate_takes_newest_key_of_new_source(store_path: Path, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the store is sealed with it already."""
    monkeypatch.setenv("NEW", f"{NEW.decode()},{OLD.decode()}")
    for _ in range(2):
        assert rotate(store_path, key=spec, new="env:NEW").fingerprint == fingerprint(NEW)
        assert active_in(spec) == [NEW]


@pytest.mark.usefixtures("store")
def test_rotate_takes_newest_key_of_ring_that_store_lacks(store_path: Path, ring: Path, spec: str) -> None:
    """An earlier rotation was interrupted, or the user added the key: no other is made, and it is made durable."""
    ring.write_bytes(NEW + b"\n" + ring.read_bytes())
    before = ring.stat().st_ino
    done = rotate(store_path, key=spec)
    retired = (fingerprint(OLD), fingerprint(OLDER))
    assert done == Rotation(store_path, spec, fingerprint(NEW), retired, (), (), manual_distribution=False)
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
    [new] = active_in(spec)
    assert (done.fingerprint, done.retired) == (fingerprint(new), (fingerprint(OLD),))
    assert len(running.records()) == 1
    assert sealed_with(store_path, OLD, new) == [new]
    assert keys_of(spec) == [new, OLD]
    assert prune(store_path, key=spec) == (fingerprint(OLD),)
    assert keys_of(spec) == [new]


# --- Sources that cannot be written ---------------------------------------------------------------------------------


@pytest.fixture
def store_of_variable(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a store whose key is in a variable."""
    monkeypatch.setenv(KEY_VARIABLE, OLD.decode())
    open_keystore(store_path).save(TokenRecord(access_token="a"))
    return store_path


@pytest.mark.needs_posix_shell("printenv")
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
    assert done == Rotation(store_of_variable, source, fingerprint(NEW), (), (), (), manual_distribution=True)
    assert done.report().endswith(f"\nNow hand out {fingerprint(NEW)} alone, where you handed out {source}.")
    assert sealed_with(store_of_variable, OLD, NEW) == [NEW]


# --- Rotations that are refused -------------------------------------------------------------------------------------


def damage(store: Path) -> None:
    """Replace a character of the token by another one of its alphabet."""
    content = bytearray(store.read_bytes())
    content[100] = ord("A" if content[100] != ord("A") else "B")
    store.write_bytes(content)


@pytest.mark.needs_modes("lets other users")
@pytest.mark.parametrize(
    ("spoil", "kind", "problem"),
    [
        (lambda store, _ring: damage(store), CannotOpenError, "the key is wrong or the file is damaged"),
        (lambda store, _ring: store.write_bytes(b""), CannotOpenError, "the file is empty"),
        (lambda store, _ring: store.unlink(), StoreFileError, "there is no store"),
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
            rotate(store_path, key=spec, drop_old=True)
    assert isinstance(caught.value, RotationUnfinishedError) is (writes > 0)
    assert ("then rotate again, which finishes it" in str(caught.value)) is (writes > 0)
    assert tokens(store_path, spec) == ["r1", "r2"]
    half_way = keys_of(spec)
    rotate(store_path, key=spec, drop_old=True)
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
    [
        ("fails", "does not decrypt to the same records"),
        ("another payload", "does not decrypt to the same records"),
        ("memory", "not enough memory"),
    ],
)
def test_rotate_verifies_new_content_before_it_replaces_store(
    store: Keystore, store_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, problem: str
) -> None:
    """A defect of memory or of the library would lose all tokens."""
    before = store_path.read_bytes()

    decrypt = KeyRing.decrypt_with_primary

    def fail(ring: KeyRing, text: bytes) -> bytes | None:
        if fault == "memory":
            raise MemoryError
        return None if fault == "fails" else (decrypt(ring, text) or b"").replace(b'"r2"', b'"r3"')

    with monkeypatch.context() as patch:
        patch.setattr(KeyRing, "seal" if fault == "memory" else "decrypt_with_primary", fail)
        with pytest.raises(RotationUnfinishedError, match=problem):
            rotate(store_path, key=f"file:{store_path.parent.parent / 'ring'}")
    assert store_path.read_bytes() == before
    assert len(store.records()) == 2


# --- The keys of a ring ---------------------------------------------------------------------------------------------


@pytest.fixture
def retired_ring(ring: Path) -> Path:
    """Give a ring with a new key, the store's key, and two that are retired."""
    return write_private(ring, NEW, OLD, b"# retired 2026-11-25", OLDER, OLDEST)


@pytest.mark.needs_modes
@pytest.mark.usefixtures("store", "retired_ring")
def test_key_usage_shows_states_and_files(store_path: Path, tmp_path: Path, spec: str) -> None:
    """Of the store, backups beside it or beside a link to it, and what links lead to; other files need no key."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = elsewhere / "link.keystore"
    link.symlink_to(store_path)
    backups = [store_path.with_name("backup of monday"), elsewhere / "backup of tuesday", tmp_path / "far" / "backup"]
    for path in backups:
        write_private(path).write_bytes(Fernet(OLDER).encrypt(b"{}"))
    (store_path.parent / "a link to it").symlink_to(backups[2])
    (store_path.parent / "a link to nothing").symlink_to("missing")
    (store_path.parent / "gAAAA, and no token").write_bytes(b"gAAAA and so on")
    (store_path.parent / "huge").write_bytes(b"gAAAA")
    os.truncate(store_path.parent / "huge", 1 << 40)
    (store_path.parent / "folder").mkdir()
    os.mkfifo(store_path.parent / "fifo")
    assert key_usage(link, key=spec) == [
        KeyUse(fingerprint(NEW), (), "primary"),
        KeyUse(fingerprint(OLD), (store_path,), "old"),
        KeyUse(fingerprint(OLDER), tuple(sorted(backups)), "retired", "2026-11-25"),
        KeyUse(fingerprint(OLDEST), (), "retired", "2026-11-25"),
    ]
    assert prune(link, key=spec) == (fingerprint(OLDEST),)


@pytest.mark.usefixtures("store", "retired_ring")
def test_key_usage_finds_default_store(
    store_path: Path, tmp_path: Path, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may use the same ring as a store that is named."""
    default = tmp_path / "default" / "store"
    default.parent.mkdir(mode=0o700)
    open_keystore(default, key=OLDER).close()
    monkeypatch.setenv(FILE_VARIABLE, str(default))
    assert key_usage(store_path, key=spec)[2].files == (default,)


@pytest.mark.usefixtures("store", "retired_ring")
def test_key_usage_finds_default_store_beside_a_refused_address(
    store_path: Path, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs that do not see the variable use that store."""
    open_keystore(key=OLDER).close()
    monkeypatch.setenv(FILE_VARIABLE, "postgresql://ann:secret@localhost/d")
    assert key_usage(store_path, key=spec)[2].files == (default_store(),)


@pytest.mark.usefixtures("store", "retired_ring")
def test_key_usage_looks_at_default_store_unless_its_directory_is_shut(
    store_path: Path, tmp_path: Path, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home directory that may not be entered is another user's; after another error, any key may be needed."""
    default = tmp_path / "default" / "store"
    default.parent.mkdir(mode=0o700)
    open_keystore(default, key=OLDER).close()
    monkeypatch.setenv(FILE_VARIABLE, str(default))
    really_stat = os.stat
    for number, is_found in ((errno.EACCES, False), (errno.EIO, True)):

        def stat_of(path: Any, *arguments: Any, number: int = number, **options: Any) -> os.stat_result:
            if path == default:
                failing(number)()
            return really_stat(path, *arguments, **options)

        with monkeypatch.context() as patched:
            patched.setattr("os.stat", stat_of)
            assert (default in key_usage(store_path, key=spec)[2].files) == is_found


@pytest.mark.usefixtures("store", "retired_ring")
def test_prune_removes_retired_keys_without_known_use(store_path: Path, ring: Path, spec: str) -> None:
    """The newest key stays, keys that are not retired, and those that a file needs."""
    another = made_key("another")
    write_private(ring, NEW, OLD, another, b"# retired 2026-11-25", OLDER, OLDEST)
    backup = store_path.with_name("backup")
    backup.write_bytes(Fernet(OLDER).encrypt(b"{}"))
    assert prune(store_path, key=spec) == (fingerprint(OLDEST),)
    assert prune(store_path, key=spec) == ()
    assert keys_of(spec) == [NEW, OLD, another, OLDER]
    assert tokens(store_path, spec) == ["r1", "r2"]


@pytest.mark.usefixtures("store", "retired_ring")
def test_prune_removes_named_keys(store_path: Path, spec: str) -> None:
    """Also one that a backup needs: the user has named it."""
    backup = store_path.with_name("backup")
    backup.write_bytes(Fernet(OLDER).encrypt(b"{}"))
    assert prune(store_path, [fingerprint(OLDER)], key=spec) == (fingerprint(OLDER),)
    assert keys_of(spec) == [NEW, OLD, OLDEST]


@pytest.mark.usefixtures("store", "retired_ring")
@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (
            NEW,
            r"the key \w+ seals this store; nothing was dropped\. Rotate first: zoho-keystore --store \S+ --key file:",
        ),
        (
            OLD,
            r"the key \w+ seals this store; nothing was dropped\. Rotate first: zoho-keystore --store \S+ --key file:",
        ),
        (
            made_key("another"),
            r"has no key \w+; nothing was dropped\. List the keys with: zoho-keystore --store \S+ --key",
        ),
    ],
)
def test_prune_refuses_key_of_the_store(store_path: Path, spec: str, key: bytes, problem: str) -> None:
    """Also together with one that could be dropped."""
    with pytest.raises(ConfigurationError, match=problem):
        prune(store_path, [fingerprint(OLDEST), fingerprint(key)], key=spec)
    assert keys_of(spec) == [NEW, OLD, OLDER, OLDEST]


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


@pytest.mark.needs_directory_fds("read-5")
@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("call", "number"),
    [
        *(("open", number) for number in (errno.EACCES, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ETIMEDOUT)),
        ("read", errno.EIO),
        ("listdir", errno.EACCES),
    ],
)
def test_usage_counts_unreadable_file_for_each_key(
    store_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    """A backup of root's beside the store, or a directory that this user may not list."""
    path = store_path.parent if call == "listdir" else store_path.with_name("backup of root")
    really = getattr(os, call)
    if call != "listdir":
        path.write_bytes(store_path.read_bytes())

    def fails(name: Any, *args: Any, **options: Any) -> Any:
        is_path = os.readlink(f"/proc/self/fd/{name}") == str(path) if call == "read" else name == path
        return failing(number)() if is_path else really(name, *args, **options)

    monkeypatch.setattr(os, call, fails)
    assert usage_of(RingKeys([OLDER, NEW]), Hidden(store_path), Hidden(None)) == [
        KeyUse(fingerprint(OLDER), (path,), "primary"),
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
    with pytest.raises(
        ConfigurationError, match=r"cannot be changed from here: a source of this kind is only read\. Change"
    ):
        change()


# --- The script -----------------------------------------------------------------------------------------------------


def script(*arguments: object) -> tuple[int, str, str]:
    """Run the script, and return its exit code and output."""
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=30
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.needs_cheap_processes
@pytest.mark.usefixtures("store")
def test_script_reports_fingerprints(store_path: Path, ring: Path, spec: str) -> None:
    """And nothing with ``--quiet``, for cron."""
    code, out, err = script("--store", store_path, "--key", spec)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    [old, older] = [fingerprint(OLD), fingerprint(OLDER)]
    assert lines[:2] == [
        f"{store_path} is sealed with the key {fingerprint(keys_of(spec)[0])}.",
        (
            f"Retired the old keys {old}, {older}: other stores and backups may need them, so file:{ring} keeps them "
            "for opening only."
        ),
    ]
    prune = f"zoho-keystore --store {store_path} --key {spec} key prune {old} {older}"
    assert lines[2:] == [f"When nothing needs them any more, drop them: {prune}"]
    assert script("--store", store_path, "--key", spec, "--quiet", "--drop-old") == (0, "", "")
    assert len(keys_of(spec)) == 1


def test_script_failure_is_one_line(store_path: Path, spec: str) -> None:
    """With exit code 1."""
    code, out, err = script("--store", store_path, "--key", spec, "--quiet")
    assert (code, out) == (1, "")
    assert err.startswith(f"{store_path}: there is no store")
    assert err.count("\n") == 1

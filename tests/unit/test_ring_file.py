"""``file:PATH``: which files are accepted as key rings, and how they are changed.

``test_permissions.py`` tests which modes and owners are accepted, ``test_private_file.py`` how a file is read.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet

from support import IS_ROOT, OTHER_UID, as_other_user, assert_hides, failing, failure_of, made_key, write_private
from zoho_keystore._fs import atomic
from zoho_keystore._keys.ring import key_ring
from zoho_keystore._keys.sources import WritableKeySource, key_source
from zoho_keystore._keys.sources.ring_file import RingFile
from zoho_keystore._open import open_keystore
from zoho_keystore._operations.ring_keys import add_key, prune
from zoho_keystore._operations.rotation import rotate
from zoho_keystore.errors import (
    CannotOpenError,
    ConfigurationError,
    KeyUnavailableError,
    LockTimeoutError,
    MalformedKeyError,
    StoreFileError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")

needs_root = pytest.mark.skipif(not IS_ROOT, reason="gives files to another user, which only root may")

NEW, OLD, OLDER = map(made_key, ("new", "old", "older"))


def load(path: Path | str) -> list[bytes]:
    """Return the keys of a ring file."""
    return list(key_source(f"file:{path}").load())


# --- Contents -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"%b\n%b\n" % (NEW, OLD),
        b"%b\n%b" % (NEW, OLD),
        b"%b\r\n%b\r\n" % (NEW, OLD),
        b"%b\r%b\r" % (NEW, OLD),
        b"# made in May\n\n%b\n  # the old one:\n   \n%b\n#%b\n" % (NEW, OLD, OLDER),
        b"%b\n%b\n%b\n" % (NEW, OLD, NEW),
    ],
)
def test_ring_file_holds_keys_and_comments(tmp_path: Path, content: bytes) -> None:
    """One key a line, newest first; a repeated key counts once."""
    path = write_private(tmp_path / "ring")
    path.write_bytes(content)
    assert load(path) == [NEW, OLD]


@pytest.mark.parametrize("lines", [(), (b"",), (b"# none yet",), (b"  ", b"\t")])
def test_ring_file_without_key_is_error(tmp_path: Path, lines: tuple[bytes, ...]) -> None:
    """It does not mean a store without encryption."""
    path = write_private(tmp_path / "ring", *lines)
    with pytest.raises(KeyUnavailableError, match="the key ring holds no key") as caught:
        load(path)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (OLD + b" # the old one", "has 58 characters instead of 44"),
        (OLD[1:], "has 43 characters"),
        (b"\x7fELF" + bytes(range(128, 140)), "has 16 characters"),
        (b"\0" * 44, "is not canonical"),
    ],
)
def test_ring_file_malformed_line_is_named(tmp_path: Path, bad: bytes, problem: str) -> None:
    """A line is a key or a comment; binary files are refused by their first line."""
    path = write_private(tmp_path / "ring", b"# newest first", NEW, bad)
    error, text = failure_of(lambda: load(path), MalformedKeyError)
    assert str(error).startswith(f"{path}: line 3 of the key ring {problem}")
    assert_hides(text, NEW, OLD)


def test_ring_file_size_is_limited(tmp_path: Path) -> None:
    """A larger file was named by mistake; not all of it is read."""
    path = write_private(tmp_path / "ring", NEW)
    path.write_bytes(path.read_bytes().ljust(65536, b"#"))
    assert load(path) == [NEW]
    for size in (65537, 1 << 40):
        os.truncate(path, size)
        with pytest.raises(MalformedKeyError, match="ring: this is not a key ring: it has more than 64 KiB"):
            load(path)


@pytest.mark.needs_modes
def test_ring_file_path_is_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the home directory, from the working directory, and over links, as orchestrators mount secrets."""
    path = write_private(tmp_path / "home" / "ring", NEW)
    (tmp_path / "link").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    for name in ("~/ring", "home/ring", "link", path):
        assert load(name) == [NEW]


# --- Files that are refused -----------------------------------------------------------------------------------------


@pytest.mark.needs_modes
@pytest.mark.parametrize("mode", [0o640, 0o602, 0o777])
def test_ring_file_mode_that_admits_others_is_refused(tmp_path: Path, mode: int) -> None:
    """The mode is not changed silently: another user may know the key already."""
    path = write_private(tmp_path / "ring", NEW)
    path.chmod(mode)
    error, text = failure_of(lambda: load(path), KeyUnavailableError)
    message = str(error)
    assert message.startswith(f"{path}: the key ring is not safe: mode {mode:04o} lets other users read or change")
    assert f"chmod 600 {shlex.quote(str(path))}" in message
    assert message.endswith("change the key afterwards: zoho-keystore rotate --drop-old")
    assert path.stat().st_mode & 0o777 == mode
    assert_hides(text, NEW)
    path.chmod(mode & 0o700)
    assert load(path) == [NEW]


@pytest.mark.needs_modes
def test_ring_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner could put in a key that they know."""
    path = write_private(tmp_path / "ring", NEW)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)  # A ring of root is accepted.
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner - 1)
    error, text = failure_of(lambda: load(path), KeyUnavailableError)
    assert f"not safe: it belongs to user {owner}, and this process runs as user {owner - 1}" in str(error)
    assert_hides(text, NEW)


@needs_root
def test_ring_file_is_shared_between_root_and_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root reads a user's ring, and a user one of root: root could read and change either anyway."""
    path = write_private(tmp_path / "ring", NEW)
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 65534)
        assert load(path) == [NEW]
    os.chown(path, 65534, 65534)
    assert load(path) == [NEW]


@pytest.mark.needs_modes
@pytest.mark.timeout(10)
def test_ring_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    """Without waiting for a writer of the FIFO, or reading an endless device."""
    os.mkfifo(tmp_path / "ring", 0o600)
    for path, kind in ((tmp_path, "directory"), (tmp_path / "ring", "FIFO"), ("/dev/zero", "device")):
        with pytest.raises(KeyUnavailableError, match=f"not safe: this is a {kind}"):
            load(path)


@pytest.mark.parametrize("name", ["missing", "missing/ring", "file/ring", "x" * 300])
def test_ring_file_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    """With the way out."""
    (tmp_path / "file").touch()
    with pytest.raises(KeyUnavailableError, match=r"the key ring cannot be read.*who may read it") as caught:
        load(tmp_path / name)
    assert caught.value.path == tmp_path / name
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.needs_modes
def test_ring_file_path_is_resolved_at_each_load(tmp_path: Path) -> None:
    """Kubernetes updates a secret by pointing ``..data`` to a new directory, and removes the old one."""
    for name, key in (("..one", OLD), ("..two", NEW)):
        write_private(tmp_path / name / "ring", key)
    data = tmp_path / "..data"
    data.symlink_to("..one")
    (tmp_path / "ring").symlink_to("..data/ring")
    keys = key_ring(f"file:{tmp_path / 'ring'}")
    (tmp_path / "new").symlink_to("..two")
    (tmp_path / "new").rename(data)
    shutil.rmtree(tmp_path / "..one")
    assert keys.open(Fernet(NEW).encrypt(b"a payload")).payload == b"a payload"
    assert repr(keys).startswith(f"<KeyRing from file:{tmp_path / 'ring'}: ")


def test_ring_file_path_stays_when_working_directory_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon changes it."""
    write_private(tmp_path / "ring", NEW)
    monkeypatch.chdir(tmp_path)
    source = key_source("file:ring")
    monkeypatch.chdir("/")
    assert source.load() == (NEW,)


@needs_root
def test_ring_file_link_planted_later_is_refused(public_directory: Path) -> None:
    """At each load, not only at the first one."""
    public_directory.chmod(0o1777)
    target = write_private(public_directory / "directory" / "target", NEW)
    link = public_directory / "link"
    keys = key_ring(f"file:{write_private(link, OLD)}")
    link.unlink()
    assert as_other_user(lambda: link.symlink_to(target)) == "None"
    with pytest.raises(CannotOpenError, match="the key ring is not safe: this is a symbolic link of user"):
        keys.open(Fernet(NEW).encrypt(b"a payload"))
    with pytest.raises(KeyUnavailableError, match="the key ring is not safe: this is a symbolic link of user"):
        load(link)


# --- Changes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a ring file with one key."""
    return write_private(tmp_path / "folder" / "ring", OLD)


@pytest.fixture
def source(path: Path) -> WritableKeySource:
    """Give the source of that file."""
    found = key_source(f"file:{path}")
    assert isinstance(found, WritableKeySource)
    return found


def with_keys(content: bytes) -> bytes:
    """Replace the names of keys by the keys."""
    return content.replace(b"NEW", NEW).replace(b"OLDER", OLDER).replace(b"OLD", OLD)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"OLD", b"NEW\nOLD"),
        (b"OLD\n", b"NEW\nOLD\n"),
        (b"\n\nOLD\nOLDER\n", b"\n\nNEW\nOLD\nOLDER\n"),
        (b"# of the company\n\n# of 2025\nOLD\n", b"# of the company\n\nNEW\n# of 2025\nOLD\n"),
        (b"# of 2025\nOLD\n# the end", b"NEW\n# of 2025\nOLD\n# the end"),
        (b"# of the company\r\n\r\nOLD\r\n", b"# of the company\r\n\r\nNEW\nOLD\r\n"),
    ],
)
def test_add_and_remove_keep_comments(path: Path, source: WritableKeySource, before: bytes, after: bytes) -> None:
    """A key is added above the others and the comment of the first; removing it restores the file."""
    path.write_bytes(with_keys(before))
    (path.parent / f".{path.name}.{'0a' * 8}.tmp").touch()  # of a killed writer
    source.add(NEW)
    assert path.read_bytes() == with_keys(after)
    source.remove([NEW])
    assert path.read_bytes() == with_keys(before)
    assert not list(path.parent.glob(".*.tmp"))


@pytest.mark.needs_modes
def test_create_makes_private_ring_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An existing ring stays as it is, also one that another process makes at the same moment."""
    ring = RingFile(tmp_path / "new" / "ring")
    assert ring.create(NEW)
    assert list(ring.load()) == [NEW]
    assert ring.path.stat().st_mode & 0o777 == 0o600
    assert not ring.create(OLD)
    monkeypatch.setattr(os.path, "lexists", lambda _path: False)
    assert not ring.create(OLD)
    assert list(ring.load()) == [NEW]


def test_add_retires_other_keys(path: Path, source: WritableKeySource) -> None:
    """They only open from then on, in releases before too, which read a comment."""
    source.add(NEW, retire="2026-11-25")
    assert path.read_bytes() == with_keys(b"NEW\n# retired 2026-11-25\nOLD\n")
    keys = key_ring(f"file:{path}")
    assert Fernet(NEW).decrypt(keys.seal(b"a payload")) == b"a payload"
    assert keys.open(Fernet(OLD).encrypt(b"a payload")).payload == b"a payload"
    with pytest.raises(KeyUnavailableError, match="the key ring holds no key that is not retired"):
        source.remove([NEW])
    assert load(path) == [NEW, OLD]


def test_add_present_key_writes_it_again(path: Path, source: WritableKeySource) -> None:
    """A key that an editor added may not be on the disk yet; one further down becomes the first."""
    before = path.stat().st_ino
    source.add(OLD)
    assert path.stat().st_ino != before
    assert load(path) == [OLD]
    write_private(path, OLD, OLDER)
    source.add(OLDER)
    assert load(path) == [OLDER, OLD]


def test_remove_keeps_last_key(path: Path, source: WritableKeySource) -> None:
    """A ring without a key is an error for each reader."""
    before = path.read_bytes()
    with pytest.raises(KeyUnavailableError, match="holds no key"):
        source.remove([OLD])
    assert path.read_bytes() == before


def test_add_keeps_change_of_program_without_lock(
    path: Path, source: WritableKeySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editor does not take the lock."""
    really_write = atomic.write

    def write(*args: Any, **options: Any) -> Any:
        write_private(path, OLDER)
        return really_write(*args, **options)

    monkeypatch.setattr(atomic, "write", write)
    with pytest.raises(KeyUnavailableError, match="another program changed the key ring without its lock"):
        source.add(NEW)
    assert load(path) == [OLDER]


def test_add_refuses_ring_larger_than_limit(path: Path, source: WritableKeySource) -> None:
    """No reader would accept it."""
    content = (OLD + b"\n#").ljust(64 * 1024, b".")
    path.write_bytes(content)
    with pytest.raises(KeyUnavailableError, match=r"larger than 64 KiB.*Remove keys or comments"):
        source.add(NEW)
    assert path.read_bytes() == content


def test_add_that_fails_keeps_ring(path: Path, source: WritableKeySource, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a full disk."""
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    with pytest.raises(StoreFileError, match="nothing was saved: no space left"):
        source.add(NEW)
    assert load(path) == [OLD]


def test_lock_excludes_other_changes(source: WritableKeySource, path: Path) -> None:
    """Two rotations at once would each remove the other's key."""
    other: Callable[[float], Any] = RingFile(path).lock
    with source.lock(5), pytest.raises(LockTimeoutError), other(0.05):
        pass


# --- Rings that cannot be changed from here -------------------------------------------------------------------------


def test_ring_file_that_can_be_replaced_can_be_changed(source: WritableKeySource) -> None:
    """The usual one."""
    assert source.cannot_change() == ""


@pytest.mark.needs_modes
def test_ring_file_on_read_only_file_system_cannot_be_changed(
    path: Path, source: WritableKeySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Secrets of containers; commands say so before they change anything."""
    monkeypatch.setattr(os, "fstatvfs", lambda _fd: SimpleNamespace(f_flag=os.ST_RDONLY))
    assert source.cannot_change() == "the file system is read-only"
    changes: list[Callable[[], object]] = [
        lambda: add_key(f"file:{path}"),
        lambda: prune("any", key=f"file:{path}"),
    ]
    for change in changes:
        with pytest.raises(
            ConfigurationError, match=r"cannot be changed from here: the file system .*is read-only\. Cha"
        ):
            change()


@pytest.mark.needs_modes
def test_ring_file_whose_directory_cannot_be_examined_is_reported(
    source: WritableKeySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the directory and the next step."""
    monkeypatch.setattr(os, "fstatvfs", failing(errno.EIO))
    with pytest.raises(StoreFileError, match="the directory cannot be examined: input/output error"):
        source.cannot_change()


@needs_root
def test_ring_file_of_root_cannot_be_changed_by_its_user(public_directory: Path) -> None:
    """A ring that an administrator handed out."""
    ring = write_private(public_directory / "ring", NEW)
    os.chown(ring, OTHER_UID, OTHER_UID)
    assert as_other_user(lambda: list(key_source(f"file:{ring}").load()) == [NEW]) == "True"
    answer = as_other_user(lambda: RingFile(ring).cannot_change())
    assert answer == f"this user may not create files in {public_directory}"


@pytest.mark.needs_modes
def test_rotate_with_ring_that_was_handed_out_is_done_in_phases(
    path: Path, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a variable: the ring stays as it is, and the report says what to hand out next."""
    spec = f"file:{path}"
    open_keystore(store_path, key=spec).close()
    with monkeypatch.context() as patch:
        really = os.fstatvfs
        inode = path.parent.stat().st_ino
        patch.setattr(
            os,
            "fstatvfs",
            lambda fd: SimpleNamespace(f_flag=os.ST_RDONLY) if os.fstat(fd).st_ino == inode else really(fd),
        )
        with pytest.raises(
            ConfigurationError, match=r"cannot be put there from here: the file system .*is read-only\. Make"
        ):
            rotate(store_path, key=spec)
        patch.setenv("NEW", NEW.decode())
        done = rotate(store_path, key=spec, new="env:NEW")
        assert done.manual_distribution
        assert done.report().endswith(f"alone, where you handed out {spec}.")
        assert load(path) == [OLD]
        path.write_bytes(NEW + b"\n" + OLD + b"\n")
        open_keystore(store_path, key=spec).close()

"""Another user can neither read nor change a store, nor hold it up; and root that saves does not lock its owner out."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import time
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from faults.mounts import missing_for_mounts, mount, own_mounts
from faults.processes import as_user, in_child, mutate
from faults.store import TOKENS, Store, token
from zoho_keystore import KeystoreError, StoreFileError, UnsafeFileError

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.privileged

ALICE, MALLORY = 61001, 65534
KEY = b"cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="
TMP = Path("/tmp")  # noqa: S108 - a directory that all may write to is the point; it is one of the test's own
LOCK = ".tokens.keystore.lock"

#: Modes that let all users write.
LOOSE, LOOSE_DIRECTORY = 0o666, 0o777

#: Long enough for every save that is not held up, and shorter than the wait for a lock, in seconds.
AT_ONCE_S, LOCK_TIMEOUT_S = 20, 40


@pytest.fixture(autouse=True)
def _mounts() -> None:
    """Skip where there can be no /tmp of one's own."""
    if reason := missing_for_mounts():
        pytest.skip(reason)


def with_own_tmp(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test as root, in a process with an empty ``/tmp`` of its own; what fails there fails here."""

    @wraps(test)
    def run(**arguments: object) -> None:
        def with_tmp() -> None:
            own_mounts()
            mount("tmpfs", TMP, "tmpfs", options="mode=1777")
            os.umask(0o022)
            test(**arguments)

        in_child(with_tmp)

    return run


def prepare(store: Store) -> None:
    """Make a store with tokens."""
    keystore = store.open()
    for name in TOKENS.values():
        keystore.save(token(name))


def homes() -> Store:
    """Make directories of alice and mallory that all users may look into, and name alice's store."""
    for name, uid in {"alice": ALICE, "mallory": MALLORY}.items():
        (TMP / name).mkdir()
        os.chown(TMP / name, uid, uid)
    return Store(TMP / "alice" / "tokens.keystore", KEY)


def save(store: Store) -> None:
    """Save one more token, at once."""
    start = time.monotonic()
    store.open(lock_timeout=LOCK_TIMEOUT_S).save(token("more"))
    assert time.monotonic() - start < AT_ONCE_S


def refusal(act: Callable[[], object]) -> tuple[type[KeystoreError], str]:
    """Return how a store refuses something, at once, and with advice."""
    start = time.monotonic()
    with pytest.raises(KeystoreError) as caught:
        act()
    assert time.monotonic() - start < AT_ONCE_S
    assert caught.value.advice
    return type(caught.value), str(caught.value)


def owner_and_mode(path: Path) -> tuple[int, int, int]:
    """Return who owns a file, and its mode."""
    status = path.lstat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


# --- A directory of one's own ---


@with_own_tmp
def test_other_user_can_neither_read_nor_change_store() -> None:
    """Even where the directory can be looked into."""
    store = homes()
    as_user(ALICE, lambda: prepare(store))
    before = store.path.read_bytes()
    lock = store.path.with_name(LOCK)

    def attack() -> None:
        for path in (store.path, lock):
            for act in (
                lambda path=path: os.open(path, os.O_RDONLY),
                lambda path=path: os.open(path, os.O_WRONLY),
                lambda path=path: os.truncate(path, 0),
                lambda path=path: os.chmod(path, LOOSE),
                lambda path=path: os.unlink(path),
                lambda path=path: os.rename(path, TMP / "mallory" / "stolen"),
                lambda path=path: os.rename(TMP / "mallory" / "own", path),
            ):
                (TMP / "mallory" / "own").touch()
                with pytest.raises(PermissionError):
                    act()
        for name in (LOCK, ".tokens.keystore.0000000000000000.tmp", "other"):
            with pytest.raises((PermissionError, FileExistsError)):
                os.mkfifo(store.path.with_name(name))
        kind, text = refusal(store.open)
        assert kind is StoreFileError
        assert "permission denied" in text

    as_user(MALLORY, attack)
    assert store.path.read_bytes() == before
    assert sorted(os.listdir(store.path.parent)) == [LOCK, "tokens.keystore"]


@with_own_tmp
def test_other_user_cannot_hold_up_save() -> None:
    """By locking all that can be opened, which is the directory."""
    store = homes()
    as_user(ALICE, lambda: prepare(store))

    def attack() -> None:
        for directory in (TMP, store.path.parent):
            fcntl.flock(os.open(directory, os.O_RDONLY), fcntl.LOCK_EX)
        os.write(ready, b"1")
        time.sleep(60)

    wait, ready = os.pipe()
    if not (pid := os.fork()):
        try:
            as_user(MALLORY, attack)
        finally:
            os._exit(0)
    os.read(wait, 1)
    try:
        as_user(ALICE, lambda: save(store))
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    assert "more" in (store.tokens() or {}).values()


@pytest.mark.parametrize("name", ["tokens.keystore", LOCK])
@with_own_tmp
def test_file_of_other_user_is_refused(name: str) -> None:
    """That user may hold it open."""
    store = homes()
    as_user(ALICE, lambda: prepare(store))
    before = store.path.read_bytes()
    os.chown(store.path.with_name(name), MALLORY, MALLORY)
    os.chmod(store.path.with_name(name), LOOSE)
    kind, text = as_user(ALICE, lambda: refusal(lambda: save(store)))
    assert kind is UnsafeFileError
    assert f"belongs to user {MALLORY}, and this process runs as user {ALICE}" in text
    assert store.path.read_bytes() == before


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o770])
@with_own_tmp
def test_directory_that_others_may_write_to_is_refused(mode: int) -> None:
    """They could replace the file there, and the lock file."""
    store = homes()
    os.chmod(store.path.parent, mode)
    os.chown(store.path.parent, ALICE, MALLORY)
    kind, text = as_user(ALICE, lambda: refusal(store.open))
    assert kind is UnsafeFileError
    assert "chmod go-w" in text
    assert os.listdir(store.path.parent) == []


@with_own_tmp
def test_directory_of_other_user_is_refused() -> None:
    """Its owner could replace the file there."""
    store = Store(homes().path.parent.with_name("mallory") / "tokens.keystore", KEY)
    os.chmod(store.path.parent, LOOSE_DIRECTORY)
    kind, text = as_user(ALICE, lambda: refusal(store.open))
    assert kind is UnsafeFileError
    assert "belongs to user" in text
    assert os.listdir(store.path.parent) == []


# --- A sticky directory: all may write to it, and each user may remove only files of their own ---


def a_file(path: Path) -> None:
    """Make a file that all users may write to."""
    path.touch()
    path.chmod(LOOSE)


def a_locked_file(path: Path) -> None:
    """Make a file, and hold its lock for as long as this process lives."""
    a_file(path)
    fcntl.flock(os.open(path, os.O_RDWR), fcntl.LOCK_EX)


def a_socket(path: Path) -> None:
    """Make a socket."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


PLANTS: dict[str, Callable[[Path], None]] = {
    "a file": a_file,
    "a locked file": a_locked_file,
    "a FIFO": lambda path: os.mkfifo(path, 0o666),
    "a directory": lambda path: path.mkdir(mode=0o777),
    "a socket": a_socket,
    "a link to a file of hers": lambda path: path.symlink_to(TMP / "alice" / "diary"),
    "a link to nothing": lambda path: path.symlink_to(TMP / "alice" / "made"),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.fixture(params=PLANTS)
def plant(request: pytest.FixtureRequest) -> str:
    """Name what mallory plants."""
    name: str = request.param
    return name


def with_planted(plant: str, path: Path, act: Callable[[], object]) -> None:
    """Have mallory plant something at a path, and do something while the process that did it lives."""
    diary = TMP / "alice" / "diary"
    diary.write_text("Dear diary")
    os.chown(diary, ALICE, ALICE)
    before = owner_and_mode(diary)

    def planting() -> None:
        PLANTS[plant](path)
        os.write(ready, b"1")
        time.sleep(60)

    wait, ready = os.pipe()
    if not (pid := os.fork()):
        try:
            as_user(MALLORY, planting)
        finally:
            os._exit(0)
    os.read(wait, 1)
    try:
        act()
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    assert diary.read_text() == "Dear diary"
    assert owner_and_mode(diary) == before
    assert os.listdir(diary.parent) == ["diary"]


@pytest.mark.parametrize("uid", [ALICE, 0], ids=["alice", "root"])
@with_own_tmp
def test_plant_at_lock_file_is_refused_at_once(plant: str, uid: int) -> None:
    """Neither waited for nor followed; the store stays as it is, and can be read."""
    homes()
    store = Store(TMP / "tokens.keystore", KEY)
    as_user(uid, lambda: prepare(store))
    (TMP / LOCK).unlink()
    before = store.path.read_bytes()

    def act() -> None:
        kind, text = as_user(uid, lambda: refusal(lambda: save(store)))
        assert issubclass(kind, StoreFileError)
        assert str(TMP / LOCK) in text
        found = as_user(uid, lambda: len(store.open().records()))
        assert found == len(TOKENS)

    with_planted(plant, TMP / LOCK, act)
    assert store.path.read_bytes() == before
    os.rename(TMP / LOCK, TMP / "removed")
    as_user(uid, lambda: save(store))


@pytest.mark.parametrize("uid", [ALICE, 0], ids=["alice", "root"])
@with_own_tmp
def test_plant_at_store_is_refused_at_once(plant: str, uid: int) -> None:
    """Where a link leads to, nothing is made or changed."""
    homes()
    store = Store(TMP / "tokens.keystore", KEY)
    with_planted(plant, store.path, lambda: as_user(uid, lambda: refusal(store.open)))


def names_written(store: Store) -> list[str]:
    """Save something, and return the names of the files that were made on the way."""
    names: list[str] = []
    really_open = os.open

    def noting(path: str, flags: int, *args: int, **options: int) -> int:
        if flags & os.O_CREAT:
            names.append(os.path.basename(path))
        return really_open(path, flags, *args, **options)

    os.open = noting  # type: ignore[assignment] # in a child process, which ends with it
    save(store)
    return names


def attack_temporary_names(mutant: str | None) -> None:
    """Have mallory plant something at each name that a save of alice's used; then she saves again."""
    store = Store(TMP / "tokens.keystore", KEY)

    def first() -> list[str]:
        mutate(mutant)
        prepare(store)
        return names_written(store)

    names = [*as_user(ALICE, first), ".tokens.keystore.0123456789abcdef.tmp"]

    def planting() -> None:
        for name in names:
            a_file(TMP / name)

    def second() -> None:
        mutate(mutant)
        save(store)

    as_user(MALLORY, planting)
    as_user(ALICE, second)
    assert len(names) == 2
    assert "more" in (store.tokens() or {}).values()


@with_own_tmp
def test_plant_at_temporary_name_does_not_stop_save() -> None:
    """The names cannot be predicted; one that looks like a killed writer's, and cannot be removed, stays."""
    attack_temporary_names(None)


@with_own_tmp
def test_plants_catch_predictable_temporary_names() -> None:
    """Else the test before would prove nothing."""
    with pytest.raises(RuntimeError, match="nothing was saved"):
        attack_temporary_names("predictable temporary name")


@with_own_tmp
def test_other_user_cannot_replace_or_remove_files_in_sticky_directory() -> None:
    """So a sticky directory is good enough for a store."""
    store = Store(TMP / "tokens.keystore", KEY)
    as_user(ALICE, lambda: prepare(store))

    def attack() -> None:
        for name in ("tokens.keystore", LOCK):
            a_file(TMP / "own")
            with pytest.raises(PermissionError):
                os.rename(TMP / "own", TMP / name)
            with pytest.raises(PermissionError):
                os.unlink(TMP / name)

    as_user(MALLORY, attack)
    as_user(ALICE, lambda: save(store))


# --- Root, who may do everything ---


@pytest.mark.parametrize("lacking", ["", LOCK])
@with_own_tmp
def test_root_leaves_store_to_its_owner(lacking: str) -> None:
    """With its mode, and the lock file with it, also one that root had to make."""
    store = homes()
    as_user(ALICE, lambda: prepare(store))
    if lacking:
        store.path.with_name(lacking).unlink()
    save(store)
    for name in ("tokens.keystore", LOCK):
        assert owner_and_mode(store.path.with_name(name)) == (ALICE, ALICE, 0o600)
    as_user(ALICE, lambda: save(store))
    assert store.leftovers() == []


@pytest.mark.parametrize("target", ["rules", "made"])
@with_own_tmp
def test_root_does_not_follow_link_of_other_user_in_sticky_directory(target: str) -> None:
    """Else that user would choose which file of root's is made, or loses the modes that others need to read it."""
    directory = TMP / "etc"
    directory.mkdir()
    (directory / "rules").write_text("for all to read")
    (directory / "rules").chmod(0o644)
    as_user(MALLORY, lambda: (TMP / "tokens.keystore").symlink_to(directory / target))
    refusal(Store(TMP / "tokens.keystore", KEY).open)
    assert os.listdir(directory) == ["rules"]
    assert owner_and_mode(directory / "rules") == (0, 0, 0o644)


@with_own_tmp
def test_file_that_is_no_keystore_keeps_its_mode() -> None:
    """A path that was given by mistake costs nothing."""
    page = TMP / "page.html"
    page.write_text("for all to read")
    page.chmod(0o644)
    refusal(Store(page, KEY).open)
    assert owner_and_mode(page) == (0, 0, 0o644)
    assert page.read_text() == "for all to read"

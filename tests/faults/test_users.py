"""Another user can neither read nor change a store, nor hold it up; and root that saves does not lock its owner out."""

from __future__ import annotations

import os
import shlex
import socket
import stat
import subprocess
import sys
from contextlib import closing, contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from faults.injector import FaultInjector
from faults.mounts import missing_for_mounts, mount, own_mounts
from faults.processes import Child, as_user, become, in_child, mutate, timed
from faults.store import TOKENS, Store, token
from zoho_keystore import (
    KeystoreError,
    StoreFileError,
    StoreUnavailableError,
    UnsafeFileError,
    diagnose,
    open_keystore,
)
from zoho_keystore._fs.directory import make_directories

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

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
    assert timed(lambda: store.open(lock_timeout=LOCK_TIMEOUT_S).save(token("more"))) < AT_ONCE_S


def refusal(act: Callable[[], object]) -> tuple[type[KeystoreError], str]:
    """Return how a store refuses something, at once, and with advice."""
    with pytest.raises(KeystoreError) as caught:
        assert timed(act) < AT_ONCE_S
    assert caught.value.advice
    return type(caught.value), str(caught.value)


def owner_and_mode(path: Path) -> tuple[int, int, int]:
    """Return who owns a file, and its mode."""
    status = path.lstat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


@contextmanager
def mallory_has_done(work: Callable[[], object]) -> Iterator[None]:
    """Have a process of mallory's do something, and live on meanwhile."""

    def attack(pipe: Connection) -> None:
        become(MALLORY)
        work()
        pipe.send("done")
        pipe.recv()

    with Child(attack) as attacker:
        attacker.hear()
        yield


def alices_store() -> Store:
    """Make a store of alice's in a directory that all users may look into."""
    store = homes()
    as_user(ALICE, lambda: prepare(store))
    return store


# --- A directory of one's own ---


@with_own_tmp
def test_other_user_can_neither_read_nor_change_store() -> None:
    """Even where the directory can be looked into."""
    store = alices_store()
    before = store.path.read_bytes()
    own = TMP / "mallory" / "own"

    def attack() -> None:
        for path in (store.path, store.lock_path):
            for act in (
                lambda path=path: os.open(path, os.O_RDONLY),
                lambda path=path: os.open(path, os.O_WRONLY),
                lambda path=path: os.truncate(path, 0),
                lambda path=path: os.chmod(path, LOOSE),
                lambda path=path: os.unlink(path),
                lambda path=path: os.rename(path, own),
                lambda path=path: os.rename(own, path),
            ):
                own.touch()
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
    store = alices_store()

    def lock_directories() -> None:
        for directory in (TMP, store.path.parent):
            fcntl.flock(os.open(directory, os.O_RDONLY), fcntl.LOCK_EX)

    with mallory_has_done(lock_directories):
        as_user(ALICE, lambda: save(store))
    assert "more" in (store.tokens() or {}).values()


@pytest.mark.parametrize("name", ["tokens.keystore", LOCK])
@with_own_tmp
def test_file_of_other_user_is_refused(name: str) -> None:
    """That user may hold it open."""
    store = alices_store()
    before = store.path.read_bytes()
    os.chown(store.path.with_name(name), MALLORY, MALLORY)
    os.chmod(store.path.with_name(name), LOOSE)
    kind, text = as_user(ALICE, lambda: refusal(lambda: save(store)))
    assert kind is UnsafeFileError
    assert f"belongs to user {MALLORY}, and this process runs as user {ALICE}" in text
    assert store.path.read_bytes() == before


@pytest.mark.parametrize(
    ("owner", "mode", "says"),
    [
        (0, 0o775, "chmod go-w"),
        (0, 0o777, "mkdir -m 700"),
        (MALLORY, 0o777, "belongs"),
    ],
)
@with_own_tmp
def test_directory_that_others_may_write_to_is_refused(owner: int, mode: int, says: str) -> None:
    """They could replace the file there, and the lock file."""
    store = homes()
    os.chmod(store.path.parent, mode)
    os.chown(store.path.parent, owner, MALLORY)
    kind, text = as_user(ALICE, lambda: refusal(store.open))
    assert kind is UnsafeFileError
    assert says in text
    assert os.listdir(store.path.parent) == []


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o2770])
@with_own_tmp
def test_directory_of_ours_that_others_may_write_to_is_restricted(mode: int) -> None:
    """They could replace the file there, and the lock file; the kubelet opens it so at each start of a pod."""
    store = homes()
    for _ in range(2):
        os.chown(store.path.parent, ALICE, MALLORY)
        os.chmod(store.path.parent, mode)
        as_user(ALICE, lambda: save(store))
        assert owner_and_mode(store.path.parent) == (ALICE, MALLORY, mode & ~0o2022)


@pytest.mark.parametrize(("mode", "gid"), [(0o777, 0), (0o2775, ALICE), (0o2777, ALICE)])
@with_own_tmp
def test_directory_of_root_that_others_may_write_to_holds_a_private_one(mode: int, gid: int) -> None:
    """As in volumes of Kubernetes: no store is made there, but in a directory of its own, as the message says."""
    directory = TMP / "volume"
    directory.mkdir()
    os.chown(directory, 0, gid)
    os.chmod(directory, mode)
    store = Store(directory / "tokens.keystore", KEY)
    kind, text = as_user(ALICE, lambda: refusal(store.open))
    assert kind is UnsafeFileError
    assert "mkdir -m 700 /tmp/volume/zoho-keystore" in text
    store = Store(directory / "zoho-keystore" / "tokens.keystore", KEY)
    as_user(ALICE, lambda: make_directories(store.path.parent))
    as_user(ALICE, lambda: save(store))
    assert owner_and_mode(store.path.parent)[::2] == (ALICE, 0o700)
    kind, _ = as_user(MALLORY, lambda: refusal(store.open))
    assert kind is StoreFileError
    assert owner_and_mode(directory) == (0, gid, mode)


# --- A sticky directory: all may write to it, and each user may remove only files of their own ---


def a_file(path: Path) -> None:
    """Make a file that all users may write to."""
    path.touch()
    path.chmod(LOOSE)


def a_locked_file(path: Path) -> None:
    """Make a file, and hold its lock for as long as this process lives."""
    a_file(path)
    fcntl.flock(os.open(path, os.O_RDWR), fcntl.LOCK_EX)


PLANTS: dict[str, Callable[[Path], object]] = {
    "file": a_file,
    "locked-file": a_locked_file,
    "fifo": lambda path: os.mkfifo(path, 0o666),
    "directory": lambda path: path.mkdir(mode=0o777),
    "socket": lambda path: socket.socket(socket.AF_UNIX).bind(str(path)),
    "link-to-file": lambda path: path.symlink_to(TMP / "alice" / "diary"),
    "link-to-nothing": lambda path: path.symlink_to(TMP / "alice" / "made"),
    "link-to-device": lambda path: path.symlink_to("/dev/zero"),
}

planted = pytest.mark.parametrize("plant", PLANTS)
for_both = pytest.mark.parametrize("uid", [ALICE, 0], ids=["alice", "root"])


@contextmanager
def mallory_has_planted(plant: str, path: Path) -> Iterator[None]:
    """Have mallory plant something at a path; a link in it leads to alice's diary, which must not change."""
    homes()
    diary = TMP / "alice" / "diary"
    diary.write_text("Dear diary")
    os.chown(diary, ALICE, ALICE)
    before = owner_and_mode(diary)
    with mallory_has_done(lambda: PLANTS[plant](path)):
        yield
    assert diary.read_text() == "Dear diary"
    assert owner_and_mode(diary) == before
    assert os.listdir(diary.parent) == ["diary"]


@planted
@for_both
@with_own_tmp
def test_plant_at_lock_file_is_refused_at_once(plant: str, uid: int) -> None:
    """Neither waited for nor followed; the store stays as it is, and can be read."""
    store = Store(TMP / "tokens.keystore", KEY)
    as_user(uid, lambda: prepare(store))
    store.lock_path.unlink()
    before = store.path.read_bytes()
    with mallory_has_planted(plant, store.lock_path):
        kind, text = as_user(uid, lambda: refusal(lambda: save(store)))
        assert issubclass(kind, StoreFileError)
        assert str(store.lock_path) in text
        assert as_user(uid, lambda: len(store.open(create=False).records())) == len(TOKENS)
    assert store.path.read_bytes() == before
    os.rename(store.lock_path, TMP / "removed")
    as_user(uid, lambda: save(store))


@planted
@for_both
@with_own_tmp
def test_plant_at_store_is_refused_at_once(plant: str, uid: int) -> None:
    """Where a link leads to, nothing is made or changed."""
    store = Store(TMP / "tokens.keystore", KEY)
    with mallory_has_planted(plant, store.path):
        as_user(uid, lambda: refusal(store.open))


def attack_temporary_names(mutant: str | None) -> None:
    """Have mallory plant something at each name that a save of alice's used; then she saves again."""
    store = Store(TMP / "tokens.keystore", KEY)

    def first() -> list[str]:
        mutate(mutant)
        prepare(store)
        calls = FaultInjector().calls(lambda: save(store))
        return [os.path.basename(call.args[0]) for call in calls if call.name == "open" and call.needs_space]

    def second() -> None:
        mutate(mutant)
        save(store)

    names = [*as_user(ALICE, first), ".tokens.keystore.0123456789abcdef.tmp"]
    as_user(MALLORY, lambda: list(map(a_file, map(TMP.joinpath, names))))
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
        for path in (store.path, store.lock_path):
            a_file(TMP / "own")
            with pytest.raises(PermissionError):
                os.rename(TMP / "own", path)
            with pytest.raises(PermissionError):
                os.unlink(path)

    as_user(MALLORY, attack)
    as_user(ALICE, lambda: save(store))


# --- Root, who may do everything ---


@pytest.mark.parametrize("lacks_lock", [False, True])
@with_own_tmp
def test_root_leaves_store_to_its_owner(*, lacks_lock: bool) -> None:
    """With its mode, and the lock file with it, also one that root had to make."""
    store = alices_store()
    if lacks_lock:
        store.lock_path.unlink()
    save(store)
    for path in (store.path, store.lock_path):
        assert owner_and_mode(path) == (ALICE, ALICE, 0o600)
    as_user(ALICE, lambda: save(store))
    assert store.leftovers() == []


@with_own_tmp
def test_root_makes_the_first_store_for_the_owner_of_the_directory() -> None:
    """With its lock file and directories; else that user could not even open it."""
    home = homes().path
    store = Store(home.parent / "a" / "b" / home.name, KEY)
    make_directories(store.path.parent)
    save(store)
    for path in (store.path, store.lock_path):
        assert owner_and_mode(path) == (ALICE, ALICE, 0o600)
    for path in (store.path.parent, store.path.parent.parent):
        assert owner_and_mode(path) == (ALICE, ALICE, 0o700)
    as_user(ALICE, lambda: save(store))


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


# --- A database ---


@pytest.mark.parametrize(("name", "mode"), [("tokens.db", 0o400), (".", 0o500)])
@with_own_tmp
def test_database_that_its_owner_may_not_write_is_told_at_once(name: str, mode: int) -> None:
    """And ``doctor`` tells what to change."""
    directory = homes().path.parent
    address = f"sqlite:///{directory}/tokens.db"

    def save_second() -> None:
        with closing(open_keystore(address, key=KEY, lock_timeout=LOCK_TIMEOUT_S)) as keystore:
            keystore.save(token("second"))
            assert len(keystore.records()) == 2

    def use() -> None:
        with closing(open_keystore(address, key=KEY)) as keystore:
            keystore.save(token("first"))
        place = directory / name
        os.chmod(place, mode)
        kind, text = refusal(save_second)
        assert kind is StoreUnavailableError
        assert "Check who may read and write the file and its directory" in text
        found = next(one for one in diagnose(address) if one.is_problem)
        assert found.what.startswith(f"{address}: the database cannot be ")
        subprocess.run(shlex.split(found.fix), check=True)
        save_second()

    os.environ["ZOHO_KEYSTORE_KEY"] = KEY.decode()  # of this process alone
    # For what it imports: alice may not be able to read that.
    open_keystore(f"sqlite:///{TMP}/other.db").close()
    diagnose(f"sqlite:///{TMP}/other.db")
    as_user(ALICE, use)

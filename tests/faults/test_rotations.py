"""A rotation loses nothing, whoever kills it, runs beside it or stands in its way, and the next one finishes it."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

# Imported by a rotation when it first takes a lock: root's Python may be out of another user's reach.
import filelock  # noqa: F401 - see above
import pytest
import rotate_key

from faults.rotations import (
    DONE,
    DROPPING_LEFT,
    FINDS,
    HALF_WAY,
    OPENED_ANEW,
    REFUSED,
    ROTATION,
    SAVES,
    SEALING_LEFT,
    UNFINISHED,
    RingedStore,
    at_once,
    beside_a_lease,
    full_disk,
    key_by_hand,
    kill_at_every_call,
    kill_at_every_operation,
    random_kills,
    running_processes,
    small_files,
    taken_locks,
)
from faults.syscalls import why_not
from support import OTHER_UID, as_other_user
from zoho_keystore._fs.directory import Directory
from zoho_keystore._fs.paths import default_store
from zoho_keystore._keys.ring import new_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from faults import Result

# Some seconds on a machine that is ten times overloaded.
pytestmark = pytest.mark.timeout(300)

SCRIPT = Path(rotate_key.__file__)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="acts as another user, which only root may")


# --- Kills ----------------------------------------------------------------------------------------------------------


def test_killed_at_any_operation_a_rotation_loses_nothing_and_the_next_one_completes(tmp_path: Path) -> None:
    """Before and after each one, and half-way through a write."""
    result = kill_at_every_operation(tmp_path, deeds=[ROTATION])
    assert result.failures == []
    # Some hundred and eighty; far fewer would mean that the operations are not seen any more.
    assert result.tried > 100
    assert list(tmp_path.iterdir()) == []


def test_killed_again_a_rotation_that_finishes_another_one_loses_nothing(tmp_path: Path) -> None:
    """A sample of all points; ``scripts/torture.py`` takes them all."""
    result = kill_at_every_operation(tmp_path, deeds=[SEALING_LEFT, DROPPING_LEFT], times=30)
    assert result.failures == []
    assert result.tried == 30


def test_killed_at_any_moment_rotations_lose_nothing(tmp_path: Path) -> None:
    """Most of them half-way, and some of those that finish what others have left."""
    result = random_kills(tmp_path, times=30)
    assert result.failures == []
    assert result.tried == 30
    assert result.figures[HALF_WAY] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.privileged
@pytest.mark.skipif(bool(reason := why_not()), reason=str(reason))
def test_killed_at_system_calls_a_rotation_loses_nothing_and_the_next_one_completes(tmp_path: Path) -> None:
    """A sample of them; ``scripts/torture.py`` takes them all."""
    result = kill_at_every_call(tmp_path, times=30)
    assert result.failures == []
    assert result.tried == 30
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_there", [False, True])
def test_a_key_is_on_the_disk_before_the_store_is_sealed_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_there: bool
) -> None:
    """Also one that an editor or a killed rotation has put there: a power cut could still take it away."""
    ringed = RingedStore.made_in(tmp_path)
    if is_there:
        ringed.ring.write_bytes(new_key() + b"\n" + ringed.ring.read_bytes())
    done: list[tuple[str, str]] = []

    def note(call: str) -> None:
        real = getattr(Directory, call)

        def noted(self: Directory, *names: str) -> None:
            real(self, *names)
            done.append((call, self.path.name))

        monkeypatch.setattr(Directory, call, noted)

    note("sync")
    note("replace")
    ringed.rotate()
    ring, store = [[(call, file.parent.name) for call in ("replace", "sync")] for file in (ringed.ring, ringed.path)]
    assert done == [*ring, *store, *ring]


# --- Beside others --------------------------------------------------------------------------------------------------


def test_processes_that_save_and_find_notice_nothing_of_six_rotations(tmp_path: Path) -> None:
    """No error, nothing lost, nothing stale; each write counts."""
    result = running_processes(tmp_path, processes=4, rotations=6)
    assert result.failures == []
    assert result.tried == 6
    assert result.figures[SAVES] > 4
    assert result.figures[FINDS] > 16
    assert result.figures[OPENED_ANEW] > 0


def test_two_rotations_at_once_go_one_after_the_other(tmp_path: Path) -> None:
    """The second one drops what the first one has made."""
    result = at_once(tmp_path, processes=2, rounds=3)
    assert result.failures == []
    assert result.tried == 6


def test_a_key_that_somebody_puts_into_the_ring_by_hand_during_a_rotation_stays(tmp_path: Path) -> None:
    """A process that starts then seals with it."""
    assert key_by_hand(tmp_path).failures == []


def test_a_lease_on_a_refresh_outlives_a_rotation(tmp_path: Path) -> None:
    """Its holder goes on, and the others wait for it."""
    assert beside_a_lease(tmp_path).failures == []


def test_a_lock_that_is_taken_for_too_long_leaves_ring_and_store_as_they_were(tmp_path: Path) -> None:
    """That of the store, and that of the ring."""
    result = taken_locks(tmp_path)
    assert result.failures == []
    assert result.tried == 2


# --- No space -------------------------------------------------------------------------------------------------------


def test_a_full_disk_loses_nothing_and_with_space_the_next_rotation_completes(tmp_path: Path) -> None:
    """Full from any step on that needs space."""
    result = full_disk(tmp_path)
    assert result.failures == []
    # Three files, of two of them temporary ones; and each of the three steps was seen to fail.
    assert result.tried > 20
    assert result.figures.keys() == {REFUSED, UNFINISHED}


def test_a_limit_on_the_size_of_files_loses_nothing(tmp_path: Path) -> None:
    """It is the system that refuses here: the ring, the store or neither."""
    result = small_files(tmp_path)
    assert result.failures == []
    assert result.figures.keys() == {REFUSED, UNFINISHED, DONE}


# --- What is not as it should be ------------------------------------------------------------------------------------


def change_a_character(ringed: RingedStore) -> None:
    """Damage the store, by another character that may stand there: else it would be no token at all."""
    sealed = bytearray(ringed.path.read_bytes())
    sealed[100] = ord("A" if sealed[100] != ord("A") else "B")
    ringed.path.write_bytes(sealed)


def cut_off(ringed: RingedStore) -> None:
    """Damage the store as a full disk does."""
    ringed.path.write_bytes(ringed.path.read_bytes()[:-4])


def empty(ringed: RingedStore) -> None:
    """Damage the store as a crash does."""
    ringed.path.write_bytes(b"")


def remove(ringed: RingedStore) -> None:
    """Take the store away."""
    ringed.path.unlink()


def remove_ring(ringed: RingedStore) -> None:
    """Take the ring away."""
    ringed.ring.unlink()


def open_ring(ringed: RingedStore) -> None:
    """Let everybody read the keys."""
    ringed.ring.chmod(0o644)


def drop_keys(ringed: RingedStore) -> None:
    """Leave comments only."""
    ringed.ring.write_bytes(b"\n".join(ringed.comments()))


#: Each with what the error is to say.
TROUBLES: list[tuple[Callable[[RingedStore], None], str]] = [
    (change_a_character, "the key is wrong or the file is damaged.*restore the file from a backup"),
    (cut_off, "restore it from a backup|restore the file from a backup"),
    (empty, "the file is empty.*restore it from a backup"),
    (remove, "there is no store.*Check the path"),
    (remove_ring, "the key ring cannot be read: no such file.*Check the path"),
    (open_ring, "lets other users read or change the keys.*chmod 600"),
    (drop_keys, "the key ring holds no key"),
]


def content(ringed: RingedStore) -> dict[Path, bytes]:
    """Return the content of all files of ring and store, locks aside."""
    directories = (ringed.path.parent, ringed.ring.parent)
    files = (file for directory in directories for file in directory.iterdir() if file.suffix != ".lock")
    return {file: file.read_bytes() for file in files}


@pytest.mark.parametrize(("trouble", "says"), TROUBLES, ids=[trouble.__name__ for trouble, _ in TROUBLES])
def test_where_something_is_not_as_it_should_be_the_script_changes_nothing_and_says_why(
    trouble: Callable[[RingedStore], None], says: str, tmp_path: Path
) -> None:
    """In one line, with an exit code for cron."""
    ringed = RingedStore.made_in(tmp_path)
    trouble(ringed)
    before = content(ringed)
    command = [sys.executable, str(SCRIPT), "--store", str(ringed.path), "--key", ringed.spec]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(rf"[^\n]*({says})[^\n]*\n", done.stderr)
    assert content(ringed) == before


@pytest.fixture
def nobodys() -> Iterator[RingedStore]:
    """Give a ring and a store of another user, where that user can go."""
    # Imports what it needs, which that user may not be able to read.
    default_store()
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    ringed = RingedStore.made_in(directory)
    for place in (ringed.path.parent, ringed.ring.parent):
        for path in (place, *place.iterdir()):
            os.chown(path, OTHER_UID, OTHER_UID)
    yield ringed
    shutil.rmtree(directory)


def as_nobody_rotated(ringed: RingedStore, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the exit code of the script as another user runs it, and what it has said on stderr."""
    monkeypatch.setattr(sys, "argv", ["rotate_key.py", "--quiet", "--store", str(ringed.path), "--key", ringed.spec])

    def work() -> str:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = rotate_key.main()
        return f"{code} {said.getvalue()}"

    return as_other_user(work)


@needs_root
@pytest.mark.parametrize("has_lock", [False, True])
@pytest.mark.parametrize("which", ["ring", "store"])
def test_in_a_folder_that_cannot_be_written_to_nothing_is_lost(
    nobodys: RingedStore, monkeypatch: pytest.MonkeyPatch, which: str, *, has_lock: bool
) -> None:
    """Without a lock file nothing is even begun; with one from better days, the ring may have a further key."""
    file = nobodys.ring if which == "ring" else nobodys.path
    lock = file.with_name(f".{file.name}.lock")
    lock.unlink(missing_ok=True)
    if has_lock:
        lock.touch(mode=0o600)
        os.chown(lock, OTHER_UID, OTHER_UID)
    os.chown(file.parent, 0, 0)
    file.parent.chmod(0o755)
    before, former, comments = content(nobodys), nobodys.keys(), nobodys.comments()
    said = as_nobody_rotated(nobodys, monkeypatch)
    assert re.fullmatch(
        r"1 [^\n]*permission denied\. Check who owns the file and its folder, and their modes[^\n]*\n", said
    )
    if which == "store" and has_lock:
        assert "a new key is in the ring, but the store is not sealed with it" in said
        assert "then rotate again, which finishes it" in said
        assert before[nobodys.path] == nobodys.path.read_bytes()
    else:
        assert content(nobodys) == before
    nobodys.require_whole(comments)
    os.chown(file.parent, OTHER_UID, OTHER_UID)
    assert as_nobody_rotated(nobodys, monkeypatch) == "0 "
    nobodys.require_whole(comments)
    nobodys.require_rotated(former)


# --- Mutants --------------------------------------------------------------------------------------------------------

# A protection whose lack shows for many operations is missed by some of them, too.
SOME_KILLS = partial(kill_at_every_operation, deeds=[ROTATION], times=25)
RANDOM_KILLS = partial(random_kills, times=200)

#: Attacks, the protection that is taken out, and what that is to be caught for.
MUTANTS: list[tuple[partial[Result], str, str]] = [
    (SOME_KILLS, "old keys dropped first", "no key of the ring opens the store"),
    (SOME_KILLS, "sealed before the key is kept", "no key of the ring opens the store"),
    (SOME_KILLS, "no sweep", "left behind"),
    (SOME_KILLS, "old keys stay", "in the ring are"),
    (SOME_KILLS, "comments dropped", "the comments of the ring are"),
    (RANDOM_KILLS, "ring written in place", "no key of the ring opens the store; there are none"),
    (RANDOM_KILLS, "old keys dropped first", "no key of the ring opens the store"),
    (RANDOM_KILLS, "sealed before the key is kept", "no key of the ring opens the store"),
    (partial(running_processes), "keys asked for once", "a process failed: CannotOpenError"),
    (partial(running_processes, rotations=1), "old keys dropped long before", "a process failed: CannotOpenError"),
    (partial(running_processes), "resealed without the lock", "a process failed|acknowledged|the store holds"),
    (partial(at_once, rounds=1), "no lock of the ring", "another program changed the key ring|no key of the ring"),
    (partial(key_by_hand), "all but the newest dropped", "no key of the ring opens the store"),
    (partial(beside_a_lease), "leases dropped", "the lease holds nobody up"),
    (partial(taken_locks, wait_s=0.05), "no lock", "tokens.keystore: its lock was taken, and broken"),
    (partial(taken_locks, wait_s=0.05), "no lock of the ring", "keys: its lock was taken, and broken"),
    (partial(full_disk), "half done is not said", "it was refused, and something has changed"),
    (partial(full_disk), "the system's errors let through", "none of our errors"),
    (partial(full_disk), "never cleans up", "left behind"),
    (partial(small_files), "half done is not said", "it was refused, and something has changed"),
]


@pytest.mark.parametrize(
    ("attack", "mutant", "caught_for"),
    [pytest.param(*one, id=f"{one[0].func.__name__}-{one[1]}") for one in MUTANTS],
)
def test_a_rotation_without_a_protection_is_caught(
    attack: partial[Result], mutant: str, caught_for: str, tmp_path: Path
) -> None:
    """Or these tests would prove nothing. A race need not be lost each time, so there are several attempts."""
    for attempt in range(5):
        directory = tmp_path / f"{attempt}"
        directory.mkdir(mode=0o700)
        if re.search(caught_for, "".join(attack(directory, mutant=mutant).failures)):
            return
    pytest.fail(f"{mutant} survived")


@pytest.mark.privileged
@pytest.mark.skipif(bool(reason := why_not()), reason=str(reason))
@pytest.mark.parametrize("mutant", ["old keys dropped first", "sealed before the key is kept"])
def test_a_rotation_without_a_protection_is_caught_by_system_calls(mutant: str, tmp_path: Path) -> None:
    """As above."""
    result = kill_at_every_call(tmp_path, deeds=[ROTATION], times=15, mutant=mutant)
    assert re.search("no key of the ring opens the store", "".join(result.failures))

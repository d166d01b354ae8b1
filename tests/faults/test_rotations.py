"""A rotation loses nothing beside running processes, and changes nothing where something is not as it should be.

Kills, failing calls and a full disk are in ``test_kills.py`` and ``test_failures.py``, with those of other operations.
"""

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
from typing import TYPE_CHECKING, Any

import pytest
import rotate_key

from faults.ringed import RingedStore
from faults.rotations import (
    FINDS,
    OPENED_ANEW,
    SAVES,
    at_once,
    beside_a_lease,
    beside_processes,
    key_by_hand,
    taken_locks,
)
from support import IS_ROOT, OTHER_UID, as_other_user
from zoho_keystore._fs.paths import default_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Some seconds on a machine that is ten times overloaded.
pytestmark = pytest.mark.timeout(300)

SCRIPT = Path(rotate_key.__file__)

needs_root = pytest.mark.skipif(not IS_ROOT, reason="acts as another user, which only root may")


@pytest.mark.parametrize("engine", [beside_processes, at_once, key_by_hand, beside_a_lease, taken_locks])
def test_rotation_disturbs_nothing(engine: Callable[..., Any], directory: Path) -> None:
    """Running processes, a second rotation, a key put there by hand, a lease, and a lock that is taken."""
    result = engine(directory)
    assert result.failures == []
    assert result.tried > 0
    if engine is beside_processes:
        assert all(result.figures[name] > 0 for name in (SAVES, FINDS, OPENED_ANEW))


@pytest.mark.mutants
@pytest.mark.parametrize(
    ("engine", "mutant", "caught_for"),
    [
        (beside_processes, "keys loaded once", "a process failed: CannotOpenError"),
        (partial(beside_processes, rotations=1), "old keys dropped long before", "a process failed: CannotOpenError"),
        (beside_processes, "encrypted without the lock", "a process failed|acknowledged|the store holds"),
        (partial(at_once, rounds=1), "no lock of the ring", "in the ring are|no key of the ring"),
        (key_by_hand, "all but the newest dropped", "no key of the ring opens the store"),
        (beside_a_lease, "leases dropped", "the lease does not hold|the records were"),
        (partial(taken_locks, wait_s=0.05), "no lock", "tokens.keystore: its lock was taken, and broken"),
        (partial(taken_locks, wait_s=0.05), "no lock of the ring", "keys: its lock was taken, and broken"),
    ],
)
def test_rotations_catch_mutant(engine: Callable[..., Any], mutant: str, caught_for: str, directory: Path) -> None:
    """Else the engine would prove nothing. A race need not be lost each time, so there are several attempts."""
    if not any(re.search(caught_for, "".join(engine(directory, mutant=mutant).failures)) for _ in range(5)):
        pytest.fail(f"{mutant} survived")


# --- What is not as it should be ------------------------------------------------------------------------------------


def damage(ringed: RingedStore) -> None:
    """Change a character to another one that may stand there: else it would be no token at all."""
    sealed = bytearray(ringed.path.read_bytes())
    sealed[100] = ord("A" if sealed[100] != ord("A") else "B")
    ringed.path.write_bytes(sealed)


#: What to do to the store or its ring, and what the error has to say.
TROUBLES: dict[str, tuple[Callable[[RingedStore], object], str]] = {
    "damaged": (damage, "the key is wrong or the file is damaged.*restore the file from a backup"),
    "cut-off": (
        lambda ringed: ringed.path.write_bytes(ringed.path.read_bytes()[:-4]),
        "restore it from a backup|restore the file from a backup",
    ),
    "empty": (lambda ringed: ringed.path.write_bytes(b""), "the file is empty.*Restore it from a backup"),
    "no-store": (lambda ringed: ringed.path.unlink(), "there is no store.*Check the path"),
    "no-ring": (lambda ringed: ringed.ring.unlink(), "the key ring cannot be read: no such file.*Check the path"),
    "open-ring": (lambda ringed: ringed.ring.chmod(0o644), "lets other users read or change the keys.*chmod 600"),
    "no-keys": (lambda ringed: ringed.ring.write_bytes(b"# none\n"), "the key ring holds no key"),
}


def content(ringed: RingedStore) -> dict[Path, bytes]:
    """Return the content of all files of ring and store, locks aside."""
    directories = (ringed.path.parent, ringed.ring.parent)
    files = (file for directory in directories for file in directory.iterdir() if file.suffix != ".lock")
    return {file: file.read_bytes() for file in files}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_rotate_key_in_trouble_changes_nothing_and_says_why(trouble: str, tmp_path: Path) -> None:
    """In one line, with an exit code for cron."""
    make, says = TROUBLES[trouble]
    ringed = RingedStore.made_in(tmp_path)
    make(ringed)
    before = content(ringed)
    command = [sys.executable, str(SCRIPT), "--store", str(ringed.path), "--key", ringed.spec]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(rf"[^\n]*({says})[^\n]*\n", done.stderr)
    assert content(ringed) == before


@pytest.fixture
def others() -> Iterator[RingedStore]:
    """Give a ring and a store of another user, where that user can go."""
    # Imports what it needs, which that user may not be able to read.
    default_store()
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    ringed = RingedStore.made_in(directory)
    for own in (ringed.path.parent, ringed.ring.parent):
        for path in (own, *own.iterdir()):
            os.chown(path, OTHER_UID, OTHER_UID)
    yield ringed
    shutil.rmtree(directory)


def rotated_by_other_user(ringed: RingedStore, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the exit code of the script as another user runs it, and what it has said on stderr."""
    options = ["--store", str(ringed.path), "--key", ringed.spec]
    monkeypatch.setattr(sys, "argv", ["rotate_key.py", "--drop-old", "--quiet", *options])

    def work() -> str:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = rotate_key.main()
        return f"{code} {said.getvalue()}"

    return as_other_user(work)


@needs_root
@pytest.mark.parametrize("has_lock", [False, True])
@pytest.mark.parametrize("which", ["ring", "store"])
def test_rotate_key_in_directory_that_cannot_be_written_loses_nothing(
    others: RingedStore, monkeypatch: pytest.MonkeyPatch, which: str, *, has_lock: bool
) -> None:
    """Nothing is even begun."""
    file = others.ring if which == "ring" else others.path
    lock = file.with_name(f".{file.name}.lock")
    lock.unlink(missing_ok=True)
    if has_lock:
        lock.touch(mode=0o600)
        os.chown(lock, OTHER_UID, OTHER_UID)
    os.chown(file.parent, 0, 0)
    file.parent.chmod(0o755)
    before, former = content(others), others.keys()
    said = rotated_by_other_user(others, monkeypatch)
    assert re.fullmatch(r"1 [^\n]*(permission denied|this user may not create files)[^\n]*\n", said)
    assert content(others) == before
    others.require_whole()
    os.chown(file.parent, OTHER_UID, OTHER_UID)
    assert rotated_by_other_user(others, monkeypatch) == "0 "
    others.require_whole()
    others.require_rotated(former)

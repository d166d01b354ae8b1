"""Kills by SIGKILL: the store is the old one or the new one, and the next save goes on from it at once."""

from __future__ import annotations

import math
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from faults.kills import ACKNOWLEDGED, fork_kills, random_kills
from faults.mutants import MUTANTS, _AnyLock, _put
from zoho_keystore._fs import atomic, permissions
from zoho_keystore._fs.directory import Directory
from zoho_keystore._fs.lock import HeldLock, StoreLock
from zoho_keystore._fs.owned_fd import OwnedFd
from zoho_keystore.errors import LockTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def no_sweep() -> None:
    """Leave the temporary files of killed writers."""
    _put(atomic, remove_stale_temp_files=lambda *_: None)


def placed_before_it_is_whole() -> None:
    """Rename a temporary file that is written to half."""

    def write(directory: Directory, name: str, content: bytes, **_: object) -> os.stat_result:
        temporary = directory.path / f".{name}.0123456789abcdef.tmp"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.write(fd, content[: len(content) // 2])
            os.replace(temporary, directory.path / name)
            os.write(fd, content[len(content) // 2 :])
            return os.fstat(fd)
        finally:
            os.close(fd)

    _put(atomic, write=write)


def acknowledged_before_it_is_written() -> None:
    """Write only every second state."""
    write = atomic.write
    late: list[bytes] = []

    def lazy(
        directory: Directory, name: str, content: bytes, *, create: bool = False, **options: Any
    ) -> os.stat_result:
        if create or late:
            late.clear()
            return write(directory, name, content, create=create, **options)
        late.append(content)
        return os.stat(directory.path / name)

    _put(atomic, write=lazy)


def lock_that_is_the_existence_of_a_file() -> None:
    """Lock as programs did before there were kernel locks."""

    @contextmanager
    def held(self: StoreLock, _longest_wait_s: float = math.inf) -> Iterator[HeldLock]:
        with Directory.opened(self.path.parent) as directory:
            if self.path.exists() and self.path.read_bytes():
                raise LockTimeoutError("somebody holds it", "", self.path)
            lock = OwnedFd(os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600))
            try:
                os.write(lock.fd, b"held")
                yield _AnyLock(directory, self.path.name, lock)
                os.truncate(lock.fd, 0)
            finally:
                lock.close()

    _put(StoreLock, held=held)


def open_to_others() -> None:
    """Make files as most programs do."""
    _put(permissions, PRIVATE_FILE=0o644)


# Twenty seconds on a machine that is ten times overloaded.
pytestmark = pytest.mark.timeout(300)

#: Each with what it is to be caught for.
FURTHER_MUTANTS = [
    (no_sweep, "left after the next save"),
    (placed_before_it_is_whole, "the file is damaged"),
    (acknowledged_before_it_is_written, "the store holds"),
    (lock_that_is_the_existence_of_a_file, "the next save fails.*somebody holds it"),
    (open_to_others, "has mode 0644"),
]


def test_killed_at_any_operation_of_any_deed_nothing_is_lost_or_left(tmp_path: Path) -> None:
    """Before and after each one, and half-way through a write."""
    result = fork_kills(tmp_path, times=None)
    assert result.failures == []
    # Six deeds, each with some thirty operations; far fewer would mean that the operations are not seen any more.
    assert result.tried > 200
    assert list(tmp_path.iterdir()) == []


def test_killed_at_any_moment_no_acknowledged_save_is_lost(tmp_path: Path) -> None:
    """The killed process says through a pipe which of its saves have returned."""
    result = random_kills(tmp_path, times=40)
    assert result.failures == []
    assert result.tried == 40
    assert result.figures[ACKNOWLEDGED] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("mutate", "caught_for"), FURTHER_MUTANTS)
def test_a_store_without_a_protection_is_caught_by_kills(
    mutate: Callable[[], None], caught_for: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the engine would prove nothing."""
    monkeypatch.setitem(MUTANTS, "further", mutate)
    result = fork_kills(tmp_path, times=None, mutant="further")
    assert re.search(caught_for, "".join(result.failures))


@pytest.mark.parametrize("engine", [fork_kills, random_kills])
def test_a_store_that_truncates_in_place_is_caught_by_kills(engine: Callable[..., Any], tmp_path: Path) -> None:
    """As 87 of 100 kills were seen to empty the file of a program that does."""
    assert engine(tmp_path, times=1000, mutant="truncate in place").failures


def test_a_save_that_is_acknowledged_and_not_written_is_caught_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kill need not hit a certain operation for it."""
    monkeypatch.setitem(MUTANTS, "further", acknowledged_before_it_is_written)
    assert random_kills(tmp_path, times=200, mutant="further").failures


def test_an_engine_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It works in another process, from which an exception does not come by itself."""
    monkeypatch.setitem(MUTANTS, "further", lambda: _put(atomic, write=None))
    with pytest.raises(RuntimeError, match="'NoneType' object is not callable"):
        fork_kills(tmp_path, times=1, mutant="further")
    assert list(tmp_path.iterdir()) == []

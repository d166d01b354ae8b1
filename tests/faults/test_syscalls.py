"""Every system call of a deed as the last one, and as one that fails: a quick form of what strace does at length."""

from __future__ import annotations

import math
import os
import re
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from faults.kills import ALL_DEEDS
from faults.mutants import MUTANTS, _put
from faults.syscalls import NOT_SAVED, SAVED, UNKNOWN, fail_every_call, kill_at_every_call, why_not
from zoho_keystore._fs import atomic
from zoho_keystore._fs.directory import Directory
from zoho_keystore._fs.lock import StoreLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zoho_keystore._fs.lock import HeldLock

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(bool(reason := why_not()), reason=str(reason)),
    # Twenty seconds on a machine that is ten times overloaded.
    pytest.mark.timeout(300),
]

DEED = "save"
OTHER_DEEDS = tuple(deed for deed in ALL_DEEDS if deed != DEED)


def never_cleans_up() -> None:
    """Leave every temporary file."""
    _put(Directory, unlink=lambda *_: None)


def says_not_saved_when_it_is() -> None:
    """Take every error for one before the rename."""
    _put(atomic, _is_visible=lambda *_: False)


def lets_the_systems_errors_through() -> None:
    """Raise what the system raised."""
    _put(atomic, storage_error=lambda error, *_: error)


def takes_a_failed_sync_for_done() -> None:
    """Go on as if nothing had happened."""

    def sync(fd: int) -> None:
        with suppress(OSError):
            os.fsync(fd)

    _put(atomic, _sync_file=sync)


def keeps_the_lock_after_an_error() -> None:
    """Give the lock back only when all went well."""
    held, kept = StoreLock.held, []

    @contextmanager
    def keeping(self: StoreLock, longest_wait_s: float = math.inf) -> Iterator[HeldLock]:
        context = held(self, longest_wait_s)
        kept.append(context)
        yield context.__enter__()
        context.__exit__(None, None, None)

    _put(StoreLock, held=keeping)


def leaks_a_descriptor() -> None:
    """Open the folder once more for its sync, and do not close it."""
    _put(Directory, sync=lambda self: os.fsync(os.open(self.path, os.O_RDONLY)))


#: Each with what it is to be caught for.
FURTHER_MUTANTS = [
    (never_cleans_up, "left are"),
    (says_not_saved_when_it_is, "told not saved.*the store holds"),
    (lets_the_systems_errors_through, "it raised OSError"),
    (takes_a_failed_sync_for_done, "nobody knows whether it is on the disk"),
    (keeps_the_lock_after_an_error, "the next save in the same process raised LockTimeoutError"),
    (leaks_a_descriptor, "still open are"),
]


def test_killed_at_every_system_call_of_a_save_nothing_is_lost_or_left(tmp_path: Path) -> None:
    """The call at which the process is killed is not executed any more."""
    result = kill_at_every_call(tmp_path, deeds=[DEED])
    assert result.failures == []
    # Some forty; far fewer would mean that the deed is not seen any more.
    assert result.tried > 25
    assert list(tmp_path.iterdir()) == []


def test_killed_at_system_calls_of_the_other_deeds_nothing_is_lost_or_left(tmp_path: Path) -> None:
    """A sample of them; ``scripts/torture.py`` takes them all."""
    result = kill_at_every_call(tmp_path, deeds=OTHER_DEEDS, times=40)
    assert result.failures == []
    assert result.tried == 40


def test_every_failing_system_call_of_a_save_is_told_as_it_is(tmp_path: Path) -> None:
    """Not saved, saved, or saved and perhaps not atomic, in an error of ours, and nothing is left."""
    result = fail_every_call(tmp_path, deeds=[DEED])
    assert result.failures == []
    assert result.tried > 5 * 25
    # All three were seen: the disk fails before the rename, is asked for a sync after it, and is not needed after that.
    assert result.figures.keys() == {NOT_SAVED, UNKNOWN, SAVED}
    assert list(tmp_path.iterdir()) == []


def test_failing_system_calls_of_the_other_deeds_are_told_as_they_are(tmp_path: Path) -> None:
    """A sample of them; ``scripts/torture.py`` takes them all."""
    result = fail_every_call(tmp_path, deeds=OTHER_DEEDS, times=60)
    assert result.failures == []
    assert result.tried == 60


@pytest.mark.parametrize("engine", [kill_at_every_call, partial(fail_every_call, errors=["EIO"])])
def test_a_store_that_truncates_in_place_is_caught_by_system_calls(engine: Callable[..., Any], tmp_path: Path) -> None:
    """Else the engines would prove nothing."""
    assert engine(tmp_path, deeds=[DEED], mutant="truncate in place").failures


@pytest.mark.parametrize(("mutate", "caught_for"), FURTHER_MUTANTS)
def test_a_store_that_tells_or_leaves_what_is_wrong_is_caught_by_a_broken_disk(
    mutate: Callable[[], None], caught_for: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, for what only shows after an error."""
    monkeypatch.setitem(MUTANTS, "further", mutate)
    result = fail_every_call(tmp_path, deeds=[DEED], errors=["EIO"], mutant="further")
    assert re.search(caught_for, "".join(result.failures))

"""Kills by SIGKILL: there is the old state or the new one, and the next process goes on from it at once."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from faults.kills import ACKNOWLEDGED, Saves, kill_at_any_moment, kill_at_every_call
from faults.operations import STORE_OPERATIONS
from faults.ringed import ROTATION, ROTATIONS
from faults.rotations import RotationLoop

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Twenty seconds on a machine that is ten times overloaded.
pytestmark = pytest.mark.timeout(300)

ANY_SAVE = partial(kill_at_any_moment, loop=Saves)
ANY_ROTATION = partial(kill_at_any_moment, loop=RotationLoop)
# A protection whose lack shows for many calls is missed by some of them, too.
SOME_OF_A_ROTATION = partial(kill_at_every_call, operations=[ROTATION], times=25)


@pytest.mark.parametrize(
    ("operations", "times", "least"),
    # A sample of the rotations; ``scripts/torture.py`` takes all of their calls.
    [(STORE_OPERATIONS, None, 250), ([ROTATION], 100, 100), (ROTATIONS[1:], 30, 30)],
    ids=["store", "rotation", "second-rotation"],
)
def test_kill_at_every_call_loses_nothing(
    directory: Path, operations: tuple[str, ...], times: int | None, least: int
) -> None:
    """Far fewer points would mean that the calls are not seen any more."""
    result = kill_at_every_call(directory, operations=operations, times=times)
    assert result.failures == []
    assert result.tried >= least


@pytest.mark.parametrize("engine", [ANY_SAVE, ANY_ROTATION], ids=["saves", "rotations"])
def test_kill_at_any_moment_loses_nothing_acknowledged(engine: Callable[..., Any], directory: Path) -> None:
    """The killed process says through a pipe which of its rounds have returned."""
    result = engine(directory, times=30)
    assert result.failures == []
    assert result.tried == 30
    assert result.figures[ACKNOWLEDGED] > 0


@pytest.mark.mutants
@pytest.mark.parametrize(
    ("engine", "mutant", "caught_for"),
    [
        (kill_at_every_call, "truncate in place", "the file is damaged"),
        (kill_at_every_call, "stale temporary files stay", "left behind"),
        (kill_at_every_call, "acknowledged before it is written", "the store holds"),
        (kill_at_every_call, "soft lock", "the save of 'next' fails.*LockTimeoutError"),
        (kill_at_every_call, "open to others", "has mode 0644"),
        (partial(ANY_SAVE, times=1000), "truncate in place", "the file is damaged"),
        (partial(ANY_SAVE, times=200), "acknowledged before it is written", "the store holds"),
        (SOME_OF_A_ROTATION, "old keys dropped first", "no key of the ring opens the store"),
        (SOME_OF_A_ROTATION, "encrypted before the key is kept", "no key of the ring opens the store"),
        (SOME_OF_A_ROTATION, "stale temporary files stay", "left behind"),
        (SOME_OF_A_ROTATION, "old keys stay", "in the ring are"),
        (SOME_OF_A_ROTATION, "comments dropped", "the comments of the ring are"),
        # Half a ring is there for an instant, which some hundreds of kills may miss on a busy machine.
        (partial(ANY_ROTATION, times=2000), "ring written in place", "no key of the ring opens the store"),
        (partial(ANY_ROTATION, times=200), "old keys dropped first", "no key of the ring opens the store"),
        (partial(ANY_ROTATION, times=200), "encrypted before the key is kept", "no key of the ring opens the store"),
    ],
)
def test_kills_catch_mutant(engine: Callable[..., Any], mutant: str, caught_for: str, directory: Path) -> None:
    """Else the engine would prove nothing."""
    assert re.search(caught_for, "".join(engine(directory, mutant=mutant).failures))


def test_engine_that_fails_says_why(directory: Path) -> None:
    """It works in another process, from which an exception does not come by itself."""
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        kill_at_every_call(directory, mutant=lambda: 1 / 0)

"""Every system call of an operation as the last one, and as one that fails."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from faults.ringed import ALL_OPERATIONS, ROTATION
from faults.syscalls import fail_every_system_call, kill_at_every_system_call, missing_for_strace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(bool(reason := missing_for_strace()), reason=str(reason)),
    # Twenty seconds on a machine that is ten times overloaded.
    pytest.mark.timeout(300),
]

SAVE = ("save",)
OTHERS = tuple(name for name in ALL_OPERATIONS if name not in SAVE)


@pytest.mark.parametrize(
    ("engine", "least"),
    # Some forty calls; far fewer would mean that they are not seen any more. ``scripts/torture.py`` takes all.
    [
        (partial(kill_at_every_system_call, operations=SAVE), 25),
        (partial(kill_at_every_system_call, operations=OTHERS, times=60), 60),
        (partial(fail_every_system_call, operations=SAVE), 5 * 25),
        (partial(fail_every_system_call, operations=OTHERS, times=80), 80),
    ],
    ids=["kill-save", "kill-others", "fail-save", "fail-others"],
)
def test_system_call_that_is_struck_loses_nothing(engine: Callable[..., Any], least: int, tmp_path: Path) -> None:
    """Nothing is left behind, and an error is told as it is: refused, done, or done and perhaps not durable."""
    result = engine(tmp_path)
    assert result.failures == []
    assert result.tried >= least
    # The engine that lets calls fail has seen refusals, and calls that are not needed.
    assert result.figures.keys() >= {"refused", "done"} or not result.figures
    assert list(tmp_path.iterdir()) == []


KILL_ROTATION = partial(kill_at_every_system_call, operations=[ROTATION], times=15)
BREAK_DISK = partial(fail_every_system_call, operations=SAVE, errors=["EIO"])


@pytest.mark.parametrize(
    ("engine", "mutant", "caught_for"),
    [
        (partial(kill_at_every_system_call, operations=SAVE), "truncate in place", "the file is damaged"),
        (KILL_ROTATION, "old keys dropped first", "no key of the ring opens the store"),
        (KILL_ROTATION, "encrypted before the key is kept", "no key of the ring opens the store"),
        (BREAK_DISK, "truncate in place", "the file is|it raised OSError"),
        (BREAK_DISK, "never cleans up", "left behind"),
        (BREAK_DISK, "says refused when it is done", "refused: the store holds"),
        (BREAK_DISK, "the system's errors let through", "it raised OSError"),
        (BREAK_DISK, "failed sync taken for done", "may not be on the disk"),
        (BREAK_DISK, "lock kept after an error", "the save of 'again' fails: LockTimeoutError"),
        (BREAK_DISK, "leaks a descriptor", "still open are"),
    ],
)
def test_system_calls_catch_mutant(engine: Callable[..., Any], mutant: str, caught_for: str, tmp_path: Path) -> None:
    """Else the engine would prove nothing."""
    assert re.search(caught_for, "".join(engine(tmp_path, mutant=mutant).failures))

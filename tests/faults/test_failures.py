"""Failing calls and a full disk: the process is told what is true, and everything goes on when the trouble is over."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from faults.failures import fail_at_every_call
from faults.operations import STORE_OPERATIONS, Outcome
from faults.ringed import ROTATIONS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.timeout(300)

FULL_DISK = partial(fail_at_every_call, is_full=True)
ROTATIONS_ON_A_FULL_DISK = partial(FULL_DISK, operations=ROTATIONS)


@pytest.mark.parametrize(
    ("engine", "outcomes"),
    [
        (partial(fail_at_every_call, operations=STORE_OPERATIONS), {"refused", "durability unknown", "done"}),
        (partial(fail_at_every_call, operations=ROTATIONS, times=60), {"refused", "unfinished", "done"}),
        (partial(FULL_DISK, operations=STORE_OPERATIONS), {"refused", "durability unknown"}),
        (ROTATIONS_ON_A_FULL_DISK, {"refused", "unfinished"}),
    ],
    ids=["store", "rotation", "store-full-disk", "rotation-full-disk"],
)
def test_failing_call_is_told_as_it_is(engine: Callable[..., Any], outcomes: set[str], directory: Path) -> None:
    """Each of the outcomes is seen: before the rename, after it, and where the call is not needed."""
    result = engine(directory)
    assert result.failures == []
    assert result.tried > 20
    assert outcomes <= result.figures.keys() <= {outcome.value for outcome in Outcome}


@pytest.mark.mutants
@pytest.mark.parametrize(
    ("engine", "mutant", "caught_for"),
    [
        (fail_at_every_call, "truncate in place", "the file is|it raised OSError"),
        (fail_at_every_call, "never cleans up", "left behind"),
        (fail_at_every_call, "says refused when it is done", "refused: the store holds"),
        (fail_at_every_call, "the system's errors let through", "it raised OSError"),
        (fail_at_every_call, "failed sync taken for done", "may not be on the disk"),
        (fail_at_every_call, "lock kept after an error", "the save of 'again' fails: LockTimeoutError"),
        (fail_at_every_call, "leaks a descriptor", "still open are"),
        (ROTATIONS_ON_A_FULL_DISK, "unfinished is not said", "it was refused, and something has changed"),
        (ROTATIONS_ON_A_FULL_DISK, "the system's errors let through", "none of the package's errors"),
        (ROTATIONS_ON_A_FULL_DISK, "never cleans up", "left behind"),
    ],
)
def test_failing_calls_catch_mutant(engine: Callable[..., Any], mutant: str, caught_for: str, directory: Path) -> None:
    """Else the engine would prove nothing."""
    assert re.search(caught_for, "".join(engine(directory, mutant=mutant).failures))

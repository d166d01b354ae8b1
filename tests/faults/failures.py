"""Failing calls: each call of an operation fails once, or the disk is full from that call on.

The process has to be told what is true: refused, and everything is as it was; done; or done, and perhaps not durable.
"""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING

from faults.injector import FaultInjector, Point, fail, fill_disk
from faults.operations import Outcome, attempted, perform, spread
from faults.processes import engine
from faults.ringed import ALL_OPERATIONS, make_operations
from faults.store import StoreProblem

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from faults import Attempt
    from faults.operations import Operation

#: The calls that make something durable.
SYNCS = frozenset({"fsync", "fdatasync", "syncfs"})


@engine("an error of every call of an operation")
def fail_at_every_call(
    directory: Path,
    *,
    operations: Sequence[str] = ALL_OPERATIONS,
    is_full: bool = False,
    times: int | None = None,
) -> Generator[Attempt]:
    """Let each call of operations fail once, or each from there on that needs space on the disk.

    Args:
        directory: Where to work.
        operations: The names of the operations.
        is_full: Whether the disk is full from the call on; otherwise the call says EIO.
        times: How many of the calls to take, evenly spread; None takes all.
    """
    injector = FaultInjector()
    number, strike = (errno.ENOSPC, fill_disk) if is_full else (errno.EIO, fail)
    # A failed rotation says what to do in its last sentence, whatever the reason is.
    advice = ("Free some space", "do it once more", "Check the disk") if is_full else ("",)
    points: list[tuple[Operation, Point]] = []
    for operation in make_operations(directory, operations):
        for call in injector.calls(operation.prepare()):
            if not is_full or call.needs_space:
                points.append((operation, Point(call.number, call.name)))
            if is_full and call.name == "write":
                points.append((operation, Point(call.number, call.name, "half")))

    def outcome_at(operation: Operation, point: Point) -> Outcome:
        outcome = perform(operation, injector.striking(strike(point, number)), advice)
        if point.name in SYNCS and outcome is Outcome.DONE:
            raise StoreProblem(f"{outcome.value}: but it may not be on the disk")
        operation.recover()
        return outcome

    for operation, point in spread(points, times):
        yield attempted(f"{operation.name}, failing {point}", partial(outcome_at, operation, point))

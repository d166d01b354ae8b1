"""A timeout for calls that cannot be interrupted."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")


def run_with_timeout(seconds: float, work: Callable[[], _T]) -> _T:
    """Return what ``work`` returns, or raise what it raises.

    Args:
        seconds: How long to wait.
        work: Runs in a daemon thread, which goes on after a timeout.

    Raises:
        TimeoutError: It has not ended in time.
    """
    results: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]

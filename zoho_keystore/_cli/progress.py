"""Progress bars on terminals."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: From this many records on, a terminal shows a bar.
FEWEST_RECORDS = 1_000


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function that shows how many of how many records are done."""
    err = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    shown = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
    task = shown.add_task(what, total=None)
    with ExitStack() as stopped:

        def show(done: int, total: int) -> None:
            if total < FEWEST_RECORDS:
                return
            if not shown.live.is_started and not shown.disable:
                # Not before the first record: the display would erase the question for a password, and on a pipe print
                # an empty line.
                shown.start()
                stopped.callback(shown.stop)
            shown.update(task, completed=done, total=total)

        yield show

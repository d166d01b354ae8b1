"""Progress bars on terminals."""

from __future__ import annotations

from contextlib import contextmanager
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
    # On a pipe, rich would print an empty line for the bar.
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as shown:
        task = shown.add_task(what, total=None, visible=False)

        def show(done: int, total: int) -> None:
            shown.update(task, completed=done, total=total, visible=total >= FEWEST_RECORDS)

        yield show

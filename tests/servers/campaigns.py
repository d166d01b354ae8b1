"""Kills of servers under load, for ``scripts/torture.py``."""

from __future__ import annotations

import random
import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from faults.load import under_load
from faults.sql_stores import on_server
from servers.catalog import ENTRIES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from faults import Result

#: The kills of a server come at most so long after it has started, in seconds.
_LONGEST_LIFE_S = 3.0


def kill_under_load(
    directory: Path, *, name: str, kills: int, progress: Callable[[int], object] = lambda _tried: None
) -> Result:
    """Kill a server, or a random node of a cluster, and start it again, while clients save and read.

    Args:
        directory: Where the clients work.
        name: The server.
        kills: How often.
        progress: Called with 1 after each kill.
    """
    with closing(ENTRIES[name].make()) as server:
        server.start()
        store = on_server(server.urls, lock_timeout=60)(directory)
        result = under_load(store, partial(_kill, server, kills, progress), method=f"kills of {name}")
    result.tried = kills
    return result


def _kill(server: Any, kills: int, progress: Callable[[int], object]) -> None:
    for _ in range(kills):
        time.sleep(random.uniform(0, _LONGEST_LIFE_S))  # noqa: S311 - when to kill is no secret
        node = random.randrange(len(server.urls))  # noqa: S311 - nor is which
        server.kill(node)
        server.rejoin(node)
        progress(1)

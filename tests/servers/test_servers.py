"""The servers end with the process that started them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from servers import mariadb, postgres
from servers.guard import processes_in
from servers.places import until

pytestmark = [pytest.mark.servers, pytest.mark.timeout(120)]

_PROGRAM = """
import os, signal, sys
from servers.catalog import ENTRIES
server = ENTRIES[sys.argv[1]].make()
server.start()
server.pause()
print(server._place.path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("name", "missing"), [("postgresql15", postgres.missing), ("mariadb", mariadb.missing)])
def test_servers_end_when_the_test_process_is_killed(name: str, missing: object) -> None:
    """Even one that is stopped; and its data are removed."""
    if callable(missing) and (needed := missing()):
        pytest.skip(needed)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}){_PROGRAM}", name],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    directory = done.stdout.strip()
    assert directory
    until(lambda: not Path(directory).exists(), "the data are removed", 10)
    assert processes_in(directory) == []

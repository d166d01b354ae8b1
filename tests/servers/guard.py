"""End servers when the process that started them has gone, also when it was killed. Run as a script by ``places``.

It needs the standard library alone: it is started by its path, in Python's isolated mode.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from contextlib import suppress

#: How often to look whether the parent is alive, in seconds.
_PAUSE_S = 0.2
#: How long processes may take to disappear, in seconds.
_LONGEST_S = 20.0


def processes_in(directory: str) -> list[int]:
    """Return the processes whose working directory is this directory, or one below it.

    Servers stay in the directory that they are started in, or change to their data; so do the processes that they
    start, whichever session, group and parent these have.
    """
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):  # It has ended meanwhile, or is another user's.
                working = os.readlink(f"/proc/{name}/cwd").removesuffix(" (deleted)")
                if working == directory or working.startswith(directory + "/"):
                    found.append(int(name))
    return found


def signal_all(directory: str, number: int) -> list[int]:
    """Send all processes in a directory a signal, and return their ids."""
    found = processes_in(directory)
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    return found


def kill_all(directory: str) -> None:
    """Kill all processes in a directory, and wait until there are none; a zombie is none.

    Raises:
        TimeoutError: Some are still there.
    """
    until = time.monotonic() + _LONGEST_S
    while signal_all(directory, signal.SIGKILL):
        if time.monotonic() > until:
            raise TimeoutError(f"{directory}: processes do not end: {processes_in(directory)}")
        time.sleep(0.01)


def main() -> None:
    """Wait until the parent has gone, or the directory; then end what is left of both."""
    parent, directory = int(sys.argv[1]), sys.argv[2]
    while os.getppid() == parent and os.path.isdir(directory):
        time.sleep(_PAUSE_S)
    kill_all(directory)
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()

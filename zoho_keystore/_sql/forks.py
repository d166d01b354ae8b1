"""Forks: no connection to a file of SQLite is open while a process forks.

SQLite notes in memory which locks its process holds on a file. A child inherits the notes without the locks: it would
never take them, and another program that closes the file as the last one, as far as it can tell, removes the log to
which the child goes on committing. Those commits are lost.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final

from zoho_keystore.errors import StoreUnavailableError

if TYPE_CHECKING:
    from pathlib import Path

#: For how long a fork waits for transactions of other threads, in seconds. One that takes longer goes on, since the
#: program may be waiting for the fork; the child then cannot use that database, and says so.
LONGEST_WAIT_S: Final = 5.0


class ForkGate:
    """Lets a fork wait until no thread uses a connection, and new uses wait until the fork is over."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        #: How many uses each thread is in.
        self._users: dict[int, int] = {}
        self._forks = 0

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._condition:
            # A thread that is in a use has to end it before the fork can begin.
            self._condition.wait_for(lambda: not self._forks or me in self._users)
            self._users[me] = self._users.get(me, 0) + 1

    def __exit__(self, *_: object) -> None:
        me = threading.get_ident()
        with self._condition:
            self._users[me] -= 1
            if not self._users[me]:
                del self._users[me]
                self._condition.notify_all()

    def close(self) -> None:
        """Wait for the uses of other threads, at most LONGEST_WAIT_S; keep new ones out.

        A fork in the middle of a use, by a callback or a signal handler, does not wait for that use.
        """
        me = threading.get_ident()
        with self._condition:
            self._forks += 1
            self._condition.wait_for(lambda: not self._users.keys() - {me}, LONGEST_WAIT_S)

    def open(self) -> None:
        """Let new uses in again."""
        with self._condition:
            self._forks -= 1
            self._condition.notify_all()

    def after_fork_in_child(self) -> None:
        """Forget the other threads, one of which may have held the lock: they are not in the child."""
        me = threading.get_ident()
        self._condition = threading.Condition()
        self._users = {me: self._users[me]} if me in self._users else {}
        self._forks = 0


#: One for all databases: a thread may use two at once.
GATE: Final = ForkGate()

_INHERITED: set[str] = set()


def note_inherited(path: Path) -> None:
    """Remember that the process was forked while a connection to a file was open."""
    _INHERITED.add(os.path.realpath(path))


def require_not_inherited(path: Path) -> None:
    """Refuse a file with which SQLite cannot be used in this process.

    Raises:
        StoreUnavailableError: The process was forked while a connection to the file was open.
    """
    if os.path.realpath(path) in _INHERITED:
        raise StoreUnavailableError(
            f"sqlite:///{path}: this process was forked while another thread used the database, or in the middle of a "
            "save: what it saved could be lost",
            "Fork before threads use the store, or start processes with the method 'spawn' of multiprocessing",
        )

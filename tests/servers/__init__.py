"""Real servers and clusters that run for the time of a test: on loopback, in memory, and never as root.

Each is a :class:`Server`. They end with the process that started them, also when it is killed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence


@runtime_checkable
class Server(Protocol):
    """A database server, or a cluster of them; its nodes are numbered from 0.

    A store survives what a server is told here as far as the server promises it: a cluster survives the loss of a node,
    a single server is down until it is started again.

    Attributes:
        name: Its name in the tests.
    """

    name: str

    @property
    def urls(self) -> Sequence[str]:
        """The addresses that clients are spread over; a single one if the server finds the right node itself."""
        ...

    @property
    def url(self) -> str:
        """The first of them."""
        ...

    def start(self) -> None:
        """Make it, and wait until it takes writes."""
        ...

    def kill(self, node: int = 0) -> None:
        """Kill a node with SIGKILL."""
        ...

    def pause(self, node: int = 0) -> None:
        """Stop a node with SIGSTOP."""
        ...

    def resume(self, node: int = 0) -> None:
        """Let a stopped node go on."""
        ...

    def rejoin(self, node: int = 0) -> None:
        """Start a node that was killed, and wait until it takes part again."""
        ...

    def promote(self, node: int = 1) -> None:
        """Make a standby the primary; the old primary has to be dead. Only clusters without a manager need it."""
        ...

    def close(self) -> None:
        """End all nodes, and remove their data."""
        ...

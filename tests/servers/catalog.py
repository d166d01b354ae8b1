"""All servers and clusters by name, and whether they are installed."""

from __future__ import annotations

from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from servers import mariadb, patroni, postgres

if TYPE_CHECKING:
    from collections.abc import Callable


class Entry(NamedTuple):
    """A server that can be made.

    Attributes:
        make: Makes it; it is still to be started.
        missing: Returns how to install what is not here, or None.
    """

    make: Callable[[], Any]
    missing: Callable[[], str | None]


ENTRIES = {
    "postgresql15": Entry(partial(postgres.Postgres, 15), postgres.missing),
    "postgresql18": Entry(partial(postgres.Postgres, 18), partial(postgres.missing, 18)),
    "mariadb": Entry(mariadb.MariaDB, mariadb.missing),
    "galera": Entry(mariadb.Galera, mariadb.missing_galera),
    "standby": Entry(postgres.PrimaryAndStandby, postgres.missing),
    "patroni": Entry(patroni.Patroni, patroni.missing),
}


class Running:
    """Servers that are started when they are first asked for, and all ended together."""

    def __init__(self) -> None:
        self._started: dict[str, Any] = {}
        self._stack = ExitStack()

    def get(self, name: str) -> Any:
        """Return a server, which runs."""
        if name not in self._started:
            made = self._stack.enter_context(closing(ENTRIES[name].make()))
            made.start()
            self._started[name] = made
        return self._started[name]

    def bouncer(self) -> postgres.Bouncer:
        """Return pgbouncer before PostgreSQL 15."""
        if "pgbouncer" not in self._started:
            made = self._stack.enter_context(closing(postgres.Bouncer(self.get("postgresql15"))))
            made.start()
            self._started["pgbouncer"] = made
        bouncer: postgres.Bouncer = self._started["pgbouncer"]
        return bouncer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

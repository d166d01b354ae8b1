"""Where the passwords of databases come from. They are never in an address or on a command line.

A variable of the environment is asked first. Without it the driver looks itself: libpq in ``PGPASSWORD`` and
``~/.pgpass``, PyMySQL in the option file of the address, ``?read_default_file=~/.my.cnf``. When the server then refuses
the user, the command line asks, also when the password of the variable was refused.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

PASSWORD_VARIABLE = "ZOHO_KEYSTORE_SQL_PASSWORD"  # noqa: S105 - the name of a variable

#: The variables in which the libraries of the drivers look for a password, by dialect.
DRIVERS_VARIABLES: Final = {"postgresql": "PGPASSWORD", "mysql": "MYSQL_PWD"}


def password_of_environment(*variables: str) -> str | None:
    """Return the value of the first variable that is set and not empty.

    Args:
        variables: The names; without any, :data:`PASSWORD_VARIABLE`.
    """
    values = (os.environ.get(name) for name in variables or (PASSWORD_VARIABLE,))
    return next((value for value in values if value), None)


class Prompt:
    """Asks the user for passwords, once for each database."""

    def __init__(self) -> None:
        self._ask: Callable[[str], str] | None = None
        self._known: dict[str, str] = {}

    def use(self, ask: Callable[[str], str] | None) -> None:
        """Ask by a function, which gets the address; None asks no more, and forgets the answers."""
        self._ask = ask
        self._known.clear()

    def known(self, name: str) -> str | None:
        """Return the password that the user gave for an address."""
        return self._known.get(name)

    def answer(self, name: str) -> str | None:
        """Ask for the password of an address; None if there is no user, or was asked already."""
        if self._ask is None or name in self._known:
            return None
        self._known[name] = self._ask(name)
        return self._known[name]


#: The user at the terminal of the command line.
PROMPT = Prompt()

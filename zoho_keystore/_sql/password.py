"""Where the passwords of databases come from. They are never in an address or on a command line.

A variable of the environment is asked first. Without it the driver looks itself: libpq in ``PGPASSWORD`` and
``~/.pgpass``, PyMySQL in the option file of the address, ``?read_default_file=~/.my.cnf``.
"""

from __future__ import annotations

import os

PASSWORD_VARIABLE = "ZOHO_KEYSTORE_SQL_PASSWORD"  # noqa: S105 - the name of a variable


def password_of_environment(*variables: str) -> str | None:
    """Return the value of the first variable that is set and not empty.

    Args:
        variables: The names; without any, :data:`PASSWORD_VARIABLE`.
    """
    values = (os.environ.get(name) for name in variables or (PASSWORD_VARIABLE,))
    return next((value for value in values if value), None)

"""The table of the SDK's DBStore, or a view of its columns, on a server: MySQL, MariaDB, PostgreSQL.

What the address leaves out may be in the option file, which is of MySQL and MariaDB alone::

    mysql://USER@HOST:3306/zohooauth?table=oauthtoken
    mysql://USER@/zohooauth?unix_socket=/run/mysqld/mysqld.sock
    mysql:///zohooauth?option_file=~/.my.cnf
    mysql://USER@HOST/zohooauth?ssl=off
    postgresql://USER@HOST:5432/zohooauth?table=oauthtoken

The connection is encrypted, except to this machine, or with ``ssl=off``.

The password of MySQL comes from the variable ZOHO_KEYSTORE_MYSQL_PASSWORD or ZOHO_KEYSTORE_SQL_PASSWORD, else from the
option file, else from a prompt; that of PostgreSQL from ZOHO_KEYSTORE_SQL_PASSWORD, else from PGPASSWORD or
``~/.pgpass``, else from a prompt.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from zoho_keystore._fs.paths import real_path
from zoho_keystore._fs.private_file import FileTooLargeError
from zoho_keystore._importers.rows import (
    ADVICE_ON_ENCRYPTED_STORE,
    Row,
    Rows,
    UnreadableError,
    columns,
    require_columns,
    to_records,
)
from zoho_keystore._sql.address import parse_address as parse_sql_address
from zoho_keystore._sql.engine import connect
from zoho_keystore._sql.failures import Failure, classify, error_code, first_line
from zoho_keystore._sql.option_file import MalformedOptionFileError, read_option_file
from zoho_keystore._sql.password import PASSWORD_VARIABLE, password_of_environment
from zoho_keystore._sql.table import read_table
from zoho_keystore.errors import ConfigurationError, UnsafeFileError, os_error_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from urllib.parse import SplitResult

MYSQL_PASSWORD_VARIABLE = "ZOHO_KEYSTORE_MYSQL_PASSWORD"  # noqa: S105 - the name of a variable

#: The forms of an address, for messages.
FORM: Final = "mysql://USER@HOST:3306/zohooauth?table=oauthtoken"
_FORMS: Final = {"mysql": FORM, "postgresql": "postgresql://USER@HOST:5432/zohooauth?table=oauthtoken"}
_KINDS: Final = {"mysql": "MySQL table", "postgresql": "PostgreSQL table"}
_PORTS: Final = {"mysql": 3306, "postgresql": 5432}

#: How long to wait for the server, and for locks of other connections, in seconds.
CONNECT_TIMEOUT_S = 10
LOCK_TIMEOUT_S = 10

_SCHEME = re.compile(r"(?:(mysql|mariadb)|postgres(?:ql)?)://", re.IGNORECASE)
_TABLE_NAME = re.compile(r"(?:[A-Za-z0-9_]{1,64}\.)?[A-Za-z0-9_]{1,64}")
_PARAMETERS: Final = {
    "mysql": {"table", "unix_socket", "option_file", "ssl"},
    "postgresql": {"table", "unix_socket", "ssl"},
}
_PASSWORD_PARAMETERS: Final = {"password", "passwd", "pwd", "sslpassword"}

_NO_TLS = (
    "the server offers no TLS, so the password and the tokens would cross the network in clear text",
    "Switch TLS on there, or use an SSH tunnel; if no other machine can read the traffic, add ssl=off to the address",
)
_TLS_FAILED = ("TLS failed", "Check the server's certificate, and the ssl options of the option file")
#: MySQL's number for it, and libpq's text.
_CR_SSL_CONNECTION_ERROR: Final = 2026
_PG_NO_TLS: Final = "does not support SSL"

_DENIED: Final = (
    "the server denies access",
    "Check the user, what it may read, and its password, which a variable ({variable}) or {file} holds",
)
_PROBLEMS: Final = {
    Failure.DENIED: _DENIED,
    Failure.LOGIN: _DENIED,
    Failure.NO_DATABASE: ("the server has no such database", "Check its name in the address"),
    Failure.NO_TABLE: (
        "the database has no such table",
        "Name the table of the SDK's tokens in the address: ?table=NAME; " + ADVICE_ON_ENCRYPTED_STORE,
    ),
    Failure.LOCK_TIMEOUT: (
        "the table is locked by another connection",
        "Try again when that has finished",
    ),
    Failure.UNAVAILABLE: ("the server cannot be reached", "Check the host and the port, and whether the server runs"),
}


@dataclass(frozen=True, kw_only=True)
class Address:
    """A table on a server.

    Attributes:
        name: The address as it was given; it has no password in it.
        dialect: "mysql" or "postgresql".
        table: The name of the table, which may have a schema before it.
        user: The user, or None.
        host: The server's host, or None.
        port: Its port, or None.
        unix_socket: The path of the server's socket, or of its directory with PostgreSQL, or None.
        database: The name of the database.
        may_be_clear: Whether the connection may be unencrypted.
        option_file: A file in the format of ``my.cnf``, or None.
    """

    name: str
    dialect: str
    table: str
    user: str | None
    host: str | None
    port: int | None
    unix_socket: str | None
    database: str
    may_be_clear: bool
    option_file: Path | None

    @property
    def kind(self) -> str:
        """The kind of source, for messages."""
        return _KINDS[self.dialect]


def is_address(source: str) -> bool:
    """Tell whether a source is an address of a server with tables."""
    return _SCHEME.match(source) is not None


def parse_address(source: str) -> Address:
    """Parse an address. No error repeats it: a password with a special character may be in any part of it.

    Raises:
        ConfigurationError: The address is malformed, or has a password in it.
    """
    scheme = _SCHEME.match(source)
    dialect = "mysql" if scheme is None or scheme[1] else "postgresql"
    parsed = _split(source)
    if parsed is None:
        raise ConfigurationError("the address of the database is malformed", f"Write {_FORMS[dialect]}")
    parts, parameters = parsed
    if parts.password is not None or _PASSWORD_PARAMETERS & parameters.keys():
        raise ConfigurationError(
            "there is a password in the address of the database, where other users of this machine can see it",
            f"Remove it, and set the variable {_variables(dialect)[0]}",
        )
    if not parameters.keys() <= _PARAMETERS[dialect] or not all(parameters.values()):
        known = ["table=NAME", "unix_socket=PATH", *(["option_file=PATH"] if dialect == "mysql" else [])]
        raise ConfigurationError(
            "the address of the database has an unknown or empty parameter",
            f"The parameters are {', '.join(known)} and ssl=off",
        )
    if parameters.get("ssl", "off") != "off":
        raise ConfigurationError(
            "the value of ssl= is not off", "Leave it out: the connection is encrypted, except to this machine"
        )
    table = parameters.get("table", "oauthtoken")
    if not _TABLE_NAME.fullmatch(table):
        raise ConfigurationError(
            "the value of table= is not the name of a table", "Use only letters, digits and underscores"
        )
    unix_socket = parameters.get("unix_socket")
    return Address(
        name=source,
        dialect=dialect,
        table=table,
        user=unquote(parts.username) if parts.username else None,
        host=parts.hostname,
        port=parts.port,
        unix_socket=os.path.expanduser(unix_socket) if unix_socket else None,
        database=unquote(parts.path.strip("/")) or "zohooauth",
        may_be_clear="ssl" in parameters,
        option_file=real_path(parameters["option_file"]) if "option_file" in parameters else None,
    )


def _split(source: str) -> tuple[SplitResult, dict[str, str]] | None:
    """Return the parts and the parameters of an address, or None if a special character makes it ambiguous."""
    try:
        parts = urlsplit(source)
        if parts.port == 0 or parts.fragment or "/" in parts.path[1:] or "@" in parts.path or not source.isprintable():
            return None
        return parts, dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        return None


def _variables(dialect: str) -> list[str]:
    """Return the variables that hold the password; the first of them is advised."""
    return [MYSQL_PASSWORD_VARIABLE, PASSWORD_VARIABLE] if dialect == "mysql" else [PASSWORD_VARIABLE]


def read(address: Address, ask: Callable[[], str] | None) -> Rows:
    """Return the records of a table.

    Args:
        address: The server and the table.
        ask: Asks the user for the password; called if none is set.

    Raises:
        UnreadableError: The table cannot be read, or is not one of tokens; or a library is not installed.
    """
    password = password_of_environment(*_variables(address.dialect))
    if address.dialect == "mysql":
        return _read_mysql(address, password, ask)
    try:
        return _read(address, _postgresql_arguments(address), password)
    except UnreadableError as problem:
        if password or ask is None or problem.problem != _DENIED[0]:
            raise
    # After a first try, since the password may be in a file of libpq, and a server on this machine may need none.
    return _read(address, _postgresql_arguments(address), ask())


def _read_mysql(address: Address, password: str | None, ask: Callable[[], str] | None) -> Rows:
    options = {} if address.option_file is None else _options(address.option_file)
    arguments = _mysql_arguments(address, options)
    if not arguments.get("user"):
        raise UnreadableError("no user is given", f"Write {FORM}, or set the user in the option file")
    password = password or options.get("password") or (ask() if ask is not None else "")
    return _read(address, arguments, password)


def _read(address: Address, arguments: Mapping[str, Any], password: str | None) -> Rows:
    found: dict[str, str] = {}

    def choose(names: Sequence[str]) -> list[str]:
        found.update(columns(names))
        require_columns(f"the table {address.table}", found)
        return list(found.values())

    try:
        engines = connect(
            parse_sql_address(f"{address.dialect}:///"),
            password=password,
            lock_timeout=LOCK_TIMEOUT_S,
            connect_args=arguments,
            may_ask=False,
        )
        try:
            rows = read_table(engines, address.table, choose)
        finally:
            engines.dispose()
    except UnreadableError:
        raise
    except ConfigurationError as error:
        raise UnreadableError(error.problem, error.advice) from None
    except Exception as error:  # noqa: BLE001 - a reply of another kind of server breaks the library anywhere
        raise UnreadableError(*_problem(error, address.dialect)) from None
    named = (
        Row(f"row {number}", dict(zip(found, map(_without_padding, row), strict=True)))
        for number, row in enumerate(rows, 1)
    )
    return to_records(named, found)


def _without_padding(value: object) -> object:
    """Return a value without blanks at its end: PostgreSQL fills columns of the type CHAR with them."""
    return value.rstrip(" ") if isinstance(value, str) else value


def _problem(error: Exception, dialect: str) -> tuple[str, str]:
    """Return what failed, and what to do next; without the server's message, which may quote the query or values."""
    code, failure = error_code(error), classify(error)
    orig = getattr(error, "orig", error)
    if code == _CR_SSL_CONNECTION_ERROR or _PG_NO_TLS in first_line(error):
        return _NO_TLS
    if isinstance(getattr(orig, "original_exception", None), ssl.SSLError):
        return _TLS_FAILED
    if failure in _PROBLEMS:
        problem, advice = _PROBLEMS[failure]
        file = "an option file" if dialect == "mysql" else "~/.pgpass"
        return problem, advice.format(variable=_variables(dialect)[0], file=file)
    if code is None:
        return (
            f"the server's answer is malformed ({type(orig).__name__})",
            "Check the host, the port and the option file",
        )
    return f"the server reports error {code}", "See the server's log"


# --- Arguments of the drivers ---


def _mysql_arguments(address: Address, options: Mapping[str, str]) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "user": address.user or options.get("user"),
        "database": address.database,
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": CONNECT_TIMEOUT_S,
        "write_timeout": CONNECT_TIMEOUT_S,
    }
    # A socket in the option file would lead to another server than the one in the address.
    unix_socket = address.unix_socket or (None if address.host else options.get("socket"))
    if unix_socket:
        arguments["unix_socket"] = unix_socket
    else:
        arguments["host"] = address.host or options.get("host") or "localhost"
        port = address.port or (None if address.host else options.get("port")) or _PORTS["mysql"]
        try:
            arguments["port"] = int(port)
        except ValueError:
            raise UnreadableError("the port in the option file is not a number", "Correct it") from None
    if address.may_be_clear:
        return arguments | {"ssl_disabled": True}
    if is_this_machine(arguments.get("host"), unix_socket):
        return arguments
    return arguments | _mysql_tls(options)


def _mysql_tls(options: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments that require TLS; the server's certificate is checked where the option file names a CA."""
    try:
        context = ssl.create_default_context(cafile=options.get("ssl-ca"), capath=options.get("ssl-capath"))
        context.check_hostname = False
        if not (options.get("ssl-ca") or options.get("ssl-capath")):
            context.verify_mode = ssl.CERT_NONE
        if certificate := options.get("ssl-cert"):
            context.load_cert_chain(certificate, options.get("ssl-key"))
    except OSError as error:
        raise UnreadableError(
            f"the ssl options of the option file cannot be used: {os_error_text(error)}",
            "Check the files that they name",
        ) from None
    return {"ssl": context}


def _postgresql_arguments(address: Address) -> dict[str, Any]:
    arguments: dict[str, Any] = {"dbname": address.database, "connect_timeout": CONNECT_TIMEOUT_S}
    if address.user:
        arguments["user"] = address.user
    host = address.unix_socket or address.host or os.environ.get("PGHOST")
    if host:
        arguments["host"] = host
    if address.port:
        arguments["port"] = address.port
    if address.may_be_clear:
        return arguments | {"sslmode": "disable"}
    is_here = is_this_machine(host, host if host and host.startswith("/") else None)
    # libpq goes on in clear text where a server offers no TLS, unless it is told to require it.
    if not is_here and os.environ.get("PGSSLMODE") not in {"require", "verify-ca", "verify-full"}:
        arguments["sslmode"] = "require"
    return arguments


def is_this_machine(host: str | None, unix_socket: str | None) -> bool:
    """Tell whether a connection stays on this machine."""
    if unix_socket or host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _options(path: Path) -> dict[str, str]:
    try:
        return read_option_file(path)
    except UnsafeFileError as error:
        problem = error.problem
    except FileTooLargeError:
        problem = "it is too large"
    except MalformedOptionFileError:
        problem = "it is malformed"
    except OSError as error:
        problem = os_error_text(error)
    raise UnreadableError(f"the option file {path} cannot be read: {problem}", "Check its path and its content")

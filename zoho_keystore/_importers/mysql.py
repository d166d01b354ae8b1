"""The table of the SDK's DBStore, on a MySQL or MariaDB server.

What the address leaves out may be in the option file::

    mysql://USER@HOST:3306/zohooauth?table=oauthtoken
    mysql://USER@/zohooauth?unix_socket=/run/mysqld/mysqld.sock
    mysql:///zohooauth?option_file=~/.my.cnf
    mysql://USER@HOST/zohooauth?ssl=off

The connection is encrypted, except to this machine, or with ``ssl=off``.

The password comes from the variable ZOHO_KEYSTORE_MYSQL_PASSWORD, else from the option file, else from a prompt.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from zoho_keystore._fs.paths import real_path
from zoho_keystore._fs.private_file import read_prefix
from zoho_keystore._importers.rows import Row, Rows, UnreadableError, columns, require_columns, to_records
from zoho_keystore.errors import ConfigurationError, UnsafeFileError, os_error_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from urllib.parse import SplitResult

PASSWORD_VARIABLE = "ZOHO_KEYSTORE_MYSQL_PASSWORD"  # noqa: S105 - the name of a variable

#: The form of an address, for messages.
FORM = "mysql://USER@HOST:3306/zohooauth?table=oauthtoken"

#: How long to wait for the server, and for table locks of other connections, in seconds.
CONNECT_TIMEOUT_S = 10
LOCK_TIMEOUT_S = 10

_SCHEME = re.compile(r"(mysql|mariadb)://", re.IGNORECASE)
_TABLE_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
_PARAMETERS = {"table", "unix_socket", "option_file", "ssl"}
_PASSWORD_PARAMETERS = {"password", "passwd", "pwd"}

#: The bit of a server's capabilities that offers TLS, and where they are behind the version in its greeting.
_CLIENT_SSL = 0x0800
_CAPABILITIES_OFFSET = 13
_MAX_GREETING_BYTES = 4096

_NO_TLS = (
    "the server offers no TLS, so the password and the tokens would cross the network in clear text",
    "Switch TLS on there, or use an SSH tunnel; if no other machine can read the traffic, add ssl=off to the address",
)
_DENIED = (
    "the server denies access",
    f"Check the user, what it may read, and its password, which {PASSWORD_VARIABLE} or an option file holds",
)
_UNREACHABLE = ("the server cannot be reached", "Check the host and the port, and whether the server runs")
_PROBLEMS = {
    1044: _DENIED,
    1045: _DENIED,
    1142: _DENIED,
    1698: _DENIED,
    1049: ("the server has no such database", "Check its name in the address"),
    1146: ("the database has no such table", "Name the table in the address: ?table=NAME"),
    1205: ("the table is locked by another connection", "Try again when that has finished"),
    2026: ("TLS failed", "Check the server's certificate, and the ssl options of the option file"),
    3024: ("the server did not answer in time", "Check the host and the port; try again when it is less busy"),
}
#: The numbers of errors on the client's side: no connection, or a lost one.
_CLIENT_ERRORS = range(2000, 3000)


@dataclass(frozen=True, kw_only=True)
class Address:
    """A table on a server.

    Attributes:
        name: The address as it was given; it has no password in it.
        table: The name of the table.
        options: Arguments of the library's ``connect()``; they take precedence over the option file.
        may_be_clear: Whether the connection may be unencrypted.
        option_file: A file in the format of ``my.cnf``, or None.
    """

    name: str
    table: str
    options: dict[str, Any] = field(repr=False)
    may_be_clear: bool
    option_file: Path | None


def is_address(source: str) -> bool:
    """Tell whether a source is an address of a MySQL or MariaDB server."""
    return _SCHEME.match(source) is not None


def parse_address(source: str) -> Address:
    """Parse an address. No error repeats it: a password with a special character may be in any part of it.

    Raises:
        ConfigurationError: The address is malformed, or has a password in it.
    """
    parsed = _split(source)
    if parsed is None:
        raise ConfigurationError("the address of the database is malformed", f"Write {FORM}")
    parts, parameters = parsed
    if parts.password is not None or _PASSWORD_PARAMETERS & parameters.keys():
        raise ConfigurationError(
            "there is a password in the address of the database, where other users of this machine can see it",
            f"Remove it, and set the variable {PASSWORD_VARIABLE}",
        )
    if not parameters.keys() <= _PARAMETERS or not all(parameters.values()):
        raise ConfigurationError(
            "the address of the database has an unknown or empty parameter",
            "The parameters are table=NAME, unix_socket=PATH, option_file=PATH and ssl=off",
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
    options: dict[str, Any] = {
        "database": unquote(parts.path.strip("/")) or "zohooauth",
        "charset": "utf8mb4",
        "connection_timeout": CONNECT_TIMEOUT_S,
        # The server must not be able to request files of this machine.
        "allow_local_infile": False,
    }
    if parts.username:
        options["user"] = unquote(parts.username)
    if "unix_socket" in parameters:
        options["unix_socket"] = os.path.expanduser(parameters["unix_socket"])
    elif parts.hostname:
        # unix_socket=None: a socket in the option file would lead to another server than the one in the address.
        options |= {"host": parts.hostname, "port": parts.port or 3306, "unix_socket": None}
    option_file = real_path(parameters["option_file"]) if "option_file" in parameters else None
    if "ssl" in parameters:
        options["ssl_disabled"] = True
    return Address(name=source, table=table, options=options, may_be_clear="ssl" in parameters, option_file=option_file)


def _split(source: str) -> tuple[SplitResult, dict[str, str]] | None:
    """Return the parts and the parameters of an address, or None if a special character makes it ambiguous."""
    try:
        parts = urlsplit(source)
        if parts.port == 0 or parts.fragment or "/" in parts.path[1:] or "@" in parts.path or not source.isprintable():
            return None
        return parts, dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        return None


def read(address: Address, ask: Callable[[], str] | None) -> Rows:
    """Return the records of a table.

    Args:
        address: The server and the table.
        ask: Asks the user for the password; called if none is set.

    Raises:
        UnreadableError: The table cannot be read, or is not one of tokens.
    """
    try:
        import mysql.connector  # noqa: PLC0415 - an extra, and slow to import
        from mysql.connector.optionfiles import read_option_files  # noqa: PLC0415 - as above
    except ImportError:
        raise UnreadableError(
            "the library mysql-connector-python is not installed",
            'Install it with: pip install "zoho_keystore[mysql]"',
        ) from None
    connect: Callable[..., Any] = mysql.connector.connect
    options = _options(address, ask, read_option_files)
    must_be_encrypted = not address.may_be_clear and not _is_this_machine(options)
    # The library goes on in clear text where a server offers no TLS, so ask before the password is sent.
    if must_be_encrypted and (options.get("ssl_disabled") or not _offers_tls(options)):
        raise UnreadableError(*_NO_TLS)
    try:
        with closing(connect(**options)) as connection, closing(connection.cursor()) as cursor:
            if must_be_encrypted:
                cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
                if not any(value for _, value in cursor.fetchall()):
                    raise UnreadableError(*_NO_TLS)
            # The server's default is a day.
            cursor.execute(f"SET SESSION lock_wait_timeout = {LOCK_TIMEOUT_S}")
            # Not start_transaction(): it refuses readonly on MariaDB, which reports the version 5.5.5.
            cursor.execute("START TRANSACTION READ ONLY")
            cursor.execute(f"SELECT * FROM `{address.table}` LIMIT 0")  # noqa: S608 - parse_address() checks the name
            cursor.fetchall()
            found = columns(cursor.column_names)
            require_columns(f"the table {address.table}", found)
            chosen = ", ".join(f"`{name}`" for name in found.values())
            cursor.execute(f"SELECT {chosen} FROM `{address.table}`")  # noqa: S608 - known names
            rows = cursor.fetchall()
    except UnreadableError:
        raise
    except mysql.connector.Error as error:
        # Without the server's message: it may quote the query or values.
        default = (f"the server reports error {error.errno}", "See the server's log")
        problem = _PROBLEMS.get(error.errno, _UNREACHABLE if error.errno in _CLIENT_ERRORS else default)
        raise UnreadableError(*problem) from None
    except Exception as error:  # noqa: BLE001 - a reply of another kind of server breaks the library anywhere
        raise UnreadableError(
            f"the server's answer is malformed ({type(error).__name__})", "Check the host, the port and the option file"
        ) from None
    named = (Row(f"row {number}", dict(zip(found, row, strict=True))) for number, row in enumerate(rows, 1))
    return to_records(named, found)


def _is_this_machine(options: dict[str, Any]) -> bool:
    """Tell whether a connection stays on this machine."""
    host = options.get("host") or "localhost"
    if options.get("unix_socket") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _offers_tls(options: dict[str, Any]) -> bool:
    """Tell whether a server offers TLS in its greeting; True where it cannot be reached, which connecting reports."""
    try:
        with socket.create_connection((options["host"], options.get("port") or 3306), CONNECT_TIMEOUT_S) as connection:
            connection.settimeout(CONNECT_TIMEOUT_S)
            with connection.makefile("rb") as stream:
                length = int.from_bytes(stream.read(4)[:3], "little")
                greeting = stream.read(min(length, _MAX_GREETING_BYTES))
    except OSError:
        return True
    # The protocol's version, the server's version up to a NUL, a thread id, a scramble, the capabilities.
    version, _, rest = greeting[1:].partition(b"\0")
    capabilities = int.from_bytes(rest[_CAPABILITIES_OFFSET : _CAPABILITIES_OFFSET + 2], "little")
    return not version or bool(capabilities & _CLIENT_SSL)


def _options(
    address: Address, ask: Callable[[], str] | None, read_option_files: Callable[..., dict[str, Any]]
) -> dict[str, Any]:
    options = dict(address.options)
    if address.option_file is not None:
        options = _with_option_file(address.option_file, options, read_option_files)
    if not options.get("user"):
        raise UnreadableError("no user is given", f"Write {FORM}, or set the user in the option file")
    in_file = options.pop("passwd", "") or options.pop("password", "")
    # The servers' own programs remove quotes, and the library does not.
    if quoted := re.fullmatch(r"""(["'])(.*)\1""", in_file, re.DOTALL):
        in_file = quoted[2]
    options["password"] = os.environ.get(PASSWORD_VARIABLE) or in_file or (ask() if ask is not None else "")
    return options


def _with_option_file(
    path: Path, options: dict[str, Any], read_option_files: Callable[..., dict[str, Any]]
) -> dict[str, Any]:
    try:
        # The library would wait for the writer of a FIFO, and ignore a file that it cannot read.
        read_prefix(path, 0)
        return read_option_files(option_files=str(path), **options)
    except UnsafeFileError as error:
        problem = error.problem
    except OSError as error:
        problem = os_error_text(error)
    except Exception:  # noqa: BLE001 - errors of the library's parser are of many types, and quote the line
        problem = "it is malformed"
    raise UnreadableError(f"the option file {path} cannot be read: {problem}", "Check its path and its content")

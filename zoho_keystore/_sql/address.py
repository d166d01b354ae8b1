"""Addresses of databases: ``postgresql://USER@HOST:5432/DATABASE``, ``mysql://…``, ``sqlite:///PATH``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from urllib.parse import quote, unquote, urlsplit

from zoho_keystore._fs.paths import real_path
from zoho_keystore._hidden import Hidden, without_frames
from zoho_keystore._sql.password import PASSWORD_VARIABLE
from zoho_keystore.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sqlalchemy import URL

    Dialect: TypeAlias = Literal["postgresql", "mysql", "sqlite"]

#: The forms of an address, for messages.
FORM: Final = "postgresql://USER@HOST:5432/DATABASE, mysql://USER@HOST:3306/DATABASE or sqlite:///PATH"

#: The dialect of a scheme, and the drivers of those that name none.
_DIALECTS: Final[dict[str, Dialect]] = {
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "mysql": "mysql",
    "mariadb": "mysql",
    "sqlite": "sqlite",
}
_DRIVERS: Final = {"postgresql": "psycopg", "mysql": "pymysql", "sqlite": "pysqlite"}

#: The extra that brings the library and the default driver.
EXTRAS: Final = {"postgresql": "postgresql", "mysql": "mysql", "sqlite": "sql"}

#: The packages of drivers that an address may name.
_PACKAGES: Final = {
    "psycopg2": "psycopg2-binary",
    "pg8000": "pg8000",
    "mysqlconnector": "mysql-connector-python",
    "mysqldb": "mysqlclient",
    "mariadbconnector": "mariadb",
}

#: A drive letter of Windows is one character. Each word before "://" counts: "oracle://…" must not become a file.
_ADDRESS = re.compile(r"(?:(?:postgres(?:ql)?|mysql|mariadb|sqlite)(?:\+\w+)?:|[a-z][a-z0-9+.-]+://)", re.IGNORECASE)
_SCHEME = re.compile(r"([a-z]+)(?:\+([a-z0-9_]+))?://", re.IGNORECASE)

#: The names of the tables of a store start with it.
DEFAULT_PREFIX: Final = "zoho_keystore"

#: The parameter of an address that is ours, not the driver's.
_PREFIX: Final = "prefix"

#: Parameters of an address whose values are no secrets, so that messages may repeat them.
_SHOWN_PARAMETERS = frozenset(
    {"host", "option_file", "port", "prefix", "read_default_file", "service", "ssl_ca", "sslmode", "sslrootcert"}
    | {"target_session_attrs", "unix_socket"}
)
#: Some others keep stores apart, so that a name without them would be that of another store. It stands for the value.
LEFT_OUT: Final = "…"
#: Shorter ones are in any text.
_MIN_HIDDEN_CHARACTERS: Final = 6
_PARAMETER_NAME = re.compile(r"[a-z][a-z_]*")
#: Settings of the server in which no secret is.
_SHOWN_OPTIONS = re.compile(r"(?:\s*-c\s*(?:search_path|role)=[\w,]+)+\s*", re.ASCII)
_SECRET_PARAMETER = re.compile(r"passw|pwd|secret|token|^pass$", re.IGNORECASE)
#: A file that holds passwords, not one of them.
_PASSWORD_FILE_PARAMETERS = frozenset({"passfile"})


@dataclass(frozen=True, repr=False)
class SQLAddress:
    """A database.

    Attributes:
        dialect: The kind of the server.
        url: The address for SQLAlchemy, with the driver; it has no password in it.
        name: The address for messages.
        path: The file of an SQLite database; None for a server.
        prefix: The prefix of the store's tables, where the address names one: ``?prefix=…``.
    """

    dialect: Dialect
    url: URL = field(compare=False)
    name: str
    path: Path | None = None
    prefix: str | None = None

    def __repr__(self) -> str:
        """Return the name alone: parameters of the address may be secrets."""
        return f"<SQLAddress {self.name}>"

    @property
    def store_table(self) -> str:
        """The name of the table with the store's own row."""
        return f"{self.prefix or DEFAULT_PREFIX}_store"

    def with_prefix(self, prefix: str) -> SQLAddress:
        """Return the address with the prefix in its name too, so that commands with it work on the same store."""
        parameter = f"{'&' if '?' in self.name else '?'}{_PREFIX}={quote(prefix, safe='')}"
        return replace(self, name=f"{self.name}{parameter}", prefix=prefix)

    @property
    def driver(self) -> str:
        """The driver's name in SQLAlchemy: "psycopg"."""
        return self.url.get_driver_name()


def is_sql_address(text: str) -> bool:
    """Tell whether a text is meant as the address of a database, not as a path."""
    return _ADDRESS.match(text) is not None


def parse_address(text: str | Hidden[str]) -> SQLAddress:
    """Parse an address. No error repeats it: a password with a special character may be in any part of it.

    Raises:
        ConfigurationError: It is malformed, of an unknown kind, or has a password in it; or SQLAlchemy or the driver is
            not installed.
    """
    text = Hidden.of(text)
    return without_frames(lambda: _address(text.value))


def _address(text: str) -> SQLAddress:
    scheme = _SCHEME.match(text)
    dialect = _DIALECTS.get(scheme[1].lower()) if scheme else None
    if scheme is None or dialect is None:
        raise ConfigurationError("the address is none of a database that is supported", f"Write {FORM}")
    named_driver = (scheme[2] or "").lower()
    # The dialect "mariadb" of SQLAlchemy refuses MySQL; "mysql" takes both.
    drivername = f"{dialect}+{named_driver or _DRIVERS[dialect]}"
    url = _parsed(f"{drivername}://{text[scheme.end() :]}", dialect)
    if url is None:
        raise ConfigurationError("the address of the database is malformed", f"Write {FORM}")
    secrets = {name for name in url.query if _SECRET_PARAMETER.search(name)} - _PASSWORD_FILE_PARAMETERS
    if url.password is not None or secrets:
        raise ConfigurationError(
            "there is a password in the address of the database, where other users of this machine can see it",
            f"Remove it, and set the variable {PASSWORD_VARIABLE}"
            + {"postgresql": " or use ~/.pgpass", "mysql": " or an option file: ?read_default_file=~/.my.cnf"}.get(
                dialect, ""
            ),
        )
    if LEFT_OUT in {*url.query, *url.query.values()}:
        raise ConfigurationError(
            f"the address of the database is incomplete: {LEFT_OUT} stands for a value that a message has left out",
            "Give the whole address",
        )
    _require_synchronous_driver(url)
    prefix = url.query.get(_PREFIX)
    if dialect == "sqlite":
        return _sqlite_address(url, text[scheme.end() :], prefix)
    shown = {
        key if _PARAMETER_NAME.fullmatch(key) else LEFT_OUT: _shown(key, value) for key, value in url.query.items()
    }
    name = url.set(drivername=scheme[0][:-3], query=shown).render_as_string(hide_password=True)
    return SQLAddress(
        dialect=dialect,
        url=url.difference_update_query([_PREFIX]),
        name=name.replace(quote(LEFT_OUT), LEFT_OUT),
        prefix=None if prefix is None else str(prefix),
    )


def _shown(key: str, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Return what messages repeat of a parameter."""
    is_harmless = key == "options" and isinstance(value, str) and _SHOWN_OPTIONS.fullmatch(value)
    return value if key in _SHOWN_PARAMETERS or is_harmless else LEFT_OUT


def hidden_parts(parameters: Mapping[str, Any]) -> list[str]:
    """Return what of the values of parameters messages must not repeat, the longest first.

    A server that refuses a value quotes it, or a part of it.
    """
    values = [value for key, value in parameters.items() if key not in _SHOWN_PARAMETERS and isinstance(value, str)]
    parts = {part for value in values for part in (value, *re.split(r"[\s=,]+", value))}
    return sorted((part for part in parts if len(part) >= _MIN_HIDDEN_CHARACTERS), key=len, reverse=True)


def name_of(text: str) -> str:
    """Return an address for messages, also one that is malformed or that has a password in it."""
    try:
        return parse_address(text).name
    except ConfigurationError:
        return "ADDRESS"


def _parsed(text: str, dialect: Dialect) -> URL | None:
    sqlalchemy = import_sqlalchemy(dialect)
    try:
        if dialect == "sqlite":
            # It has neither a user nor a password, and a path may hold any character.
            return sqlalchemy.make_url(text) if text.isprintable() else None
        parts = urlsplit(text)
        # A second "@", and a "/" or "#" outside of its place, are parts of a password that is not escaped.
        if parts.fragment or not text.isprintable() or "@" in parts.path or parts.netloc.count("@") > 1:
            return None
        url: URL = sqlalchemy.make_url(text)
    except (ValueError, sqlalchemy.exc.ArgumentError):
        return None
    return None if "/" in (url.database or "") else url


def import_sqlalchemy(dialect: Dialect) -> Any:
    """Return the module ``sqlalchemy``.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        import sqlalchemy as sa  # noqa: PLC0415 - an extra, and slow to import
    except ImportError:
        raise not_installed("SQLAlchemy", dialect) from None
    return sa


def not_installed(library: str, dialect: Dialect) -> ConfigurationError:
    """Return the error for a library that is missing, with the command that installs it.

    Args:
        library: SQLAlchemy, or the driver's name in SQLAlchemy.
        dialect: The dialect.
    """
    by_extra = f'pip install "zoho_keystore[{EXTRAS[dialect]}]"'
    advice = f"Install it with: {by_extra}"
    if library not in ("SQLAlchemy", _DRIVERS[dialect]):
        # The extra would bring another driver, and the error would stay.
        package = _PACKAGES.get(library)
        command = "Install it" if package is None else f"Install it with: pip install {package}"
        advice = f"{command}; or leave the driver out of the address, for the default one: {by_extra}"
    return ConfigurationError(f"the library {library} is not installed", advice)


def _require_synchronous_driver(url: URL) -> None:
    from sqlalchemy.exc import NoSuchModuleError  # noqa: PLC0415 - as above

    try:
        if not url.get_dialect().is_async:
            return
        problem = "the driver in the address is asynchronous"
    except NoSuchModuleError:
        problem = "SQLAlchemy does not know the driver in the address"
    raise ConfigurationError(problem, f"Leave the driver out, as in {FORM}")


def _sqlite_address(url: URL, rest: str, prefix: object) -> SQLAddress:
    if url.database in (None, "", ":memory:") or url.host or url.username or url.port or set(url.query) - {_PREFIX}:
        raise ConfigurationError(
            "the address of the SQLite database is not that of a file",
            "Write sqlite:///PATH, which is sqlite:////PATH for an absolute path, without parameters",
        )
    # Not as SQLAlchemy has it: only some of its versions undo the escapes of a path.
    path = real_path(unquote(rest.partition("?")[0].removeprefix("/")))
    escaped = re.sub("[%?]", lambda match: quote(match[0]), str(path))
    address = SQLAddress(
        dialect="sqlite", url=url.set(database=str(path), query={}), name=f"sqlite:///{escaped}", path=path
    )
    return address.with_prefix(str(prefix)) if prefix else address

"""What the settings of a server mean for the promises of a store: the checks of ``doctor``."""

from __future__ import annotations

import ipaddress
import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy.exc import SQLAlchemyError

from zoho_keystore import _platform as platform
from zoho_keystore._fs import permissions
from zoho_keystore._sql.engine import connect
from zoho_keystore._sql.failures import MALFORMED, Failure, classify, first_line, malformed
from zoho_keystore.errors import KeystoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from sqlalchemy import URL

    from zoho_keystore._sql.address import SQLAddress
    from zoho_keystore._sql.engine import Engines


class Finding(NamedTuple):
    """What was found.

    Attributes:
        what: What is so.
        fix: What to do; empty if it is no problem.
    """

    what: str
    fix: str = ""


_POSTGRESQL: Final = """
SELECT current_setting('server_version') AS version, current_setting('fsync') AS fsync,
       current_setting('full_page_writes') AS full_page_writes,
       current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('synchronous_standby_names') AS synchronous_standby_names,
       current_setting('transaction_read_only') AS read_only,
       (SELECT count(*) FROM pg_stat_replication) AS standbys,
       (SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()) AS ssl
"""
_MYSQL_VARIABLES: Final = (
    *("version", "innodb_flush_log_at_trx_commit", "innodb_flush_method", "log_bin", "sync_binlog"),
    *("read_only", "super_read_only", "innodb_read_only", "wsrep_on"),
    *("rpl_semi_sync_master_enabled", "rpl_semi_sync_source_enabled"),
)
_MYSQL: Final = f"SHOW GLOBAL VARIABLES WHERE Variable_name IN {_MYSQL_VARIABLES}"
_MYSQL_STATUS: Final = "SHOW STATUS WHERE Variable_name IN ('Ssl_cipher', 'Slaves_connected', 'wsrep_cluster_size')"

_ENCRYPT: Final = {
    "postgresql": "Switch TLS on at the server (ssl = on), and require it: ?sslmode=verify-full in the address",
    "mysql": "Switch TLS on at the server, and name its authority: ?ssl_ca=PATH in the address",
}


def findings(address: SQLAddress) -> list[Finding]:
    """Return what is to be said of the server of a store; that it cannot be asked, too.

    Raises:
        KeystoreError: A library is not installed, or the file of a database cannot be used.
    """
    engines = connect(address, lock_timeout=0, create=False)
    try:
        return examine(engines)
    except KeystoreError:  # ConfigurationError is a ValueError too.
        raise
    except (SQLAlchemyError, OSError) as error:
        said = first_line(error)
    except MALFORMED as error:
        said = malformed(error)
    finally:
        engines.dispose()
    if address.path is not None:
        return [Finding(f"the database cannot be used: {said}", _why_unusable(address.path))]
    return [Finding(f"the server cannot be asked for its settings: {said}", "Check that it runs and can be reached")]


def examine(engines: Engines) -> list[Finding]:
    """Return what is to be said of the server of a store.

    Raises:
        SQLAlchemyError: It cannot be reached, or it is a server of another kind.
    """
    address = engines.address
    with engines.reads.connect() as connection:
        if address.dialect == "postgresql":
            row = connection.exec_driver_sql(_POSTGRESQL).mappings().one()
            return list(of_postgresql(row, is_local=is_local(address)))
        if address.dialect == "mysql":
            found = [*connection.exec_driver_sql(_MYSQL), *connection.exec_driver_sql(_MYSQL_STATUS)]
            return list(of_mysql({str(name).lower(): str(value) for name, value in found}, is_local=is_local(address)))
        rows = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA quick_check(3)")]
    found = list(of_sqlite(rows))
    return found if found or address.path is None else list(_of_writing(engines, address.path))


def of_postgresql(settings: Mapping[Any, Any], *, is_local: bool) -> Iterator[Finding]:
    """Yield the findings on a PostgreSQL server."""
    yield Finding(f"PostgreSQL {settings['version']}")
    for name in ("fsync", "full_page_writes"):
        if settings[name] != "on":
            yield Finding(
                f"{name} is {settings[name]}: a power cut at the server may destroy the database",
                f"ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf();",
            )
    if settings["synchronous_commit"] == "off":
        yield Finding(
            "synchronous_commit is off: a crash of the server loses the newest saves",
            "ALTER ROLE … SET synchronous_commit = on; a connection pooler hides the setting that this program makes",
        )
    if settings["standbys"] and not settings["synchronous_standby_names"].strip():
        yield Finding(
            f"its standby servers ({settings['standbys']}) are asynchronous: the loss of this server loses the newest "
            "saves",
            "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'; SELECT pg_reload_conf();",
        )
    if settings["read_only"] == "on":
        yield Finding(
            "the server takes no writes: it is a standby server, or set to be read-only",
            "Give the address of the primary server, or name all of them: "
            "postgresql://USER@/DATABASE?host=HOST1&host=HOST2&target_session_attrs=read-write",
        )
    if not (settings["ssl"] or is_local):
        yield _clear_text("postgresql")


def of_mysql(settings: Mapping[str, str], *, is_local: bool) -> Iterator[Finding]:
    """Yield the findings on a server of MySQL or MariaDB, by its variables and status, with small letters."""
    yield Finding(f"{'MariaDB' if 'mariadb' in settings['version'].lower() else 'MySQL'} {settings['version']}")
    flush = settings.get("innodb_flush_log_at_trx_commit", "1")
    if flush != "1":
        yield Finding(
            f"innodb_flush_log_at_trx_commit is {flush}: a crash loses the newest saves",
            "SET GLOBAL innodb_flush_log_at_trx_commit = 1; and set it in the server's option file",
        )
    if settings.get("innodb_flush_method", "").lower() in {"nosync", "littlesync"}:
        yield Finding(
            f"innodb_flush_method is {settings['innodb_flush_method']}: a power cut may destroy the database",
            "Remove it from the server's option file, and start the server again",
        )
    # After a power cut, InnoDB rolls back what the binary log does not have.
    if settings.get("log_bin") == "ON" and settings.get("sync_binlog") != "1":
        yield Finding(
            f"sync_binlog is {settings.get('sync_binlog')}, with a binary log: a power cut loses the newest saves",
            "SET GLOBAL sync_binlog = 1; and set it in the server's option file",
        )
    is_galera = settings.get("wsrep_on") == "ON"
    is_semi_synchronous = "ON" in (
        settings.get("rpl_semi_sync_master_enabled"),
        settings.get("rpl_semi_sync_source_enabled"),
    )
    replicas = settings.get("slaves_connected", "0")
    if replicas != "0" and not (is_galera or is_semi_synchronous):
        yield Finding(
            f"its replicas ({replicas}) are asynchronous: the loss of this server loses the newest saves",
            "Switch semi-synchronous replication on: SET GLOBAL rpl_semi_sync_master_enabled = ON; or use Galera",
        )
    if is_galera:
        yield Finding(f"Galera cluster of {settings.get('wsrep_cluster_size', '?')} nodes")
    read_only = [name for name in ("read_only", "super_read_only", "innodb_read_only") if settings.get(name) == "ON"]
    if read_only:
        yield Finding(
            f"the server takes no writes: {', '.join(read_only)} is ON", "Give the address of the primary server"
        )
    if not (settings.get("ssl_cipher") or is_local):
        yield _clear_text("mysql")


def of_sqlite(problems: Sequence[str]) -> Iterator[Finding]:
    """Yield the findings on an SQLite database, by what its check of integrity has found."""
    if list(problems) != ["ok"]:
        yield Finding(f"the database is damaged: {'; '.join(problems)}", "Restore it from a backup")


def _of_writing(engines: Engines, path: Path) -> Iterator[Finding]:
    """Yield what keeps an SQLite database from being written; that another program is writing is no problem."""
    try:
        with engines.writes.connect() as connection, connection.begin() as transaction:
            # The lock alone tells nothing: of a file that it cannot write, SQLite begins a transaction for reading.
            connection.exec_driver_sql("PRAGMA user_version = 1")
            transaction.rollback()
    except SQLAlchemyError as error:
        if classify(error) is not Failure.LOCK_TIMEOUT:
            yield Finding(f"the database cannot be written: {first_line(error)}", _why_unusable(path))


def _why_unusable(path: Path) -> str:
    """Return what to do about an SQLite database that cannot be opened or written; it makes files in its directory.

    The file is not opened: closing it would release the locks that SQLite holds for this process.
    """
    for place in (path, path.parent):
        if hasattr(os, "statvfs") and os.statvfs(place).f_flag & os.ST_RDONLY:
            return f"Mount the file system of {place} writable"
        if not os.access(place, os.W_OK):
            if not permissions.is_ours(place.stat()):
                return f"Let the user who runs this write {place}, or keep the store in a directory of that user"
            return platform.choose(f"chmod u+w {platform.quote(str(place))}", platform.icacls_command(place))
    return "Check that its disk is not full, and that neither the file nor its directory is immutable (lsattr -d)"


def _clear_text(dialect: str) -> Finding:
    return Finding(
        "the connection is not encrypted: other machines on the way can read which rows are used, and change them",
        _ENCRYPT[dialect],
    )


def is_local(address: SQLAddress) -> bool:
    """Tell whether a connection stays on this machine, by the address."""
    return all(map(_is_loopback, _hosts(address.url)))


def _hosts(url: URL) -> list[str]:
    if "unix_socket" in url.query:
        return []
    in_query = url.query.get("host", ())
    hosts = [url.host, *([in_query] if isinstance(in_query, str) else in_query)]
    # libpq takes what the address leaves out from variables.
    return [host for host in hosts if host] or list(filter(None, [os.environ.get("PGHOST")]))


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host.partition(":")[0] if host.count(":") == 1 else host).is_loopback
    except ValueError:
        return False

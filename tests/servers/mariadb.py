"""MariaDB: a single server, and a Galera cluster of three nodes, which all take writes."""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING

from servers.places import HOST, Nodes, Place, ServerError, find_program, free_port, server_user, until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DATABASE = "zoho"
_USER = "zoho"
_PROVIDER = "/usr/lib/galera/libgalera_smm.so"
#: Galera notices in seconds that a node is gone; by default it would take longer.
_NOTICE = "evs.keepalive_period=PT0.5S;evs.suspect_timeout=PT2S;evs.inactive_timeout=PT4S"

_SET_UP = (
    f"CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4",
    f"CREATE USER {_USER}@'{HOST}' IDENTIFIED BY ''",
    f"GRANT ALL ON {DATABASE}.* TO {_USER}@'{HOST}'",
)


def missing() -> str | None:
    """Return how to install MariaDB if it is not here, or None."""
    names = ("mariadb-install-db", "mariadbd", "mariadb")
    return None if all(map(find_program, names)) else "apt-get install mariadb-server"


def missing_galera() -> str | None:
    """Return how to install Galera if it is not here, or None."""
    is_here = os.path.exists(_PROVIDER) and find_program("rsync") and find_program("socat")
    return None if is_here and not missing() else "apt-get install mariadb-server galera-4 rsync socat lsof"


class _Node:
    """One server with its data, which is still to be made."""

    def __init__(self, place: Place, name: str, *options: str) -> None:
        programs = [find_program(program) for program in ("mariadb-install-db", "mariadbd", "mariadb")]
        if None in programs:
            raise ServerError(f"MariaDB is not installed: {missing()}")
        self._install, serve, self._client = map(str, programs)
        self.place = place
        self.port = free_port()
        directory = place.path / name
        self.socket = directory / "socket"
        self._data = directory / "data"
        self.process = place.process(
            name,
            *(serve, "--no-defaults", f"--datadir={self._data}", f"--bind-address={HOST}", f"--port={self.port}"),
            *(f"--socket={self.socket}", f"--pid-file={directory / 'pid'}", "--skip-name-resolve"),
            *("--innodb-buffer-pool-size=32M", "--max-connections=300", *options),
        )

    def make(self) -> None:
        """Make an empty database; any account of the machine is the administrator by the socket."""
        shutil.rmtree(self._data, ignore_errors=True)
        self.place.run(
            *(self._install, "--no-defaults", f"--datadir={self._data}", "--auth-root-authentication-method=normal"),
            *("--skip-test-db", "--skip-name-resolve"),
        )

    def make_room(self) -> None:
        """Make an empty directory, which another node fills."""
        shutil.rmtree(self._data, ignore_errors=True)
        self._data.mkdir()
        os.chown(self._data, self.place.user.uid, self.place.user.gid)

    def start(self, *options: str) -> None:
        # Of a killed server, which would be taken for a running one.
        self.socket.unlink(missing_ok=True)
        self.process.start(*options)

    def wait(self) -> None:
        self.process.wait_until(self.answers)

    def answers(self) -> bool:
        try:
            self.sql("SELECT 1")
        except ServerError:
            return False
        return True

    def sql(self, statement: str, database: str = "") -> str:
        """Run a statement as the administrator, and return what the client prints."""
        return self.place.run(
            *(self._client, "--no-defaults", f"--socket={self.socket}", "--user=root", "--batch"),
            *("--skip-column-names", "--connect-timeout=3", f"--execute={statement}", database),
        )

    @property
    def url(self) -> str:
        return f"mysql://{_USER}@{HOST}:{self.port}/{DATABASE}"


class MariaDB(Nodes[_Node]):
    """A single server.

    Args:
        base: Where its data are made; by default in memory.
        options: More options of mariadbd.
    """

    name = "mariadb"

    def __init__(self, *options: str, base: Path | None = None) -> None:
        self._place = Place(self.name, server_user("mysql"), base)
        self._node = _Node(self._place, "node", *options)
        self._nodes = [self._node]

    def start(self) -> None:
        self._node.make()
        self._node.start()
        self._node.wait()
        for statement in _SET_UP:
            self._node.sql(statement)

    @property
    def port(self) -> int:
        return self._node.port

    @property
    def socket(self) -> str:
        """The path of its socket, by which every account is the administrator ``root``."""
        return str(self._node.socket)

    @property
    def url(self) -> str:
        return self._node.url

    @property
    def urls(self) -> Sequence[str]:
        return [self.url]

    def sql(self, statement: str, database: str = DATABASE) -> str:
        """Run a statement as the administrator, and return what the client prints."""
        return self._node.sql(statement, database)

    def rejoin(self, _node: int = 0) -> None:
        self._node.start()
        self._node.wait()

    def stop(self) -> None:
        """Shut it down as an administrator does."""
        self._node.process.end()

    def promote(self, _node: int = 1) -> None:
        raise ServerError("a single server has no standby")

    def close(self) -> None:
        self._place.close()


class Galera(Nodes[_Node]):
    """A cluster of three nodes: a commit is certified by all of them, and each takes writes."""

    name = "galera"

    def __init__(self, *, nodes: int = 3) -> None:
        if needed := missing_galera():
            raise ServerError(f"Galera is not installed: {needed}")
        self._place = Place(self.name, server_user("mysql"))
        ports = [free_port() for _ in range(nodes)]
        members = ",".join(f"{HOST}:{port}" for port in ports)
        self._nodes = [
            _Node(
                self._place,
                f"n{number}",
                "--binlog-format=ROW",
                "--innodb-autoinc-lock-mode=2",
                "--wsrep-on=ON",
                f"--wsrep-provider={_PROVIDER}",
                f"--wsrep-cluster-address=gcomm://{members}",
                f"--wsrep-node-name=n{number}",
                f"--wsrep-node-address={HOST}",
                "--wsrep-sst-method=rsync",
                f"--wsrep-sst-receive-address={HOST}:{free_port()}",
                # A node that was stopped under load gets what it missed from this cache, or it ends.
                f"--wsrep-provider-options=gmcast.listen_addr=tcp://{HOST}:{port};base_port={port};"
                f"ist.recv_addr={HOST}:{free_port()};gcache.size=512M;{_NOTICE}",
            )
            for number, port in enumerate(ports)
        ]

    def start(self) -> None:
        first, *others = self._nodes
        first.make()
        first.start("--wsrep-new-cluster")
        self._wait(first)
        for statement in _SET_UP:
            first.sql(statement)
        for node in others:
            node.make_room()
            node.start()
            self._wait(node)

    @staticmethod
    def _wait(node: _Node) -> None:
        """Wait until a node takes part: it answers earlier."""
        node.wait()
        until(lambda: "\tON" in node.sql("SHOW STATUS LIKE 'wsrep_ready'"), "wsrep_ready")

    @property
    def url(self) -> str:
        return self._nodes[0].url

    @property
    def urls(self) -> Sequence[str]:
        return [node.url for node in self._nodes]

    def sql(self, statement: str, node: int = 0, database: str = DATABASE) -> str:
        """Run a statement on a node as the administrator, and return what the client prints."""
        return self._nodes[node].sql(statement, database)

    def rejoin(self, node: int = 0) -> None:
        """Start a killed node at the position that its own log names, as systemd's unit does."""
        joining = self._nodes[node]
        joining.socket.unlink(missing_ok=True)
        log = joining.process.directory / "recover.log"
        log.unlink(missing_ok=True)
        self._place.run(
            *joining.process.command,
            "--wsrep-recover",
            f"--log-error={log}",
            directory=joining.process.directory,
        )
        positions = re.findall(r"WSREP: Recovered position:\s*(\S+)", log.read_text(encoding="utf-8"))
        joining.start(*(f"--wsrep-start-position={position}" for position in positions[-1:]))
        self._wait(joining)

    def promote(self, _node: int = 1) -> None:
        raise ServerError("all nodes of Galera take writes")

    def close(self) -> None:
        self._place.close()

"""Patroni with etcd: two PostgreSQL nodes of which a manager promotes the standby when the primary is lost."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING, Any

from servers import postgres
from servers.places import HOST, Nodes, Place, ServerError, find_program, free_port, server_user, until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from servers.places import Process


def missing() -> str | None:
    """Return how to install what is not here, or None."""
    is_here = find_program("patroni") and find_program("etcd")
    return postgres.missing() or (None if is_here else "apt-get install patroni etcd-server python3-etcd")


class _Node:
    """A PostgreSQL server and the Patroni beside it."""

    def __init__(self, place: Place, name: str, etcd: int, programs: str) -> None:
        self.name = name
        self.port, self._rest = free_port(), free_port()
        settings = {
            "scope": "zoho",
            "name": name,
            "restapi": {"listen": f"{HOST}:{self._rest}", "connect_address": f"{HOST}:{self._rest}"},
            "etcd3": {"hosts": [f"{HOST}:{etcd}"]},
            "bootstrap": {
                "dcs": {
                    "ttl": 6,
                    "loop_wait": 1,
                    "retry_timeout": 3,
                    "synchronous_mode": True,
                    "postgresql": {
                        "use_pg_rewind": True,
                        "parameters": {
                            "max_connections": 150,
                            "shared_buffers": "32MB",
                            "dynamic_shared_memory_type": "mmap",
                            "wal_log_hints": "on",
                        },
                    },
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, "no-sync"],
            },
            "postgresql": {
                "listen": f"{HOST}:{self.port}",
                "connect_address": f"{HOST}:{self.port}",
                "data_dir": str(place.path / name / "data"),
                "bin_dir": programs,
                "pgpass": str(place.path / f"{name}.pgpass"),
                "pg_hba": [f"host {who} all {HOST}/32 trust" for who in ("all", "replication")],
                "authentication": {"superuser": {"username": "postgres"}, "replication": {"username": "replicator"}},
                "parameters": {"unix_socket_directories": str(place.path / name)},
            },
        }
        # JSON is YAML too.
        path = place.write(f"{name}.yml", json.dumps(settings))
        self.process: Process = place.process(name, str(find_program("patroni")), str(path))

    def state(self) -> dict[str, Any]:
        """Return what the node says of itself; nothing while it is down."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self._rest}/patroni", timeout=2) as answer:
                state: dict[str, Any] = json.load(answer)
        except (OSError, ValueError):
            return {}
        return state

    def is_primary(self) -> bool:
        return self.state().get("role") == "master"


class Patroni(Nodes[_Node]):
    """Two nodes; clients look for the one that takes writes."""

    name = "patroni"

    def __init__(self) -> None:
        if needed := missing():
            raise ServerError(f"Patroni is not installed: {needed}")
        self._place = Place(self.name, server_user("postgres"))
        etcd, peer = free_port(), free_port()
        self._etcd = self._place.process(
            "etcd",
            *(str(find_program("etcd")), "--data-dir=data", "--name=e", "--log-level=warn"),
            *(f"--{kind}-client-urls=http://{HOST}:{etcd}" for kind in ("listen", "advertise")),
            *(f"--{option}=http://{HOST}:{peer}" for option in ("listen-peer-urls", "initial-advertise-peer-urls")),
            f"--initial-cluster=e=http://{HOST}:{peer}",
        )
        self._nodes = [_Node(self._place, name, etcd, str(postgres.programs(15))) for name in ("a", "b")]

    def start(self) -> None:
        self._etcd.start()
        first, second = self._nodes
        first.process.start()
        first.process.wait_until(first.is_primary)
        second.process.start()
        self._wait_for_standby()
        self.sql("CREATE ROLE zoho LOGIN", "postgres")
        self.sql(f"CREATE DATABASE {postgres.DATABASE} OWNER zoho", "postgres")

    def _wait_for_standby(self) -> None:
        def is_there() -> bool:
            return any(
                standby.get("sync_state") == "sync"
                for node in self._nodes
                if node.is_primary()
                for standby in node.state().get("replication", [])
            )

        until(is_there, "a standby is synchronous")

    @property
    def primary(self) -> int:
        """The number of the node that takes writes."""
        return next(number for number, node in enumerate(self._nodes) if node.is_primary())

    @property
    def url(self) -> str:
        hosts = "&".join(f"host={HOST}:{node.port}" for node in self._nodes)
        return f"postgresql://zoho@/{postgres.DATABASE}?{hosts}&target_session_attrs=read-write"

    @property
    def urls(self) -> Sequence[str]:
        return [self.url]

    def sql(self, statement: str, database: str = postgres.DATABASE) -> str:
        """Run a statement on the primary as the administrator, and return what psql prints."""
        address = f"host={HOST} port={self._nodes[self.primary].port} user=postgres dbname={database}"
        program = str(postgres.programs(15)) + "/psql"
        return self._place.run(program, "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", address, "-c", statement)

    def rejoin(self, node: int = 0) -> None:
        self._nodes[node].process.start()
        self._wait_for_standby()

    def promote(self, node: int = 1) -> None:
        """Wait until Patroni has promoted the node."""
        until(self._nodes[node].is_primary, f"Patroni promotes {self._nodes[node].name}")

    def close(self) -> None:
        self._place.close()

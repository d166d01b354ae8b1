"""Directories in which servers run: they end with all their servers, also when the test process is killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, Self, TypeVar

from servers import guard

if sys.platform != "win32":
    import pwd

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HOST = "127.0.0.1"
#: How long a server may take to start or to catch up, in seconds.
TIMEOUT_S = 90.0
#: Below the ports that the kernel gives to clients: such a client would keep a killed server from its own port.
_PORTS = range(20_000, 32_000)
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ServerError(Exception):
    """A server does not start, or does not do what it is told; the text has the end of its log."""


class User(NamedTuple):
    """Who runs the servers."""

    name: str
    uid: int
    gid: int


def server_user(*preferred: str) -> User:
    """Return the user that servers run as: PostgreSQL refuses to run as root.

    Args:
        preferred: Names to take when this process is root's, if there are such users.
    """
    names = (*preferred, "nobody") if os.geteuid() == 0 else (pwd.getpwuid(os.geteuid()).pw_name,)
    for name in names:
        with suppress(KeyError):
            found = pwd.getpwnam(name)
            return User(name, found.pw_uid, found.pw_gid)
    raise ServerError(f"none of the users exists: {', '.join(names)}")


def free_port() -> int:
    """Return a port of loopback that no process uses."""
    for port in random.sample(_PORTS, 100):
        with suppress(OSError), socket.create_server((HOST, port)):
            return port
    raise ServerError("no free port found")


def find_program(name: str) -> str | None:
    """Return the path of a program of the system, or None; the directories of root's programs are searched too."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}")


def until(condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Wait until something is so.

    Raises:
        ServerError: It is not so in time.
    """
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise ServerError(f"not so after {timeout_s:g} s: {what}")
        time.sleep(0.05)


class Place:
    """A directory for servers; :meth:`close`, or the end of this process, kills them and removes it.

    Args:
        name: What its name begins with.
        user: Who runs the servers.
        base: Where it is made; by default in memory if possible, which makes their syncs cheap.
    """

    def __init__(self, name: str, user: User, base: Path | None = None) -> None:
        memory = Path("/dev/shm")  # noqa: S108 - the name in it is a random one
        if base is None and os.access(memory, os.W_OK):
            base = memory
        # Short: the path of a socket has at most 107 characters.
        self.path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=base))
        self.user = user
        os.chown(self.path, user.uid, user.gid)
        os.chmod(self.path, 0o755)  # noqa: S103 - a client may be another user than the server
        self._processes: list[Process] = []
        self._guard = subprocess.Popen(
            [sys.executable, "-I", guard.__file__, str(os.getpid()), str(self.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the test process, whose end it waits for.
        )

    def write(self, name: str, text: str) -> Path:
        """Write a file of the servers' user, and return its path."""
        path = self.path / name
        path.write_text(text, encoding="utf-8")
        os.chown(path, self.user.uid, self.user.gid)
        return path

    def process(self, name: str, *command: str, **variables: str) -> Process:
        """Return a server that is still to be started, with a directory of its own."""
        made = Process(self, name, command, variables)
        self._processes.append(made)
        return made

    def run(self, *command: str, directory: Path | None = None) -> str:
        """Run a program as the servers' user, and return what it prints.

        Raises:
            ServerError: It fails.
        """
        done = subprocess.run(
            command,
            capture_output=True,
            check=False,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            cwd=directory or self.path,
            env=_environment(),
            **self.identity(),
        )
        if done.returncode:
            raise ServerError(f"{command[0]} ended with {done.returncode}: {done.stderr}{done.stdout}")
        return str(done.stdout)

    def identity(self) -> dict[str, Any]:
        """Return the options of a subprocess that make it one of the servers' user."""
        if os.geteuid() != 0:
            return {}
        return {"user": self.user.uid, "group": self.user.gid, "extra_groups": []}

    def close(self) -> None:
        """End all processes in the directory, and remove it."""
        guard.kill_all(str(self.path))
        for process in self._processes:
            process.kill()
        shutil.rmtree(self.path, ignore_errors=True)
        self._guard.wait(TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Process:
    """A server and the processes that it starts.

    Attributes:
        directory: Where they all work: by this they are found.
        command: The program and its arguments.
    """

    def __init__(self, place: Place, name: str, command: Sequence[str], variables: dict[str, str]) -> None:
        self.place = place
        self.directory = place.path / name
        self.command = list(command)
        self._variables = variables
        self._running: subprocess.Popen[bytes] | None = None
        self.directory.mkdir(mode=0o700)
        os.chown(self.directory, place.user.uid, place.user.gid)

    @property
    def log(self) -> Path:
        """What it has written to its standard output and error."""
        return self.place.path / f"{self.directory.name}.log"

    @property
    def pid(self) -> int:
        """The id of the process that was started."""
        assert self._running is not None
        return self._running.pid

    def start(self, *more: str) -> None:
        """Start it, with some more arguments for this once."""
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(
                [*self.command, *more],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.directory,
                env=_environment(**self._variables),
                **self.place.identity(),
            )

    def wait_until(self, is_ready: Callable[[], bool]) -> None:
        """Wait until it is ready.

        Raises:
            ServerError: It ends, or takes too long.
        """
        assert self._running is not None
        end = time.monotonic() + TIMEOUT_S
        while not is_ready():
            if self._running.poll() is not None or time.monotonic() > end:
                text = self.log.read_text(encoding="utf-8", errors="replace")
                raise ServerError(f"{self.command[0]} did not start: {text[-3000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill it and its children, even if they are stopped, as the loss of its machine does."""
        guard.kill_all(str(self.directory))
        self._reap()

    def pause(self) -> None:
        """Stop it and its children: connections stay open, and nothing is answered."""
        guard.signal_all(str(self.directory), signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        guard.signal_all(str(self.directory), signal.SIGCONT)

    def end(self, number: int = signal.SIGTERM) -> None:
        """Ask it to end, and wait until it has."""
        assert self._running is not None
        self._running.send_signal(number)
        self._reap()

    def _reap(self) -> None:
        if self._running is not None:
            self._running.wait(TIMEOUT_S)
            self._running = None


class Node(Protocol):
    """A server of a single or clustered one."""

    @property
    def process(self) -> Process:
        """Its process."""
        ...


_N = TypeVar("_N", bound=Node)


class Nodes(Generic[_N]):
    """Kills and stops servers by the numbers of their nodes; a single server has one."""

    _nodes: Sequence[_N]

    def kill(self, node: int = 0) -> None:
        self._nodes[node].process.kill()

    def pause(self, node: int = 0) -> None:
        self._nodes[node].process.pause()

    def resume(self, node: int = 0) -> None:
        self._nodes[node].process.resume()


def _environment(**variables: str) -> dict[str, str]:
    """Return the variables of a server: none of the user's that lead it to other files or another language."""
    return {"PATH": _SYSTEM_PATH, "LC_ALL": "C.UTF-8", "HOME": "/nonexistent", **variables}

"""How often an expired token is refreshed when processes or threads meet it at once, with each store, by the real SDK.

They make an API request at the same moment; the fake server counts how often it is asked for a new access token. Run as
a script, it prints the table of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import inspect
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from cryptography.fernet import Fernet
from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zohocrmsdk.src.com.zoho.api.authenticator.store.file_store import FileStore
from zohocrmsdk.src.com.zoho.crm.api.dc.data_center import DataCenter
from zohocrmsdk.src.com.zoho.crm.api.initializer import Initializer
from zohocrmsdk.src.com.zoho.crm.api.org import OrgOperations

from fake_zoho import FakeZoho
from zoho_keystore import EncryptedFileStore, EncryptedSQLStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

KINDS = FILE_STORE, WITHOUT_LEASES, OURS = "FileStore", "EncryptedFileStore, refresh_wait=0", "EncryptedFileStore"
SQL_KINDS = SQL_WITHOUT_LEASES, SQL = "EncryptedSQLStore, refresh_wait=0", "EncryptedSQLStore"

_CLIENT = {"client_id": "client", "client_secret": "any"}

#: For how long an answer may take before it counts as one that never comes, in seconds.
_LONGEST_S = 60.0

#: Those that are not installed are left out.
_PRELOADED = [
    "zohocrmsdk.src.com.zoho.crm.api.org",
    "zoho_keystore._sdk",
    "zoho_keystore._storage.sql.storage",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.mysql.pymysql",
    "psycopg",
    "pymysql",
]


@dataclass(frozen=True)
class Setting:
    """Which kind of store, in which file and with which key, and the address of the fake server.

    Attributes:
        sql: The addresses of a database, in place of the file; processes are spread over them.
        prefix: What the names of its tables begin with.
        first_token: What each process signs in with when it is told to; None if it knows the id of a stored token.
    """

    kind: str
    path: Path
    key: bytes
    url: str
    refresh_wait: float = 10.0
    first_token: dict[str, str] | None = None
    sql: tuple[str, ...] = ()
    prefix: str = "zoho_keystore"

    def open(self) -> Any:
        """Return a store on the file."""
        if self.kind == FILE_STORE:
            return FileStore(str(self.path))
        wait_s = 0 if self.kind in (WITHOUT_LEASES, SQL_WITHOUT_LEASES) else self.refresh_wait
        if self.kind in SQL_KINDS:
            address = self.sql[os.getpid() % len(self.sql)]
            return EncryptedSQLStore(address, key=self.key, refresh_wait=wait_s, prefix=self.prefix)
        return EncryptedFileStore(self.path, key=self.key, refresh_wait=wait_s)

    def environment(self) -> Any:
        """Return the SDK's environment that leads to the fake server."""
        arguments = [self.url, self.url + "/oauth/v2/token", self.url]
        wants_name = "name" in inspect.signature(DataCenter.Environment).parameters  # 5_0
        return DataCenter.Environment(*arguments, *(["fake_zoho"] if wants_name else []))

    def initialize(self, store: Any, token_id: str) -> None:
        """Prepare the SDK as a program does that knows the id of its token, or what it signs in with."""
        Initializer.LOCAL.init = None
        token = OAuthToken(**(self.first_token or {"id": token_id}))
        Initializer.initialize(self.environment(), token, store=store, resource_path=str(self.path.parent))

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """Give a store on the file for a while."""
        store = self.open()
        yield store
        if self.kind != FILE_STORE:
            store.close()

    def keep(self, zoho: FakeZoho, tokens: int) -> None:
        """Store some tokens that are good for an hour, with the ids from 1 on."""
        with self.opened() as store:
            for _ in range(tokens):
                token = OAuthToken(**_CLIENT, refresh_token=zoho.new_refresh_token())
                token.set_access_token("not asked for yet")
                token.set_expires_in(_in_ms(3_600_000))
                store.save_token(token)

    def expire(self) -> None:
        """Let all tokens expire."""
        with self.opened() as store:
            for token in store.get_tokens():
                token.set_expires_in(_in_ms(0))
                store.save_token(token)


class Outcome(NamedTuple):
    """What came of one API request: its access token, or what the SDK raised; the times are of one clock for all."""

    access_token: str | None
    error: str | None
    started_s: float
    ended_s: float

    @property
    def lasted_s(self) -> float:
        """How long it took, in seconds."""
        return self.ended_s - self.started_s


class Crew:
    """Processes that have opened a store, and make a request each whenever they are told to.

    The attribute ``ends`` has the connections to the processes, in the same order.

    Args:
        setting: Which store.
        processes: How many.
        tokens: How many tokens they use, by turns.
        threads: How many threads of each process make the request, on one store.
        forks: How many children of each process do, which are forked after it has opened the store.
    """

    def __init__(self, setting: Setting, processes: int, *, tokens: int = 1, threads: int = 0, forks: int = 0) -> None:
        # One process imports the SDK, which takes most of a second, and all others are forked from it: still without
        # threads. There is one such process for all modules, and the last one to name the modules decides.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        self.ends: list[Connection] = []
        self.processes = []
        for number in range(processes):
            ours, theirs = context.Pipe()
            # Not daemons, since those may have no children.
            process = context.Process(target=_serve, args=(setting, str(number % tokens + 1), threads, forks, theirs))
            process.start()
            theirs.close()
            self.ends.append(ours)
            self.processes.append(process)

    def __enter__(self) -> Self:
        """Wait until all have opened the store."""
        list(self._answers())
        return self

    def go(self) -> None:
        """Let all make their request."""
        for end in self.ends:
            end.send("go")

    def outcomes(self, ends: list[Connection] | None = None) -> list[Outcome]:
        """Return what came of the requests, as soon as all are over; nothing of those that were killed meanwhile.

        Args:
            ends: The connections to the processes that are asked; None for all.
        """
        return [outcome for answer in self._answers(ends) for outcome in answer]

    def request(self) -> list[Outcome]:
        """Let all make their request, and return what came of them."""
        self.go()
        return self.outcomes()

    def _answers(self, ends: list[Connection] | None = None) -> Iterator[Any]:
        waiting = list(self.ends if ends is None else ends)
        until = time.monotonic() + _LONGEST_S
        while waiting:
            ready = wait(waiting, timeout=until - time.monotonic())
            if not ready:
                msg = f"{len(waiting)} of {len(self.ends)} processes have not answered within {_LONGEST_S:g} s"
                raise TimeoutError(msg)
            for end in ready:
                waiting.remove(end)  # type: ignore[arg-type] # wait() takes more than it is given here
                try:
                    yield end.recv()  # type: ignore[union-attr, call-arg] # as above
                except EOFError:
                    self.ends.remove(end)  # type: ignore[arg-type] # as above
                    end.close()  # type: ignore[union-attr] # as above

    def __exit__(self, *_: object) -> None:
        """End them."""
        for end in self.ends:
            end.close()
        for process in self.processes:
            process.kill()
            process.join()


def _serve(setting: Setting, token_id: str, threads: int, forks: int, end: Connection) -> None:
    """Make requests as told, until the parent is gone."""
    initialize = partial(setting.initialize, setting.open(), token_id)
    prepare: Callable[[], None] = initialize
    if setting.first_token is None:
        initialize()
        prepare = _nothing
    end.send([])
    while True:
        try:
            end.recv()
        except EOFError:
            return
        if threads:
            end.send(_in_threads(threads, prepare))
        elif forks:
            end.send(_in_children(forks))
        else:
            end.send([_request(prepare)])


def _nothing() -> None: ...


def _request(prepare: Callable[[], None] = _nothing) -> Outcome:
    started_s = ended_s = time.monotonic()
    try:
        prepare()
        status = OrgOperations().get_organization().get_status_code()
        ended_s = time.monotonic()
        if status != HTTPStatus.OK:
            return Outcome(None, f"status {status}", started_s, ended_s)
        return Outcome(Initializer.get_initializer().token.get_token(), None, started_s, ended_s)
    except Exception as error:  # noqa: BLE001 - whatever the SDK raises is the outcome
        return Outcome(None, f"{type(error).__name__}: {error}", started_s, max(ended_s, time.monotonic()))


def _in_threads(count: int, prepare: Callable[[], None]) -> list[Outcome]:
    with ThreadPoolExecutor(count) as pool:
        start = threading.Barrier(count)

        def request(_number: int) -> Outcome:
            start.wait()
            return _request(prepare)

        return list(pool.map(request, range(count)))


def _in_children(count: int) -> list[Outcome]:
    context = multiprocessing.get_context("fork")
    ends = []
    for _ in range(count):
        ours, theirs = context.Pipe(duplex=False)
        context.Process(target=lambda end: end.send(_request()), args=(theirs,)).start()
        theirs.close()
        ends.append(ours)
    return [end.recv() for end in ends]


def _in_ms(milliseconds: int) -> str:
    return str(time.time_ns() // 1_000_000 + milliseconds)


class Meeting(NamedTuple):
    """Which processes or threads meet an expired token; the fake server answers after a delay."""

    who: str
    make: Callable[[Setting], Crew]
    tokens: int = 1
    delay_s: float = 0.3


MEETINGS = (
    Meeting("5 processes", partial(Crew, processes=5)),
    Meeting("8 processes", partial(Crew, processes=8)),
    Meeting("24 processes", partial(Crew, processes=24)),
    Meeting("8 processes, Zoho answers at once", partial(Crew, processes=8), delay_s=0),
    Meeting("8 threads of a process", partial(Crew, processes=1, threads=8)),
    Meeting("8 children, forked after it was opened", partial(Crew, processes=1, forks=8)),
    Meeting("6 processes, a token each", partial(Crew, processes=6, tokens=6), tokens=6, delay_s=0.5),
)


class Seen(NamedTuple):
    """How many new access tokens the server was asked for in a meeting, and what came of each request."""

    refreshes: int
    outcomes: list[Outcome]


def meet(meeting: Meeting, kind: str, directory: Path, **options: Any) -> Seen:
    """Let them meet the expired token, and return what came of it.

    Args:
        meeting: Which processes or threads.
        kind: Which store.
        directory: Where the files are made.
        options: More of the :class:`Setting`.
    """
    with FakeZoho(delay_s=meeting.delay_s) as zoho:
        setting = Setting(kind, directory / "tokens", Fernet.generate_key(), zoho.url, **options)
        setting.keep(zoho, meeting.tokens)
        with meeting.make(setting) as crew:
            setting.expire()
            outcomes = crew.request()
        return Seen(zoho.count("refresh"), outcomes)


def main() -> int:
    """Print what each store makes of each meeting."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("Requests to Zoho, the longest wait, and errors: of the SDK, or the token was gone from the store.\n")
    print("|".join(["", " who meets an expired token ", *(f" {kind} " for kind in KINDS), ""]))
    print("|---" * (1 + len(KINDS)) + "|")
    for meeting in MEETINGS:
        row = [meeting.who]
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as directory:
                seen = meet(meeting, kind, Path(directory))
            errors = sum(outcome.error is not None for outcome in seen.outcomes)
            longest_s = max(outcome.lasted_s for outcome in seen.outcomes)
            row.append(f"{seen.refreshes}, {longest_s:.2f} s" + (f", {errors} errors" if errors else ""))
        print("|".join(["", *(f" {cell} " for cell in row), ""]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

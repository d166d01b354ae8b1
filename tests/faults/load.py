"""Clients that save and read without pause while a server is killed, stopped, rejoined or promoted, or keys rotate."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from faults import Attempt, Result
from faults.counters import Ledger
from faults.processes import Child, engine, mutate, start_together
from faults.store import StoreProblem
from zoho_keystore._records import TokenRecord
from zoho_keystore.errors import KeystoreError, LockTimeoutError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

    from faults.processes import Mutant
    from faults.sql_stores import SQLStore
    from zoho_keystore._keystore import Keystore

SAVES, ERRORS, SLOWEST, P99 = "saves", "errors after the lock timeout", "slowest save, s", "slowest p99, s"
#: How often each client has to save before and after a disturbance.
_SAVES_AROUND = 5
#: How long that may take, in seconds; more than the lock timeout.
_LONGEST_S = 90.0
_FAR_MS = 4_102_444_800_000
#: Every so many saves the refresh token changes too, which takes the way with the store's lock.
_SAVES_PER_REFRESH_TOKEN = 3
#: A clock that is read twice.
_TOLERANCE_S = 0.2


def under_load(
    store: SQLStore, disturb: Callable[[], object], *, method: str, clients: int = 8, mutant: Mutant = None
) -> Result:
    """Disturb the server while clients save and read; each finds its own last save, and what others were told is kept.

    Args:
        store: The store; it is made.
        disturb: Called while they do; it returns when the server works again.
        method: What it does, in a few words.
        clients: How many processes.
        mutant: The protection that is taken out of the clients.

    Returns:
        How many saves there were, and what went wrong.
    """
    result = Result(method)
    try:
        result.add(_attempt(store, disturb, clients, mutant))
    except (StoreProblem, KeystoreError) as problem:
        result.add(Attempt(f"{type(problem).__name__}: {problem}"))
    return result


@engine("reads on another node after each save")
def reads_elsewhere(directory: Path, *, make: Callable[[Path], SQLStore], rounds: int = 200) -> Generator[Attempt]:
    """Save on one node, and read on the others at once: they have it.

    Args:
        directory: Where to work.
        make: Names the store.
        rounds: How often to save.
    """
    store = make(directory)
    first, *others = [replace(store, urls=(url,)).open() for url in store.urls]
    for number in range(rounds):
        first.save(_record(0, number))
        for keystore in others:
            if (found := _number(keystore.get("p0"))) != number:
                raise StoreProblem(f"read save {found} on another node after save {number}")
        yield Attempt()


def _attempt(store: SQLStore, disturb: Callable[[], object], clients: int, mutant: Mutant) -> Attempt:
    ledger = Ledger(clients)
    with ExitStack() as stack:
        keystore = store.open()
        for number in range(clients):
            keystore.save(_record(number, 0))
        keystore.close()
        children = [
            stack.enter_context(Child(_save_and_read, store=store, ledger=ledger, me=number, mutant=mutant))
            for number in range(clients)
        ]
        start_together(children)
        _wait_for_saves(ledger, children)
        disturb()
        _wait_for_saves(ledger, children)
        ledger.stop()
        reports = [child.hear() for child in children]
    _compare(store, ledger)
    lasted = [one for report in reports for one in report["lasted"]]
    return Attempt(
        figures={
            SAVES: len(lasted),
            ERRORS: sum(report["errors"] for report in reports),
            SLOWEST: round(max(lasted), 3),
            P99: round(statistics.quantiles(lasted, n=100)[-1], 3),
        },
        tried=len(lasted),
    )


def _wait_for_saves(ledger: Ledger, children: Sequence[Child]) -> None:
    """Wait until each client has saved some times more.

    Raises:
        StoreProblem: One has failed, or does not save.
    """
    goal = [done + _SAVES_AROUND for done in ledger.acknowledged]
    end = time.monotonic() + _LONGEST_S
    while lagging := [me for me, done in enumerate(ledger.acknowledged) if done < goal[me]]:
        for child in children:
            child.listen()
        if time.monotonic() > end:
            raise StoreProblem(f"the clients {lagging} have not saved for {_LONGEST_S:g} s")
        time.sleep(0.01)


def _record(client: int, number: int) -> TokenRecord:
    """Return what a client saves as its save of this number."""
    return TokenRecord(
        id=f"p{client}",
        client_id="client",
        client_secret="s",
        refresh_token=f"r{client}.{number // _SAVES_PER_REFRESH_TOKEN}",
        access_token=f"{client}.{number}",
        expires_in=str(_FAR_MS + number),
    )


def _number(record: TokenRecord | None) -> int:
    return -1 if record is None else int((record.access_token or ".-1").rpartition(".")[2])


def _save_and_read(pipe: Connection, *, store: SQLStore, ledger: Ledger, me: int, mutant: Mutant) -> None:
    mutate(mutant)
    keystore = store.open()
    report: dict[str, Any] = {"lasted": [], "errors": 0}
    pipe.send("ready")
    pipe.recv()
    for number in itertools.count(1):
        ledger.begun[me] = number
        started = time.monotonic()
        if _allowed_to_fail(store, lambda: keystore.save(_record(me, number))):  # noqa: B023 - called at once
            ledger.acknowledged[me] = number
            report["lasted"].append(time.monotonic() - started)
        else:
            report["errors"] += 1
        for client in (me, random.randrange(len(ledger.begun))):  # noqa: S311 - no secret
            if not _allowed_to_fail(store, lambda: _require_fresh(keystore, ledger, client)):  # noqa: B023 - as above
                report["errors"] += 1
        if ledger.stopped:
            break
    pipe.send(report)


def _allowed_to_fail(store: SQLStore, work: Callable[[], object]) -> bool:
    """Do something, and return whether it succeeded; it may fail when the lock timeout is over, for want of a server.

    Raises:
        StoreProblem: It failed earlier.
    """
    started = time.monotonic()
    try:
        work()
    except (StoreUnavailableError, LockTimeoutError) as error:
        waited_s = time.monotonic() - started
        if waited_s < store.lock_timeout - _TOLERANCE_S:
            raise StoreProblem(f"given up after {waited_s:.2f} s: {type(error).__name__}: {error}") from error
        return False
    return True


def _require_fresh(keystore: Keystore, ledger: Ledger, client: int) -> None:
    acknowledged = ledger.acknowledged[client]
    found = _number(keystore.get(f"p{client}"))
    begun = ledger.begun[client]
    if not acknowledged <= found <= begun:
        raise StoreProblem(f"read save {found} of a client when {acknowledged} was acknowledged and {begun} begun")


def _compare(store: SQLStore, ledger: Ledger) -> None:
    """Compare what clients were told with what the tables hold, on each node.

    Raises:
        StoreProblem: It is not the same.
    """
    document = store.document() or {"tokens": []}
    held = {token["id"]: int(token["access_token"].rpartition(".")[2]) for token in document["tokens"]}
    if len(document["tokens"]) != len(ledger.begun):
        raise StoreProblem(f"{len(document['tokens'])} rows are there, of {len(ledger.begun)} tokens")
    for client, (acknowledged, begun) in enumerate(zip(ledger.acknowledged, ledger.begun, strict=True)):
        if not acknowledged <= held.get(f"p{client}", -1) <= begun:
            raise StoreProblem(f"save {held.get(f'p{client}')} is there, acknowledged {acknowledged}, begun {begun}")

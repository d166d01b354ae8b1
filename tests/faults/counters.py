"""Counters that threads of processes raise while processes are killed: each acknowledged change counts."""

from __future__ import annotations

import mmap
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from faults import Attempt
from faults.processes import Child, engine, speak, start_together
from faults.races import Make, store_in
from faults.store import AnyStore, StoreProblem, token

if TYPE_CHECKING:
    from collections.abc import Generator
    from multiprocessing.connection import Connection
    from pathlib import Path

    from zoho_keystore._storage import Transaction

KILLS = "kills"


class Ledger:
    """What each counter's thread has begun, and what was acknowledged to it, in memory that no kill takes away."""

    def __init__(self, counters: int) -> None:
        shared = memoryview(mmap.mmap(-1, 8 * (2 * counters + 1))).cast("q")
        self.begun, self.acknowledged = shared[:counters], shared[counters:-1]
        self._stop = shared[-1:]

    @property
    def stopped(self) -> bool:
        """Whether all threads are to end after what they do now."""
        return bool(self._stop[0])

    def stop(self) -> None:
        """End all threads after what they do now."""
        self._stop[0] = 1

    def settle(self, counters: range, store: AnyStore) -> None:
        """Compare counters that no thread raises at the moment with the ledger, and go on from what the file holds.

        Raises:
            StoreProblem: An acknowledged change does not count, or one counts that was not begun.
        """
        document = store.document() or {"tokens": []}
        values = {held["id"]: int(held["redirect_url"]) for held in document["tokens"]}
        for counter in counters:
            value = values[f"{counter}"]
            if not self.acknowledged[counter] <= value <= self.begun[counter]:
                raise StoreProblem(
                    f"a counter is {value}, acknowledged {self.acknowledged[counter]}, begun {self.begun[counter]}"
                )
            self.begun[counter] = self.acknowledged[counter] = value
        # Raised together with each of them, so this holds in every state.
        if (total := values.pop("total")) != (total_of_all := sum(values.values())):
            raise StoreProblem(f"the total is {total}, and all counters together are {total_of_all}")


@engine("processes that read, modify and write, under kills")
def read_modify_write(
    directory: Path,
    *,
    increments: int,
    make: Make = store_in,
    processes: int = 8,
    threads: int = 4,
    kill_every_s: float = 0.1,
) -> Generator[Attempt]:
    """Let threads raise a number each, and one together, while processes are killed: each acknowledged one counts.

    Args:
        directory: Where to work.
        increments: When so many are acknowledged, it ends.
        make: Names the store.
        processes: How many processes; one that is killed is replaced at once.
        threads: How many threads each of them has, with one store.
        kill_every_s: How much time passes from one kill to the next on average, in seconds.
    """
    store = make(directory)
    counters = range(processes * threads)
    shares = [counters[first : first + threads] for first in counters[::threads]]
    ledger = Ledger(len(counters))
    done = 0
    with ExitStack() as stack:
        keystore = store.open()
        for id in (*map(str, counters), "total"):
            keystore.save(replace(token(id), id=id, redirect_url="0"))
        children = [Child(_raise_numbers, store=store, ledger=ledger, counters=share) for share in shares]
        stack.callback(_kill, children)
        while done < increments:
            time.sleep(random.uniform(0, 2 * kill_every_s))  # noqa: S311 - when to kill is no secret
            victim = random.randrange(processes)  # noqa: S311 - nor is which
            children[victim].kill()
            for child in children:
                child.listen()
            ledger.settle(shares[victim], store)
            children[victim].pipe.close()
            children[victim] = Child(_raise_numbers, store=store, ledger=ledger, counters=shares[victim])
            before, done = done, sum(ledger.acknowledged)
            yield Attempt(figures={KILLS: 1}, tried=done - before)
        ledger.stop()
        for child in children:
            child.hear()
        ledger.settle(counters, store)
        keystore.clear()
        store.require_no_leftovers()


def _kill(children: list[Child]) -> None:
    for child in children:
        child.kill()


def _raise_numbers(pipe: Connection, *, store: AnyStore, ledger: Ledger, counters: range) -> None:
    storage: Any = store.open()._storage

    def work(_: Connection, *, counter: int) -> None:
        while not ledger.stopped:
            number = ledger.begun[counter] = ledger.begun[counter] + 1
            storage.transact(partial(_raise_by_one, ids=(f"{counter}", "total")))
            ledger.acknowledged[counter] = number

    with ThreadPoolExecutor(len(counters)) as pool:
        # Each thread speaks for itself: what fails has to be known before the process is killed.
        list(pool.map(lambda counter: speak(pipe, work, counter=counter), counters))
    pipe.send("done")


@engine("processes that raise the same number")
def raise_together(
    directory: Path, *, make: Make = store_in, processes: int = 8, increments: int = 10
) -> Generator[Attempt]:
    """Let processes raise one number of one record, which no look-up knows, at the same time: each of them counts."""
    store = make(directory)
    store.open().save(replace(token("shared"), id="shared", redirect_url="0"))
    with ExitStack() as stack:
        children = [
            stack.enter_context(Child(_raise_shared, store=store, increments=increments)) for _ in range(processes)
        ]
        start_together(children)
        for child in children:
            child.hear()
    [held] = (store.document() or {"tokens": []})["tokens"]
    if int(held["redirect_url"]) != processes * increments:
        raise StoreProblem(f"the number is {held['redirect_url']} after {processes * increments} increments")
    yield Attempt(tried=processes * increments)


def _raise_shared(pipe: Connection, *, store: AnyStore, increments: int) -> None:
    storage = store.open()._storage
    pipe.send("ready")
    pipe.recv()
    for _ in range(increments):
        storage.transact(partial(_raise_by_one, ids=("shared",)))
    pipe.send("done")


def _raise_by_one(transaction: Transaction, ids: tuple[str, ...]) -> None:
    for id in ids:
        record: Any = transaction.get(id)
        transaction.put(replace(record, redirect_url=f"{int(record.redirect_url) + 1}"))

"""Sign-ins that are killed at each call: what Zoho has issued is kept, or the user was told that it would be lost."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from cryptography.fernet import Fernet

from fake_zoho import FakeZoho
from faults import Attempt
from faults.kills import kill_operations
from faults.operations import Outcome, warm_up
from faults.processes import Child, engine
from faults.store import TOKENS, Store, StoreProblem, write_private
from zoho_keystore._cli import main
from zoho_keystore._keys.sources import KEY_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from multiprocessing.connection import Connection
    from pathlib import Path

NEW, AGAIN = "login without a store", "login of a known user"

#: The names of figures: what has become of what Zoho has issued.
KEPT, TOLD_LOST, NOT_SPENT = "kept", "told to be lost", "not spent"

_USER = "ada@example.com"


@engine("SIGKILL at every call of a sign-in")
def kill_sign_ins(directory: Path, *, times: int | None = None) -> Generator[Attempt]:
    """Kill ``login`` before its first call, after each call, and half-way through each write.

    Args:
        directory: Where to work.
        times: How many of the points to take, evenly spread; None takes all.
    """
    # The fake server has threads, which must not be in the process that forks.
    with Child(_serve) as zoho:
        fates: Counter[str] = Counter()
        operations = [SignInOperation(name, directory / name, zoho, fates) for name in (AGAIN, NEW)]
        for operation in operations:
            warm_up(operation)
        fates.clear()
        yield from kill_operations(operations, times)
        yield Attempt(figures=dict(fates), tried=0)


class _Seen(NamedTuple):
    """What the fake server has seen, and a new code.

    Attributes:
        issued: The access tokens that it has issued.
        asked: How often it was asked who the user is.
        code: A code to exchange.
        login: The arguments of a login at it that takes the code.
        client_secret: The secret of its client.
    """

    issued: list[str]
    asked: int
    code: str
    login: tuple[str, ...]
    client_secret: str


def _serve(pipe: Connection) -> None:
    with FakeZoho() as zoho:
        client = zoho.new_client("self", redirect_uris=())
        login = ("login", "--grant", "--dc", zoho.url, "--client-id", client.id, "--client-secret", "env:CLIENT_SECRET")
        while True:
            pipe.recv()
            code = zoho.new_grant(_USER, client)
            pipe.send(_Seen(zoho.issued, zoho.count("users"), code, login, client.secrets["us"]))


class SignInOperation:
    """A sign-in by a code, into a store that is alone in its directory.

    Args:
        name: Whether there is a store already, in which the user is.
        directory: Where to work.
        zoho: The process of the fake server.
        fates: Counts what has become of what Zoho has issued.
    """

    def __init__(self, name: str, directory: Path, zoho: Child, fates: Counter[str]) -> None:
        self.name = name
        self.store = Store(directory / "store" / "tokens.keystore", Fernet.generate_key())
        self._said = directory / "said"
        self._zoho = zoho
        self._fates = fates
        self._before = self._seen()

    def _seen(self) -> _Seen:
        self._zoho.tell()
        seen: _Seen = self._zoho.hear()
        return seen

    def prepare(self) -> Callable[[], object]:
        """Make the store, and let the user sign in where that is known already; return what signs in."""
        shutil.rmtree(self._said.parent, ignore_errors=True)
        self.store.path.parent.mkdir(mode=0o700, parents=True)
        if self.name == AGAIN:
            write_private(self.store.path, self.store.sealed(TOKENS))
            self._sign_in(self._seen())
        self._said.write_text("")
        self._before = self._seen()
        return partial(self._sign_in, self._before)

    def _sign_in(self, seen: _Seen) -> None:
        os.environ |= {KEY_VARIABLE: str(self.store.key, "ascii"), "CLIENT_SECRET": seen.client_secret}  # type: ignore[arg-type] # it is set by then
        streams = sys.stdin, sys.stdout, sys.stderr
        with open(self._said, "a", encoding="utf-8") as said:
            sys.stdin, sys.stdout, sys.stderr = io.StringIO(f"{seen.code}\n"), said, said
            try:
                main(["--store", str(self.store.path), *seen.login], standalone_mode=False)
            finally:
                sys.stdin, sys.stdout, sys.stderr = streams

    def check(self, outcome: Outcome) -> None:
        """Make sure that what was issued is kept, or that the user was told; and that no other token is lost."""
        tokens = self._tokens()
        fate = self._fate({one["access_token"] for one in tokens.values() if "access_token" in one})
        if self.name == AGAIN:
            if {id: tokens.get(id, {}).get("refresh_token") for id in TOKENS} != TOKENS:
                raise StoreProblem("the token of another user is lost")
            if not tokens.get("4", {}).get("user_name", "").startswith(_USER):
                raise StoreProblem("the token that the user had before is lost")
        if outcome is Outcome.DONE and (fate, len(tokens)) != (KEPT, 1 if self.name == NEW else len(TOKENS) + 1):
            raise StoreProblem(f"the sign-in is done: {fate}, {len(tokens)} tokens")
        self.store.require_private()
        self._fates[fate] += 1

    def _tokens(self) -> dict[str, dict[str, Any]]:
        return {one["id"]: one for one in (self.store.document() or {"tokens": []})["tokens"]}

    def _fate(self, kept: set[str]) -> str:
        seen = self._seen()
        new = seen.issued[len(self._before.issued) :]
        if not new:
            return NOT_SPENT
        if new[0] in kept:
            return KEPT
        if not (said := self._said.read_text()).endswith("sign in again then.\n"):
            raise StoreProblem(f"a token is lost, and the user was told: {said}")
        if seen.asked > self._before.asked:
            raise StoreProblem("a token is lost, and Zoho was asked something else before it was saved")
        return TOLD_LOST

    def use_again(self) -> None:
        """Do nothing: the process of a sign-in ends with it."""

    def recover(self) -> None:
        """Sign in again, which has to work at once, and to clean up."""
        before = self._tokens()
        try:
            self._sign_in(self._seen())
        except click.ClickException as error:
            raise StoreProblem(f"the next sign-in fails: {error.format_message()}") from error
        if before.keys() - self._tokens().keys():
            raise StoreProblem("the next sign-in has lost a token")
        self.store.require_no_leftovers()

    def leftovers(self) -> list[str]:
        """Return the names of the files that should not be there."""
        return self.store.leftovers()

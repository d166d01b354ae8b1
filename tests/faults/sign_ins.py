"""Sign-ins that are killed at each step: what Zoho has issued is kept, or the user was told that it would be lost.

The fake server runs in a process of its own, so that the engine's has one thread when it forks.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

# Imported by a sign-in: here once, not in each fork, where each import is a hundred operations.
import requests.adapters  # noqa: F401 - see above
from cryptography.fernet import Fernet

from fake_zoho import FakeZoho
from faults import Result
from faults.kills import Attempt, Victims, failure_of, fork, recover, run
from faults.model import Store, StoreProblem
from zoho_keystore._cli import login as _  # noqa: F401 - as above
from zoho_keystore._cli import main
from zoho_keystore._keys.sources import KEY_VARIABLE
from zoho_keystore._records import TokenRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

NEW, AGAIN = "login without a store", "login of a known user"

#: The names of figures.
KEPT, TOLD_LOST, NOT_SPENT = "kept", "told to be lost", "not spent"

#: A kill after one of these leaves the same as a kill after the operation before.
_READS_ONLY = {"access", "fstat", "fstatvfs", "fsdecode", "getcwd", "listdir", "lstat", "read", "readlink", "scandir"}
_READS_ONLY |= {"stat", "close", "lseek", "statvfs", "umask", "getpgid", "getsid", "getppid", "putenv", "uname", "dup"}

_USER = "ada@example.com"


def sign_in_kills(directory: Path, *, mutant: str | None = None, progress: Callable[[], None] = lambda: None) -> Result:
    """Kill ``login`` before and after each of its operations, and half-way through a write.

    Args:
        directory: Where to work; nothing is left in it.
        mutant: The protection to take out; then it ends with the first failure.
        progress: Called after each kill.
    """
    result = Result("SIGKILL at every operation of a sign-in")

    def attempts() -> Generator[Attempt]:
        with zoho_process() as zoho:
            place = Path(tempfile.mkdtemp(dir=directory))
            try:
                scene = SignIns(place, zoho)
                victims = Victims(scene)
                for deed in (AGAIN, NEW):
                    for point in victims.points(deed):
                        if point.name in _READS_ONLY:
                            continue
                        failure = failure_of(str(point), partial(victims.kill, point))
                        yield Attempt(failure, {} if failure else {scene.outcome: 1})
            finally:
                shutil.rmtree(place)

    return run(attempts, result, mutant, progress)


class Seen(NamedTuple):
    """What the fake server has seen.

    Attributes:
        issued: The access tokens that it has issued.
        asked: How often it was asked who the user is.
    """

    issued: list[str]
    asked: int


class Zoho:
    """A fake server in another process."""

    def __init__(self, requests: int, replies: int) -> None:
        self._requests = requests
        self._replies = os.fdopen(replies)
        self.url, self.client_id, self.client_secret = json.loads(self._replies.readline())

    def _ask(self, what: bytes) -> Any:
        os.write(self._requests, what)
        return json.loads(self._replies.readline())

    def new_grant(self) -> str:
        """Return a code."""
        return str(self._ask(b"grant\n"))

    def seen(self) -> Seen:
        """Return what it has seen."""
        return Seen(*self._ask(b"look\n"))

    def close(self) -> None:
        """End the process."""
        os.close(self._requests)
        self._replies.close()


@contextmanager
def zoho_process() -> Iterator[Zoho]:
    """Run a fake server in another process, which ends with the block, or with this process."""
    requests_read, requests_write = os.pipe()
    replies_read, replies_write = os.pipe()

    def serve(_say: Callable[[bytes], object]) -> None:
        os.close(requests_write)
        os.close(replies_read)
        with FakeZoho() as zoho, os.fdopen(requests_read) as lines, os.fdopen(replies_write, "w") as replies:
            client = zoho.new_client("self", redirect_uris=())
            print(json.dumps([zoho.url, client.id, client.secrets["us"]]), file=replies, flush=True)
            for line in lines:
                answer = zoho.new_grant(_USER, client) if line == "grant\n" else [zoho.issued, zoho.count("users")]
                print(json.dumps(answer), file=replies, flush=True)

    child = fork(serve)
    os.close(requests_read)
    os.close(replies_write)
    zoho = Zoho(requests_write, replies_read)
    try:
        yield zoho
    finally:
        zoho.close()
        child.ended()


class SignIns:
    """A folder of its own with a store, into which a user signs in.

    Attributes:
        outcome: What has become of what Zoho had issued to the sign-in that was killed last.
    """

    def __init__(self, directory: Path, zoho: Zoho) -> None:
        self._zoho = zoho
        self._store = Store(directory / "store" / "tokens.keystore", Fernet.generate_key())
        self._said = directory / "said"
        self._before = zoho.seen()
        self.outcome = ""
        os.environ[KEY_VARIABLE] = self._store.key.decode()
        os.environ["CLIENT_SECRET"] = zoho.client_secret

    def prepared(self, deed: str) -> Callable[[], object]:
        """Make everything as it has to be before a sign-in, and return what signs in."""
        directory = self._store.path.parent
        if directory.exists():
            shutil.rmtree(directory)
        directory.mkdir(mode=0o700)
        if deed != NEW:
            keystore = self._store.open()
            keystore.save(TokenRecord(client_id="1000.OTHER", client_secret="s", refresh_token="bob"))
            keystore.close()
        if deed == AGAIN:
            self._login(self._zoho.new_grant())
        self._said.write_text("")
        self._before = self._zoho.seen()
        return partial(self._login, self._zoho.new_grant())

    def _login(self, code: str) -> None:
        arguments = ["--store", str(self._store.path), "login", "--grant", "--dc", self._zoho.url]
        arguments += ["--client-id", self._zoho.client_id, "--client-secret", "env:CLIENT_SECRET"]
        streams = sys.stdin, sys.stdout, sys.stderr
        with open(self._said, "a", encoding="utf-8") as said:
            sys.stdin, sys.stdout, sys.stderr = io.StringIO(f"{code}\n"), said, said
            try:
                main(arguments, standalone_mode=False)
            finally:
                sys.stdin, sys.stdout, sys.stderr = streams

    def inspect(self, deed: str, *, is_done: bool) -> None:
        """Make sure that what was issued is kept, or that the user was told.

        Raises:
            StoreProblem: It is not; another token is lost; or the next save fails.
        """
        seen = self._zoho.seen()
        document = self._store.document() or {"tokens": []}
        kept = {record["access_token"] for record in document["tokens"] if record.get("access_token")}
        new = seen.issued[len(self._before.issued) :]
        if not new:
            self.outcome = NOT_SPENT
        elif new[0] in kept:
            self.outcome = KEPT
        else:
            self.outcome = TOLD_LOST
            if not self._said.read_text().endswith("sign in again then.\n"):
                raise StoreProblem(f"a token is lost, and the user was told: {self._said.read_text()}")
            if seen.asked > self._before.asked:
                raise StoreProblem("a token is lost, and Zoho was asked something else before it was saved")
        self._require_others(deed, document["tokens"])
        if is_done and (self.outcome != KEPT or len(document["tokens"]) != (1 if deed == NEW else 2)):
            raise StoreProblem(f"the sign-in is done: {self.outcome}, {len(document['tokens'])} tokens")
        recover(self._store)

    def _require_others(self, deed: str, tokens: list[dict[str, Any]]) -> None:
        """Make sure that what was there before the sign-in is still there, or renewed by it."""
        by_id = {record["id"]: record for record in tokens}
        if deed != NEW and by_id.get("1", {}).get("refresh_token") != "bob":
            raise StoreProblem("the token of another user is lost")
        if deed == AGAIN and not by_id.get("2", {}).get("user_name", "").startswith(_USER):
            raise StoreProblem("the token that the user had before is lost")

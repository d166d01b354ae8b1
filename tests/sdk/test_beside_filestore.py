"""What the SDK's FileStore gets wrong, done with it and with ours: the same steps, seen right with one of them only.

The faults that only the samples of Zoho's article have (an apostrophe in a name, the 11th token, ``delete_tokens``) are
tests of the contract suite; ``revoke`` and ``switch_user`` are in ``test_flows.py``.
"""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zohocrmsdk.src.com.zoho.api.authenticator.store.file_store import FileStore
from zohocrmsdk.src.com.zoho.crm.api.exception import SDKException
from zohocrmsdk.src.com.zoho.crm.api.user_signature import UserSignature

from zoho_keystore import EncryptedFileStore, KeystoreError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OURS, THEIRS = "EncryptedFileStore", "FileStore"


class Case:
    """One kind of store on one file; processes of their own can open it too."""

    def __init__(self, kind: str, path: Path, key: bytes) -> None:
        self.kind = kind
        self.path = path
        self.environment = {"ZOHO_KEYSTORE_KEY": key.decode()}
        self._key = key

    def open(self) -> Any:
        """Return a store on the file."""
        return EncryptedFileStore(self.path, key=self._key) if self.kind == OURS else FileStore(str(self.path))

    def start(self, script: str, *arguments: object) -> subprocess.Popen[bytes]:
        """Start a process that runs a script with ``store`` on the file and the arguments in ``args``."""
        opening = f"EncryptedFileStore({str(self.path)!r})" if self.kind == OURS else f"FileStore({str(self.path)!r})"
        prologue = f"""
import sys
from zoho_keystore import EncryptedFileStore
from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zohocrmsdk.src.com.zoho.api.authenticator.store.file_store import FileStore
args = sys.argv[1:]
store = {opening}
"""
        return subprocess.Popen(
            [sys.executable, "-c", prologue + script, *map(str, arguments)],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )


def make(user: str | None = None, client: str = "c1", **fields: Any) -> OAuthToken:
    """Make a token."""
    signature = None if user is None else UserSignature(user)
    return OAuthToken(client_id=client, client_secret="s", user_signature=signature, **fields)


def keeps_one_user_under_two_clients_apart(case: Case) -> bool:
    """The second must not overwrite the first."""
    store = case.open()
    store.save_token(make("ada", "c1", refresh_token="r1"))
    store.save_token(make("ada", "c2", refresh_token="r2"))
    return {token.get_refresh_token() for token in store.get_tokens()} == {"r1", "r2"}


def never_uses_an_id_twice(case: Case) -> bool:
    """A program that kept the id of a deleted token must not get another one."""
    store = case.open()
    first, second = make(refresh_token="r1"), make(refresh_token="r2")
    store.save_token(first)
    store.delete_token(first.get_id())
    store.save_token(second)
    return bool(first.get_id() != second.get_id())


def saves_on_after_an_id_that_is_not_a_number(case: Case) -> bool:
    """The caller may name a token."""
    store = case.open()
    store.save_token(make(refresh_token="r1", id="production"))
    try:
        store.save_token(make(refresh_token="r2"))
    except ValueError:
        return False
    return len(store.get_tokens()) == 2


def knows_a_token_again_once_it_has_a_user_name(case: Case) -> bool:
    """The SDK learns the name after the first save."""
    store = case.open()
    store.save_token(make(refresh_token="r1"))
    store.save_token(make("ada", refresh_token="r1"))
    return len(store.get_tokens()) == 1


def shows_nothing_to_others(case: Case) -> bool:
    """Neither by its mode nor by its content."""
    case.open().save_token(make(refresh_token="a-secret"))
    return stat.S_IMODE(case.path.stat().st_mode) == 0o600 and b"a-secret" not in case.path.read_bytes()


def loses_nothing_to_a_truncated_file(case: Case) -> bool:
    """A save after an accident must fail, or be kept; FileStore takes the first record for the column names."""
    store = case.open()
    store.save_token(make(refresh_token="r1"))
    case.path.write_bytes(b"")
    try:
        store.save_token(make(refresh_token="r2"))
    except SDKException as error:
        return isinstance(error.cause, KeystoreError) and case.path.read_bytes() == b""
    return any(token.get_refresh_token() == "r2" for token in store.get_tokens())


def loses_nothing_between_eight_processes(case: Case) -> bool:
    """8 processes save 50 tokens each."""
    case.open()
    script = """
print("ready", flush=True)
sys.stdin.readline()
for number in range(50):
    store.save_token(OAuthToken(client_id="c", client_secret="s", refresh_token=f"r-{args[0]}-{number}"))
"""
    processes = [case.start(script, number) for number in range(8)]
    for process in processes:  # all are up before the first saves: else they may come one after another
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
    try:
        kept = {token.get_refresh_token() for token in case.open().get_tokens()}
    except (IndexError, SDKException):
        return False
    return kept == {f"r-{process}-{number}" for process in range(8) for number in range(50)}


def survives_kills(case: Case) -> bool:
    """10 processes are killed in the middle of their saves; what they had acknowledged has to be there, whole."""
    case.open()
    script = """
import itertools
for number in itertools.count():
    store.save_token(OAuthToken(client_id="c" * 1000, client_secret="s", refresh_token=f"r-{args[0]}-{number}"))
    print(number, flush=True)
"""
    for process_number in range(10):
        process = case.start(script, process_number)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.003 * process_number)
        process.send_signal(signal.SIGKILL)
        written, _ = process.communicate()
        acknowledged = max(map(int, written.split()), default=0)
        try:
            kept = {token.get_refresh_token() for token in case.open().get_tokens()}
        except (IndexError, SDKException):
            return False
        if not {f"r-{process_number}-{number}" for number in range(acknowledged + 1)} <= kept:
            return False
    return True


SCENARIOS = [
    keeps_one_user_under_two_clients_apart,
    never_uses_an_id_twice,
    saves_on_after_an_id_that_is_not_a_number,
    knows_a_token_again_once_it_has_a_user_name,
    pytest.param(shows_nothing_to_others, marks=pytest.mark.needs_modes),
    loses_nothing_to_a_truncated_file,
    pytest.param(loses_nothing_between_eight_processes, marks=pytest.mark.needs_cheap_processes),
]


@pytest.mark.parametrize("scenario", [*SCENARIOS, pytest.param(survives_kills, marks=pytest.mark.needs_signals)])
def test_encrypted_file_store_gets_it_right(scenario: Callable[[Case], bool], store_path: Path, key: bytes) -> None:
    """In the very steps that FileStore gets wrong."""
    assert scenario(Case(OURS, store_path, key))


@pytest.mark.mutants
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_filestore_gets_it_wrong(scenario: Callable[[Case], bool], store_path: Path, key: bytes) -> None:
    """So the scenario tells the two apart."""
    assert not scenario(Case(THEIRS, store_path, key))


@pytest.mark.mutants
@pytest.mark.needs_signals
def test_filestore_is_damaged_by_a_kill(store_path: Path, key: bytes) -> None:
    """Not by every kill, so a few rounds are allowed."""
    for round_number in range(10):
        path = store_path.with_name(f"{round_number}.csv")
        if not survives_kills(Case(THEIRS, path, key)):
            return
    pytest.fail("100 kills did not damage FileStore's file")

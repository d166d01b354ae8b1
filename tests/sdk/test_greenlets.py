"""One refresh for all greenlets: gevent and eventlet, patched in before or after our package; gunicorn's workers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from cryptography.fernet import Fernet

from fake_zoho import FakeZoho
from faults.refreshes import OURS, Setting

if TYPE_CHECKING:
    from collections.abc import Iterator


def require(library: str) -> None:
    """Skip the test where a library is missing. Not imported: eventlet makes each later fork of this process warn."""
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")


TESTS = Path(__file__).parent.parent
#: Of the machine, not of the code: a save waits for the disk, and the tests of several people share two cores.
LONGEST_BLOCK_S = 2.0


@pytest.fixture
def zoho() -> Iterator[FakeZoho]:
    with FakeZoho(delay_s=0.3, enforce_limit=True) as fake_zoho:
        yield fake_zoho


@pytest.fixture
def setting(zoho: FakeZoho, store_path: Path) -> Setting:
    """Give a store with an expired token."""
    setting = Setting(OURS, store_path, Fernet.generate_key(), zoho.url)
    setting.keep(zoho, 1)
    setting.expire()
    return setting


def variables() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}


def in_greenlets(library: str, when: str, setting: Setting, refresh_wait: float = 10.0) -> dict[str, Any]:
    """Return what came of 24 greenlets that meet the expired token."""
    require(library)
    program = [sys.executable, str(TESTS / "sdk" / "green_program.py"), library, when]
    arguments = [str(setting.path), setting.key.decode(), setting.url, str(refresh_wait)]
    done = subprocess.run(
        [*program, *arguments], capture_output=True, text=True, check=False, timeout=50, env=variables()
    )
    assert done.stdout, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


@pytest.mark.needs_cheap_processes
@pytest.mark.filterwarnings("ignore")  # The libraries warn at import that they are deprecated.
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("library", ["gevent", "eventlet"])
class TestGreenlets:
    """24 of them in one thread."""

    def test_one_of_all_refreshes_an_expired_token(
        self, library: str, when: str, zoho: FakeZoho, setting: Setting
    ) -> None:
        """And saves from all of them neither deadlock nor keep the others from running."""
        seen = in_greenlets(library, when, setting)
        assert seen["outcomes"] == [zoho.issued[-1]] * 24
        assert zoho.count("refresh") == 1
        assert seen["stored"] == 1 + 24
        assert seen["blocked_s"] < LONGEST_BLOCK_S
        assert seen["has_directory_fds"]  # Else saves would not sync the directory, and a power cut could undo them.

    @pytest.mark.mutants
    def test_with_leases_off_zoho_denies_most(self, library: str, when: str, zoho: FakeZoho, setting: Setting) -> None:
        """Its limit is 10 access tokens in 10 minutes."""
        seen = in_greenlets(library, when, setting, refresh_wait=0)
        assert zoho.count("refresh") > 10
        assert any("Access Denied" in outcome for outcome in seen["outcomes"])


class Gunicorn:
    """gunicorn with two workers, and answers to requests made at the same moment."""

    def __init__(self, setting: Setting, worker: str, refresh_wait: float) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        options = ["-k", worker, "--workers", "2", "--threads", "8", "--bind", f"127.0.0.1:{self.port}"]
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "gunicorn", *options, "wsgi_program:application"],
            cwd=setting.path.parent,
            stderr=subprocess.PIPE,
            env={
                **variables(),
                "PYTHONPATH": os.pathsep.join([variables()["PYTHONPATH"], str(TESTS / "sdk")]),
                "TEST_STORE": str(setting.path),
                "TEST_KEY": setting.key.decode(),
                "TEST_URL": setting.url,
                "TEST_REFRESH_WAIT": str(refresh_wait),
            },
        )

    def get(self, _number: int = 0) -> list[str]:
        ends_s = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=30) as answer:
                    return str(answer.read().decode()).split(" ", 1)
            except urllib.error.URLError:
                assert time.monotonic() < ends_s
                time.sleep(0.05)

    def answers(self, count: int) -> list[list[str]]:
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(self.get, range(count)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate(timeout=30)


@pytest.mark.needs_fork
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("worker", ["gevent", "gthread"])
@pytest.mark.parametrize("refresh_wait", [10.0, 0.0], ids=["leases", "no leases"])
def test_two_workers_of_gunicorn_refresh_once(
    worker: str, refresh_wait: float, zoho: FakeZoho, setting: Setting
) -> None:
    """With leases off they refresh more often than that."""
    for library in ("gunicorn", "gevent"):
        require(library)
    with Gunicorn(setting, worker, refresh_wait) as server:
        server.get()  # Until it serves; this refreshes the token as well.
        setting.expire()
        before = zoho.count("refresh")
        answers = server.answers(24)
        for _ in range(20):
            if refresh_wait and len({pid for pid, _ in answers}) < 2:
                answers += server.answers(24)  # One worker may have taken all requests.
        refreshes = zoho.count("refresh") - before
    if refresh_wait:
        assert {token for _, token in answers} == {zoho.issued[-1]}
        assert refreshes == 1
        assert len({pid for pid, _ in answers}) == 2
    else:
        assert refreshes > 1

"""``login`` with a real browser: Debian's Chromium, headless, accepts on the fake server's page.

With ``LOGIN_SCREENSHOT=PATH`` in the environment, the picture of the last page is written there: docs/signed-in.png.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fake_zoho import ZGID, FakeZoho
from support import run_program
from zoho_keystore._open import open_keystore

if TYPE_CHECKING:
    from collections.abc import Iterator

_MISSING = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(180),
    pytest.mark.skipif(bool(_MISSING), reason=f"{' and '.join(_MISSING)} is missing: apt-get install chromium-driver"),
]

_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=640,320"),
)


def free_port() -> int:
    with socket.socket(socket.AF_INET6) as probe:
        probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        probe.bind(("::", 0))
        return int(probe.getsockname()[1])


def ask(driver: str, method: str, path: str, body: Any = None) -> Any:
    """Send a command of the WebDriver protocol, and return its value."""
    data = json.dumps({} if body is None else body).encode() if method == "POST" else None
    request = urllib.request.Request(f"{driver}{path}", data, {"Content-Type": "application/json"}, method=method)  # noqa: S310 - loopback
    with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310 - loopback
        return json.load(reply)["value"]


@contextmanager
def chromium(profile: Path) -> Iterator[str]:
    """Run a browser with a fresh profile, and give the address of its WebDriver session."""
    port = free_port()
    process = subprocess.Popen(
        [shutil.which("chromedriver") or "", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    driver = f"http://127.0.0.1:{port}"
    try:
        deadline_s = time.monotonic() + 30
        while True:
            try:
                ask(driver, "GET", "/status")
                break
            except OSError:
                assert time.monotonic() < deadline_s, "chromedriver does not answer"
                time.sleep(0.05)
        options = {"binary": shutil.which("chromium"), "args": [*_OPTIONS, f"--user-data-dir={profile}"]}
        wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
        session = f"{driver}/session/{ask(driver, 'POST', '/session', wanted)['sessionId']}"
        yield session
        ask(session, "DELETE", "")
    finally:
        process.terminate()
        process.wait(10)


def browse(url: str, directory: Path) -> None:
    """Open an address in a real browser, accept, and write down what was seen: as the program of BROWSER."""
    with chromium(directory / "profile") as session:
        ask(session, "POST", "/url", {"url": url})
        button = ask(session, "POST", "/element", {"using": "css selector", "value": "#accept"})
        [element] = button.values()
        ask(session, "POST", f"/element/{element}/click")
        deadline_s = time.monotonic() + 30
        while ask(session, "GET", "/title") != "Signed in" and time.monotonic() < deadline_s:
            time.sleep(0.05)
        seen = {
            "url": ask(session, "GET", "/url"),
            "source": ask(session, "GET", "/source"),
            "title": ask(session, "GET", "/title"),
            "screenshot": ask(session, "GET", "/screenshot"),
        }
    (directory / "seen.part").write_text(json.dumps(seen))
    (directory / "seen.part").rename(directory / "seen")


#: A bit of a visit's transition: it is the end of a chain of redirects. History pages show no other visits.
_CHAIN_END = 0x20000000


def history(profile: Path) -> list[str]:
    """Return the addresses that the browser's history shows.

    Chromium's database also has the addresses that a redirect led away from. That the code has been used by then is
    what protects it there.
    """
    with closing(sqlite3.connect(f"file:{profile}/Default/History?mode=ro", uri=True)) as database:
        shown = "SELECT urls.url FROM urls JOIN visits ON visits.url = urls.id WHERE transition & ? AND NOT hidden"
        return [url for (url,) in database.execute(shown, [_CHAIN_END])]


def test_login_with_chromium_accepts_and_ends_on_a_clean_page(work: Path) -> None:
    """Neither the address, the page nor the history shows the code."""
    browser = work / "browser"
    browser.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} "$1" {work} 2>{work}/errors\n')
    browser.chmod(0o700)
    redirect_uri = f"http://localhost:{free_port()}/callback"
    with FakeZoho() as zoho:
        client = zoho.new_client(redirect_uris=[redirect_uri])
        arguments = ["login", "--client-id", client.id, "--client-secret", "env:CLIENT_SECRET", "--dc", zoho.url]
        tests = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        done = run_program(
            *arguments,
            *("--redirect-uri", redirect_uri, "--timeout", 90),
            BROWSER=str(browser),
            CLIENT_SECRET=client.secrets["us"],
            PYTHONPATH=tests,
        )
        errors = (work / "errors").read_text()
        assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr + errors
        code = zoho.requests_of("grant")[0].form["code"]
    deadline_s = time.monotonic() + 30
    while not (work / "seen").exists():
        assert time.monotonic() < deadline_s, (work / "errors").read_text()
        time.sleep(0.05)
    seen = json.loads((work / "seen").read_text())
    assert seen["url"] == redirect_uri.replace("/callback", "/signed-in")
    assert seen["title"] == "Signed in"
    assert "You can close this page" in seen["source"]
    visited = history(work / "profile")
    assert seen["url"] in visited
    assert not [text for text in (seen["source"], *visited) if code in text]
    with closing(open_keystore(create=False)) as keystore:
        assert [record.user_name for record in keystore.records()] == [f"ada@example.com:{ZGID}"]
    if picture := os.environ.get("LOGIN_SCREENSHOT"):
        Path(picture).write_bytes(base64.b64decode(seen["screenshot"]))


if __name__ == "__main__":
    browse(sys.argv[1], Path(sys.argv[2]))

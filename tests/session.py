"""A user's session that runs the code blocks of a page (tests/pages.py) against the fake Zoho server."""

from __future__ import annotations

import csv
import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from pages import ROOT, Block, commands_with_output, matches
from zoho_keystore import TokenRecord, open_keystore
from zoho_keystore._operations.setup import init

if sys.platform != "win32":
    import pty

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from fake_zoho import FakeZoho

#: How long a command of a page may take, in seconds.
TIMEOUT_S = 120

#: What FileStore writes.
_COLUMNS = (
    "id,user_name,client_id,client_secret,refresh_token,access_token,grant_token,expiry_time,redirect_uri,api_domain"
)

_ENVIRONMENT = (
    '__import__("zohocrmsdk.src.com.zoho.crm.api.dc.data_center", fromlist=["DataCenter"])'
    '.DataCenter.Environment("{url}", "{url}/oauth/v2/token", "{url}")'
)

_BROWSER = """#!{python}
import sys, urllib.request
urllib.request.urlopen(sys.argv[1])
"""

#: The program, with the fake server as the data centres, and with a redirect URI that is free.
_PROGRAM = """#!{python}
import os
from zoho_keystore._cli import main
main(prog_name="zoho-keystore", default_map={{"login": {{"redirect_uri": os.environ["TEST_REDIRECT_URI"]}}}})
"""

_SITE = """
import os
import zoho_keystore._oauth.data_centres as module
url = os.environ["TEST_ZOHO_URL"]
module.DATA_CENTRES.update(dict.fromkeys(("us", "eu"), module.DataCentre("eu", url, url)))
module.API_HOSTS |= {url.partition("://")[2]}
"""


class Session:
    """A user's shell with a home directory, this package, and the fake Zoho server in place of Zoho.

    Args:
        directory: A new directory.
        zoho: The server; it accepts every sign-in at once.
    """

    def __init__(self, directory: Path, zoho: FakeZoho) -> None:
        self._zoho = zoho
        self._home = directory / "ada"
        self._work = self._home / "jobs"
        self._state = directory / "state"
        programs, site = directory / "bin", directory / "site"
        for made in (self._work, programs, site):
            made.mkdir(mode=0o700, parents=True)
        self._state.write_text(f"cd '{self._work}'\n")
        (site / "sitecustomize.py").write_text(_SITE)
        for name, text in (("zoho-keystore", _PROGRAM), ("browser", _BROWSER)):
            (programs / name).write_text(text.format(python=sys.executable))
            (programs / name).chmod(0o700)
        for name in ("python", "python3"):
            # Not a link: Python would look for its environment beside it.
            (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
            (programs / name).chmod(0o700)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            redirect_uri = f"http://localhost:{probe.getsockname()[1]}/callback"
        self._client = zoho.new_client(redirect_uris=[redirect_uri])
        self._variables = {
            **{name: value for name, value in os.environ.items() if name.startswith(("COVERAGE", "PYTHONDONT"))},
            "BROWSER": str(programs / "browser"),
            "HOME": str(self._home),
            "LANG": "C.UTF-8",
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": f"{site}:{ROOT}",
            "TEST_REDIRECT_URI": redirect_uri,
            "TEST_ZOHO_URL": zoho.url,
            "TMPDIR": str(directory),
        }

    # --- what a block needs ------------------------------------------------------------------------------------------

    def given(self, name: str) -> None:
        """Make what a block needs."""
        getattr(self, f"given_{re.sub('[^a-z]', '_', name)}")()

    def given_token(self) -> None:
        """Make the user's key ring and store, with a token that has to be refreshed."""
        self._save(TokenRecord(user_name="ada@example.com:60001234567", refresh_token=self._new_refresh_token()))

    def given_second_token(self) -> None:
        """Add a token of another user."""
        self._save(TokenRecord(user_name="bob@example.com:60001234567", refresh_token=self._new_refresh_token()))

    def given_refused_token(self) -> None:
        """Add a token whose refresh token the server does not know."""
        self._save(TokenRecord(user_name="eve@example.com:60001234567", refresh_token="1000.revoked"))

    def given_throttle(self) -> None:
        """Make the server refuse access tokens."""
        self._zoho.deny_next(9)

    def given_no_answer(self) -> None:
        """Make the server fail."""
        self._zoho.fail_next(99)

    def given_answers_again(self) -> None:
        """Make the server work again."""
        self._zoho.clear_faults()

    def given_client_secret(self) -> None:
        """Put the client's secret where pages have it."""
        path = self._work / "client-secret"
        path.write_text(self._secret)
        path.chmod(0o600)

    def given_code(self) -> None:
        """Write a code of the API console to a file."""
        (self._work / "code").write_text(self._zoho.new_grant(client=self._client))

    def given_sdk_tokens(self) -> None:
        """Write the file of FileStore, with two users."""
        with (self._work / "sdk_tokens.txt").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(_COLUMNS.split(","))
            for number, user in enumerate(("ada", "bob"), 1):
                writer.writerow([number, f"{user}@example.com:6000", *self._credentials(), "", "", "", "", ""])

    def given_database(self) -> None:
        """Write the database of the SQLite sample, with two users."""
        with closing(sqlite3.connect(self._work / "zohooauth.db")) as database, database:
            database.execute(f"CREATE TABLE oauthtoken ({_COLUMNS.replace('redirect_uri', 'redirect_url')})")
            for number, user in enumerate(("ada", "bob"), 1):
                row = [str(number), f"{user}@example.com:6000", *self._credentials(), *[None] * 5]
                database.execute(f"INSERT INTO oauthtoken VALUES ({','.join('?' * 10)})", row)  # noqa: S608 - only marks

    def given_other_keystore(self) -> None:
        """Make another keystore, with its key ring beside it."""
        init(str(self._work / "other.keystore"), key=f"file:{self._work / 'other.keyring'}")

    @property
    def _secret(self) -> str:
        return self._client.secrets["eu"]

    def _credentials(self) -> list[str]:
        return [self._client.id, self._secret, self._new_refresh_token()]

    def _new_refresh_token(self) -> str:
        return self._zoho.new_refresh_token(client=self._client)

    def _save(self, record: TokenRecord) -> None:
        made = TokenRecord(
            user_name=record.user_name,
            client_id=self._client.id,
            client_secret=self._secret,
            refresh_token=record.refresh_token,
            accounts_url=self._zoho.url,
        )
        store = self._home / ".local" / "share" / "zoho-keystore" / "tokens.keystore"
        key = f"file:{self._home / '.config' / 'zoho-keystore' / 'keyring'}"
        if not store.exists():
            for directory in (store.parent, self._home / ".config" / "zoho-keystore"):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            init(str(store), key=key)
        with closing(open_keystore(store, key=key)) as keystore:
            keystore.save(made)

    # --- running -----------------------------------------------------------------------------------------------------

    def run(self, block: Block) -> None:
        """Run a block with what stands above it."""
        for name in block.texts("given"):
            self.given(name)
        for script in block.texts("before"):
            self._check(block, script)
        code, [expected] = block.code, [int(text) for text in block.texts("exit")] or [0]
        answers = {ask: text for ask, _, text in (one.partition(" -> ") for one in block.texts("answer"))}
        if block.language == "console":
            *first, last = commands_with_output(code)
            for command, shown in first:
                self._check(block, command, shown=shown)
            self._check(block, last[0], shown=last[1], code=expected, answers=answers)
        elif block.language == "python":
            program = self._state.with_name("block.py")
            program.write_text(self._with_server(code), encoding="utf-8")
            self._check(block, f"python '{program}'", code=expected)
        else:
            self._check(block, code, code=expected, answers=answers)
        for script in block.texts("then"):
            self._check(block, script)

    def _check(
        self,
        block: Block,
        script: str,
        *,
        shown: str | None = None,
        code: int = 0,
        answers: Mapping[str, str] | None = None,
    ) -> None:
        ended, output = self._bash(self._with_server(script), answers or {})
        output = self._as_documented(output)
        assert ended == code, f"{block.where}: {script}\nended with {ended}:\n{output}"
        assert shown is None or matches(shown, output), f"{block.where}: {script}\nprinted:\n{output}"

    def _bash(self, script: str, answers: Mapping[str, str]) -> tuple[int, str]:
        """Run a script where the last one ended, and return its exit code and its output."""
        keep = f"{{ export -p; echo \"cd '$PWD'\"; }} >'{self._state}'"
        command = [
            "bash",
            "-c",
            f"set -euo pipefail\n. '{self._state}'\ntrap '{keep.replace(chr(39), _QUOTE)}' EXIT\n{script}",
        ]
        if answers:
            return _on_terminal(
                command, self._variables, [(ask, self._with_server(text)) for ask, text in answers.items()]
            )
        done = subprocess.run(
            command,
            env=self._variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
        return done.returncode, done.stdout

    def _with_server(self, code: str) -> str:
        """Return code of a page with the server's address and credentials put in."""
        environment = _ENVIRONMENT.format(url=self._zoho.url)
        for documented, ours in {
            "https://www.zohoapis.eu": self._zoho.url,
            "EUDataCenter.PRODUCTION()": environment,
            "1000.ABC": self._client.id,
            "THE-CLIENT-SECRET": self._secret,
            'auth("1")': 'auth("1", hosts=["127.0.0.1"])',
        }.items():
            code = code.replace(documented, ours)
        if "1000.GRANT" in code:
            code = code.replace("1000.GRANT", self._zoho.new_grant(client=self._client))
        return code

    def _as_documented(self, output: str) -> str:
        for ours, documented in {
            str(self._home): "~",
            self._zoho.url: "https://accounts.zoho.eu",
            self._zoho.url.partition("://")[2]: "eu",
            self._client.id: "1000.ABC",
        }.items():
            output = output.replace(ours, documented)
        return output


#: A single quote inside a text in single quotes.
_QUOTE = "'\\''"


def _on_terminal(
    command: Sequence[str], variables: Mapping[str, str], answers: Sequence[tuple[str, str]]
) -> tuple[int, str]:
    """Run a command on a terminal, and type the answers."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command,
        env={**variables, "TERM": "xterm", "COLUMNS": "120", "NO_COLOR": "1"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    output, waiting = "", list(answers)
    # Reading fails with EIO when the process has ended.
    with suppress(OSError):
        while piece := os.read(master, 10_000):
            output += piece.decode("utf-8", "replace")
            if waiting and waiting[0][0] in output:
                # A prompt for a password switches the echo off first, which discards earlier input.
                time.sleep(0.1)
                os.write(master, f"{waiting.pop(0)[1]}\n".encode())
    os.close(master)
    return process.wait(TIMEOUT_S), output.replace("\r\n", "\n")

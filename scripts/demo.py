"""The main use with the real SDK and a fake Zoho server. Each step is checked before it is told.

`--svg FILE` also writes the picture of the terminal that the documents show: the steps that are marked for it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from rich.console import Console
from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zohocrmsdk.src.com.zoho.crm.api.dc.data_center import DataCenter
from zohocrmsdk.src.com.zoho.crm.api.initializer import Initializer
from zohocrmsdk.src.com.zoho.crm.api.org import OrgOperations

from zoho_keystore import EncryptedFileStore

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fake_zoho import ZGID, FakeZoho
from faults.refreshes import MEETINGS, OURS, meet

#: What the demo prints to; it records what the picture shows. Lines are never broken.
OUT = Console(highlight=False, markup=False, soft_wrap=True, record=True)

#: The width of the picture, in characters.
_COLUMNS = 104


class DemoError(Exception):
    """Something that the demo was to show did not happen."""


def show(text: str, happened: bool) -> None:  # noqa: FBT001 - reads as a sentence: show("…", what was seen)
    """Tell a step, if it really happened."""
    if not happened:
        raise DemoError(text)
    OUT.print("  ✓", style="green", end=" ")
    OUT.print(text)


def step(text: str, *lines: str, pictured: bool = False) -> None:
    """Begin a step with what is done, as commands or lines of a program; the picture shows it if that is set."""
    OUT.record = pictured
    OUT.print(f"\n{text}", style="bold")
    for line in lines:
        OUT.print(f"   {line}", style="cyan")


def picture() -> str:
    """Return what was recorded as SVG, without the fonts that rich would load from elsewhere."""
    OUT.width = _COLUMNS
    svg = OUT.export_svg(title="scripts/demo", unique_id="demo")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


def script(zoho_url: str, store: EncryptedFileStore, token: OAuthToken, directory: str) -> OAuthToken:
    """Do what any script does: initialize the SDK, and make one request."""
    environment = DataCenter.Environment(zoho_url, zoho_url + "/oauth/v2/token", zoho_url)
    Initializer.initialize(environment, token, store=store, resource_path=directory)
    OrgOperations().get_organization()
    return token


def second_process(zoho_url: str) -> None:
    """Do the same in another process, and print the token that was used."""
    with tempfile.TemporaryDirectory() as directory:
        token = script(zoho_url, EncryptedFileStore(), OAuthToken(id="1"), directory)
        print(json.dumps(token.get_access_token()))


#: The browser of this demo: it goes where it is sent, and presses "Accept".
BROWSER = """#!{python}
import re, sys, urllib.parse, urllib.request
page = urllib.request.urlopen(sys.argv[1])
ticket = re.search('name="ticket" value="(\\\\w+)"', page.read().decode())[1]
form = urllib.parse.urlencode({{"ticket": ticket, "choice": "accept"}}).encode()
urllib.request.urlopen(urllib.parse.urljoin(page.url, "/oauth/v2/auth/consent"), form)
"""


def free_port() -> int:
    """Return a port of this machine that no program uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    command = [sys.executable, "-m", "zoho_keystore", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - made here
    if done.returncode:
        raise DemoError(done.stderr)
    return done


def sign_in(zoho: FakeZoho, directory: Path) -> None:
    """Show the way from nothing to an API request."""
    browser = directory / "browser"
    browser.write_text(BROWSER.format(python=sys.executable))
    browser.chmod(0o700)
    redirect_uri = f"http://localhost:{free_port()}/callback"
    client = zoho.new_client(redirect_uris=[redirect_uri])
    os.environ |= {
        "XDG_CONFIG_HOME": str(directory / "config"),
        "XDG_DATA_HOME": str(directory / "data"),
        "BROWSER": str(browser),
        "CLIENT_SECRET": client.secrets["us"],
    }

    step(
        "From nothing to a stored token, in one command; the browser of this demo presses Accept by itself:",
        "zoho-keystore login --client-id … --client-secret env:CLIENT_SECRET",
        pictured=True,
    )
    arguments = ["--client-id", client.id, "--client-secret", "env:CLIENT_SECRET", "--dc", zoho.url]
    done = program("login", *arguments, "--redirect-uri", redirect_uri)
    show(
        "it made the key ring and the store",
        "Created the key ring" in done.stderr and "Created the store" in done.stderr,
    )
    show("it kept the token, and printed its id: 1", done.stdout == "1\n" and zoho.count("grant") == 1)

    step("A script with the SDK finds it; one line of it is ours:", "store=EncryptedFileStore(),", pictured=True)
    asked = zoho.counts
    done = subprocess.run(  # noqa: S603 - this very script, with arguments of its own
        [sys.executable, __file__, "--second-process", zoho.url], capture_output=True, text=True, check=True
    )
    show("it made its API request with that access token", json.loads(done.stdout) == zoho.issued[-1])
    show("and asked Zoho for no token", zoho.counts == {**asked, "org": asked["org"] + 1})

    step(
        "A program without the SDK uses it too:",
        "zoho-keystore token --header | curl -H @- https://www.zohoapis.com/crm/v8/org",
        pictured=True,
    )
    header = program("token", "--header").stdout.strip()
    name, _, value = header.partition(": ")
    request = urllib.request.Request(f"{zoho.url}/crm/v8/org", headers={name: value})  # noqa: S310 - loopback
    if curl := shutil.which("curl"):
        command = [curl, "-s", "-H", "@-", request.full_url]
        answer = subprocess.run(command, input=header, capture_output=True, text=True, check=True).stdout  # noqa: S603 - as above
    else:
        answer = urllib.request.urlopen(request).read().decode()  # noqa: S310 - loopback
    show("Zoho answered it", json.loads(answer)["org"][0]["zgid"] == ZGID)


def demo(zoho: FakeZoho, directory: str) -> None:
    """Show what becomes of the token, in a folder that is removed afterwards."""
    store = EncryptedFileStore()
    path = Path(directory, "data", "zoho-keystore", "tokens.keystore")
    [key] = [
        line
        for line in Path(directory, "config", "zoho-keystore", "keyring").read_bytes().splitlines()
        if line and not line.startswith(b"#")
    ]
    script(zoho.url, store, OAuthToken(id="1"), directory)
    [kept] = store.get_tokens()

    step("The file is sealed:", pictured=True)
    sealed = path.read_bytes()
    secrets = [kept.get_refresh_token(), kept.get_access_token(), os.environ["CLIENT_SECRET"], "ada@example.com"]
    show(f"it starts with {sealed[:6].decode()}…", sealed.startswith(b"gAAAA"))
    show("no token, secret or name can be read in it", not any(secret.encode() in sealed for secret in secrets))
    show("only its owner may read it (0600)", stat.filemode(path.stat().st_mode) == "-rw-------")

    lines = [
        "from cryptography.fernet import Fernet",
        'sealed = open("tokens.keystore", "rb").read()',
        "document = Fernet(key).decrypt(sealed)",
    ]
    step("With the key, three lines open it without this package:", *lines)
    names: dict[str, Any] = {"key": key}
    os.chdir(path.parent)
    exec("\n".join(lines), names)  # noqa: S102 - the very lines that were shown
    document = json.loads(names["document"])
    show("there is the refresh token", document["tokens"][0]["refresh_token"] == kept.get_refresh_token())

    step("The access token expires:", pictured=True)
    kept.set_expires_in("1")
    store.save_token(kept)
    before = zoho.count("refresh")
    OrgOperations().get_organization()
    OrgOperations().get_organization()
    [renewed] = store.get_tokens()
    show("it was refreshed, once for two requests", zoho.count("refresh") == before + 1)
    show("the new one is kept", renewed.get_access_token() == zoho.issued[-1] != kept.get_access_token())

    step("A second user signs in, and is revoked:")
    client = zoho.new_client("self", redirect_uris=())
    grant = zoho.new_grant("bob@example.com", client)
    bob = OAuthToken(client_id=client.id, client_secret=client.secrets["us"], grant_token=grant)
    script(zoho.url, store, bob, directory)
    [_, second] = store.get_tokens()
    show(f"revoke({bob.get_id()!r}) said that it is done", bob.revoke(bob.get_id()))
    show("Zoho was asked to revoke that one, and no other", zoho.revoked == [second.get_refresh_token()])


def meeting() -> None:
    """Show that one refresh is enough for many processes."""
    step("Eight processes meet an expired token at the same moment:", pictured=True)
    [eight] = [meeting for meeting in MEETINGS if meeting.who == "8 processes"]
    with tempfile.TemporaryDirectory() as directory:
        seen = meet(eight, OURS, Path(directory))
    show("one of them asked Zoho for a new one", seen.refreshes == 1)
    show("and all eight go on with it", len({outcome.access_token for outcome in seen.outcomes} - {None}) == 1)


def main() -> int:
    """Run the demo, or the part of it that is another process."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Show the main use, with a fake Zoho server.")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the picture of the documents too")
    parser.add_argument("--second-process", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.second_process:
        second_process(options.second_process)
        return 0
    # The demo changes the directory.
    svg: Path | None = options.svg and options.svg.absolute()
    OUT.print("Zoho CRM tokens in one encrypted file. The SDK is real; Zoho is a fake server on this machine.")
    with FakeZoho() as zoho, tempfile.TemporaryDirectory() as directory:
        try:
            sign_in(zoho, Path(directory))
            demo(zoho, directory)
            meeting()
        except DemoError as error:
            print(f"\n  ✗ This did not happen: {error}", file=sys.stderr)
            return 1
    OUT.print("\nAll of it happened.")
    if svg:
        svg.write_text(picture(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

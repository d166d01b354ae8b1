"""Show the main use with the real SDK and a fake Zoho server. Each step is checked before it is printed."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet
from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zohocrmsdk.src.com.zoho.crm.api.dc.data_center import DataCenter
from zohocrmsdk.src.com.zoho.crm.api.initializer import Initializer
from zohocrmsdk.src.com.zoho.crm.api.org import OrgOperations

from zoho_keystore import EncryptedFileStore

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from fake_zoho import FakeZoho
from faults.refreshes import MEETINGS, OURS, meet

CLIENT = {"client_id": "1000.DEMO", "client_secret": "demo-secret"}


class DemoError(Exception):
    """A step of the demo did not happen."""


def show(text: str, happened: bool) -> None:  # noqa: FBT001 - reads as a sentence: show("…", what was seen)
    """Print a step, if it happened."""
    if not happened:
        raise DemoError(text)
    print(f"  ✓ {text}")


def script(zoho_url: str, store: EncryptedFileStore, token: OAuthToken, directory: str) -> OAuthToken:
    """Initialize the SDK and make one request, as any script does."""
    environment = DataCenter.Environment(zoho_url, zoho_url + "/oauth/v2/token", zoho_url)
    Initializer.initialize(environment, token, store=store, resource_path=directory)
    OrgOperations().get_organization()
    return token


def second_process(zoho_url: str, path: str, grant: str) -> None:
    """Do the same in another process, and print the token that was used."""
    with tempfile.TemporaryDirectory() as directory:
        token = script(zoho_url, EncryptedFileStore(path), OAuthToken(**CLIENT, grant_token=grant), directory)
        print(json.dumps(token.get_access_token()))


def demo(zoho: FakeZoho, directory: str) -> None:
    """Show one script and its file, in a directory that is removed afterwards."""
    key = Fernet.generate_key()
    os.environ["ZOHO_KEYSTORE_KEY"] = key.decode()
    path = Path(directory, "tokens.keystore")

    print("\n1. A script signs in with a grant token; one line of it is for this store:")
    print('   store = EncryptedFileStore("tokens.keystore")')
    grant = zoho.new_grant("ada@example.com")
    store = EncryptedFileStore(path)
    script(zoho.url, store, OAuthToken(**CLIENT, grant_token=grant), directory)
    [saved] = store.get_tokens()
    show("the grant was exchanged, once", zoho.count("grant") == 1)
    show(f"the token is saved, for {saved.get_user_signature().get_name()}", saved.get_refresh_token() is not None)

    print("\n2. A second process, run with the same grant, finds it:")
    asked = zoho.counts
    done = subprocess.run(  # noqa: S603 - this very script, with arguments of its own
        [sys.executable, __file__, zoho.url, str(path), grant], capture_output=True, text=True, check=True
    )
    show("it made its API request with the same access token", json.loads(done.stdout) == saved.get_access_token())
    show("and asked Zoho for no token", zoho.counts == {**asked, "org": asked["org"] + 1})

    print("\n3. The file is encrypted:")
    sealed = path.read_bytes()
    secrets = [saved.get_refresh_token(), saved.get_access_token(), grant, CLIENT["client_secret"], "ada@example.com"]
    show(f"it starts with {sealed[:24].decode()}…", sealed.startswith(b"gAAAA"))
    show("no token, secret or user name can be read in it", not any(secret.encode() in sealed for secret in secrets))
    show("only its owner can read it (0600)", stat.filemode(path.stat().st_mode) == "-rw-------")

    print("\n4. With the key, three lines open it without this package:")
    lines = [
        "from cryptography.fernet import Fernet",
        'sealed = open("tokens.keystore", "rb").read()',
        "document = Fernet(key).decrypt(sealed)",
    ]
    for line in lines:
        print(f"   {line}")
    names: dict[str, Any] = {"key": key}
    os.chdir(directory)
    exec("\n".join(lines), names)  # noqa: S102 - the very lines that were shown
    document = json.loads(names["document"])
    show("it holds the refresh token", document["tokens"][0]["refresh_token"] == saved.get_refresh_token())

    print("\n5. The access token expires:")
    saved.set_expires_in("1")
    store.save_token(saved)
    before = zoho.count("refresh")
    OrgOperations().get_organization()
    OrgOperations().get_organization()
    [renewed] = store.get_tokens()
    show("it was refreshed, once for two requests", zoho.count("refresh") == before + 1)
    show("the new one is saved", renewed.get_access_token() == zoho.issued[-1] != saved.get_access_token())

    print("\n6. A second user signs in, and is revoked:")
    bob = script(zoho.url, store, OAuthToken(**CLIENT, grant_token=zoho.new_grant("bob@example.com")), directory)
    [_, second] = store.get_tokens()
    show(f"revoke({bob.get_id()!r}) succeeded", bob.revoke(bob.get_id()))
    show("Zoho was asked to revoke his token, and no other", zoho.revoked == [second.get_refresh_token()])


def meeting() -> None:
    """Show that many processes make one refresh."""
    print("\n7. Eight processes find the token expired at the same moment:")
    [eight] = [meeting for meeting in MEETINGS if meeting.who == "8 processes"]
    with tempfile.TemporaryDirectory() as directory:
        seen = meet(eight, OURS, Path(directory))
    show("one of them asked Zoho for a new one", seen.refreshes == 1)
    show("and all eight go on with it", len({outcome.access_token for outcome in seen.outcomes} - {None}) == 1)


def main() -> int:
    """Run the demo, or its second process."""
    if len(sys.argv) > 1:
        second_process(*sys.argv[1:])
        return 0
    print("Zoho CRM tokens in one encrypted file. The SDK is real; the Zoho server is a fake on this machine.")
    with FakeZoho() as zoho, tempfile.TemporaryDirectory() as directory:
        try:
            demo(zoho, directory)
            meeting()
        except DemoError as error:
            print(f"\n  ✗ This did not happen: {error}", file=sys.stderr)
            return 1
    print("\nAll steps happened.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

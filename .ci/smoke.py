"""Check an installed wheel, without and with an SDK."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import zoho_keystore


def main() -> None:
    """Check the package, then use it."""
    if "site-packages" not in zoho_keystore.__file__ or version("zoho_keystore") != zoho_keystore.__version__:
        sys.exit("this is not the installed wheel")
    if not files("zoho_keystore").joinpath("py.typed").is_file():
        sys.exit("the wheel has no py.typed")
    if importlib.util.find_spec("zohocrmsdk") is None:
        try:
            _ = zoho_keystore.EncryptedFileStore
        except zoho_keystore.SDKNotInstalledError as error:
            print(f"without an SDK: {error}")
            return
        sys.exit("a store class was found without an SDK")
    from cryptography.fernet import Fernet  # noqa: PLC0415 - the order shows what the package alone brings
    from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken  # noqa: PLC0415 - as above

    with tempfile.TemporaryDirectory() as directory:
        path, key = Path(directory, "tokens.keystore"), Fernet.generate_key()
        token = OAuthToken(client_id="c", client_secret="s", refresh_token="r")  # noqa: S106 - made up
        zoho_keystore.EncryptedFileStore(path, key=key).save_token(token)
        [kept] = zoho_keystore.EncryptedFileStore(path, key=key).get_tokens()
    if kept.get_refresh_token() != "r":
        sys.exit("the saved token was not found")
    print("with an SDK: a token was saved and found")


if __name__ == "__main__":
    main()

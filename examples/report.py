"""Print the id of the organization: a program that a timer, cron or an orchestrator runs, without the SDK.

Install what it needs with: pip install "zoho_keystore[oauth]"
"""

from __future__ import annotations

import sys
from contextlib import closing

import requests

from zoho_keystore import KeystoreError, open_keystore


def main() -> None:
    """Ask Zoho with the only token of the store."""
    # create=False: a volume that is not mounted is an error, and not a new store without tokens.
    with closing(open_keystore(create=False)) as keystore:
        [token] = keystore.records()
        # The access token is refreshed if need be, once for all programs that use the store.
        answer = requests.get(f"{token.api_domain}/crm/v8/org", auth=keystore.auth(token.id), timeout=30)
    answer.raise_for_status()
    print(answer.json()["org"][0]["id"])


if __name__ == "__main__":
    try:
        main()
    except KeystoreError as error:
        sys.exit(f"report: {error}")  # One line that says what to do; a traceback would hide it.

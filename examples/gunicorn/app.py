"""A web application whose workers share one token: each request asks Zoho for the id of the organization.

Install what it needs with: pip install "zoho_keystore[oauth]" gunicorn
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import requests

from zoho_keystore import SignInNeededError, ThrottledError, open_keystore

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

# Once for all workers: gunicorn.conf.py loads this module before it forks.
KEYSTORE = open_keystore(create=False)


def application(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the organization's id, or say why not."""
    try:
        [token] = KEYSTORE.records()  # Follows what other processes save.
        answer = requests.get(f"{token.api_domain}/crm/v8/org", auth=KEYSTORE.auth(token.id), timeout=30)
        answer.raise_for_status()
        status, text = "200 OK", str(answer.json()["org"][0]["id"])
    except ThrottledError as error:
        status, text = "503 Service Unavailable", f"Zoho refuses access tokens for now: {error}"
    except SignInNeededError as error:
        status, text = "500 Internal Server Error", f"an administrator has to sign in again: {error}"
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [text.encode()]

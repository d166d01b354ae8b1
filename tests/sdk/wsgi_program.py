"""A WSGI program for gunicorn that makes an API request for each of its own; its settings come from the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faults.refreshes import OURS, Setting, _request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SETTING = Setting(
    OURS,
    Path(os.environ["TEST_STORE"]),
    os.environ["TEST_KEY"].encode(),
    os.environ["TEST_URL"],
    float(os.environ["TEST_REFRESH_WAIT"]),
)
STORE = SETTING.open()


def application(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer with the access token, or with the error, after the worker's process id."""
    outcome = _request(lambda: SETTING.initialize(STORE, "1"))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {outcome.error or outcome.access_token}".encode()]

"""A program of 24 greenlets that use one expired token: `LIBRARY before|after PATH KEY URL REFRESH_WAIT`.

Prints, as JSON, what came of each request, and for how long the hub was blocked at the most.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import time
import warnings
from pathlib import Path

GREENLETS = 24


def patch(library: str) -> None:
    """Let the library replace what blocks in the standard library."""
    if library == "gevent":
        importlib.import_module("gevent.monkey").patch_all()
    else:
        importlib.import_module("eventlet").monkey_patch()


def main() -> None:
    """Make the requests."""
    library, when, path, key, url, refresh_wait = sys.argv[1:]
    # Both warn when they are late, and eventlet that it is no longer developed.
    warnings.simplefilter("ignore")
    if when == "before":
        patch(library)
    refreshes = importlib.import_module("faults.refreshes")
    if when == "after":
        patch(library)
    spawn = importlib.import_module(library).spawn
    setting = refreshes.Setting(refreshes.OURS, Path(path), key.encode(), url, float(refresh_wait))
    store = setting.open()

    # A handler that switches to other greenlets: a lock that is held meanwhile would be waited for by all of them.
    class Yielding(logging.Handler):
        def emit(self, _record: logging.LogRecord) -> None:
            time.sleep(0.001)

    logging.getLogger("zoho_keystore").addHandler(Yielding())
    logging.getLogger("zoho_keystore").setLevel(logging.DEBUG)

    def request(number: int) -> str:
        outcome = refreshes._request(lambda: setting.initialize(store, "1"))
        for _ in range(3):
            store.save_token(refreshes.OAuthToken(access_token=f"of {number}", id=f"id {number}"))
        return str(outcome.error or outcome.access_token)

    blocked_s = 0.0
    is_over = False

    def watch() -> None:
        nonlocal blocked_s
        while not is_over:
            started_s = time.monotonic()
            time.sleep(0.001)
            blocked_s = max(blocked_s, time.monotonic() - started_s)

    watcher = spawn(watch)
    greenlets = [spawn(request, number) for number in range(GREENLETS)]
    outcomes = [greenlet.get() if library == "gevent" else greenlet.wait() for greenlet in greenlets]
    is_over = True
    watcher.get() if library == "gevent" else watcher.wait()
    directory = importlib.import_module("zoho_keystore._fs.directory")
    seen = {"outcomes": outcomes, "blocked_s": blocked_s, "stored": len(store.get_tokens())}
    print(json.dumps({**seen, "has_directory_fds": directory.HAS_DIRECTORY_FDS}))


if __name__ == "__main__":
    main()

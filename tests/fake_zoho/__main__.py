"""The fake Zoho as a program, to try things by hand: `PYTHONPATH=tests python -m fake_zoho`."""

from __future__ import annotations

import argparse
import signal
import time

from fake_zoho import DEFAULT_REDIRECT, FakeZoho

_MAX_S = 86_400


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= _MAX_S:
        raise ValueError(text)
    return seconds


def main() -> None:
    """Serve until the time is over or Ctrl-C is pressed."""
    parser = argparse.ArgumentParser(
        prog="python -m fake_zoho", description="Play Zoho's accounts and CRM servers on 127.0.0.1."
    )
    parser.add_argument("--port", type=int, choices=range(65_536), default=0, metavar="N", help="default: a free one")
    parser.add_argument("--delay", type=_seconds, default=0.0, metavar="SECONDS", help="each token request waits this")
    parser.add_argument("--token-life", type=_seconds, default=3600, metavar="SECONDS", help="default: 3600")
    parser.add_argument("--limit", action="store_true", help="deny the 11th access token in 10 minutes")
    parser.add_argument("--consent", choices=["ask", "accept", "reject"], default="ask", help="default: ask")
    parser.add_argument("--redirect-uri", default=DEFAULT_REDIRECT, help="default: %(default)s")
    parser.add_argument("--seconds", type=_seconds, default=3600, metavar="N", help="stop by itself; default: 3600")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has inherited "ignore"
    try:
        with FakeZoho(
            port=options.port,
            delay_s=options.delay,
            token_life_s=options.token_life,
            enforce_limit=options.limit,
            consent=options.consent,
        ) as zoho:
            client = zoho.new_client(redirect_uris=[options.redirect_uri])
            print(f"accounts URL:  {zoho.url}")
            print(f"client id:     {client.id}")
            print(f"client secret: {client.secrets['us']}")
            print(f"grant token:   {zoho.new_grant()}")
            print(f'SDK:           DataCenter.Environment("{zoho.url}", "{zoho.token_url}", "{zoho.url}")', flush=True)
            time.sleep(options.seconds)
    except KeyboardInterrupt:
        pass
    except OSError as exc:
        parser.error(f"cannot serve on port {options.port}: {exc}")


if __name__ == "__main__":
    main()

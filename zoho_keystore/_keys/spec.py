"""The parts of a spec, such as ``env:NAME``, and the environment variables that name the default source."""

from __future__ import annotations

import re

#: The environment variable that holds keys.
KEY_VARIABLE = "ZOHO_KEYSTORE_KEY"

#: The environment variable that holds a spec, or the path of a ring file.
RING_VARIABLE = "ZOHO_KEYSTORE_KEYRING"

_SPEC = re.compile(r"(env|file|keyring|command):(.*)", re.DOTALL)


def advice_on_keys(*, is_named: bool) -> str:
    """Return the rest of an advice for a source that does not open: its keys may be others than those of the store.

    Args:
        is_named: Whether the user has named the source of its keys.
    """
    return "" if is_named else "; if it has keys of its own, name their source: --from-key SPEC"


def split_spec(text: str) -> tuple[str, str]:
    """Return the scheme and the rest of a spec; the scheme is empty when the text has no known one."""
    match = _SPEC.fullmatch(text)
    return (match[1], match[2]) if match else ("", text)

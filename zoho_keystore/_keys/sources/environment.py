"""``env:NAME``: keys in an environment variable, comma-separated."""

from __future__ import annotations

import os
import re

from zoho_keystore._keys.fernet_key import HOW_TO_MAKE_A_KEY
from zoho_keystore._keys.ring_text import RingKeys, parse
from zoho_keystore._keys.spec import KEY_VARIABLE, RING_VARIABLE, split_spec
from zoho_keystore.errors import ConfigurationError, MalformedKeyError, key_missing

_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class EnvironmentVariable:
    """Keys in an environment variable."""

    def __init__(self, name: str) -> None:
        self._name = name

    @classmethod
    def parse(cls, name: str) -> EnvironmentVariable:
        """Return the source of a spec's NAME, or raise ConfigurationError."""
        if not _VARIABLE_NAME.fullmatch(name):
            raise ConfigurationError(
                "what follows env: is not the name of a variable", f"Write env:NAME, such as env:{KEY_VARIABLE}"
            )
        return cls(name)

    def load(self) -> RingKeys:
        """Return the keys in the variable."""
        value = os.environ.get(self._name)
        where = f"the environment variable {self._name}"
        if not value:
            state = "is empty" if value == "" else "is not set"
            raise key_missing(
                f"{where} {state}",
                f"Put one or more keys into it, comma-separated, newest first. {HOW_TO_MAKE_A_KEY}",
            )
        if split_spec(value)[0]:
            raise MalformedKeyError(
                f"{where} holds a spec instead of a key", f"Put the spec into {RING_VARIABLE}, or pass it as key=…"
            )
        return parse(os.fsencode(value), where)

    def __str__(self) -> str:
        return f"env:{self._name}"

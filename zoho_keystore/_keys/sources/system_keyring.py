"""``keyring:SERVICE/USER``: keys in the operating system's keyring, as a user's password.

The password is the text of a ring: keys with commas between them, or on lines with comments and retired keys.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from zoho_keystore._fs.directory import make_directories
from zoho_keystore._fs.lock import StoreLock
from zoho_keystore._fs.paths import default_key_ring
from zoho_keystore._keys.fernet_key import HOW_TO_MAKE_A_KEY
from zoho_keystore._keys.ring_text import RingKeys, parse, with_primary, without
from zoho_keystore._platform import quote
from zoho_keystore._timeout import run_with_timeout
from zoho_keystore.errors import ConfigurationError, KeyUnavailableError, key_missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: How long a call of the keyring may take: it may wait until the user has unlocked it.
TIMEOUT_S = 10.0


class SystemKeyring:
    """Keys as the password of a user of a service."""

    def __init__(self, service: str, user: str) -> None:
        self._service = service
        self._user = user

    @classmethod
    def parse(cls, name: str) -> SystemKeyring:
        """Return the source of a spec's SERVICE/USER, or raise ConfigurationError."""
        service, _, user = name.rpartition("/")
        if not service or not user:
            raise ConfigurationError(
                "what follows keyring: is not SERVICE/USER", "Write, for example, keyring:zoho-keystore/crm"
            )
        return cls(service, user)

    def load(self) -> RingKeys:
        """Return the keys in the keyring."""
        return self._parse(self._entry())

    def create(self, key: bytes) -> bool:
        """Make the entry with a first key; return False if there is one."""
        with self.lock(TIMEOUT_S):
            if self._call("get_password"):
                return False
            self._write(key)
        return True

    @contextmanager
    def lock(self, timeout_s: float) -> Iterator[object]:
        """Hold a lock file in the config directory, shared by all entries: the keyring has no lock of its own."""
        directory = default_key_ring().parent
        make_directories(directory)
        with StoreLock(directory, "system-keyring", timeout_s).held() as held:
            yield held

    def add(self, key: bytes, *, retire: str | None = None) -> None:
        """Put a key before the others."""
        self._write(with_primary(self._entry(), key, retire=retire))

    def remove(self, keys: Sequence[bytes]) -> None:
        """Remove keys."""
        self._write(without(self._entry(), keys))

    def cannot_change(self) -> str:
        """Return an empty text: the keyring is the user's own."""
        return ""

    def read(self) -> bytes:
        """Return the entry; empty if there is none."""
        return os.fsencode(self._call("get_password") or "")

    def _entry(self) -> bytes:
        entry = self.read()
        if not entry:
            raise key_missing(
                f"the system's keyring holds nothing for {self}",
                f"{HOW_TO_MAKE_A_KEY} and put it there with: keyring set {quote(self._service)} {quote(self._user)}",
            )
        return entry

    def _parse(self, text: bytes) -> RingKeys:
        return parse(text, f"the entry of the system's keyring for {self}")

    def _write(self, text: bytes) -> None:
        keys = self._parse(text)
        if not keys.retired and b"#" not in text:
            # On one line, as dialogs for passwords show and take it.
            text = b",".join(keys.active)
        self._call("set_password", text.decode())
        stored = self.load()
        if (stored, stored.retired) != (keys, keys.retired):
            raise KeyUnavailableError(
                f"the system's keyring did not store the keys for {self}",
                "Check its backend: python -m keyring diagnose. The store was not encrypted with a key that is lost",
            )

    def _call(self, function: str, *arguments: str) -> Any:
        try:
            import keyring  # noqa: PLC0415 - takes 60 ms, and may hang on a machine without a desktop
        except ImportError:
            raise KeyUnavailableError(
                f"{self} needs the library keyring, which is not installed",
                'Install it with: pip install "zoho_keystore[keyring]"',
            ) from None
        try:
            return run_with_timeout(
                TIMEOUT_S, lambda: getattr(keyring, function)(self._service, self._user, *arguments)
            )
        except TimeoutError:
            problem = f"the system's keyring has not answered within {TIMEOUT_S:g} s"
        except Exception as error:  # noqa: BLE001 - backends raise any error, and its text may contain the keys
            problem = f"the system's keyring has failed ({type(error).__name__})"
        # Raised outside the handler, so that no error of the backend is linked to it.
        raise KeyUnavailableError(
            f"{problem}, which {self} needs",
            "Unlock it, or see what is wrong: python -m keyring diagnose. Without a desktop it may have no backend",
        )

    def __str__(self) -> str:
        return f"keyring:{self._service}/{self._user}"

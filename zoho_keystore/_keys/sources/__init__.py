"""Where keys come from, one module a source.

A spec names a source: ``env:NAME``, ``file:PATH``, ``keyring:SERVICE/USER`` or ``command:ARGV``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from zoho_keystore._fs.paths import absolute_path, default_key_ring
from zoho_keystore._hidden import Hidden, without_frames
from zoho_keystore._keys.fernet_key import looks_like_key
from zoho_keystore._keys.sources.command import Command
from zoho_keystore._keys.sources.environment import EnvironmentVariable
from zoho_keystore._keys.sources.given import GivenKeys
from zoho_keystore._keys.sources.ring_file import RingFile
from zoho_keystore._keys.sources.system_keyring import SystemKeyring
from zoho_keystore._keys.spec import KEY_VARIABLE, RING_VARIABLE, split_spec
from zoho_keystore.errors import ConfigurationError, key_missing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from typing import TypeAlias

    from zoho_keystore._keys.ring_text import RingKeys

    HiddenKey: TypeAlias = Hidden[bytes | str | None]
    #: The ``key`` argument of a public function, or the same on its way down.
    KeyArgument: TypeAlias = bytes | str | HiddenKey | None

__all__ = ["KEY_VARIABLE", "RING_VARIABLE", "GivenKeys", "KeySource", "WritableKeySource", "key_source"]

_KINDS = "env:NAME, file:PATH, keyring:SERVICE/USER or command:ARGV"


class KeySource(Protocol):
    """A place that keys are loaded from; each load may return other keys."""

    def load(self) -> RingKeys:
        """Return the keys, at least one that is not retired.

        Raises:
            KeyUnavailableError: There is no key.
            MalformedKeyError: Something that should be a key is not one.
        """
        ...


@runtime_checkable
class WritableKeySource(KeySource, Protocol):
    """A source whose keys this package can change: a ring file or the system's keyring.

    Each method that changes it raises a KeystoreError when the change was not made, or when it may not survive a power
    cut.
    """

    def create(self, key: bytes) -> bool:
        """Make the ring with its first key; return False, and change nothing, if there is a ring already."""
        ...

    def lock(self, timeout_s: float) -> AbstractContextManager[object]:
        """Exclude other processes that change the ring."""
        ...

    def add(self, key: bytes, *, retire: str | None = None) -> None:
        """Put a key above the others, durably, even if it is the first already. The caller holds the lock.

        Args:
            key: The key.
            retire: The date on which all other keys are retired that are not; None leaves them active.
        """
        ...

    def remove(self, keys: Sequence[bytes]) -> None:
        """Remove keys, and keep the other keys and all comments. The caller holds the lock."""
        ...

    def cannot_change(self) -> str:
        """Return why this process cannot change the keys, as a clause; an empty text if it can."""
        ...


def key_source(key: KeyArgument) -> KeySource:
    """Return the source that a ``key`` argument names; no key is loaded yet.

    Args:
        key: A Fernet key as bytes; or a spec; or None for the first of ``ZOHO_KEYSTORE_KEY``,
            ``ZOHO_KEYSTORE_KEYRING`` and the key ring in the user's config directory that is set or exists.

    Raises:
        ConfigurationError: The argument or the spec is invalid.
        KeyUnavailableError: The argument is None, and no key is set.
    """
    key = Hidden.of(key)
    return without_frames(lambda: _source(key.value))


def _source(key: bytes | str | None) -> KeySource:
    if key is None:
        return _default_source()
    if isinstance(key, bytes | bytearray):
        return GivenKeys([bytes(key)])
    if isinstance(key, str):
        return _parse_spec(key)
    raise ConfigurationError(
        f"the key is of type {type(key).__name__}", f"Pass a Fernet key as bytes, or a spec: {_KINDS}"
    )


def _default_source() -> KeySource:
    if os.environ.get(KEY_VARIABLE):
        return EnvironmentVariable(KEY_VARIABLE)
    if spec := os.environ.get(RING_VARIABLE):
        if looks_like_key(spec):
            raise ConfigurationError(
                f"{RING_VARIABLE} holds what looks like a key itself", f"Put the key into {KEY_VARIABLE} instead"
            )
        scheme, _ = split_spec(spec)
        return _parse_spec(spec if scheme else f"file:{spec}")
    ring = default_key_ring()
    if os.path.lexists(ring):
        return RingFile(absolute_path(ring))
    raise key_missing(
        f"no key is set: {KEY_VARIABLE} and {RING_VARIABLE} are empty, and this user has no readable key ring {ring}",
        f"Make a key ring there with: zoho-keystore init; or put a key into {KEY_VARIABLE}, or into a file of mode "
        f"0600 that {RING_VARIABLE} names",
    )


def _parse_spec(spec: str) -> KeySource:
    # No message repeats the spec: it may be the key itself, put in the wrong place.
    if looks_like_key(spec):
        raise ConfigurationError(
            "the key spec holds what looks like a key itself",
            "Pass the key as bytes (b'…'), or put it into an environment variable and pass env:NAME",
        )
    scheme, rest = split_spec(spec)
    match scheme:
        case "env":
            return EnvironmentVariable.parse(rest)
        case "file":
            return RingFile(absolute_path(rest))
        case "keyring":
            return SystemKeyring.parse(rest)
        case "command":
            return Command.parse(rest)
    raise ConfigurationError(
        "the key spec is of no known kind", f"Write {_KINDS}, or pass the key itself as bytes (b'…')"
    )

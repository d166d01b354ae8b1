"""Keys that the program passes as bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from zoho_keystore._keys.fernet_key import validate_key
from zoho_keystore._keys.ring_text import RingKeys

if TYPE_CHECKING:
    from collections.abc import Sequence


class GivenKeys:
    """Keys that the program passed as bytes, newest first."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = keys

    def load(self) -> RingKeys:
        """Return the keys after validation."""
        return RingKeys(validate_key(key, "the key that was passed as bytes") for key in self._keys)

    def __str__(self) -> str:
        return "the bytes that the program passed"

    def __reduce__(self) -> NoReturn:
        msg = "a key cannot be pickled: the pickle would contain it"
        raise TypeError(msg)

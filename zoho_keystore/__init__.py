"""An encrypted, crash-safe token store for the Zoho CRM Python SDK.

``EncryptedFileStore`` and ``InMemoryStore`` need the SDK, which takes most of a second to import; it is imported when
one of them is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoho_keystore._records import TokenRecord
from zoho_keystore._version import __version__
from zoho_keystore.errors import (
    CannotOpenError,
    ConfigurationError,
    DocumentError,
    DurabilityUnknownError,
    ImportSourceError,
    InvalidTokenError,
    KeystoreError,
    KeyUnavailableError,
    LockTimeoutError,
    MalformedKeyError,
    NewerVersionError,
    RotationUnfinishedError,
    SDKNotInstalledError,
    StoreClosedError,
    StoreFileError,
    TokenError,
    TokenNotFoundError,
    UnsafeFileError,
)

if TYPE_CHECKING:
    from zoho_keystore._sdk import EncryptedFileStore, InMemoryStore

__all__ = [
    "CannotOpenError",
    "ConfigurationError",
    "DocumentError",
    "DurabilityUnknownError",
    "EncryptedFileStore",
    "ImportSourceError",
    "InMemoryStore",
    "InvalidTokenError",
    "KeyUnavailableError",
    "KeystoreError",
    "LockTimeoutError",
    "MalformedKeyError",
    "NewerVersionError",
    "RotationUnfinishedError",
    "SDKNotInstalledError",
    "StoreClosedError",
    "StoreFileError",
    "TokenError",
    "TokenNotFoundError",
    "TokenRecord",
    "UnsafeFileError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in {"EncryptedFileStore", "InMemoryStore"}:
        from zoho_keystore import _sdk  # noqa: PLC0415 - the SDK takes 0.7 s to import

        return getattr(_sdk, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)

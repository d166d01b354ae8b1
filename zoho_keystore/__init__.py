"""An encrypted, crash-safe token store for the Zoho CRM Python SDK.

Everything public is exported here; modules with an underscore are private. Names are imported when they are first used:
the SDK alone takes most of a second.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from zoho_keystore._records import TokenRecord
from zoho_keystore._version import __version__
from zoho_keystore.errors import (
    CannotOpenError,
    ClientRefusedError,
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
    SignInError,
    SignInNeededError,
    StoreClosedError,
    StoreFileError,
    StoreUnavailableError,
    ThrottledError,
    TokenError,
    TokenNotFoundError,
    UnsafeFileError,
    ZohoUnreachableError,
)

if TYPE_CHECKING:
    from zoho_keystore._keystore import Keystore
    from zoho_keystore._open import open_keystore
    from zoho_keystore._operations.backup import backup, restore
    from zoho_keystore._operations.doctor import Diagnostic, diagnose
    from zoho_keystore._operations.rotation import Rotation, rotate
    from zoho_keystore._saving import ImportedRecord, ImportResult
    from zoho_keystore._sdk import EncryptedFileStore, EncryptedSQLStore, InMemoryStore

_MODULES = {
    "Diagnostic": "_operations.doctor",
    "EncryptedFileStore": "_sdk",
    "EncryptedSQLStore": "_sdk",
    "ImportResult": "_saving",
    "ImportedRecord": "_saving",
    "InMemoryStore": "_sdk",
    "Keystore": "_keystore",
    "Rotation": "_operations.rotation",
    "backup": "_operations.backup",
    "diagnose": "_operations.doctor",
    "open_keystore": "_open",
    "restore": "_operations.backup",
    "rotate": "_operations.rotation",
}

__all__ = [
    "CannotOpenError",
    "ClientRefusedError",
    "ConfigurationError",
    "Diagnostic",
    "DocumentError",
    "DurabilityUnknownError",
    "EncryptedFileStore",
    "EncryptedSQLStore",
    "ImportResult",
    "ImportSourceError",
    "ImportedRecord",
    "InMemoryStore",
    "InvalidTokenError",
    "KeyUnavailableError",
    "Keystore",
    "KeystoreError",
    "LockTimeoutError",
    "MalformedKeyError",
    "NewerVersionError",
    "Rotation",
    "RotationUnfinishedError",
    "SDKNotInstalledError",
    "SignInError",
    "SignInNeededError",
    "StoreClosedError",
    "StoreFileError",
    "StoreUnavailableError",
    "ThrottledError",
    "TokenError",
    "TokenNotFoundError",
    "TokenRecord",
    "UnsafeFileError",
    "ZohoUnreachableError",
    "__version__",
    "backup",
    "diagnose",
    "open_keystore",
    "restore",
    "rotate",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__

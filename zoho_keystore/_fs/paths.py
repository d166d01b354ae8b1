"""Where the store and the key ring are by default, and what a given path means."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from zoho_keystore._fs.permissions import require_no_planted_link
from zoho_keystore.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

_APP = "zoho-keystore"


def default_store() -> Path:
    """Return ``tokens.keystore`` in the user's data folder; nothing is made."""
    # platformdirs takes 17 ms to import, and most scripts name their store.
    from platformdirs import user_data_path  # noqa: PLC0415 - see above

    return _of_user(user_data_path) / "tokens.keystore"


def default_key_ring() -> Path:
    """Return the key ring file in the user's config folder; nothing is made."""
    from platformdirs import user_config_path  # noqa: PLC0415 - as in default_store

    return _of_user(user_config_path) / "keyring"


def _of_user(directory: Callable[..., Path]) -> Path:
    try:
        return directory(_APP, appauthor=False)
    except RuntimeError as error:
        raise ConfigurationError(
            "this user has no home folder", "Set HOME, or name the store's path and where its key comes from"
        ) from error


def real_path(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path with ``~`` and symbolic links resolved, once and for all.

    Raises:
        ConfigurationError: No file can have this path.
        UnsafeFileError: It leads over a link that another user may have put there to lead us elsewhere.
    """
    real = _resolved(path)
    if real is None:
        # The path is not repeated, and no exception that does hangs on this one: what is no path may be a key.
        raise ConfigurationError("the path cannot be the path of a file", "Give the path of a file, as text")
    return real


def _resolved(path: str | os.PathLike[str]) -> Path | None:
    try:
        given = os.fspath(path)
        if not isinstance(given, str) or not given:
            return None
        # Not normalized: behind a link, ".." is the folder above its target.
        path = str(Path(given).expanduser())
        if not os.path.isabs(path):
            path = os.path.join(os.getcwd(), path)
        require_no_planted_link(path)
        return Path(os.path.realpath(path))
    except (TypeError, ValueError, RuntimeError, OSError):
        return None

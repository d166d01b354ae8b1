"""Where the store and the key ring are by default, and which file a given path leads to."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zoho_keystore._fs import permissions
from zoho_keystore._platform import IS_MACOS
from zoho_keystore.errors import ConfigurationError, UnsafeFileError

if TYPE_CHECKING:
    from collections.abc import Callable

_APP = "zoho-keystore"

#: How many symbolic links may follow one another; the kernel refuses longer chains itself.
_MAX_LINKS = 40


def default_store() -> Path:
    """Return ``tokens.keystore`` in the user's data directory; nothing is created."""
    # Importing platformdirs takes 17 ms, and most scripts name their store.
    from platformdirs import user_data_path  # noqa: PLC0415 - see above

    return _of_user(user_data_path) / "tokens.keystore"


def default_key_ring() -> Path:
    """Return the key ring file in the user's config directory; nothing is created.

    A copy of a directory must not hold both the store and its keys. So the ring is in the roaming directory on Windows,
    and on macOS, where the config directory is the data directory, in one beside it.
    """
    from platformdirs import user_config_path, user_data_path  # noqa: PLC0415 - as in default_store

    data = _of_user(user_data_path)
    config = _of_user(partial(user_config_path, roaming=True))
    # Earlier versions kept both in one directory.
    if os.path.lexists(data / "keyring"):
        return data / "keyring"
    is_shared = config == data and IS_MACOS
    return (data.with_name(f"{data.name}-keys") if is_shared else config) / "keyring"


def _of_user(directory: Callable[..., Path]) -> Path:
    try:
        return directory(_APP, appauthor=False)
    except RuntimeError as error:
        raise ConfigurationError(
            "this user has no home directory", "Set HOME, or give the path of the store and the source of its key"
        ) from error


def real_path(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path with ``~`` and symbolic links resolved.

    Raises:
        ConfigurationError: No file can have this path.
        UnsafeFileError: The path leads over a symbolic link that another user may have planted.
    """
    absolute = absolute_path(path)
    with suppress(OSError):
        _refuse_planted_links(str(absolute), _MAX_LINKS)
        return Path(os.path.realpath(absolute))
    raise _not_a_path()


def is_same_file(path: Path, other: Path) -> bool:
    """Tell whether two paths lead to one file: on Windows and macOS, names that differ in case alone do."""
    if path == other:
        return True
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def absolute_path(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path with ``~`` resolved, and symbolic links as they are.

    Raises:
        ConfigurationError: No file can have this path.
    """
    with suppress(TypeError, ValueError, RuntimeError, OSError):
        given = os.fspath(path)
        if isinstance(given, str) and given:
            # Not normalized: behind a symbolic link, ".." is the parent of the link's target.
            expanded = Path(given).expanduser()
            absolute = expanded if expanded.is_absolute() else Path(os.getcwd()) / expanded
            if b"\0" not in os.fsencode(absolute):  # Fails for text that cannot be encoded.
                return absolute
    raise _not_a_path()


def _not_a_path() -> ConfigurationError:
    # Neither the message nor a chained exception repeats the argument: it may be a key in the wrong place.
    return ConfigurationError("the path cannot be the path of a file", "Give the path of a file, as text")


def _refuse_planted_links(path: str, max_links: int) -> None:
    """Refuse an absolute path over a symbolic link that another user made in a directory such as /tmp.

    The kernel has the same rule (fs.protected_symlinks), but does not apply it to links that a program resolves itself.
    """
    if not permissions.HAS_OWNERS or max_links == 0:
        return
    parts = Path(path).parts
    for end in range(2, len(parts) + 1):
        link = os.path.join(*parts[:end])
        if not os.path.islink(link):
            continue
        directory, owner = os.stat(os.path.dirname(link)), os.lstat(link).st_uid
        is_public = directory.st_mode & stat.S_ISVTX and directory.st_mode & stat.S_IWOTH
        if is_public and owner not in (os.geteuid(), directory.st_uid):
            raise UnsafeFileError(
                f"this is a symbolic link of user {owner} in a directory that every user may write to",
                "Give the path of the file itself, in a directory of your own",
                Path(link),
            )
        target = os.path.join(os.path.dirname(link), os.readlink(link), *parts[end:])
        _refuse_planted_links(target, max_links - 1)
        return

"""The option files of MySQL's and MariaDB's programs, such as ``~/.my.cnf``."""

from __future__ import annotations

import configparser
import re
from typing import TYPE_CHECKING, Final

from zoho_keystore._fs.private_file import read_private_file

if TYPE_CHECKING:
    from pathlib import Path

_MAX_BYTES: Final = 1024 * 1024

#: The groups that clients of both servers read; a later one takes precedence.
_GROUPS: Final = ("client", "client-server", "client-mariadb")


class MalformedOptionFileError(Exception):
    """The file is no option file; the error quotes no line."""


def read_option_file(path: Path) -> dict[str, str]:
    """Return the options of clients by name, with hyphens, such as ``ssl-ca``.

    Raises:
        MalformedOptionFileError: The file is malformed.
        FileTooLargeError: It has more than a megabyte.
        OSError: It cannot be read.
        UnsafeFileError: It is no file.
    """
    text = read_private_file(path, max_bytes=_MAX_BYTES, check=None).content.decode("utf-8", "surrogateescape")
    parser = configparser.RawConfigParser(
        allow_no_value=True, strict=False, delimiters=("=",), comment_prefixes=("#", ";", "!"), default_section="-"
    )
    try:
        parser.read_string(f"[ ]\n{text}")
    except configparser.Error:
        raise MalformedOptionFileError from None
    options: dict[str, str] = {}
    for group in filter(parser.has_section, _GROUPS):
        own = parser.items(group)
        options |= {name.replace("_", "-"): _unquoted(value) for name, value in own if value is not None}
    return options


def _unquoted(value: str) -> str:
    match = re.fullmatch(r"""(["'])(.*)\1""", value, re.DOTALL)
    return match[2] if match else value

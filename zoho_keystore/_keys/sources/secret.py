"""The client secret of a sign-in, from where a spec says: read as keys are, with the same checks and timeouts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from zoho_keystore._fs.paths import real_path
from zoho_keystore._fs.permissions import require_key_ring
from zoho_keystore._fs.private_file import FileTooLargeError, read_private_file
from zoho_keystore._keys.sources.command import Command
from zoho_keystore._keys.sources.environment import EnvironmentVariable
from zoho_keystore._keys.sources.system_keyring import SystemKeyring
from zoho_keystore._keys.spec import split_spec
from zoho_keystore._platform import quote
from zoho_keystore.errors import ConfigurationError, KeyUnavailableError, UnsafeFileError, os_error_text

if TYPE_CHECKING:
    from pathlib import Path

_MAX_CHARACTERS = 1_024


def read_secret(spec: str) -> str:
    """Return the client secret that a spec names: ``env:NAME``, ``file:PATH``, ``keyring:SERVICE/USER``, ``command:…``.

    Raises:
        ConfigurationError: The spec is invalid, or there is no secret. The message repeats neither.
    """
    scheme, rest = split_spec(spec)
    match scheme:
        case "env":
            text = _variable(rest)
        case "file":
            text = _file(real_path(rest))
        case "keyring":
            text = _printed(SystemKeyring.parse(rest))
        case "command":
            text = _printed(Command.parse(rest))
        case _:
            raise ConfigurationError(
                "the source of the client secret is of no known kind",
                "Write env:NAME, file:PATH, keyring:SERVICE/USER or command:ARGV. The secret itself is not taken from "
                "the command line, where other users can see it",
            )
    secret = text.strip()
    is_one = secret.isascii() and secret.isprintable() and " " not in secret and 0 < len(secret) <= _MAX_CHARACTERS
    if is_one:
        return secret
    state = "there is no client secret" if not secret else "there is more than a client secret, or something else,"
    del text, secret  # See zoho_keystore.errors.
    raise ConfigurationError(
        f"{state} in the {_PLACES[scheme]} that --client-secret names", "Put the secret there, alone on one line"
    )


_PLACES = {
    "env": "environment variable",
    "file": "file",
    "keyring": "entry of the system's keyring",
    "command": "output of the program",
}


def _variable(name: str) -> str:
    EnvironmentVariable.parse(name)
    return os.environ.get(name, "")


def _printed(source: SystemKeyring | Command) -> str:
    try:
        printed = source.read()
    except KeyUnavailableError as error:
        problem, advice = error.problem, error.advice
    else:
        return printed.decode("ascii", "replace")
    raise ConfigurationError(f"no client secret: {problem}", advice)


def _file(path: Path) -> str:
    try:
        content = read_private_file(path, max_bytes=_MAX_CHARACTERS, check=require_key_ring).content
    except UnsafeFileError:
        problem = "the file of the client secret can be read or changed by other users"
        advice = f"Make it yours, and run: chmod 600 {quote(str(path))}"
    except FileTooLargeError:
        problem, advice = "this is not the file of a client secret: it is too large", "Check the path"
    except OSError as error:
        problem = f"the file of the client secret cannot be read: {os_error_text(error)}"
        advice = "Check the path, and who may read it"
    else:
        return content.decode("ascii", "replace")
    raise ConfigurationError(problem, advice, path)

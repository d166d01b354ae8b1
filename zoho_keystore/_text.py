"""Texts for messages and command output: counts, plurals, and commands to paste. Standard library only, no I/O."""

from __future__ import annotations

import re

from zoho_keystore._platform import join, quote

PROGRAM = "zoho-keystore"

_ARGUMENT = r"""(?:'[^']*'|"[^"]*"|[^\s'"])+"""

#: The program's name before a command in a text. Some commands name their store or its keys already.
_COMMAND = re.compile(rf"(?<![\w./:-]){PROGRAM} (?=(--store {_ARGUMENT} )?(?:(--key )|[a-z-]))")


def plural(number: int, noun: str) -> str:
    """Return a noun in the form that fits a number: "key", "keys"."""
    return noun if number == 1 else f"{noun}s"


def count(number: int, noun: str) -> str:
    """Return a number with its noun: "1 token", "2,000 tokens"."""
    return f"{number:,} {plural(number, noun)}"


def cli_command(*arguments: str, store: str | None, key: str | None) -> str:
    """Return a shell command of the program that works on the same store and keys.

    Args:
        arguments: The command and its arguments.
        store: The value of ``--store``, if there is one.
        key: The value of ``--key``, if there is one; it must be known to be a spec, not a key.
    """
    return f"{PROGRAM} {_options(store, key)}{join(arguments)}"


def with_store(text: str, store: str | None, key: str | None) -> str:
    """Return a text whose commands, such as ``zoho-keystore list``, work on a store; the arguments are the same."""
    return _COMMAND.sub(lambda match: match[0] + _options(None if match[1] else store, None if match[2] else key), text)


def _options(store: str | None, key: str | None) -> str:
    given = [(name, value) for name, value in (("--store", store), ("--key", key)) if value is not None]
    return "".join(f"{name} {quote(value)} " for name, value in given)

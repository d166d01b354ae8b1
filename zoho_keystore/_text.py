"""Texts for messages and command output: counts, plurals, and commands to paste. Standard library only, no I/O."""

from __future__ import annotations

from zoho_keystore._platform import join


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
        store: The value of ``--store``, if it was given.
        key: The value of ``--key``, if it was given; it must be known to be a spec, not a key.
    """
    if key is not None and key.startswith("command:"):
        key = "command:…"  # The arguments of the program may hold a secret.
    options = [("--store", store), ("--key", key)]
    given = [word for name, value in options if value is not None for word in (name, value)]
    return join(["zoho-keystore", *given, *arguments])

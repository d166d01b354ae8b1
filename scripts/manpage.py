#!/usr/bin/env python3
"""Write man/zoho-keystore.1 from the commands of the program, as docs/cli.md shows their help.

The wheel installs it as share/man/man1/zoho-keystore.1. A test compares it with the program.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from zoho_keystore._cli import EXIT_CODES, main  # noqa: E402 - of this checkout
from zoho_keystore._cli.doctor import PROBLEMS_FOUND  # noqa: E402 - as above
from zoho_keystore._cli.settings import NOT_CONFIRMED  # noqa: E402 - as above
from zoho_keystore._version import __version__  # noqa: E402 - as above

PAGE = ROOT / "man" / "zoho-keystore.1"

_DESCRIPTION = """
Keeps the OAuth tokens of the Zoho CRM SDK, and of programs without it, in one encrypted file that many processes may
use at once. --store and --key name the store and where its keys come from; they may stand before a command or behind
it. Results go to stdout, everything else to stderr.
"""

_VARIABLES = {
    "ZOHO_KEYSTORE_FILE": "The store's file, unless --store names it.",
    "ZOHO_KEYSTORE_KEY": "One or more keys, comma-separated, newest first, unless --key names a source.",
    "ZOHO_KEYSTORE_KEYRING": "The path of a key ring, or a spec as --key takes it, if ZOHO_KEYSTORE_KEY is empty.",
    "ZOHO_KEYSTORE_MYSQL_PASSWORD": "The password of the server that import reads a DBStore's table from.",
    "ZOHO_ACCESS_TOKEN, ZOHO_API_DOMAIN, ZOHO_TOKEN_EXPIRES_AT": "Set by exec for the program that it runs.",
    "BROWSER": "The browser that login opens.",
    "NO_COLOR": "If it is set, output has no colours.",
}

_FILES = {
    "$XDG_CONFIG_HOME/zoho-keystore/keyring": "The key ring of the user, by default in ~/.config.",
    "$XDG_DATA_HOME/zoho-keystore/tokens.keystore": "The store of the user, by default in ~/.local/share.",
    ".NAME.lock": "The lock beside each store: empty, kept, and not to be deleted while a program uses the store.",
}


def filled(text: str) -> str:
    """Return a text in short lines, as roff source has them; roff breaks them anew."""
    return escape(textwrap.fill(text, 76, break_on_hyphens=False, break_long_words=False))


def escape(text: str) -> str:
    """Return a text as roff shows it unchanged: hyphens that can be pasted, and no requests."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...")
    text = re.sub(r",(?=\S)", r",\\:", text)  # A list of scopes may be longer than the line.
    return re.sub(r"^(?=[.'])", r"\\&", text, flags=re.MULTILINE)


def paragraphs(text: str) -> Iterator[str]:
    """Yield the lines of a help text; click marks a block that keeps its line breaks by a backspace."""
    for block in inspect.cleandoc(text).split("\n\n"):
        kept = block.startswith("\b\n")
        yield f".EX\n{escape(block[2:])}\n.EE" if kept else filled(" ".join(block.split()))


def terms(pairs: dict[str, str]) -> Iterator[str]:
    for term, meaning in pairs.items():
        yield f".TP\n.B {escape(term)}\n{filled(meaning)}"


def context_of(command: click.Command, words: str = "") -> click.Context:
    """Return a context of a command; a command keeps the names of its help option from the first one that asks."""
    return click.Context(command, info_name=words, **main.context_settings)


def options(command: click.Command, *, shared: bool) -> dict[str, str]:
    """Return the options of a command with their help; those that most commands share are in one place."""
    context = context_of(command)
    found = {}
    for parameter in command.get_params(context):
        # Arguments have no help of their own in all releases of click.
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record and (shared or not {"--store", "--key", "--help"} & set(parameter.opts)):
            found[record[0]] = " ".join(record[1].split())
    return found


def commands(command: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Yield each command that is no group, with its words, in the order of the help."""
    context = context_of(command)
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        if isinstance(inner, click.Group):
            yield from commands(inner, (*words, name))
        elif inner is not None:
            yield " ".join((*words, name)), inner


def exit_codes() -> dict[str, str]:
    """Return what each exit code means: the first line of the docstring of its errors."""
    codes = {0: "Done.", 1: "Unexpected, or interrupted.", NOT_CONFIRMED: "Not confirmed; nothing was changed."}
    codes[PROBLEMS_FOUND] = "doctor found a problem."
    for family, code in EXIT_CODES.items():
        codes[code] = inspect.cleandoc(family.__doc__ or "").split("\n\n")[0].replace("`", "").replace("\n", " ")
    codes[2] = "Wrong usage. " + codes[2]
    return {str(code): codes[code] for code in sorted(codes)}


def page() -> str:
    """Return the manual page."""
    lines = [
        '.\\" Made by scripts/manpage.py from the commands; do not edit.',
        f'.TH ZOHO\\-KEYSTORE 1 "" "zoho\\-keystore {__version__}" "User Commands"',
        ".nh\n.ad l",  # Else long words, such as addresses, get hyphens and wide spaces.
        ".SH NAME\nzoho\\-keystore \\- manage an encrypted store of Zoho CRM tokens",
        ".SH SYNOPSIS\n.B zoho\\-keystore\n[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARGS\\fR]...",
        ".SH DESCRIPTION",
        filled(_DESCRIPTION.strip()),
        ".SH OPTIONS",
        *terms(options(main, shared=True)),
        ".SH COMMANDS",
        "Each command takes \\-\\-help; all but completion take \\-\\-store and \\-\\-key.",
    ]
    for words, command in commands(main):
        context = context_of(command, words)
        usage = " ".join(piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]")
        lines += [f".SS {escape(f'{words} {usage}'.strip())}", "\n.PP\n".join(paragraphs(command.help or ""))]
        lines += terms(options(command, shared=False))
    lines += [".SH EXIT STATUS", *terms(exit_codes()), ".SH ENVIRONMENT", *terms(_VARIABLES)]
    lines += [".SH FILES", *terms(_FILES)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")

"""The command line: one module a command, each thin over functions that work without it. The SDK is never imported."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from zoho_keystore import errors
from zoho_keystore._cli.common import Settings, printable
from zoho_keystore._version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The exit code of each family of errors; 1 is for what nobody expected, 2 for a wrong use of the command line.
EXIT_CODES: Mapping[type[errors.KeystoreError], int] = {
    errors.ConfigurationError: 2,
    errors.KeyUnavailableError: 3,
    errors.CannotOpenError: 4,
    errors.DocumentError: 5,
    errors.StoreFileError: 6,
    errors.RotationUnfinishedError: 7,
    errors.LockTimeoutError: 8,
    errors.TokenError: 9,
    errors.ImportSourceError: 10,
}

#: What a disk says that takes no more of a result.
_DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}

#: In the order of the help, each with the module that it is in.
_COMMANDS = {
    "init": "init",
    # Not "list": as a name of this module it would stand in the way of the built-in one.
    "list": "list_",
    "show": "show",
    "delete": "delete",
    "import": "import_",
    "export": "export",
    "rotate": "rotate",
    "key": "key",
    "verify": "verify",
    "doctor": "doctor",
    "backup": "backup",
    "restore": "restore",
}


class Failure(click.ClickException):
    """An error that was to be expected: one line, and the exit code of its family."""

    def __init__(self, error: errors.KeystoreError) -> None:
        super().__init__(str(error))
        self.exit_code = next(  # type: ignore[misc] # an attribute of click's class
            (code for family, code in EXIT_CODES.items() if isinstance(error, family)), 1
        )

    def show(self, file: Any = None) -> None:
        """Print the line."""
        line = printable(" ".join(self.message.splitlines()))
        click.echo(f"zoho-keystore: {line}", file=file, err=file is None)


class Program(click.Group):
    """The commands, each of which is loaded when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of all commands, in the order of the help."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        """Return a command."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"zoho_keystore._cli.{_COMMANDS[cmd_name]}").command
        return command

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the program; an output that cannot be written is one line, too."""
        try:
            return super().main(*args, **options)
        except OSError as error:
            # The store's own files are errors of ours; a pipe that was closed is click's business.
            if error.errno not in _DISK_IS_FULL:
                raise
            problem = errors.os_error_text(error)
        click.echo(f"zoho-keystore: the output cannot be written: {problem}. It is not complete", err=True)
        # The interpreter would try to write the rest once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command, and make an error that was to be expected one line."""
        failure = None
        try:
            return super().invoke(ctx)
        except errors.KeystoreError as error:
            failure = Failure(error)
        # Not from within: whoever prints the chain of errors is not to find the frames of the store there.
        raise failure


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--store", metavar="PATH", help="The store. Default: ZOHO_KEYSTORE_FILE, else tokens.keystore in your data folder."
)
@click.option(
    "--key",
    metavar="SPEC",
    help="Where its keys come from: env:NAME, file:PATH, keyring:SERVICE/USER or command:ARGV. "
    "Default: ZOHO_KEYSTORE_KEY, ZOHO_KEYSTORE_KEYRING, else the key ring in your config folder.",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context, store: str | None, key: str | None) -> None:
    """Look after an encrypted store of Zoho CRM tokens."""
    # A name or a sign that the terminal's encoding lacks is not to end the program half-way.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    ctx.obj = Settings(store, key)

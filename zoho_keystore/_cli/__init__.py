"""The command line: one module a command, a thin parser over functions of the package. It never imports the SDK."""

from __future__ import annotations

import codecs
import errno
import importlib
import io
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from zoho_keystore import errors
from zoho_keystore._cli.output import WarningHandler, escape
from zoho_keystore._cli.settings import Settings, settings_options
from zoho_keystore._platform import is_closed_pipe, is_terminal
from zoho_keystore._sql.password import PROMPT
from zoho_keystore._version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The exit code of each family of errors; 1 is for unexpected errors, 2 for wrong usage as well.
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
    # 11 is for a question that was answered with no, 12 for what doctor found.
    errors.SignInNeededError: 14,
    errors.ClientRefusedError: 15,
    # After its kinds, which have codes of their own.
    errors.SignInError: 13,
    errors.ThrottledError: 16,
    errors.ZohoUnreachableError: 17,
    errors.StoreUnavailableError: 18,
}

#: The errors of a write to a full or failing disk.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}

#: The module of each command, in the order of the help.
_COMMANDS = {
    "init": "init",
    "login": "login",
    "token": "token",
    "exec": "exec_",
    # A submodule named "list" would shadow the built-in in this package.
    "list": "list_",
    "show": "show",
    "refresh": "refresh",
    "revoke": "revoke",
    "delete": "delete",
    "cleanup": "cleanup",
    "import": "import_",
    "export": "export",
    "rotate": "rotate",
    "key": "key",
    "verify": "verify",
    "doctor": "doctor",
    "backup": "backup",
    "restore": "restore",
    "copy": "copy",
    "completion": "completion",
}


#: What stands for a character that the output's encoding lacks, such as cp1252 of a pipe on Windows.
_PLAIN = {"✓": "+", "✗": "x", "→": "->", "…": "..."}


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError) and (plain := _PLAIN.get(error.object[error.start])):
        return plain, error.start + 1
    return codecs.backslashreplace_errors(error)


codecs.register_error("zoho-keystore", _plain)


class Failure(click.ClickException):
    """An error of the package: printed as one line, with the exit code of its family."""

    def __init__(self, error: errors.KeystoreError, *, before: str = "") -> None:
        super().__init__(f"{before}{error}")
        self.exit_code = next(  # type: ignore[misc] # an attribute of click's class
            (code for family, code in EXIT_CODES.items() if isinstance(error, family)), 1
        )

    def show(self, file: Any = None) -> None:
        """Print the line."""
        line = escape(" ".join(self.message.splitlines()))
        click.echo(f"zoho-keystore: {line}", file=file, err=file is None)


class Program(click.Group):
    """The group of all commands; the module of a command is imported when the command is used."""

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
        """Run the program; report output that cannot be written in one line."""
        # On Windows, click would put variables and file names into arguments, such as those of the program of exec.
        options.setdefault("windows_expand_args", False)
        try:
            return super().main(*args, **options)
        except OSError as error:
            # The package wraps errors of its own files, and click handles the EPIPE of a closed pipe.
            problem = ""
            if not is_closed_pipe(error):
                if error.errno not in _DISK_ERRORS:
                    raise
                problem = errors.os_error_text(error)
        if problem:
            click.echo(f"zoho-keystore: cannot write the output, it is incomplete: {problem}", err=True)
        # The interpreter flushes stdout at exit and would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; report an error of the package in one line."""
        failure = None
        try:
            return super().invoke(ctx)
        except errors.KeystoreError as error:
            failure = Failure(ctx.ensure_object(Settings).explained(error))
        # Raised out here: the chain would lead to frames with tokens (see zoho_keystore.errors).
        raise failure


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@settings_options
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Manage an encrypted store of Zoho CRM tokens."""
    # A character that the terminal's encoding lacks would end the program in the middle of a table.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="zoho-keystore")
    ctx.call_on_close(WarningHandler.installed())
    PROMPT.use(_ask_password if is_terminal(sys.stdin) else None)
    ctx.call_on_close(lambda: PROMPT.use(None))


def _ask_password(name: str) -> str:
    return str(click.prompt(escape(f"Password of {name}"), hide_input=True, err=True))

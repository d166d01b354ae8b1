"""``command:ARGV``: keys on the standard output of a program, as in a ring file or comma-separated."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from zoho_keystore._keys.fernet_key import MAX_TEXT_BYTES, parse_keys
from zoho_keystore._keys.sources.timeout import run_with_timeout
from zoho_keystore._platform import split
from zoho_keystore.errors import ConfigurationError, KeyUnavailableError, MalformedKeyError, os_error_text

if TYPE_CHECKING:
    from collections.abc import Sequence

#: How long the program may run: it may ask the user for a password.
TIMEOUT_S = 30.0


class Command:
    """Keys that a program prints; it is started without a shell."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments

    @classmethod
    def parse(cls, command: str) -> Command:
        """Return the source of a spec's ARGV, split as the system's shell splits it, or raise ConfigurationError."""
        try:
            arguments = split(command)
        except ValueError:
            arguments = []
        if not arguments:
            raise ConfigurationError(
                "what follows command: is not a program with its arguments",
                "Write them as in a shell, and close each quote: command:pass show zoho-keystore",
            )
        return cls(arguments)

    def load(self) -> Sequence[bytes]:
        """Return the keys that the program prints."""
        # Its standard error goes to that of this process: it tells the user what is wrong.
        try:
            process = subprocess.Popen(  # noqa: S603 - the user names the program
                self._arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
            )
        except (OSError, ValueError) as error:
            problem = os_error_text(error) if isinstance(error, OSError) else "its arguments cannot be passed"
            raise KeyUnavailableError(
                f"{self} cannot be started: {problem}", "Check the program's name, and PATH"
            ) from None
        try:
            output = run_with_timeout(TIMEOUT_S, lambda: _output(process))
        except TimeoutError:
            process.kill()
            process.wait()
            raise KeyUnavailableError(
                f"{self} has not ended within {TIMEOUT_S:g} s",
                "Run it by hand: it may wait for a password, for which it has no terminal here",
            ) from None
        if len(output) > MAX_TEXT_BYTES:
            raise MalformedKeyError(
                f"{self} printed more than {MAX_TEXT_BYTES // 1024} KiB, so no keys", "Check the command"
            )
        if status := process.returncode:
            how = f"status {status}" if status > 0 else f"signal {-status}"
            raise KeyUnavailableError(f"{self} has ended with {how}", "Run it by hand to see why")
        return parse_keys(output, f"the output of {self}")

    def __str__(self) -> str:
        # Without the arguments, which may be confidential.
        return f"command:{self._arguments[0]}" + (" …" if len(self._arguments) > 1 else "")


def _output(process: subprocess.Popen[bytes]) -> bytes:
    with process:
        assert process.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
        output = process.stdout.read(MAX_TEXT_BYTES + 1)
        if len(output) > MAX_TEXT_BYTES:
            process.kill()  # It may print without end.
    return output

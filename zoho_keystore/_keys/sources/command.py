"""``command:ARGV``: keys on the standard output of a program, as in a ring file or comma-separated."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

from zoho_keystore import _platform as platform
from zoho_keystore._keys.fernet_key import MAX_TEXT_BYTES
from zoho_keystore._keys.ring_text import parse
from zoho_keystore.errors import ConfigurationError, KeyUnavailableError, MalformedKeyError, os_error_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoho_keystore._keys.ring_text import RingKeys

#: How long the program may run: it may ask the user for a password.
TIMEOUT_S = 30.0

#: Pauses between two looks at a program's output, in seconds.
_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.05


class Command:
    """Keys that a program prints; it is started without a shell."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments

    @classmethod
    def parse(cls, command: str) -> Command:
        """Return the source of a spec's ARGV, split as the system's shell splits it, or raise ConfigurationError."""
        try:
            arguments = platform.split(command)
        except ValueError:
            arguments = []
        if not arguments:
            raise ConfigurationError(
                "what follows command: is not a program with its arguments",
                "Write them as in a shell, and close each quote: command:pass show zoho-keystore",
            )
        return cls(arguments)

    def load(self) -> RingKeys:
        """Return the keys that the program prints."""
        return parse(self.read(), f"the output of {self}")

    def read(self) -> bytes:
        """Return what the program prints."""
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
        with process:
            output = _output(process, time.monotonic() + TIMEOUT_S)
            status = process.poll()
            if status is None:
                process.kill()  # It hangs, or prints without end.
        if len(output) > MAX_TEXT_BYTES:
            raise MalformedKeyError(
                f"{self} printed more than {MAX_TEXT_BYTES // 1024} KiB, so no keys", "Check the command"
            )
        if status is None:
            raise KeyUnavailableError(
                f"{self} has not ended within {TIMEOUT_S:g} s",
                "Run it by hand: it may wait for a password, for which it has no terminal here",
            )
        if status:
            how = f"status {status}" if status > 0 else f"signal {-status}"
            raise KeyUnavailableError(f"{self} has ended with {how}", "Run it by hand to see why")
        return output

    def __str__(self) -> str:
        # Without the arguments, which may be confidential.
        return f"command:{self._arguments[0]}" + (" …" if len(self._arguments) > 1 else "")


def _output(process: subprocess.Popen[bytes], deadline_s: float) -> bytes:
    """Return what a program prints until it ends, prints too much for keys, or the time is over.

    Without a thread, which a limit on processes may refuse. The end of the program counts, not that of its output: an
    agent that it leaves behind (gpg-agent) may keep that open for ever.
    """
    assert process.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
    fd = process.stdout.fileno()
    output = b""
    pause_s = _FIRST_PAUSE_S
    while len(output) <= MAX_TEXT_BYTES:
        # Asked before the pipe is read: what the program printed is in the pipe when it has ended.
        has_ended = process.poll() is not None
        chunk = platform.read_available(fd, MAX_TEXT_BYTES + 1)
        output += chunk
        if not chunk:
            if has_ended or time.monotonic() >= deadline_s:
                break
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    return output

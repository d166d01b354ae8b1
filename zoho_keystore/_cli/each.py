"""Commands that do something with each of some tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from zoho_keystore._cli import Failure
from zoho_keystore._cli.settings import Settings
from zoho_keystore.errors import KeystoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def run_for_each(work: Callable[[str], None], ids: Sequence[str]) -> None:
    """Do something with each id, also after it failed with one; the exit code is that of the first failure.

    Raises:
        KeystoreError: There is one id, and it failed.
    """
    failures = []
    for id in ids:
        try:
            work(id)
        except KeystoreError as error:
            if len(ids) == 1:
                raise
            explained = click.get_current_context().ensure_object(Settings).explained(error)
            # Errors of Zoho do not name the token.
            failures.append(Failure(explained, before=f"{id}: "))
            failures[-1].show()
    if failures:
        raise click.exceptions.Exit(failures[0].exit_code)

"""``doctor``: diagnose problems of the store and its surroundings."""

from __future__ import annotations

import click

from zoho_keystore._cli.output import console, escape, print_json
from zoho_keystore._cli.settings import Settings, pass_settings
from zoho_keystore._operations.doctor import diagnose
from zoho_keystore._text import count

#: The exit code when a problem was found.
PROBLEMS_FOUND = 12


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def command(settings: Settings, as_json: bool) -> None:  # noqa: FBT001 - click passes by name
    """Diagnose problems of the store, and show how to fix them.

    It checks the store, its keys, and their surroundings, such as plain-text files of the SDK. The exit code is 12 if
    there is a problem.
    """
    diagnostics = diagnose(settings.store, key=settings.key)
    problems = sum(one.is_problem for one in diagnostics)
    if as_json:
        print_json([{"problem": one.is_problem, "what": one.what, "fix": one.fix or None} for one in diagnostics])
    else:
        out = console()
        for one in diagnostics:
            out.print("✗" if one.is_problem else "✓", style="red" if one.is_problem else "green", end=" ")
            out.print(escape(one.what))
            if one.fix:
                out.print(f"  → {escape(one.fix)}")
        click.echo(f"{count(problems, 'problem')} found." if problems else "No problems found.")
    if problems:
        raise click.exceptions.Exit(PROBLEMS_FOUND)

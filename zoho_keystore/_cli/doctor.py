"""``doctor``: what is wrong around the store, and its cure."""

from __future__ import annotations

import click

from zoho_keystore._cli.common import Settings, console, pass_settings, print_json, printable
from zoho_keystore._operations.doctor import diagnose

#: The exit code when something should be done.
FINDINGS = 12


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def command(settings: Settings, as_json: bool) -> None:  # noqa: FBT001 - click passes by name
    """Look for trouble, and say how to cure it.

    It looks at the store, its keys, and what lies around them, such as plain-text files of the SDK. The exit code is
    12 when something is to be cured.
    """
    findings = diagnose(settings.store, key=settings.key)
    trouble = [finding for finding in findings if finding.is_problem]
    if as_json:
        print_json([{"trouble": one.is_problem, "what": one.what, "cure": one.fix or None} for one in findings])
    else:
        out = console()
        for found in findings:
            out.print("✗" if found.is_problem else "✓", style="red" if found.is_problem else "green", end=" ")
            out.print(printable(found.what))
            if found.fix:
                out.print(f"  → {printable(found.fix)}")
        click.echo(f"{len(trouble)} to cure." if trouble else "All is well.")
    if trouble:
        raise click.exceptions.Exit(FINDINGS)

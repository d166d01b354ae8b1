"""The pages that a browser sees. Everything that came in is escaped."""

from __future__ import annotations

from html import escape

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 16px/1.5 sans-serif; background: #f3f5f8; color: #222 }}
main {{ max-width: 32em; margin: 3em auto; padding: 2em; background: #fff; border-radius: 8px }}
button {{ font: inherit; padding: .5em 1.5em; margin-right: 1em }}
footer {{ margin-top: 2em; font-size: 80%; color: #666 }}
</style></head><body><main><h1>{title}</h1>
{body}
<footer>Fake Zoho server on this machine, for tests.</footer></main></body></html>
"""
_BUTTONS = (
    '<button type="submit" id="accept" name="choice" value="accept">Accept</button>'
    '<button type="submit" id="reject" name="choice" value="reject">Reject</button>'
)


def error(title: str, detail: str) -> str:
    """Return the page of an error that sends the browser nowhere."""
    return _PAGE.format(title=escape(title), body=f"<p>{escape(detail)}</p>")


def consent(client_id: str, user: str, scope: str, ticket: str) -> str:
    """Return the page on which the user accepts or rejects what a client asks for."""
    scopes = "".join(f"<li>{escape(name)}</li>" for name in scope.split(","))
    body = (
        f"<p>The client <code>{escape(client_id)}</code> would like to access, as <b>{escape(user)}</b>:</p>"
        f'<ul>{scopes}</ul><form method="post" action="/oauth/v2/auth/consent">'
        f'<input type="hidden" name="ticket" value="{escape(ticket)}">{_BUTTONS}</form>'
    )
    return _PAGE.format(title="Accept access?", body=body)


def device(user: str, user_code: str) -> str:
    """Return the page on which the user enters the code that a device shows."""
    body = (
        f"<p>You are signed in as <b>{escape(user)}</b>. Enter the code that your device shows.</p>"
        '<form method="post" action="/oauth/v3/device">'
        f'<p><input name="user_code" value="{escape(user_code)}"></p>{_BUTTONS}</form>'
    )
    return _PAGE.format(title="Connect a device", body=body)


def done(title: str) -> str:
    """Return a page that tells the user that nothing is left to do."""
    return _PAGE.format(title=escape(title), body="<p>You can close this page.</p>")

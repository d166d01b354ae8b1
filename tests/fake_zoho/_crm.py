"""The CRM's answers: users, org and one module, to access tokens that are valid and have the scope."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fake_zoho._messages import Reply, Request, crm_error

if TYPE_CHECKING:
    from fake_zoho._accounts import Accounts

ZGID = "60001234567"
RESOURCES = ("users", "org", "leads")
_NEEDED_SCOPE = {
    "users": re.compile(r"ZohoCRM\.users\.(ALL|READ)"),
    "org": re.compile(r"ZohoCRM\.org\.(ALL|READ)"),
    "leads": re.compile(r"ZohoCRM\.modules\.(leads\.)?(ALL|READ|CREATE|WRITE)"),
}
_INFO = {"per_page": 200, "count": 1, "page": 1, "more_records": False}


def answer(accounts: Accounts, request: Request, now: float) -> Reply:
    """Answer a request for one of `RESOURCES`. `users` knows the caller alone, whatever `type` it is asked for."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    access = accounts.find_access(token, request.location, now) if scheme == "Zoho-oauthtoken" else None
    if access is None:
        return crm_error(accounts.settings.unauthorized_code, 401)
    # A token without a scope is one that a test made without a sign-in: it may do everything.
    if access.scope and not any(map(_NEEDED_SCOPE[request.kind].fullmatch, access.scope.split(","))):
        return crm_error("OAUTH_SCOPE_MISMATCH", 401)
    if request.kind == "users":
        user = {"id": accounts.user_id(access.user), "email": access.user}
        return Reply(content={"users": [user], "info": _INFO})
    if request.kind == "org":
        return Reply(content={"org": [{"id": "5000000000000", "zgid": ZGID}]})
    if request.method == "POST":
        entry = {"code": "SUCCESS", "details": {"id": "5000000000900"}, "message": "record added", "status": "success"}
        return Reply(content={"data": [entry]}, status=201)
    return Reply(content={"data": [{"id": "5000000000900", "Last_Name": "Lovelace"}], "info": _INFO})

"""Who may speak to the page's server, and how much: Host and Origin, a token beyond loopback, strict headers, limits."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLICY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; connect-src 'self'; "
        "worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Permissions-Policy": "camera=(self), microphone=(self), display-capture=(), geolocation=(), usb=(), serial=()",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


@dataclass
class Bucket:
    """A token bucket: `rate` a second for ever, `burst` at once."""

    rate: float
    burst: float

    def __post_init__(self) -> None:
        self._left, self._at = self.burst, time.monotonic()

    def take(self, amount: float = 1.0) -> bool:
        """Whether `amount` is within the limit; only then it counts."""
        now = time.monotonic()
        self._left = min(self.burst, self._left + (now - self._at) * self.rate)
        self._at = now
        if amount > self._left:
            return False
        self._left -= amount
        return True


class Guard:
    """ASGI middleware around the whole app.

    `token` empty: the server is on loopback, and only names of loopback are answered, so that no foreign site's name can be
    made to lead here. Otherwise everything demands it: as a cookie, which `/?token=…` sets, or as `Authorization: Bearer`.
    """

    def __init__(self, app: ASGIApp, token: str, port: int, secure: bool) -> None:
        self._app = app
        self._token = token
        self._cookie = f"affect_{port}"
        self._secure = secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refuse(scope)
        if refusal is None:
            await self._app(scope, receive, _with_policy(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it was accepted: HTTP 403
        else:
            await refusal(scope, receive, _with_policy(send))

    def _refuse(self, scope: Scope) -> Response | None:
        """None where the request may pass, else the answer."""
        headers = Headers(scope=scope)
        if not self._token and _hostname(headers.get("host", "")) not in LOOPBACK:
            return PlainTextResponse("this page is served to this machine alone, under 127.0.0.1 or localhost\n", 421)
        if scope["type"] == "websocket" and not same_origin(headers, self._secure):
            return PlainTextResponse("foreign origin\n", 403)
        if not self._token or self._known(HTTPConnection(scope), headers):
            return None
        given = QueryParams(scope["query_string"]).get("token", "")
        if scope["type"] == "http" and scope["path"] == "/" and _same(given, self._token):
            answer = RedirectResponse("/", 303)
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="lax", secure=self._secure)
            return answer
        return PlainTextResponse("a token is needed: open the address that the program printed, or send Authorization: Bearer TOKEN\n", 401)

    def _known(self, connection: HTTPConnection, headers: Headers) -> bool:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        return _same(connection.cookies.get(self._cookie, ""), self._token) or (scheme.lower() == "bearer" and _same(bearer, self._token))


def same_origin(headers: Mapping[str, str], secure: bool) -> bool:
    """Whether a request's Origin is the very site that serves it. A request without one comes from no page of ours."""
    origin = urlsplit(headers.get("origin", ""))
    return origin.scheme == ("https" if secure else "http") and origin.netloc != "" and origin.netloc == headers.get("host", "")


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


def _with_policy(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in POLICY.items():
                headers.setdefault(name, value)
        await send(message)

    return sending



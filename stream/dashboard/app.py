"""The web application: the page's files, its two sockets and the health answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Union

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from stream.dashboard.guard import Bucket, Guard
from stream.dashboard.intake import Intake, Source
from stream.dashboard.snapshot import Cursor, health, update
from stream.dashboard.watcher import Watcher
from stream.protocol import MILLISECOND, Control

PAGE = Path(__file__).parent / "page"
MAX_PAGES, MAX_SOURCES = 32, 8
GAP = 0.05
"""Seconds between two messages to a page at least: what came meanwhile goes into one."""
IDLE = 0.15
"""Seconds after which a page is told what no reading brings along."""
TRY_LATER = 1013
"""WebSocket close code."""


class Asked(msgspec.Struct, tag="probe", forbid_unknown_fields=True):
    """What is the session's time? `sent`: ms on the page's clock."""

    sent: float


class Order(msgspec.Struct, tag="order", forbid_unknown_fields=True):
    """All that a page can have done."""

    action: Literal["pause", "resume"]
    target: Literal["*", "camera", "microphone"]


_decoder = msgspec.json.Decoder(Union[Asked, Order])


class Live:
    """Pages that watch. Each is told the newest as fast as it takes it; nothing waits for a slow one."""

    def __init__(self) -> None:
        self.watcher: Watcher
        self.pages: dict[WebSocket, anyio.Event] = {}

    def wake(self) -> None:
        """Something new: call from the server's own thread."""
        for page in list(self.pages):
            self.pages[page].set()

    async def serve(self, page: WebSocket) -> None:
        """One page, until it goes."""
        if len(self.pages) >= MAX_PAGES:
            await page.close(TRY_LATER)
            return
        await page.accept()
        self.pages[page] = anyio.Event()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._tell, page)
                await self._hear(page)
                tasks.cancel_scope.cancel()
        finally:
            del self.pages[page]

    async def _tell(self, page: WebSocket) -> None:
        cursor, seen = Cursor(), 0
        try:
            while True:
                if (told := update(self.watcher, cursor, time.monotonic())) is not None:
                    await page.send_text(told.decode())
                picture = self.watcher.picture
                if picture is not None and picture[0] != seen:
                    seen, shown, jpeg = picture
                    about = msgspec.json.encode({"t": shown.end / MILLISECOND, "box": shown.box})
                    await page.send_bytes(len(about).to_bytes(4, "little") + about + jpeg)
                await anyio.sleep(GAP)
                with anyio.move_on_after(IDLE):
                    await self.pages[page].wait()
                self.pages[page] = anyio.Event()
        except (WebSocketDisconnect, RuntimeError):
            return  # gone while it was being told

    async def _hear(self, page: WebSocket) -> None:
        limit = Bucket(10.0, 20)
        while True:
            message = await page.receive()
            if message["type"] != "websocket.receive":
                return
            try:
                asked = _decoder.decode((message.get("text") or "")[:1024])
            except msgspec.DecodeError:
                await page.close(1003)
                return
            if not limit.take():
                continue
            if isinstance(asked, Asked):
                answer = {"probe": asked.sent, "now": self.watcher.session_now()}
                await page.send_text(msgspec.json.encode(answer).decode())
                continue
            self.watcher.order(Control(action=asked.action, target=asked.target))
            if asked.action == "resume":
                self.watcher.order(Control(action="unmute", target=asked.target))


def build(live: Live, intake: Callable[[], Intake | None], token: str, port: int, secure: bool) -> Guard:
    """The application. `intake` gives what takes a browser's pictures and sound, or None where this server can take none."""

    async def watch(socket: WebSocket) -> None:
        await live.serve(socket)

    async def give(socket: WebSocket) -> None:
        taker = intake()
        if taker is None or len(taker.open) >= MAX_SOURCES:
            await socket.close(TRY_LATER)
            return
        await socket.accept()
        await Source(taker, socket).serve()

    async def healthz(request: Request) -> Response:
        well, told = health(live.watcher, len(live.pages))
        return Response(msgspec.json.encode(told), 200 if well else 503, {"Cache-Control": "no-store"}, "application/json")

    app = Starlette(routes=[
        WebSocketRoute("/live", watch), WebSocketRoute("/source", give), Route("/healthz", healthz),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ])  # fmt: skip
    return Guard(app, token, port, secure)

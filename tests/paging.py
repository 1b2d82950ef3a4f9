"""What tests of the page's server share: a server as a process of its own, and plain clients."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from capturing import free_address
from session import affect
from websockets.sync.client import ClientConnection, connect

from stream.bus import Address


class Server:
    """`affect dashboard` as a process of its own."""

    def __init__(self, hub: str, *more: str) -> None:
        self.host, self.port = "127.0.0.1", Address.parse(free_address()).port
        command = affect("dashboard", "--hub", hub, "--page", f"{self.host}:{self.port}", *more)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()

    @property
    def origin(self) -> str:
        return f"http://{self.host}:{self.port}"

    def get(self, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), {name.lower(): value for name, value in answer.getheaders()}

    def socket(self, path: str, origin: str | None = None, **headers: str) -> ClientConnection:
        return connect(f"ws://{self.host}:{self.port}{path}", origin=origin or self.origin, additional_headers=headers, max_size=None)  # type: ignore[arg-type]


@contextmanager
def serving(hub: str, *more: str) -> Iterator[Server]:
    server = Server(hub, *more)
    try:
        yield server
    finally:
        server.process.terminate()
        assert server.process.wait(20) == 0


def told(socket: ClientConnection, key: str, limit: float = 20.0) -> dict[str, Any]:
    """The first message that says `key`; the connection's keep on being read until it comes."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        message = socket.recv(timeout=limit)
        if isinstance(message, str) and key in (found := json.loads(message)):
            return dict(found)
    raise AssertionError(f"nothing said of {key}")


def until(done: Callable[[], Any], limit: float = 20.0) -> None:
    deadline = time.monotonic() + limit
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)

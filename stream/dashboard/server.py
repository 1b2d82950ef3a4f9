"""`affect dashboard`: the page's server, alone or started by a session."""

from __future__ import annotations

import asyncio
import errno
import multiprocessing
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from stream.bus import Address, Connection
from stream.dashboard import DashboardError
from stream.dashboard.options import DashboardOptions

if TYPE_CHECKING:
    import uvicorn

    from stream.dashboard.watcher import Watcher

MAX_MESSAGE = 1024 * 1024
"""Bytes of a WebSocket message; larger ones end the connection before they are read to the end."""
WATCH = 0.3


def run(options: DashboardOptions, connection: Connection) -> int:
    """Serves until SIGINT, SIGTERM, or the end of the session that started it. Raises DashboardError, BusError."""
    options = options.secured()
    with _listening(options.address) as listener:
        if multiprocessing.parent_process() is None:
            print(f"the page is at {options.url}", flush=True)
        with suppress(KeyboardInterrupt):  # a signal, which uvicorn hands on once it has closed
            asyncio.run(_serve(options, connection, listener))
    return 0


async def _serve(options: DashboardOptions, connection: Connection, listener: socket.socket) -> None:
    import uvicorn  # here, so that a supervisor can name this module's `run` and stay light

    from stream.dashboard.app import Live, build
    from stream.dashboard.intake import Intake
    from stream.dashboard.watcher import Watcher

    loop = asyncio.get_running_loop()
    live = Live()
    live.watcher = Watcher(connection, lambda: _call(loop, live.wake), options.shows_pictures)
    intake = Intake(live.watcher.giver) if live.watcher.giver else None
    config = uvicorn.Config(
        build(live, lambda: intake, options.token, options.address.port, bool(options.cert)),
        log_level="warning", access_log=False, server_header=False, date_header=False, proxy_headers=False, lifespan="off",
        ws_max_size=MAX_MESSAGE, ws_max_queue=8, ws_per_message_deflate=False, timeout_graceful_shutdown=1,
        ssl_certfile=options.cert or None, ssl_keyfile=options.key or None,
    )  # fmt: skip
    server = uvicorn.Server(config)
    live.watcher.start()
    guard = asyncio.create_task(_end(server, live.watcher))
    try:
        await server.serve([listener])
    finally:
        guard.cancel()
        live.watcher.close()


async def _end(server: uvicorn.Server, watcher: Watcher) -> None:
    """Ends with the session that started this process; a page server of its own waits for the next session."""
    parent = multiprocessing.parent_process()
    while parent is not None and parent.is_alive() and not watcher.told_to_stop:
        await asyncio.sleep(WATCH)
    if parent is not None:
        server.should_exit = True


def _call(loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(wake)


@contextmanager
def _listening(address: Address) -> Iterator[socket.socket]:
    """A bound socket. Raises DashboardError when the address cannot be had."""
    host = address.host.strip("[]")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("0.0.0.0" if host == "*" else host, address.port))
        listener.listen()  # who comes before the server is up waits for it
    except OSError as error:
        listener.close()
        why = "something is there already, perhaps another page" if error.errno == errno.EADDRINUSE else error.strerror
        where = f"{address.host}:{address.port}"
        raise DashboardError(f"cannot serve the page at {where}: {why}; choose another with --page HOST:PORT") from error
    with listener:
        yield listener

"""`affect watch`: attaches the terminal view to a running hub."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live

from stream.bus import Bus, Connection
from stream.clock import monotonic
from stream.protocol import ProtocolError, decode
from stream.state import State
from stream.view import render, save_svg, summary

TOPICS = ("session", "status", "face", "voice", "words", "affect")
FRAME = 0.2
"""Seconds between pictures: five a second are calm and cheap."""


@dataclass
class WatchOptions:
    """Watch a running session in this terminal."""

    seconds: float | None = None
    """Stop after this long; by default at Ctrl-C."""
    svg: str = ""
    """At the end, write the view to this file as an SVG picture."""


def run(options: WatchOptions, connection: Connection) -> int:
    """Watches until SIGINT, SIGTERM or the time asked for. Without a terminal it prints one line a second."""
    deadline = time.monotonic() + options.seconds if options.seconds else float("inf")
    with _told_to_stop() as told:
        state = watch(connection, lambda: told() or time.monotonic() > deadline)
    if options.svg:
        save_svg(state, options.svg)
    return 0


def watch(connection: Connection, stop: Callable[[], bool], console: Console | None = None) -> State:
    """Shows the hub's session until `stop` says so; returns what was known at the end.

    Has its own sockets and may run in a thread of the supervisor (which then handles the signals). A hub that is not there yet,
    or goes and comes back, is waited for. Raises BusError for a bad address or bad keys.
    """
    console = console or Console()
    bus = connection.open()
    state = State()
    state.hub = str(bus.address)
    bus.subscribe(*TOPICS)
    try:
        (_draw if console.is_terminal else _print)(state, bus, stop, console)
    finally:
        bus.close()
    return state


def _draw(state: State, bus: Bus, stop: Callable[[], bool], console: Console) -> None:
    plain = console.options.ascii_only
    with Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        while not stop():
            _listen(state, bus, FRAME)
            live.update(render(state, console.width, console.height, plain), refresh=True)
    console.print(render(state, console.width, console.height - 1, plain))


def _print(state: State, bus: Bus, stop: Callable[[], bool], console: Console) -> None:
    said, due = "", 0.0
    while not stop():
        _listen(state, bus, FRAME)
        line = summary(state)
        if line != said and time.monotonic() >= due:
            console.out(line, highlight=False)
            said, due = line, time.monotonic() + 1.0


def _listen(state: State, bus: Bus, seconds: float) -> None:
    """Takes what comes for `seconds`; messages that do not follow the schema are no concern of the view."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        frames = bus.receive(max(1, int(left * 1000)))
        if frames is None:
            break
        try:
            state.update(decode(frames), monotonic())
        except ProtocolError:
            continue
    state.tick(monotonic())


@contextmanager
def _told_to_stop() -> Iterator[Callable[[], bool]]:
    """Says whether SIGINT or SIGTERM came, so that the terminal is always left as it was found."""
    told = threading.Event()
    before = {number: signal.signal(number, lambda *_: told.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

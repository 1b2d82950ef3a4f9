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
from rich.text import Text

from stream.bus import Bus, Connection
from stream.clock import monotonic
from stream.protocol import ProtocolError, Received, decode
from stream.state import State
from stream.view import render, save_svg, summary

TOPICS = ("session", "status", "face", "voice", "words", "affect")
FRAME = 0.2
"""Seconds between pictures: five a second are calm and cheap."""
LINE = 1.0
"""Seconds between lines, where there is no terminal."""


@dataclass
class WatchOptions:
    """Watch a running session in this terminal."""

    seconds: float = 0.0
    """Stop after this long; 0 means at Ctrl-C."""
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

    A hub that is not there yet, or goes and comes back, is waited for. Raises BusError for a bad address or bad keys.
    """
    bus = connection.open()
    bus.subscribe(*TOPICS)
    try:
        with Screen(str(bus.address), console=console) as screen:
            while not stop():
                screen(_next(bus))
        return screen.state
    finally:
        bus.close()


class Screen:
    """The view, fed by whoever has the messages: call it with each one, and with None in every quiet moment.

    On a terminal it draws at most five pictures a second and leaves the last one standing; elsewhere it prints one line a second.
    """

    def __init__(self, hub: str, note: str = "", console: Console | None = None) -> None:
        self.console = console or Console()
        self.state = State()
        self.state.hub, self.state.note = hub, note
        self._live: Live | None = None
        self._due = 0.0
        self._said = ""

    def __enter__(self) -> Screen:
        if self.console.is_terminal:
            self._live = Live(console=self.console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
            self.console.print(self._picture(self.console.height - 2))

    def __call__(self, received: Received | None) -> None:
        now = monotonic()
        if received is not None:
            self.state.update(received, now)
        if time.monotonic() < self._due:
            return
        self.state.tick(now)
        if self._live:
            self._due = time.monotonic() + FRAME
            self._live.update(self._picture(self.console.height), refresh=True)
        elif (line := summary(self.state)) != self._said:
            self._due = time.monotonic() + LINE
            self._said = line
            self.console.out(line, highlight=False)

    def _picture(self, height: int) -> Text:
        return render(self.state, self.console.width, height, self.console.options.ascii_only)


@contextmanager
def screen(hub: str, enabled: bool = True, note: str = "") -> Iterator[Callable[[Received | None], None]]:
    """A `Screen`, or nothing at all where the view is not `enabled`."""
    if not enabled:
        yield lambda received: None
        return
    with Screen(hub, note) as shown:
        yield shown


def _next(bus: Bus) -> Received | None:
    """The next message within a tenth of a second. What does not follow the schema is no concern of the view."""
    frames = bus.receive(100)
    try:
        return decode(frames) if frames is not None else None
    except ProtocolError:
        return None


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

"""What an app imports to read how a person seems to feel. Needs pyzmq and msgspec only.

>>> with Client() as client:
...     for change in client.changes():
...         print(change.emotion, change.probability)
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import zmq

from stream.bus import DEFAULT, Address, Keys, open_socket
from stream.changes import Change, Debouncer
from stream.clock import HostOffset, Probe, SessionClock, host_identity, monotonic
from stream.protocol import Affect, Control, End, ProtocolError, Received, Session, decode, encode

__all__ = ["Affect", "Change", "Client", "ClientError", "ClientTimeout", "Debouncer", "Session"]

Action = Literal["pause", "resume", "mute", "unmute", "stop"]


class ClientError(Exception):
    """What the app asked for cannot be had; the text says why and what to do."""


class ClientTimeout(ClientError):
    """Nothing came in time."""


class Client:
    """A connection to a hub. Iterate over it for results; use it from one thread, and close it (or use `with`).

    Args:
        address: of the hub; `tcp://HOST:PORT`.
        timeout: seconds without a result (or an answer) after which ClientTimeout is raised.
        finals: False gives the provisional result of each window, at once; True the final one, some seconds later, when all
            that was said in it is known; None gives both (see `Affect.final`).
        keys: folder made by `affect keys`, for a hub on another machine.
        backlog: an app slower than the results gets the newest of them: at most this many wait, older ones are counted in
            `skipped`. In a session made of files alone nothing is skipped.

    A hub that goes away and comes back is found again by itself; its results then belong to a new session
    (`Affect.session`, times from 0). Iteration ends when the engine says that the session is over (a file has been played).
    Raises BusError for a bad address or bad keys.
    """

    LOST = 3.0
    """Seconds without a beacon after which the hub is taken to be gone."""

    def __init__(
        self, address: str = DEFAULT, timeout: float = 10.0, finals: bool | None = False, keys: str | Path | None = None, backlog: int = 50
    ) -> None:
        self.address = Address.parse(address).dialled
        self.timeout = timeout
        self.finals = finals
        self.backlog = backlog
        self.skipped = 0
        """Results left out because the app was slower than they came."""
        self.refused = 0
        """Messages that did not follow the schema."""
        self._refusal = ""
        self._session: Session | None = None
        self._beacons = 0
        self._beacon_at = 0.0
        self._waiting: deque[Affect | None] = deque()
        self._offset: HostOffset | None = None
        self._subscribers = 0
        self._context: zmq.Context[Any] = zmq.Context()
        guard = Keys(Path(keys)) if keys else None
        try:
            self._listener = self._connect(zmq.SUB, self.address.listen, guard)
            # XPUB and not PUB: it tells when the hub has subscribed, so that no order is sent to nobody.
            self._speaker = self._connect(zmq.XPUB, self.address.speak, guard)
            self._probe = self._connect(zmq.DEALER, self.address.service, guard)
        except Exception:
            self._context.destroy(linger=0)
            raise
        for topic in ("affect", "session"):
            self._listener.subscribe(topic)

    def _connect(self, kind: int, endpoint: str, keys: Keys | None) -> zmq.Socket[Any]:
        socket = open_socket(self._context, kind)
        if keys:
            keys.protect_client(socket)
        socket.connect(endpoint)
        return socket

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Sends what is queued for at most 0.2 s, then closes. Safe to call twice."""
        if not self._context.closed:
            self._speaker.linger = 200
            for socket in (self._listener, self._speaker, self._probe):
                socket.close()
            self._context.term()

    def __iter__(self) -> Iterator[Affect]:
        """Results as they come. Raises ClientTimeout after `timeout` seconds without one."""
        while (result := self._next_result()) is not None:
            yield result

    def changes(self, hold: float = 0.6, enter: float = 0.5, leave: float = 0.35) -> Iterator[Change]:
        """Changes of emotion as they come; see `Debouncer` for the rule. Raises like iterating over results."""
        debouncer = Debouncer(hold, enter, leave)
        for result in self:
            if change := debouncer.update(result.t, result.top, result.probabilities):
                yield change

    def session(self) -> Session:
        """The session that runs now, from the hub's next beacon (about a second). Raises ClientTimeout."""
        seen = self._beacons
        deadline = time.monotonic() + self.timeout
        while self._beacons == seen or self._session is None:
            self._receive(deadline)
        return self._session

    def now(self) -> int:
        """Session time now (ns), to say when `busy` begins. Raises ClientError where session time has not begun or has no clock."""
        session = self._session or self.session()
        if session.epoch is None:
            session = self.session()
        if session.epoch is None:
            raise ClientError("the session has not begun: it waits for its workers (see `affect watch`)")
        if session.speed is None:
            raise ClientError("this session runs as fast as it can (`--speed max`) and has no clock")
        if session.host != host_identity():
            self._measure_offset()
        return SessionClock(session.epoch, session.speed, self._offset).stamp()

    def control(self, action: Action, target: str = "*") -> None:
        """Gives an order: pause, resume, mute or unmute a worker ("camera", "microphone", "transcriber") or all, or stop.

        Raises ClientTimeout when no hub takes it.
        """
        self._order(Control(action=action, target=target))

    def busy(self, stream: str, begin: int, end: int) -> None:
        """Masks [begin, end] (session ns) of a stream: what is heard in it is the app's own voice, not the person's."""
        self._order(Control(action="busy", target=stream, begin=begin, end=end))

    def _order(self, order: Control) -> None:
        deadline = time.monotonic() + self.timeout
        while self._speaker.poll(0) or self._subscribers <= 0:
            if not self._speaker.poll(max(0, int((deadline - time.monotonic()) * 1000))):
                raise ClientTimeout(self._why_silent("takes the order"))
            self._subscribers += 1 if self._speaker.recv()[:1] == b"\x01" else -1
        self._speaker.send_multipart(encode("control", order))

    def _next_result(self) -> Affect | None:
        """The next wanted result, or None at the session's end."""
        deadline = time.monotonic() + self.timeout
        while not self._waiting:
            self._receive(deadline)
        while len(self._waiting) < 10 * self.backlog and self._listener.poll(0):
            self._receive(deadline)
        if not (self._session and self._session.lossless):
            while len(self._waiting) > self.backlog:
                self._waiting.popleft()
                self.skipped += 1
        return self._waiting.popleft()

    def _receive(self, deadline: float) -> None:
        """Takes one message from the hub. Raises ClientTimeout when none comes before `deadline`."""
        if not self._listener.poll(max(0, int((deadline - time.monotonic()) * 1000))):
            raise ClientTimeout(self._why_silent("sends results"))
        frames = self._listener.recv_multipart()
        if frames[0] == b"affect.json":
            return
        try:
            self._take(decode(frames))
        except ProtocolError as error:
            self.refused += 1
            self._refusal = str(error)

    def _take(self, received: Received) -> None:
        message = received.message
        if isinstance(message, Session):
            if self._session and message.session != self._session.session:
                self._offset = None
            self._session = message
            self._beacons += 1
            self._beacon_at = time.monotonic()
        elif isinstance(message, Affect):
            if self.finals is None or message.final == self.finals:
                self._waiting.append(message)
        elif isinstance(message, End) and received.topic == "affect":
            self._waiting.append(None)

    def _measure_offset(self) -> None:
        """Asks the hub's clock service eight times; the smallest round trip of all so far wins."""
        self._offset = self._offset or HostOffset()
        for _ in range(8):
            self._probe.send(json.dumps({"sent": monotonic()}).encode())
            if not self._probe.poll(int(self.timeout * 1000)):
                raise ClientTimeout(
                    f"the clock service at {self.address.service} does not answer; open that port too (a hub uses three in a row)"
                )
            try:
                answer = json.loads(self._probe.recv())
                self._offset.add(Probe(int(answer["sent"]), int(answer["hub"]), monotonic()))
            except (ValueError, KeyError, TypeError):
                self.refused += 1
        if not len(self._offset):
            raise ClientError(f"{self.address.service} is no clock service; is a hub at {self.address}?")

    def _why_silent(self, what: str) -> str:
        waited = f"nobody at {self.address} {what} ({self.timeout:g} s waited)"
        if self.refused:
            return f"{waited}: {self.refused} messages were refused, the last because of {self._refusal}"
        if self._session is None:
            return (f"{waited}: no hub answers; start one with `affect run`, or give the address of the one that runs "
                    "(and its keys if it has some)")
        if time.monotonic() - self._beacon_at > self.LOST:
            return f"{waited}: the hub has been silent for {time.monotonic() - self._beacon_at:.0f} s; start it again and go on reading"
        workers = ", ".join(f"{name} {state}" for name, state in sorted(self._session.workers.items())) or "none has joined"
        return f"{waited}: a hub answers, its workers: {workers}; `affect watch` shows more"

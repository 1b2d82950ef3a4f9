"""What the page's server knows: a thread listens to the hub and keeps the present state and the last minute; another takes previews."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import zmq

from stream.bus import Bus, Connection
from stream.capture.media import PREVIEW, Giver, PreviewTaker, Shown, local_endpoint
from stream.changes import Debouncer
from stream.clock import HostOffset, Probe, SessionClock, host_identity, monotonic
from stream.protocol import SECOND, SHORTEST_HOP, Affect, Control, ProtocolError, Received, Session, decode, encode
from stream.state import State
from stream.watch import TOPICS

MINUTE = 60 * SECOND
PROBE_EVERY = 2.0


class Watcher:
    """The session as this process sees it. Read `state` and the rest under `lock`.

    `changed` is called from a thread of the watcher with every provisional reading and order to stop: previews and the rest go with these.
    Raises BusError for a bad address or bad keys.
    """

    def __init__(self, connection: Connection, changed: Callable[[], None], preview: bool) -> None:
        self.lock = threading.Lock()
        self.state = State()
        self.state.hub = connection.hub
        self.minute: deque[tuple[int, Affect]] = deque(maxlen=2 * MINUTE // SHORTEST_HOP)
        """(serial, reading) of the last minute, provisionals and finals as they came."""
        self.serial = 0
        self.standing = Debouncer()
        """What stands now, by the rule that apps are told by."""
        self.clock: SessionClock | None = None
        self.told_to_stop = False
        self.picture: tuple[int, Shown, bytes] | None = None
        """Number, moment and JPEG of the newest preview."""
        self.giver: Giver | None = None
        self.giver_missing = ""
        """Why this server can take neither previews nor a browser's camera."""
        self._changed = changed
        self._bus: Bus = connection.open()
        self._bus.subscribe(*TOPICS, "control")
        self._orders: deque[Control] = deque(maxlen=20)
        self._offset: HostOffset | None = None
        self._probed = 0.0
        self._closing = threading.Event()
        self._context: zmq.Context[Any] = zmq.Context()
        self._taker: PreviewTaker | None = None
        self._open_media(preview)
        self._threads = [threading.Thread(target=self._listen, daemon=True, name="watcher")]
        if self._taker:
            self._threads.append(threading.Thread(target=self._look, args=(self._taker,), daemon=True, name="previews"))

    def _open_media(self, preview: bool) -> None:
        hub = self._bus.address
        try:
            self.giver = Giver(self._context, hub)
            self._taker = PreviewTaker(self._context, hub) if preview else None
        except zmq.ZMQError as error:
            self.giver_missing = f"another page's server holds {local_endpoint(hub, PREVIEW)} or the port before ({error})"

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._closing.set()
        for thread in self._threads:
            if thread.ident:
                thread.join(2)
        if self.giver:
            self.giver.close()
        if self._taker:
            self._taker.close()
        self._context.term()

    def order(self, control: Control) -> None:
        """Has an order published; any thread may call it."""
        self._orders.append(control)

    def session_now(self) -> float | None:
        """Session time (ms); None before the session has begun or where it has no clock."""
        with self.lock:
            now = self.clock.now() if self.clock else None
        return None if now is None else now / 1e6

    def _listen(self) -> None:
        while not self._closing.is_set():
            frames = self._bus.receive(50)
            while self._orders:
                self._bus.speaker.send_multipart(encode("control", self._orders.popleft()))
            if self._offset and time.monotonic() - self._probed > PROBE_EVERY:
                self._probe(self._offset)
            if frames is None:
                continue
            try:
                received = decode(frames)
            except ProtocolError:
                continue
            if self._take(received):
                self._changed()
        self._bus.close()

    def _take(self, received: Received) -> bool:
        """Takes a message; whether pages should be told at once."""
        message = received.message
        if isinstance(message, Control):
            self.told_to_stop |= message.action == "stop" and message.target == "*"
            return self.told_to_stop
        with self.lock:
            known = self.state.session
            self.state.update(received, monotonic())
            if isinstance(message, Session):
                if known is None or known.session != message.session or (known.epoch is None and message.epoch is not None):
                    self._adopt(message)
            elif isinstance(message, Affect):
                self.serial += 1
                self.minute.append((self.serial, message))
                while self.minute and self.minute[0][1].t < message.t - MINUTE:
                    self.minute.popleft()
                if not message.final:
                    self.standing.update(message.t, message.top, message.probabilities)
                return not message.final
        return False

    def _adopt(self, session: Session) -> None:
        self.minute.clear()
        self.standing = Debouncer()
        self._offset = None if session.host == host_identity() else HostOffset()
        self.clock = None if session.epoch is None else SessionClock(session.epoch, session.speed)
        self._probed = 0.0

    def _probe(self, offset: HostOffset) -> None:
        """Reads answers of the hub's clock service and asks again: only where its clock is another host's."""
        self._probed = time.monotonic()
        while self._bus.probe.poll(0):
            try:
                answer = json.loads(self._bus.probe.recv())
                offset.add(Probe(int(answer["sent"]), int(answer["hub"]), monotonic()))
            except (ValueError, KeyError, TypeError):
                continue
        session = self.state.session
        if len(offset) and session and session.epoch is not None:
            with self.lock:
                self.clock = SessionClock(session.epoch, session.speed, offset)
        for _ in range(8):
            self._bus.probe.send(json.dumps({"sent": monotonic()}).encode())

    def _look(self, taker: PreviewTaker) -> None:
        number = 0
        while not self._closing.is_set():
            taken = taker.take(100)
            if taken is not None:
                number += 1
                self.picture = (number, *taken)

"""A worker's membership in a session: it says hello, learns the epoch, publishes its streams, beats, obeys."""

from __future__ import annotations

import json
import multiprocessing
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

import psutil
import zmq

from stream.bus import Bus
from stream.clock import HostOffset, Probe, SessionClock, SuspendWatch, host_identity, monotonic
from stream.protocol import (
    FOREVER,
    SECOND,
    Affect,
    Control,
    Credit,
    End,
    Gap,
    Hello,
    Message,
    Progress,
    ProtocolError,
    Received,
    Session,
    Status,
    StreamInfo,
    StreamMessage,
    WorkerState,
    decode,
    encode,
    encode_json,
)

HEARTBEAT = 0.5
"""Seconds between heartbeats; the engine takes a worker silent for six of them for dead (`inlet.DEAD_AFTER`)."""
CREDIT_AHEAD = 12 * SECOND
"""How far a file source may run ahead of the last final."""
PROBES, PROBE_EVERY = 8, 2.0


T = TypeVar("T")


class SessionLost(Exception):
    """No hub answers, or it told us to stop."""


class Superseded(Exception):
    """Another worker of the same name has taken our place in the session."""


class Outlet:
    """One stream of a worker: numbers its messages and keeps its watermark."""

    def __init__(self, node: Node, info: StreamInfo) -> None:
        self.info = info
        self.next_seq = 0
        self.segment = 0
        self.watermark = 0
        self.ended = False
        self._node = node

    def header(self, watermark: int) -> dict[str, Any]:
        """Fields of the next message's header, for `Face(**outlet.header(w), …)`. The watermark never moves back."""
        self.watermark = max(self.watermark, watermark)
        return {
            "session": self._node.session.session, "stream": self.info.name, "instance": self._node.instance, "seq": self.next_seq,
            "segment": self.segment, "watermark": self.watermark, "sent": self._node.clock.stamp(),
        }

    def send(self, message: StreamMessage, payload: bytes | memoryview = b"") -> None:
        """Publishes a message made with `header`."""
        self._node.publish(self.info.name, message, payload)
        if isinstance(message, Affect):
            self._node.bus.speaker.send_multipart(encode_json(message))
        self.next_seq += 1

    def gap(self, begin: int, end: int, reason: str, new_segment: bool = True) -> None:
        """Says that nothing is known of [begin, end]; what follows belongs to a new segment unless told otherwise."""
        if new_segment:
            self.segment += 1
        self.send(Gap(**self.header(end), begin=begin, end=end, reason=reason))

    def end(self, at: int) -> None:
        """The stream is over: its content stopped at session time `at`."""
        if not self.ended:
            self.ended = True
            self.send(End(**self.header(FOREVER), end=at))


class Node:
    """One worker in one session. Use from one thread; call `service` (or `receive`) at least every 100 ms.

    >>> node = Node(Bus(address), "camera", [StreamInfo(name="face", dim=39, rate=30.0)], listen=())
    >>> node.join()                          # waits for the epoch
    >>> face = node.outlets["face"]
    >>> face.send(Face(**face.header(watermark), …), row.tobytes())
    """

    def __init__(
        self, bus: Bus, worker: str, streams: list[StreamInfo], listen: tuple[str, ...] = (), detail: dict[str, str] | None = None,
    ) -> None:
        self.bus = bus
        self.worker = worker
        self.instance = uuid.uuid4().hex[:12]
        self.outlets = {info.name: Outlet(self, info) for info in streams}
        self.detail = detail or {}
        self.session: Session
        self.clock: SessionClock
        self.credit = 0
        self.paused = False
        self.muted = False
        self.busy: list[Control] = []
        """`busy` orders in force (the newest 100): who uses them checks `target` against its streams."""
        self.stopping = False
        self.refused = 0
        """Undecodable or oversized messages received."""
        self.metrics: dict[str, float] = {}
        self._state: WorkerState = "starting"
        self._text = ""
        self._process = psutil.Process()
        self._process.cpu_percent()
        self._beat_at = 0.0
        self._beacon_at = time.monotonic()
        self._offset: HostOffset | None = None
        self._probe_at = 0.0
        self._suspend = SuspendWatch()
        self._aside = ThreadPoolExecutor(1)
        bus.subscribe(*listen, "control", "credit", "session")

    def join(self, timeout: float = 30.0) -> None:
        """Says hello until the session has begun. Raises SessionLost when no hub answers in `timeout` seconds."""
        deadline = time.monotonic() + timeout
        hello = Hello(worker=self.worker, instance=self.instance, streams=[o.info for o in self.outlets.values()], detail=self.detail)
        heard = False
        while True:
            self.bus.speaker.send_multipart(encode("hello", hello))
            until = time.monotonic() + 0.1
            while (left := until - time.monotonic()) > 0:
                received = self._next(int(left * 1000) + 1)
                if received is None or not isinstance(received.message, Session):
                    continue
                beacon = received.message
                heard = True
                if beacon.instances.get(self.worker) == self.instance and beacon.epoch is not None:
                    self._adopt(beacon)
                    self.state("running")
                    return
            if self.stopping:
                raise SessionLost("told to stop before the session began")
            if not heard and time.monotonic() > deadline:
                raise SessionLost(
                    f"no hub answers at {self.bus.address}; start one with `affect run` or `affect hub`, or give --hub ADDRESS "
                    "(and --keys FOLDER where it has keys)")
            if self.orphaned():
                raise SessionLost("the process that started this worker is gone")

    def _adopt(self, beacon: Session) -> None:
        if beacon.host != host_identity():
            self._offset = HostOffset()
            self._probe_now(wait=2.0)
            if not len(self._offset):
                raise SessionLost(
                    f"the clock service at {self.bus.address.service} does not answer; open that port too (the hub uses three in a row)")
        self.session = beacon
        self.clock = SessionClock(beacon.epoch or 0, beacon.speed, self._offset)

    def orphaned(self) -> bool:
        """The supervisor that started this process is gone (its children must not outlive it)."""
        parent = multiprocessing.parent_process()
        return parent is not None and not parent.is_alive()

    def publish(self, topic: str, message: Message, payload: bytes | memoryview = b"") -> None:
        self.bus.speaker.send_multipart(encode(topic, message, payload), copy=len(payload) < 65536)

    def state(self, state: WorkerState, text: str = "") -> None:
        """Changes what heartbeats say, and says it at once."""
        if (state, text) != (self._state, self._text):
            self._state, self._text = state, text
            self.beat()

    def beat(self) -> None:
        """One heartbeat now."""
        self._beat_at = time.monotonic()
        self.metrics["cpu_percent"] = self._process.cpu_percent()
        self.metrics["cpu_seconds"] = sum(self._process.cpu_times()[:2])
        self.metrics["memory_mb"] = self._process.memory_info().rss / 1e6
        if self._offset:
            self.metrics["clock_uncertainty_ms"] = self.clock.uncertainty() / 1e6
        streams = {name: Progress(next_seq=o.next_seq, watermark=o.watermark, segment=o.segment) for name, o in self.outlets.items()}
        self.publish("status", Status(
            session=self.session.session, worker=self.worker, instance=self.instance, state=self._state, text=self._text,
            sent=self.clock.stamp(), streams=streams, metrics=dict(self.metrics),
        ))

    def during(self, work: Callable[..., T], *arguments: Any) -> T:
        """Does work that may take seconds on another thread, and goes on beating meanwhile; messages wait. Raises what `work` raises."""
        future = self._aside.submit(work, *arguments)
        while not wait([future], HEARTBEAT).done:
            self.beat()
        return future.result()

    def service(self, timeout_ms: int = 0) -> None:
        """Obeys orders and beats; waits at most `timeout_ms` for something to do. Drops data messages: use `receive` to get them."""
        for _ in self.receive(timeout_ms):
            pass

    def receive(self, timeout_ms: int = 0) -> Iterator[Received]:
        """Data messages that have come, waiting at most `timeout_ms` for the first. Orders and beacons are handled on the way.

        Raises Superseded when another instance of this worker took over, SessionLost when the hub is gone for 10 s.
        """
        if time.monotonic() - self._beat_at >= HEARTBEAT:
            self.beat()
        if self._offset and time.monotonic() - self._probe_at >= PROBE_EVERY:
            self._probe_now(wait=0.0)
        if self.orphaned():
            self.stopping = True
        received = self._next(timeout_ms)
        while received is not None:
            if not isinstance(received.message, (Session, Control, Credit)):
                yield received
            received = self._next(0)
        if time.monotonic() - self._beacon_at > 10:
            raise SessionLost(f"the hub at {self.bus.address} has been silent for 10 s")

    def slept(self) -> bool:
        """The machine slept since the last call: begin a new segment."""
        return self._suspend.slept() > 0

    def may_publish(self, begin: int) -> bool:
        """Whether a file source may publish content that begins at `begin`: the engine has kept up (always true in a live session)."""
        return not self.session.lossless or begin <= self.credit + CREDIT_AHEAD

    def _next(self, timeout_ms: int) -> Received | None:
        while (frames := self.bus.receive(timeout_ms)) is not None:
            try:
                received = decode(frames)
            except ProtocolError:
                self.refused += 1
                self.metrics["refused"] = self.refused
                continue
            if isinstance(received.message, (Session, Control, Credit)):
                self._obey(received.message)
            return received
        return None

    def _obey(self, message: Session | Control | Credit) -> None:
        if isinstance(message, Session):
            self._beacon_at = time.monotonic()
            if message.instances.get(self.worker, self.instance) != self.instance and hasattr(self, "session"):
                raise Superseded(f"another {self.worker} has joined the session")
        elif isinstance(message, Credit):
            self.credit = max(self.credit, message.through)
        elif message.action == "busy":
            self.busy = [*self.busy, message][-100:]
        elif message.target in ("*", self.worker):
            if message.action == "stop":
                self.stopping = True
            elif message.action in ("pause", "resume"):
                self.paused = message.action == "pause"
            else:
                self.muted = message.action == "mute"

    def _probe_now(self, wait: float) -> None:
        """Reads the answers of earlier probes and sends a new round of eight; waits up to `wait` seconds for all of them."""
        assert self._offset is not None
        self._probe_at = time.monotonic()
        for _ in range(PROBES):
            self.bus.probe.send(json.dumps({"sent": monotonic()}).encode())
            if wait and self.bus.probe.poll(int(wait * 1000)):
                self._take_answers()
        if not wait:
            self._take_answers()

    def _take_answers(self) -> None:
        assert self._offset is not None
        while True:
            try:
                answer = json.loads(self.bus.probe.recv(zmq.NOBLOCK))
                self._offset.add(Probe(int(answer["sent"]), int(answer["hub"]), monotonic()))
            except zmq.Again:
                return
            except (ValueError, KeyError, TypeError):
                self.refused += 1

"""The hub: one address for everybody. Forwards every message, keeps the session, answers what time it is."""

from __future__ import annotations

import json
import signal
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import zmq
from zmq.auth.thread import ThreadAuthenticator

from stream.bus import HIGH_WATER, Address, BusError, Connection, Keys, open_socket
from stream.clock import host_identity, monotonic
from stream.protocol import (
    LONGEST_HOP,
    MILLISECOND,
    SECOND,
    SHORTEST_HOP,
    Affect,
    Control,
    Hello,
    ProtocolError,
    Session,
    Status,
    decode,
    encode,
)

BEACON = 1.0
START_AFTER = 150 * MILLISECOND
"""Epoch lies this far ahead of the moment the last expected worker said hello, so that all learn it in time."""


class HubError(Exception):
    """Options that make no session; the text says why."""


def default_lateness() -> dict[str, int]:
    return {"face": 300 * MILLISECOND, "voice": 300 * MILLISECOND, "words": 4 * SECOND}


@dataclass
class HubOptions:
    """Start a hub alone, for workers on several machines."""

    streams: tuple[str, ...] = ("face", "voice", "words")
    """Streams the session expects: finals wait for them."""
    workers: tuple[str, ...] = ("camera", "microphone", "transcriber", "fusion")
    """The session begins once all of these have said hello."""
    window_s: float = 4.0
    """Length of a window."""
    hop_ms: int = 100
    """Milliseconds from the end of one window to the next: a provisional and a final each."""
    lateness_s: dict[str, float] = field(default_factory=dict)
    """How long a final waits for a stream; default 0.3 for face and voice, 4 for words."""
    insecure: bool = False
    """Bind to an address other than loopback without keys."""
    speed: float | None = 1.0
    """Of file sources; None means as fast as the slowest stage allows."""
    lossless: bool = False
    """All sources are files."""

    def session(self) -> Session:
        """What the hub begins with. Raises HubError for options that make no grid."""
        hop = self.hop_ms * MILLISECOND
        if not SHORTEST_HOP <= hop <= LONGEST_HOP:
            raise HubError(f"--hop-ms {self.hop_ms}: give milliseconds from {SHORTEST_HOP // MILLISECOND} to {LONGEST_HOP // MILLISECOND}")
        if not self.window_s * 1000 >= self.hop_ms:
            raise HubError(f"--window-s {self.window_s:g}: a window must be at least as long as the hop, {self.hop_ms} ms")
        lateness = default_lateness() | {name: int(seconds * SECOND) for name, seconds in self.lateness_s.items()}
        return Session(
            session=uuid.uuid4().hex[:8], epoch=None, host=host_identity(), speed=self.speed, lossless=self.lossless,
            window=int(self.window_s * SECOND), hop=hop,
            lateness={name: lateness.get(name, SECOND) for name in self.streams},
        )


class Hub:
    """Sockets and threads of a hub; usable in-process for tests. Raises BusError when it cannot bind.

    Three threads: ZeroMQ's own proxy (no Python runs in it while messages pass), the clock service, and the session keeper.
    """

    def __init__(
        self, address: Address, session: Session, expected: tuple[str, ...], keys: Keys | None = None, insecure: bool = False,
    ) -> None:
        if not address.local and not keys and not insecure:
            raise BusError(
                f"{address} can be reached from other machines. Make keys with `affect keys FOLDER` and give --keys FOLDER, "
                "bind to 127.0.0.1, or say --insecure in so many words."
            )
        self.address = address
        self.session = session
        self.expected = set(expected)
        self._keys = keys
        self._context: zmq.Context[Any] = zmq.Context()
        self._authenticator = self._guard(keys) if keys else None
        self._stop = threading.Event()
        try:
            self._front = self._bind(zmq.XSUB, address.speak, keys)
            self._back = self._bind(zmq.XPUB, address.listen, keys)
            self._service = self._bind(zmq.ROUTER, address.service, keys)
        except BusError:
            self._context.destroy(linger=0)
            raise
        # Publishers send everything here, whatever is subscribed to: no message is missed because a subscription was on its way.
        self._front.send(b"\x01")
        self._seen: dict[str, float] = {}
        self._threads = [threading.Thread(target=target, daemon=True, name=name)
                         for name, target in (("proxy", self._proxy), ("clock", self._answer), ("keeper", self._keep))]

    def _guard(self, keys: Keys) -> ThreadAuthenticator:
        authenticator = ThreadAuthenticator(self._context)
        authenticator.start()
        authenticator.configure_curve(domain="affect", location=str(keys.folder))
        return authenticator

    def _bind(self, kind: int, endpoint: str, keys: Keys | None) -> zmq.Socket[Any]:
        socket = open_socket(self._context, kind, HIGH_WATER)
        if keys:
            keys.protect_hub(socket)
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            socket.close()
            raise BusError(
                f"cannot bind {endpoint}: {error}. Another hub may be running there (`affect watch` looks); choose another with --hub."
            ) from error
        return socket

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends all threads; safe to call twice."""
        self._stop.set()
        if self._context.closed:
            return
        if self._authenticator:
            self._authenticator.stop()
        if not self._threads[0].ident:  # never started: nobody else holds the sockets
            self._context.destroy(linger=0)
            return
        # Wakes every thread with an error; each closes its own sockets (closing another thread's socket aborts the process).
        self._context.term()

    @property
    def stopped(self) -> bool:
        """Somebody ordered the hub to stop."""
        return self._stop.is_set()

    def _proxy(self) -> None:
        with suppress(zmq.ZMQError):  # the context was terminated
            zmq.proxy(self._front, self._back)
        self._front.close()
        self._back.close()

    def _answer(self) -> None:
        while True:
            try:
                client, question = self._service.recv_multipart()[:2]
                stamp = monotonic()
                self._service.send_multipart([client, json.dumps({**json.loads(question), "hub": stamp}).encode()], zmq.NOBLOCK)
            except zmq.ZMQError as error:
                if error.errno != zmq.EAGAIN:
                    self._service.close()
                    return
            except (ValueError, TypeError):
                continue

    def _keep(self) -> None:
        """Follows hellos and heartbeats through the hub's own sockets, like any other listener, and sends the beacon."""
        listener = open_socket(self._context, zmq.SUB)
        speaker = open_socket(self._context, zmq.PUB)
        if self._keys:
            self._keys.protect_client(listener)
            self._keys.protect_client(speaker)
        listener.connect(self.address.dialled.listen)
        speaker.connect(self.address.dialled.speak)
        for topic in ("hello", "status", "affect", "control"):
            listener.subscribe(topic)
        next_beacon = 0.0
        while not self._stop.is_set():
            try:
                if listener.poll(50):
                    next_beacon = min(next_beacon, self._hear(listener))
                if time.monotonic() >= next_beacon:
                    speaker.send_multipart(encode("session", self.session))
                    next_beacon = time.monotonic() + (BEACON if self.session.epoch is not None else 0.1)
            except zmq.ZMQError:
                break
        listener.close()
        speaker.close()

    def _hear(self, listener: zmq.Socket[Any]) -> float:
        """Takes one message; returns when the beacon must go out because of it."""
        try:
            message = decode(listener.recv_multipart()).message
        except ProtocolError:
            return float("inf")
        session = self.session
        if isinstance(message, Hello):
            fresh = session.instances.get(message.worker) != message.instance
            session.instances[message.worker] = message.instance
            session.workers[message.worker] = "running"
            session.detail[message.worker] = message.detail
            for info in message.streams:
                session.streams[info.name] = info
            if session.epoch is None and self.expected <= set(session.workers):
                session.epoch = monotonic() + START_AFTER
                session.wall = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
            return 0.0 if fresh or session.epoch is not None else float("inf")
        if isinstance(message, Status):
            self._seen[message.worker] = time.monotonic()
            if session.instances.get(message.worker) == message.instance:
                session.workers[message.worker] = message.state
        elif isinstance(message, Affect) and message.final:
            session.last_final = max(session.last_final, message.t)
        elif isinstance(message, Control) and message.action == "stop" and message.target in ("*", "hub"):
            self._stop.set()
        for worker, seen in self._seen.items():
            if time.monotonic() - seen > 3.0 and session.workers.get(worker) not in ("ended", "failed"):
                session.workers[worker] = "failed"
        return float("inf")


def run(options: HubOptions, connection: Connection) -> int:
    """A hub until SIGINT, SIGTERM or a `stop` order."""
    hub = Hub(Address.parse(connection.hub), options.session(), options.workers, connection.load_keys(), options.insecure)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    hub.start()
    while not ended.wait(0.2) and not hub.stopped:
        pass
    hub.stop()
    return 0

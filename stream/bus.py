"""Sockets: where the hub is, who may speak to it, and how bytes get there and back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq
import zmq.auth

from stream.protocol import MAX_PAYLOAD

DEFAULT = "tcp://127.0.0.1:5560"
LOCAL = ("127.", "localhost", "[::1]")
HIGH_WATER = 2000
"""Messages queued for a slow peer before ZeroMQ drops: half a minute of every stream, some 4 MB at most."""


class BusError(Exception):
    """The bus cannot be used as asked: bad address, port taken, keys missing."""


@dataclass(frozen=True)
class Address:
    """Where a hub is. One address for everybody: `tcp://HOST:PORT` means PORT to listen, PORT+1 to speak, PORT+2 for the clock service."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises BusError when `text` is not `tcp://HOST:PORT` (or `HOST:PORT`, or a port alone)."""
        match = re.fullmatch(r"(?:tcp://)?(?:(\[[0-9a-fA-F:]+\]|[\w.*-]+):)?(\d+)", text)
        if not match or not 1 <= int(match[2]) <= 65533:
            raise BusError(f"{text!r} is not a hub address; write tcp://HOST:PORT, for example {DEFAULT}")
        return cls(match[1] or "127.0.0.1", int(match[2]))

    @property
    def local(self) -> bool:
        return self.host.startswith(LOCAL)

    @property
    def dialled(self) -> Address:
        """Where to connect to from this host: one can bind to every interface, not call every interface."""
        return Address("127.0.0.1", self.port) if self.host in ("*", "0.0.0.0") else self

    def endpoint(self, offset: int) -> str:
        return f"tcp://{self.host}:{self.port + offset}"

    @property
    def listen(self) -> str:
        return self.endpoint(0)

    @property
    def speak(self) -> str:
        return self.endpoint(1)

    @property
    def service(self) -> str:
        return self.endpoint(2)

    def __str__(self) -> str:
        return self.endpoint(0)


@dataclass(frozen=True)
class Keys:
    """A folder made by `affect keys`: the hub's key pair and the one its clients share."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Keys:
        """Creates both key pairs (secret files readable by the owner alone). Raises BusError when some are there already."""
        if any(folder.glob("*.key*")):
            raise BusError(f"{folder} already holds keys; choose another folder or delete them first")
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("hub", "client"):
            _, secret = zmq.auth.create_certificates(folder, name)
            Path(secret).chmod(0o600)
        return cls(folder)

    def _load(self, name: str, secret: bool) -> tuple[bytes, bytes | None]:
        file = self.folder / f"{name}.key{'_secret' if secret else ''}"
        try:
            return zmq.auth.load_certificate(file)
        except (OSError, ValueError) as error:
            raise BusError(
                f"no usable key {file}: {error}. Make keys with `affect keys {self.folder}` and copy the folder to the other machine."
            ) from error

    def protect_hub(self, socket: zmq.Socket[Any]) -> None:
        public, secret = self._load("hub", secret=True)
        socket.curve_publickey, socket.curve_secretkey, socket.curve_server = public, secret or b"", True
        socket.zap_domain = b"affect"

    def protect_client(self, socket: zmq.Socket[Any]) -> None:
        public, secret = self._load("client", secret=True)
        socket.curve_publickey, socket.curve_secretkey = public, secret or b""
        socket.curve_serverkey = self._load("hub", secret=False)[0]


def open_socket(context: zmq.Context[Any], kind: int, high_water: int = HIGH_WATER) -> zmq.Socket[Any]:
    """A socket with the limits every socket here has: bounded queues, bounded messages, no lingering at close."""
    socket: zmq.Socket[Any] = context.socket(kind)
    socket.linger = 0
    socket.sndhwm = socket.rcvhwm = high_water
    socket.maxmsgsize = MAX_PAYLOAD
    if kind in (zmq.PUB, zmq.SUB):
        # A peer that vanished without a word (cable, suspend) is noticed and dialled again.
        socket.heartbeat_ivl, socket.heartbeat_timeout = 2000, 10000
        # Whoever dials before the hub is there must not miss the beginning of a session by waiting ever longer.
        socket.reconnect_ivl, socket.reconnect_ivl_max = 100, 400
    return socket


class Bus:
    """One process's connection to a hub: a socket to speak, one to listen, one to ask for the time. Use from one thread."""

    def __init__(self, address: Address | str = DEFAULT, keys: Keys | None = None) -> None:
        self.address = (Address.parse(address) if isinstance(address, str) else address).dialled
        self.keys = keys
        self._context: zmq.Context[Any] = zmq.Context()
        self.speaker = self._connect(zmq.PUB, self.address.speak)
        self.listener = self._connect(zmq.SUB, self.address.listen)
        self.probe = self._connect(zmq.DEALER, self.address.service)

    def _connect(self, kind: int, endpoint: str) -> zmq.Socket[Any]:
        socket = open_socket(self._context, kind)
        if self.keys:
            self.keys.protect_client(socket)
        socket.connect(endpoint)
        return socket

    def subscribe(self, *topics: str) -> None:
        for topic in topics:
            self.listener.subscribe(topic)

    def receive(self, timeout_ms: int = 0) -> list[bytes] | None:
        """Frames of the next message, or None when none comes in `timeout_ms`.

        Subscriptions match by prefix, so who listens to `affect` gets `affect.json` too: those are passed over here.
        """
        while self.listener.poll(timeout_ms):
            frames: list[bytes] = self.listener.recv_multipart()
            if not frames[0].endswith(b".json"):
                return frames
        return None

    def close(self, linger_ms: int = 200) -> None:
        """Sends what is queued for at most `linger_ms`, then closes."""
        self.speaker.linger = linger_ms
        for socket in (self.speaker, self.listener, self.probe):
            socket.close()
        self._context.term()


@dataclass(frozen=True)
class Connection:
    """How a worker reaches its hub."""

    hub: str = DEFAULT
    """Address of the hub."""
    keys: str = ""
    """Folder of keys made by `affect keys`, for a hub on another machine."""

    def load_keys(self) -> Keys | None:
        return Keys(Path(self.keys)) if self.keys else None

    def open(self) -> Bus:
        return Bus(self.hub, self.load_keys())

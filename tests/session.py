"""What tests of whole sessions share: the command, a subscriber of its own, an untrained engine."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from models.calibration import Calibration
from models.engine import cold, compile, save
from models.mea import MEA, MEAConfig
from models.perception.face import FACE
from models.perception.voice import VOICE
from models.perception.words import WORDS
from models.window import WindowSpec
from stream.bus import Address, Bus, Connection
from stream.protocol import Affect, Face, Voice, Words, decode


def affect(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "stream.cli", *map(str, arguments)]


def wait(seconds: float, connection: Connection) -> int:
    """A worker of two threads that do nothing."""
    other = threading.Thread(target=time.sleep, args=(seconds,), daemon=True)
    other.start()
    other.join()
    return 0


def untrained(file: Path) -> Path:
    """A shallow, untrained engine: these tests are about the pipeline, and every reading must follow from what went in."""
    torch.manual_seed(0)
    shallow = MEA(MEAConfig.live(psa_layers=1, hca_layers=1))
    save(file, "mea", shallow, WindowSpec(), {"face": FACE.hash, "voice": VOICE.hash, "words": WORDS.hash}, Calibration.none(), {})
    if cold(file):
        compile(file)  # Here, since sessions are given less time to start.
    return file


class Listener:
    """A subscriber of its own on the hub: keeps everything of the streams that it hears, in order."""

    def __init__(self, address: str) -> None:
        self.heard: dict[str, list[tuple[Any, bytes]]] = {name: [] for name in ("face", "voice", "words", "affect", "status")}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, args=(address,))

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _listen(self, address: str) -> None:
        self._await(Address.parse(address))
        bus = Bus(address)
        bus.subscribe(*self.heard)
        while not self._stop.is_set():
            if (frames := bus.receive(50)) is not None:
                received = decode(frames)
                self.heard[getattr(received.message, "stream", "status")].append((received.message, bytes(received.payload)))
        bus.close(0)

    def _await(self, hub: Address) -> None:
        """Until it is there: who dials earlier dials again only every 0.4 s, and may miss the first messages of a session played fast."""
        while not self._stop.wait(0.02):
            with contextlib.suppress(OSError), socket.create_connection((hub.host, hub.port), 0.5):
                return

    def wait(self, done: Callable[[Listener], bool], timeout: float = 120.0) -> None:
        """Until `done`; fails with what the workers said last."""
        deadline = time.monotonic() + timeout
        while not done(self):
            assert time.monotonic() < deadline, [(m.worker, m.state, m.text) for m, _ in self.heard["status"]][-6:]
            time.sleep(0.05)

    def said(self, worker: str, state: str, since: int = 0) -> list[str]:
        """What `worker` said while in `state`, from the `since`-th status message on."""
        return [m.text for m, _ in self.heard["status"][since:] if m.worker == worker and m.state == state]

    def arrays(self, stream: str) -> list[tuple[int, bytes]]:
        """When each message of features began, and its rows."""
        return [(message.begin, rows) for message, rows in self.heard[stream] if isinstance(message, (Face, Voice))]

    def rows(self, stream: str) -> bytes:
        return b"".join(rows for _, rows in self.arrays(stream))

    def words(self) -> list[Any]:
        return [word for message, _ in self.heard["words"] if isinstance(message, Words) for word in message.committed]

    def finals(self) -> list[Any]:
        return [(m.t, m.top, m.probabilities, m.valence, m.arousal, m.weights, m.present, m.samples)
                for m, _ in self.heard["affect"] if isinstance(m, Affect) and m.final]

"""The browser as camera and microphone: what a page gives comes to the workers through the page's server (`media`)."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import msgspec
import numpy as np
import zmq

from stream.bus import Address, open_socket
from stream.capture.media import BROWSER, MEDIA, QUEUE, Given, local_endpoint
from stream.capture.sound import HELD, RATE, Block
from stream.capture.video import Picture
from stream.clock import monotonic
from stream.protocol import SECOND

SILENT = 1.5
"""Seconds without anything after which a browser counts as gone."""
WAITING = "waits for a browser: open the page and let it use your {}"
SLOW = "nothing comes from the browser's {} just now"

_decoder = msgspec.msgpack.Decoder(Given)


class _Listener:
    """A worker's end: a thread that takes what comes, from `start` to `close`."""

    WORKER = ""
    source = name = BROWSER

    def __init__(self, hub: Address) -> None:
        self._endpoint = local_endpoint(hub, MEDIA)
        self._condition = threading.Condition()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._given_at = 0
        self._reason = ""
        self.lost = ""
        """Set by whoever uses it alone: a browser that is gone may be back with the next message."""
        self.uncertainty = 0
        """Of the newest stamp (ns)."""

    def start(self) -> None:
        """Begins to listen."""
        self.close()
        self.lost = ""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._listen, args=(self._closing,), daemon=True, name=f"browser {self.WORKER}")
        self._thread.start()

    def close(self) -> None:
        """Stops listening and forgets what has come."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(0.5)
        with self._condition:
            self._given_at, self._reason = 0, ""
            self._forget()

    @property
    def ready(self) -> bool:
        """A browser gives at present."""
        return self._given_at > 0 and monotonic() - self._given_at < SILENT * SECOND

    @property
    def hint(self) -> str:
        """Why nothing comes, for people."""
        return self._reason or WAITING.format(self.WORKER)

    def _listen(self, closing: threading.Event) -> None:
        context: zmq.Context[Any] = zmq.Context()
        socket = open_socket(context, zmq.SUB, QUEUE)
        socket.connect(self._endpoint)
        socket.subscribe(self.WORKER)
        try:
            while not closing.is_set():
                if not socket.poll(100):
                    continue
                frames = socket.recv_multipart()
                try:
                    given = _decoder.decode(frames[1])
                except (msgspec.DecodeError, IndexError):
                    continue
                with self._condition:
                    if closing.is_set():
                        break
                    if given.kind == "away":
                        self._given_at, self._reason = 0, given.reason
                        self._forget()
                    else:
                        self._given_at, self._reason, self.uncertainty = monotonic(), SLOW.format(self.WORKER), given.uncertainty
                        self._take(given, frames[2])
                    self._condition.notify_all()
        finally:
            socket.close()
            context.term()

    def _take(self, given: Given, payload: bytes) -> None:
        raise NotImplementedError

    def _forget(self) -> None:
        raise NotImplementedError


class BrowserVideo(_Listener):
    """The newest picture of a browser's camera, with the face of `DeviceVideo`."""

    WORKER = "camera"
    stamped_by = BROWSER
    rate = 30.0

    def __init__(self, hub: Address) -> None:
        super().__init__(hub)
        self._latest: tuple[bytes, int] | None = None
        self.skipped = 0
        """Pictures that a newer one replaced before anybody took them, or that could not be decoded."""

    def take(self, timeout: float) -> tuple[Picture, int] | None:
        """The newest picture, RGB, and when it was taken (monotonic ns), or None when none comes in `timeout` seconds."""
        import cv2

        with self._condition:
            self._condition.wait_for(lambda: self._latest is not None, timeout)
            latest, self._latest = self._latest, None
        if latest is None:
            return None
        picture = cv2.imdecode(np.frombuffer(latest[0], np.uint8), cv2.IMREAD_COLOR)
        if picture is None:
            self.skipped += 1
            return None
        return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8), latest[1]

    def _take(self, given: Given, payload: bytes) -> None:
        self.skipped += self._latest is not None
        self._latest = payload, given.stamp

    def _forget(self) -> None:
        self._latest = None


class BrowserSound(_Listener):
    """The sound of a browser's microphone, with the face of `DeviceSound`."""

    WORKER = "microphone"

    def __init__(self, hub: Address) -> None:
        super().__init__(hub)
        self.rate = RATE
        self._blocks: deque[Block] = deque(maxlen=HELD)

    def take(self, timeout: float) -> list[Block]:
        """Everything that has come since the last call; waits at most `timeout` seconds for it."""
        with self._condition:
            self._condition.wait_for(lambda: self._blocks, timeout)
            blocks = list(self._blocks)
            self._blocks.clear()
        return blocks

    def _take(self, given: Given, payload: bytes) -> None:
        lost = given.lost or len(self._blocks) == HELD
        if given.rate != self.rate:  # another browser: nothing of the one before fits
            self.rate = given.rate
            self._blocks.clear()
        self._blocks.append(Block(np.frombuffer(payload, "<i2").astype(np.int16), given.stamp, lost))

    def _forget(self) -> None:
        self._blocks.clear()

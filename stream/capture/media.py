"""Pictures and sound between the capture workers and the page's server: on loopback, past the hub, dropped where nobody takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec
import zmq

from stream.bus import Address, open_socket
from stream.protocol import SECOND

if TYPE_CHECKING:
    from stream.capture.video import Picture

BROWSER = "browser"
"""The source's name on the command line."""
MEDIA, PREVIEW = 3, 4
"""Ports after the hub's own three, always on loopback: media of the browser to the workers, previews of the camera to the page."""
QUEUE = 16
"""Messages queued between two processes of one host; pictures that would wait longer are old."""
WIDTH, QUALITY = 384, 72
EVERY = SECOND // 12
"""Session time between pictures."""


class Given(msgspec.Struct, kw_only=True):
    """One piece of a browser's picture or sound, or word that there is none for now. Payload: JPEG, or int16 mono."""

    kind: Literal["picture", "sound", "away"]
    stamp: int = 0
    """When it happened, on this host's monotonic clock (ns): a picture's capture, a block's first sample."""
    uncertainty: int = 0
    """Of the conversion from the browser's clock (ns)."""
    rate: int = 16_000
    lost: bool = False
    """Sound is missing before this block."""
    reason: str = ""
    """Why there is none, for people."""


def local_endpoint(hub: Address, offset: int) -> str:
    """Where media beside a hub pass: loopback, whatever the hub is bound to."""
    return f"tcp://127.0.0.1:{hub.port + offset}"


class Giver:
    """The page server's end: hands media to whichever workers listen. Raises zmq.ZMQError when another page server is there already."""

    def __init__(self, context: zmq.Context[Any], hub: Address) -> None:
        self._socket = open_socket(context, zmq.PUB, QUEUE)
        try:
            self._socket.bind(local_endpoint(hub, MEDIA))
        except zmq.ZMQError:
            self._socket.close()
            raise

    def give(self, worker: str, given: Given, payload: bytes | memoryview = b"") -> None:
        """To `worker` ("camera" or "microphone"); dropped where nobody listens."""
        self._socket.send_multipart([worker.encode(), _encode(given), payload])

    def close(self) -> None:
        self._socket.close()


class Shown(msgspec.Struct, kw_only=True):
    """What goes with a picture (JPEG): session time (ns), and the face's box as shares of width and height."""

    end: int
    box: tuple[float, float, float, float] | None = None


_encode = msgspec.msgpack.Encoder().encode
_shown = msgspec.msgpack.Decoder(Shown)


class PreviewSender:
    """The camera's end. Never waits: without a taker there is no picture."""

    def __init__(self, hub: Address) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = open_socket(self._context, zmq.PUSH, 2)
        self._socket.immediate = 1  # no queue for a taker that is not there
        self._socket.connect(local_endpoint(hub, PREVIEW))
        self._due = 0

    def show(self, picture: Picture, box: tuple[float, float, float, float] | None, end: int) -> None:
        """Sends `picture` (H, W, 3) RGB if it is time for one and somebody is there."""
        if self._due - EVERY <= end < self._due or not self._socket.poll(0, zmq.POLLOUT):
            return
        import cv2
        import numpy as np

        self._due = end + EVERY
        height, width = picture.shape[:2]
        if width > WIDTH:
            size = WIDTH, max(1, round(height * WIDTH / width))
            picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        good, jpeg = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        if good:
            self._socket.send_multipart([_encode(Shown(end=end, box=box)), jpeg.tobytes()], zmq.NOBLOCK)

    def close(self) -> None:
        self._socket.close()
        self._context.term()


class PreviewTaker:
    """The page server's end. Raises zmq.ZMQError when another page server is there already."""

    def __init__(self, context: zmq.Context[Any], hub: Address) -> None:
        self._socket = open_socket(context, zmq.PULL, 2)
        try:
            self._socket.bind(local_endpoint(hub, PREVIEW))
        except zmq.ZMQError:
            self._socket.close()
            raise

    def take(self, timeout_ms: int) -> tuple[Shown, bytes] | None:
        """The next picture, or None when none comes in `timeout_ms`."""
        if not self._socket.poll(timeout_ms):
            return None
        frames = self._socket.recv_multipart()
        try:
            return _shown.decode(frames[0]), frames[1]
        except (msgspec.DecodeError, IndexError):
            return None

    def close(self) -> None:
        self._socket.close()

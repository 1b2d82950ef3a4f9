"""What a page gives: pictures and sound of a browser, checked, limited, put on this host's clock and handed to the workers."""

from __future__ import annotations

import struct
from collections import deque
from contextlib import suppress
from typing import Any, Literal, Union

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from stream.capture.media import Given, Giver
from stream.clock import HostOffset, Probe, monotonic
from stream.dashboard.guard import Bucket
from stream.protocol import MILLISECOND, SECOND

MAX_PICTURE, MAX_SOUND, MAX_TEXT = 512 * 1024, 32 * 1024, 2048
"""Bytes of one message."""
LARGEST = 1920 * 1920
"""Pixels of a picture: what it would be in memory is known before it is decoded."""
PICTURES_HZ, SOUND_HZ, TEXTS_HZ = 40.0, 130.0, 20.0
PATIENCE = 50
"""A page that was refused this often within a connection is cut off."""
NEVER_AHEAD, NEVER_BEHIND = SECOND // 4, 3 * SECOND
"""How far a stamp may lie from now and be believed."""
HEADER = struct.Struct("<B3xIdd")
"""Kind (1 picture, 2 sound), number, stamp (ms on the page's clock), first sample; then JPEG or int16 mono."""
PICTURE, SOUND = 1, 2
WORKERS: dict[str, str] = {"camera": "picture", "microphone": "sound"}

AWAY = {
    "hidden": "the page is hidden: its browser gives no picture until it is seen again",
    "unplugged": "the browser's {} was unplugged",
    "refused": "the browser was not allowed to use its {}",
    "stopped": "the page stopped giving its {}",
    "taken": "another page gives its {} now",
    "lost": "the connection to the browser's {} was lost",
}


class Offer(msgspec.Struct, tag="offer", forbid_unknown_fields=True):
    """The page will give these from now on."""

    camera: bool
    microphone: bool
    rate: int = 16_000


class Asked(msgspec.Struct, tag="probe", forbid_unknown_fields=True):
    """What time is it here? `sent`: ms on the page's clock."""

    sent: float


class Answered(msgspec.Struct, tag="probed", forbid_unknown_fields=True):
    """The answer to the probe of `sent` was there at `received`."""

    sent: float
    received: float


class Away(msgspec.Struct, tag="away", forbid_unknown_fields=True):
    what: Literal["camera", "microphone"]
    reason: Literal["hidden", "unplugged", "refused", "stopped"]


_text = msgspec.json.Decoder(Union[Offer, Asked, Answered, Away])


class Refused(Exception):
    """A message from a page that is not taken; the text says why."""


class Intake:
    """Who gives what: at most one page each; the newest offer wins."""

    def __init__(self, giver: Giver) -> None:
        self.giver = giver
        self.holders: dict[str, Source] = {}
        self.open: set[Source] = set()

    def hold(self, worker: str, source: Source) -> Source | None:
        """`source` gives to `worker` from now on; returns who did before."""
        before = self.holders.get(worker)
        self.holders[worker] = source
        return before if before is not source else None

    def leave(self, source: Source) -> None:
        self.open.discard(source)
        for worker in [worker for worker, holder in self.holders.items() if holder is source]:
            del self.holders[worker]
            self.away(worker, "lost")

    def away(self, worker: str, reason: str) -> None:
        self.giver.give(worker, Given(kind="away", reason=AWAY[reason].format(worker)))


class Source:
    """One page's connection."""

    def __init__(self, intake: Intake, socket: WebSocket) -> None:
        self._intake = intake
        self._socket = socket
        self._offset = HostOffset()
        self._probes: dict[float, int] = {}
        self._limits = {PICTURE: Bucket(PICTURES_HZ, 20), SOUND: Bucket(SOUND_HZ, 60), 0: Bucket(TEXTS_HZ, 40)}
        self._rate = 16_000
        self._next_sample: float | None = None
        self._ages: deque[int] = deque(maxlen=60)
        self.refused = 0
        self._why = ""
        self._told_at = 0
        self._uncertainty: int | None = None

    async def serve(self) -> None:
        """Until the page goes. A page that keeps sending what is refused is cut off."""
        self._intake.open.add(self)
        try:
            while True:
                message = await self._socket.receive()
                if message["type"] != "websocket.receive":
                    return
                try:
                    if (data := message.get("bytes")) is not None:
                        self.media(data)
                    else:
                        await self._hear(message.get("text") or "")
                except Refused as refusal:
                    self.refused += 1
                    self._why = str(refusal)
                    if self.refused > PATIENCE:
                        await self._socket.close(1008, self._why)
                        return
                await self._tell()
        except WebSocketDisconnect:
            pass
        finally:
            self._intake.leave(self)

    async def _hear(self, text: str) -> None:
        if len(text) > MAX_TEXT or not self._limits[0].take():
            raise Refused("too much text")
        try:
            message = _text.decode(text)
        except msgspec.DecodeError as error:
            raise Refused(f"not understood: {error}") from error
        if isinstance(message, Asked):
            self._probes[message.sent] = monotonic()
            while len(self._probes) > 20:
                del self._probes[next(iter(self._probes))]
            await self._say({"type": "probe", "sent": message.sent})
        elif isinstance(message, Answered):
            if (answered := self._probes.pop(message.sent, None)) is not None:
                self._offset.add(Probe(round(message.sent * MILLISECOND), answered, round(message.received * MILLISECOND)))
        elif isinstance(message, Offer):
            await self._offer(message)
        elif self._intake.holders.get(message.what) is self:
            self._intake.away(message.what, message.reason)

    async def _offer(self, offer: Offer) -> None:
        if not 8_000 <= offer.rate <= 192_000:
            raise Refused(f"{offer.rate} samples a second")
        self._rate, self._next_sample = offer.rate, None
        for worker, wanted in (("camera", offer.camera), ("microphone", offer.microphone)):
            if wanted:
                before = self._intake.hold(worker, self)
                if before is not None:
                    await before.dismiss(worker)
            elif self._intake.holders.get(worker) is self:
                del self._intake.holders[worker]
                self._intake.away(worker, "stopped")

    async def dismiss(self, worker: str) -> None:
        """Another page gives to `worker` now."""
        await self._say({"type": "taken", "what": worker})

    def media(self, data: bytes) -> None:
        """One binary message. Raises Refused."""
        if len(data) < HEADER.size:
            raise Refused("no header")
        kind, _, stamp, sample = HEADER.unpack_from(data)
        payload = memoryview(data)[HEADER.size:]
        limit = self._limits.get(kind) if kind else None
        if limit is None:
            raise Refused(f"no such kind: {kind}")
        if not limit.take():
            raise Refused("too many messages")
        at, uncertainty = self._convert(stamp)
        if kind == PICTURE:
            self._picture(payload, at, uncertainty)
        else:
            self._sound(payload, at, uncertainty, sample)

    def _convert(self, stamp: float) -> tuple[int, int]:
        """A stamp of the page (ms) on this host's monotonic clock (ns), and its uncertainty."""
        if not len(self._offset):
            raise Refused("no clock probe was answered yet")
        if not 0 <= stamp < 1e13:
            raise Refused("impossible stamp")
        own = round(stamp * MILLISECOND)
        at, now = own + self._offset.offset(own), monotonic()
        if not now - NEVER_BEHIND <= at <= now + NEVER_AHEAD:
            raise Refused(f"stamped {(at - now) / MILLISECOND:+.0f} ms from now")
        self._uncertainty = self._offset.uncertainty(own)
        return min(at, now), self._uncertainty

    def _picture(self, payload: memoryview, at: int, uncertainty: int) -> None:
        if len(payload) > MAX_PICTURE:
            raise Refused(f"a picture of {len(payload)} bytes")
        width, height = jpeg_size(payload)
        if width * height > LARGEST:
            raise Refused(f"a picture of {width} × {height}")
        if self._intake.holders.get("camera") is self:
            self._ages.append(monotonic() - at)
            self._intake.giver.give("camera", Given(kind="picture", stamp=at, uncertainty=uncertainty), payload)

    def _sound(self, payload: memoryview, at: int, uncertainty: int, sample: float) -> None:
        count = len(payload) // 2
        if len(payload) > MAX_SOUND or len(payload) % 2 or not count or count > self._rate:
            raise Refused(f"sound of {len(payload)} bytes")
        lost = self._next_sample is not None and sample != self._next_sample
        self._next_sample = sample + count
        if self._intake.holders.get("microphone") is self:
            given = Given(kind="sound", stamp=at, uncertainty=uncertainty, rate=self._rate, lost=lost)
            self._intake.giver.give("microphone", given, payload)

    async def _tell(self) -> None:
        """Once a second, how what it gives arrives."""
        now = monotonic()
        if now - self._told_at < SECOND:
            return
        self._told_at = now
        ages = sorted(self._ages)
        await self._say({
            "type": "arrives", "age": round(ages[len(ages) // 2] / MILLISECOND, 1) if ages else None,
            "uncertainty": None if self._uncertainty is None else round(self._uncertainty / MILLISECOND, 2),
            "refused": self.refused, "why": self._why,
        })  # fmt: skip

    async def _say(self, told: dict[str, Any]) -> None:
        with suppress(WebSocketDisconnect, RuntimeError):  # it has gone: `serve` notices by itself
            await self._socket.send_text(msgspec.json.encode(told).decode())


def jpeg_size(data: memoryview) -> tuple[int, int]:
    """Width and height that a JPEG's frame header states. Raises Refused when it is no JPEG (ITU-T T.81, B.1 and B.2.2)."""
    if bytes(data[:2]) != b"\xff\xd8":
        raise Refused("no JPEG")
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    raise Refused("a JPEG without a frame")

"""What a browser gives: checked, limited, on this host's clock, at the workers."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import zmq
from capturing import free_address
from paging import Server, serving, told, until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from stream.bus import Address
from stream.capture.browser import BrowserSound, BrowserVideo
from stream.capture.media import Giver
from stream.clock import Probe, monotonic
from stream.dashboard.app import MAX_SOURCES
from stream.dashboard.guard import Bucket
from stream.dashboard.intake import HEADER, MAX_PICTURE, Intake, Refused, Source, jpeg_size
from stream.protocol import SECOND


@pytest.fixture(scope="module")
def hub() -> str:
    """Where a hub would be: what a browser gives passes it by."""
    return free_address()


@pytest.fixture(scope="module")
def server(hub: str) -> Iterator[Server]:
    with serving(hub) as running:
        yield running


def jpeg(width: int = 64, height: int = 48) -> bytes:
    return cv2.imencode(".jpg", np.full((height, width, 3), 128, np.uint8))[1].tobytes()


def media(kind: int, payload: bytes, stamp: float, sample: float = 0.0) -> bytes:
    return HEADER.pack(kind, 0, stamp, sample) + payload


def page_clock() -> float:
    """Milliseconds of a page's clock: any origin will do."""
    return time.monotonic() * 1000 - 5e6


def offer(socket: ClientConnection, **more: Any) -> None:
    """What a page does first: aligns its clock, then offers."""
    for _ in range(3):
        sent = page_clock()
        socket.send(json.dumps({"type": "probe", "sent": sent}))
        assert told(socket, "sent")["sent"] == sent
        socket.send(json.dumps({"type": "probed", "sent": sent, "received": page_clock()}))
    socket.send(json.dumps({"type": "offer", "camera": True, "microphone": True, **more}))


def test_pictures_and_sound_reach_the_workers_on_this_hosts_clock(server: Server, hub: str) -> None:
    video, sound = BrowserVideo(Address.parse(hub)), BrowserSound(Address.parse(hub))
    assert "open the page" in video.hint and not video.ready
    video.start()
    sound.start()
    try:
        with server.socket("/source") as page:
            offer(page, rate=48_000)
            before = monotonic()
            taken = None
            blocks: list[Any] = []
            deadline = time.monotonic() + 20
            while (taken is None or len(blocks) < 2) and time.monotonic() < deadline:
                page.send(media(1, jpeg(), page_clock()))
                page.send(media(2, struct.pack("<3h", 1, -2, 3), page_clock(), 3.0 * len(blocks)))
                taken = taken or video.take(0.05)
                blocks += sound.take(0.05)
            assert taken is not None and taken[0].shape == (48, 64, 3)
            assert before - SECOND // 20 <= taken[1] <= monotonic()
            assert video.ready and 0 < video.uncertainty < SECOND
            assert sound.rate == 48_000 and blocks[0].pcm.tolist() == [1, -2, 3] and abs(blocks[0].stamp - monotonic()) < 20 * SECOND
            page.send(json.dumps({"type": "away", "what": "camera", "reason": "unplugged"}))
            until(lambda: "unplugged" in video.hint)
            assert not video.ready
        until(lambda: "connection" in sound.hint)
    finally:
        video.close()
        sound.close()


def test_the_newest_page_gives(server: Server) -> None:
    with server.socket("/source") as first, server.socket("/source") as second:
        offer(first)
        offer(second)
        assert {told(first, "what")["what"], told(first, "what")["what"]} == {"camera", "microphone"}


def test_fifty_megabytes_are_refused_and_the_server_lives(server: Server) -> None:
    with server.socket("/source") as page:
        offer(page)
        with pytest.raises(ConnectionClosed) as closed:
            page.send(media(1, bytes(50 * 1024 * 1024), page_clock()))
            while True:
                page.recv(timeout=20)
        assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
    assert server.get("/")[0] == 200


def test_a_page_that_keeps_sending_what_is_refused_is_cut_off(server: Server) -> None:
    with server.socket("/source") as page:
        offer(page)
        with pytest.raises(ConnectionClosed) as closed:
            for _ in range(80):
                page.send(media(1, b"no picture", page_clock()))
            while True:
                page.recv(timeout=20)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008


@pytest.fixture
def source() -> Iterator[Source]:
    context: zmq.Context[Any] = zmq.Context()
    giver = Giver(context, Address.parse(free_address()))
    intake = Intake(giver)
    made = Source(intake, None)  # type: ignore[arg-type]
    intake.holders = {"camera": made, "microphone": made}
    made._probes[0.0] = monotonic()
    yield made
    giver.close()
    context.term()


def aligned(source: Source) -> float:
    """The page's time now (ms), after a probe that took no time."""
    source._offset.add(Probe(0, monotonic(), 0))
    return 0.0


@pytest.mark.parametrize(("data", "why"), [
    (b"short", "header"),
    (media(3, b"", 0), "kind"),
    (media(1, b"GIF89a", 0), "no JPEG"),
    (media(1, b"\xff\xd8" + bytes(MAX_PICTURE), 0), "bytes"),
    (media(1, b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff", 0), "65535"),
    (media(1, b"\xff\xd8\xff", 0), "without a frame"),
    (media(1, jpeg(), 60_000), "from now"),
    (media(1, jpeg(), -1.0), "impossible"),
    (media(1, jpeg(), float("nan")), "impossible"),
    (media(2, b"", 0), "sound"),
    (media(2, b"odd", 0), "sound"),
    (media(2, bytes(40_000), 0), "sound"),
])
def test_what_is_no_picture_or_sound_is_refused(source: Source, data: bytes, why: str) -> None:
    aligned(source)
    with pytest.raises(Refused, match=why):
        source.media(data)


def test_nothing_is_taken_before_the_clocks_are_aligned(source: Source) -> None:
    with pytest.raises(Refused, match="probe"):
        source.media(media(1, jpeg(), 0))


def test_too_many_pictures_are_refused(source: Source) -> None:
    aligned(source)
    with pytest.raises(Refused, match="too many"):
        for _ in range(200):
            source.media(media(1, jpeg(8, 8), 0))


def test_a_bucket_fills_again() -> None:
    bucket = Bucket(rate=1000, burst=2)
    assert bucket.take() and bucket.take() and not bucket.take(2)
    time.sleep(0.01)
    assert bucket.take(2)


def test_the_size_of_a_jpeg_is_read_without_decoding() -> None:
    assert jpeg_size(memoryview(jpeg(640, 480))) == (640, 480)


def test_a_given_message_that_is_none_is_passed_over(hub: str) -> None:
    """Whoever else speaks on that port of this machine: the worker lives."""
    address = Address.parse(free_address())
    context: zmq.Context[Any] = zmq.Context()
    giver = Giver(context, address)
    video = BrowserVideo(address)
    video.start()
    try:
        deadline = time.monotonic() + 20
        while not video.ready and time.monotonic() < deadline:
            giver._socket.send_multipart([b"camera", b"\xc1", b""])
            giver._socket.send_multipart([b"camera", msgspec.msgpack.encode({"kind": "picture", "stamp": 5}), b"no picture"])
            time.sleep(0.02)
        assert video.ready and video.take(1.0) is None and video.skipped >= 1
    finally:
        video.close()
        giver.close()
        context.term()


def test_only_so_many_pages_give_at_once(server: Server) -> None:
    with ExitStack() as stack:
        for _ in range(MAX_SOURCES):
            told(stack.enter_context(asking(server)), "sent")
        with pytest.raises(InvalidStatus, match="403"), server.socket("/source"):
            pass
    until(lambda: answers(server))


@contextmanager
def asking(server: Server) -> Iterator[ClientConnection]:
    with server.socket("/source") as page:
        page.send(json.dumps({"type": "probe", "sent": 1.0}))
        yield page


def answers(server: Server) -> bool:
    try:
        with asking(server) as page:
            return told(page, "sent")["sent"] == 1.0
    except InvalidStatus:
        return False

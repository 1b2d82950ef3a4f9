"""The page's server with plain clients: what pages are told, who is let in, what a browser may give."""

from __future__ import annotations

import http.client
import json
import re
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import zmq
from capturing import free_address
from session import affect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from models.emotions import EMOTIONS
from stream.bus import Address, Bus
from stream.capture.browser import BrowserSound, BrowserVideo
from stream.capture.media import Giver
from stream.clock import monotonic
from stream.dashboard import DashboardError
from stream.dashboard.app import PAGE
from stream.dashboard.guard import Bucket, same_origin
from stream.dashboard.intake import HEADER, MAX_PICTURE, Intake, Refused, Source, jpeg_size
from stream.dashboard.options import DEFAULT_PAGE, DashboardOptions, free
from stream.hub import Hub, HubOptions
from stream.node import Node
from stream.protocol import SECOND, Affect, Control, Face, FaceInfo, StreamInfo, Word, Words, decode

TOKEN = "a-token-for-this-test"


class Server:
    """`affect dashboard` as a process of its own."""

    def __init__(self, hub: str, *more: str) -> None:
        self.host, self.port = "127.0.0.1", Address.parse(free_address()).port
        command = affect("dashboard", "--hub", hub, "--page", f"{self.host}:{self.port}", *more)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()

    @property
    def origin(self) -> str:
        return f"http://{self.host}:{self.port}"

    def get(self, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), {name.lower(): value for name, value in answer.getheaders()}

    def socket(self, path: str, origin: str | None = None, **headers: str) -> ClientConnection:
        return connect(f"ws://{self.host}:{self.port}{path}", origin=origin or self.origin, additional_headers=headers, max_size=None)  # type: ignore[arg-type]


@contextmanager
def serving(hub: str, *more: str) -> Iterator[Server]:
    server = Server(hub, *more)
    try:
        yield server
    finally:
        server.process.terminate()
        assert server.process.wait(20) == 0


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    address = free_address()
    running = Hub(Address.parse(address), HubOptions().session(), ("fusion",))
    running.start()
    yield address
    running.stop()


@pytest.fixture(scope="module")
def fusion(hub: str) -> Iterator[Node]:
    """A made-up worker that tells faces, words and readings."""
    infos = [StreamInfo(name=name, source="browser") for name in ("affect", "face", "words")]
    node = Node(Bus(hub), "fusion", infos, listen=("affect",))
    node.join()
    yield node
    node.bus.close()


@pytest.fixture(scope="module")
def server(hub: str, fusion: Node) -> Iterator[Server]:
    with serving(hub) as running:
        until(lambda: running.get("/healthz")[0] == 200)
        yield running


@pytest.fixture(scope="module")
def guarded(hub: str) -> Iterator[Server]:
    with serving(hub, "--token", TOKEN) as running:
        yield running


def tell(node: Node, t: int, top: str | None = "happy", final: bool = False) -> None:
    probabilities = {name: 0.7 if name == top else 0.05 for name in EMOTIONS}
    outlet = node.outlets["affect"]
    outlet.send(Affect(
        **outlet.header(0), t=t, window=t // (SECOND // 10), final=final, closed_by="time", top=top, probabilities=probabilities,
        valence=0.5, arousal=-0.25, weights={"text": 0.0, "voice": 0.25, "face": 0.75}, present=["voice", "face"], samples={},
        model="made-up", backend="none",
    ))  # fmt: skip
    node.service()


def told(socket: ClientConnection, key: str, limit: float = 20.0) -> dict[str, Any]:
    """The first message that says `key`; the connection's keep on being read until it comes."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        message = socket.recv(timeout=limit)
        if isinstance(message, str) and key in (found := json.loads(message)):
            return dict(found)
    raise AssertionError(f"nothing said of {key}")


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


# --- what pages are told

def test_a_page_is_told_the_last_minute_then_every_reading(server: Server, fusion: Node) -> None:
    for k in range(1, 6):
        tell(fusion, k * SECOND // 10)
    tell(fusion, SECOND // 10, "sad", final=True)
    time.sleep(0.5)
    with server.socket("/live") as page:
        hello = told(page, "hello")
        assert [row[:3] for row in hello["minute"]][:2] == [[100, 1, EMOTIONS.index("sad")], [200, 0, EMOTIONS.index("happy")]]
        tell(fusion, 6 * SECOND // 10)
        message = told(page, "rows")
        t, final, top, valence, arousal, shares, weights, present, changed = message["rows"][0]
        assert (t, final, EMOTIONS[top], valence, arousal, changed) == (600, 0, "happy", 0.5, -0.25, 0)
        assert shares[top] == 0.7 and weights == [0, 0.25, 0.75] and present == 0b110
        assert told(page, "streams")["sources"] == {"face": "browser"}


def test_a_change_is_told_by_the_rule_of_the_apps(server: Server, fusion: Node) -> None:
    with server.socket("/live") as page:
        told(page, "hello")
        for k in range(20, 40):
            tell(fusion, k * SECOND // 10, "angry")
        while told(page, "standing")["standing"] != "angry":
            pass


def test_faces_and_words_reach_the_page(server: Server, fusion: Node) -> None:
    face, words = fusion.outlets["face"], fusion.outlets["words"]
    with server.socket("/live") as page:
        told(page, "hello")
        info = FaceInfo(track=1, quality=0.8, box=(0.1, 0.2, 0.5, 0.6))
        face.send(Face(**face.header(0), begin=0, end=1, uncertainty=0, grabbed=1, features="", face=info))
        said = [Word(text="hello", begin=0, end=SECOND, probability=1.0)]
        guess = [Word(text="there", begin=SECOND, end=2 * SECOND, probability=1.0)]
        words.send(Words(**words.header(0), committed=said, tentative=guess, revision=1, features=""))
        time.sleep(0.3)
        tell(fusion, 5 * SECOND)
        message = told(page, "words")
        assert message["words"] == [["hello", 0, 1000]] and message["tentative"] == ["there"]
        tell(fusion, 5 * SECOND + SECOND // 10)
        assert told(page, "face")["face"]["box"] == [0.1, 0.2, 0.5, 0.6]


def test_a_slow_page_gets_the_newest_and_no_backlog(server: Server, fusion: Node) -> None:
    """A page that stops reading: what it finds when it reads again is bounded, and its end is the newest."""
    with server.socket("/live") as page:
        told(page, "hello")
        for k in range(100, 400):
            tell(fusion, k * SECOND // 10)
            time.sleep(0.002)
        message = told(page, "rows")
        while message["rows"][-1][0] != 39900:
            assert len(message["rows"]) <= 20
            message = told(page, "rows")


def test_the_pages_clock_and_orders(server: Server, fusion: Node, hub: str) -> None:
    with server.socket("/live") as page:
        page.send(json.dumps({"type": "probe", "sent": 12.5}))
        answer = told(page, "probe")
        assert answer["probe"] == 12.5 and abs(answer["now"] - fusion.clock.stamp() / 1e6) < 20_000
        bus = Bus(hub)
        bus.subscribe("control")
        time.sleep(0.3)
        heard: list[tuple[str, str]] = []
        page.send(json.dumps({"type": "order", "action": "resume", "target": "camera"}))
        deadline = time.monotonic() + 20
        while len(heard) < 2 and time.monotonic() < deadline:
            if frames := bus.receive(100):
                order = decode(frames).message
                assert isinstance(order, Control)
                heard.append((order.action, order.target))
        bus.close()
        assert heard == [("resume", "camera"), ("unmute", "camera")]


@pytest.mark.parametrize("order", [
    {"type": "order", "action": "stop", "target": "*"}, {"type": "order", "action": "pause", "target": "fusion"}, {"type": "run"}, "?",
])
def test_a_page_can_order_nothing_else(server: Server, order: Any) -> None:
    with server.socket("/live") as page:
        page.send(json.dumps(order) if isinstance(order, dict) else order)
        with pytest.raises(ConnectionClosed):
            while True:
                page.recv(timeout=20)


def test_health_names_every_stream_and_worker(server: Server) -> None:
    status, body, headers = server.get("/healthz")
    health = json.loads(body)
    assert status == 200 and health["ok"] and headers["cache-control"] == "no-store"
    assert set(health["streams"]) == {"face", "voice", "words", "affect"} and health["workers"]["fusion"]["state"] == "running"


def test_without_a_hub_the_page_waits_and_health_says_so() -> None:
    with serving(free_address()) as alone:
        status, body, _ = alone.get("/healthz")
        assert status == 503 and "no hub" in json.loads(body)["cause"]
        with alone.socket("/live") as page:
            assert told(page, "streams")["session"] is None


# --- who is let in

def test_files_and_headers(server: Server) -> None:
    status, body, headers = server.get("/")
    assert status == 200 and "<title>affect</title>" in body
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert headers["x-content-type-options"] == "nosniff" and headers["cross-origin-opener-policy"] == "same-origin"
    for path in ("/../server.py", "/%2e%2e/server.py", "/..%2fserver.py", "/nothing"):
        assert server.get(path)[0] == 404
    for file in PAGE.iterdir():
        assert server.get(f"/{file.name}")[0] == 200


def test_nothing_of_the_page_comes_from_elsewhere_and_it_is_small() -> None:
    files = [file for file in PAGE.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 300_000
    for file in files:
        addresses = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"']*", file.read_text())
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, file


@pytest.mark.parametrize("path", ["/live", "/source"])
@pytest.mark.parametrize("origin", ["http://evil.example", "https://127.0.0.1", "null", "http://127.0.0.1.evil.example"])
def test_a_foreign_origin_is_refused(server: Server, path: str, origin: str) -> None:
    with pytest.raises(InvalidStatus, match="403"), server.socket(path, origin=origin):
        pass


def test_no_origin_at_all_is_refused(server: Server) -> None:
    with pytest.raises(InvalidStatus, match="403"), connect(f"ws://{server.host}:{server.port}/live"):
        pass


def test_on_loopback_no_foreign_name_leads_here(server: Server) -> None:
    assert server.get("/", Host="rebound.example")[0] == 421
    assert server.get("/", Host=f"localhost:{server.port}")[0] == 200


def test_without_its_token_nothing_is_given(guarded: Server) -> None:
    for path in ("/", "/main.js", "/healthz", "/?token=wrong"):
        assert guarded.get(path)[0] == 401
    for path in ("/live", "/source"):
        with pytest.raises(InvalidStatus, match="403"), guarded.socket(path):
            pass


def test_the_token_is_given_once_and_kept_as_a_cookie(guarded: Server) -> None:
    assert TOKEN in guarded.said
    status, _, headers = guarded.get(f"/?token={TOKEN}")
    assert status == 303 and headers["location"] == "/"
    assert "HttpOnly" in headers["set-cookie"] and "SameSite=lax" in headers["set-cookie"]
    cookie = headers["set-cookie"].partition(";")[0]
    assert guarded.get("/", Cookie=cookie)[0] == 200
    assert guarded.get("/healthz", Authorization=f"Bearer {TOKEN}")[0] in (200, 503)
    with guarded.socket("/live", Cookie=cookie) as page:
        told(page, "hello")


def test_beyond_loopback_a_token_is_made_up_and_pictures_are_kept_back() -> None:
    near, far = DashboardOptions().secured(), DashboardOptions(page="0.0.0.0:5570").secured()
    assert near.token == "" and near.shows_pictures
    assert len(far.token) > 20 and far.token in far.url and not far.shows_pictures
    assert far.token != DashboardOptions(page="0.0.0.0:5570").secured().token
    assert DashboardOptions(page="0.0.0.0:5570", preview=True).shows_pictures
    with pytest.raises(DashboardError, match="together"):
        DashboardOptions(cert="cert.pem").secured()
    with pytest.raises(DashboardError, match="no such file"):
        DashboardOptions(cert="nowhere.pem", key="nowhere.pem").secured()
    with pytest.raises(DashboardError, match="HOST:PORT"):
        DashboardOptions(page="somewhere").secured()


def test_a_page_whose_port_is_taken(server: Server, hub: str) -> None:
    command = affect("dashboard", "--page", f"127.0.0.1:{server.port}", "--hub", hub)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and "--page" in done.stderr
    assert free(f"127.0.0.1:{server.port}") != f"127.0.0.1:{server.port}"
    assert Address.parse(free(DEFAULT_PAGE)).host == "127.0.0.1"


def test_same_origin_is_exact() -> None:
    assert same_origin({"origin": "http://localhost:5570", "host": "localhost:5570"}, secure=False)
    assert not same_origin({"origin": "http://localhost:5570", "host": "localhost:5570"}, secure=True)
    assert not same_origin({"origin": "http://localhost:5571", "host": "localhost:5570"}, secure=False)
    assert not same_origin({}, secure=False)


# --- what a browser may give

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


def until(done: Any, limit: float = 20.0) -> None:
    deadline = time.monotonic() + limit
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


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
    from stream.clock import Probe

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

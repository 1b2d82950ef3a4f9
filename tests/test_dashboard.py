"""The page's server with plain clients: what pages are told, who is let in, what a browser may give."""

from __future__ import annotations

import json
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from capturing import free_address
from paging import Server, serving, told, until
from session import affect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from models.emotions import EMOTIONS
from stream.bus import Address, Bus
from stream.dashboard import DashboardError
from stream.dashboard.app import PAGE
from stream.dashboard.guard import same_origin
from stream.dashboard.options import DEFAULT_PAGE, DashboardOptions, free
from stream.hub import Hub, HubOptions
from stream.node import Node
from stream.processes import StartError
from stream.protocol import SECOND, Affect, Control, Face, FaceInfo, StreamInfo, Word, Words, decode
from stream.supervisor import RunOptions, plan

TOKEN = "a-token-for-this-test"


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


def test_only_a_page_on_loopback_has_the_camera_hand_out_pictures() -> None:
    run = RunOptions(camera="browser", microphone="none")
    near, far = DashboardOptions().secured(), DashboardOptions(page="0.0.0.0:5570").secured()
    assert plan(run, near)["camera"][1].preview and not plan(run, far)["camera"][1].preview
    assert "dashboard" not in plan(RunOptions())
    with pytest.raises(StartError, match="--no-page"):
        plan(run)
    assert RunOptions(no_page=True).dashboard() is None and RunOptions(speed="max").dashboard() is None


def test_a_page_over_tls(hub: str, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: no certificate to serve with")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert], check=True, capture_output=True)
    with serving(hub, "--cert", str(cert), "--key", str(key)) as secure:
        context = ssl.create_default_context(cafile=cert)
        url = f"wss://{secure.host}:{secure.port}/live"
        with connect(url, ssl=context, origin=f"https://{secure.host}:{secure.port}") as page:  # type: ignore[arg-type]
            told(page, "hello")
        with pytest.raises(InvalidStatus, match="403"), connect(url, ssl=context, origin=secure.origin):  # type: ignore[arg-type]
            pass


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

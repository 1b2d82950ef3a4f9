"""What the terminal view knows and draws, from made-up messages."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from stream.bus import Address, Bus, Connection
from stream.hub import Hub, HubOptions
from stream.protocol import (
    FOREVER,
    MILLISECOND,
    SECOND,
    Affect,
    End,
    Face,
    FaceInfo,
    Gap,
    Message,
    Newest,
    Received,
    Session,
    Status,
    Voice,
    Word,
    Words,
    encode,
)
from stream.state import State
from stream.view import render, save_svg, summary
from stream.watch import Screen, watch

BASE = 10**12
"""The listener's monotonic clock at session time 0."""
MS = MILLISECOND


class Scene:
    """Sends made-up messages to a State."""

    def __init__(self, session: str = "5f3c9a1e", speed: float | None = 1.0) -> None:
        self.state = State()
        self.state.hub = "tcp://127.0.0.1:5560"
        self.seq: dict[str, int] = {}
        self.session = Session(session=session, epoch=BASE, host="h", speed=speed, window=4 * SECOND, hop=100 * MS, lateness={})

    def put(self, topic: str, message: Message, at: int) -> None:
        self.state.update(Received(topic, message, memoryview(b"")), BASE + at)

    def beacon(self, at: int = 0) -> None:
        self.put("session", self.session, at)

    def header(self, stream: str, sent: int, instance: str = "i") -> dict[str, Any]:
        seq = self.seq.get(stream, 0)
        self.seq[stream] = seq + 1
        return {"session": "s", "stream": stream, "instance": instance, "seq": seq, "watermark": sent, "sent": sent}

    def face(self, t: int, there: bool = True, instance: str = "i") -> None:
        info = FaceInfo(track=1, quality=0.8, box=(0, 0, 1, 1)) if there else None
        header = self.header("face", t + 38 * MS, instance)
        self.put("face", Face(**header, begin=t, end=t, uncertainty=0, grabbed=t, features="f", face=info), t + 40 * MS)

    def words(self, t: int, committed: str, tentative: str) -> None:
        kinds = {name: [Word(text=text, begin=t - SECOND, end=t - SECOND, probability=1.0) for text in given.split()]
                 for name, given in (("committed", committed), ("tentative", tentative))}  # fmt: skip
        self.put("words", Words(**self.header("words", t), revision=1, features="w", **kinds), t)

    def affect(self, t: int, final: bool = False, top: str | None = "happy", present: tuple[str, ...] = ("text", "voice", "face")) -> None:
        header = self.header("affect", t + (1300 if final else 41) * MS)
        message = Affect(
            **header, t=t, window=t // (100 * MS), final=final, closed_by="watermark", top=top, present=list(present), samples={},
            probabilities={top: 0.62, "neutral": 0.2} if top else {}, valence=0.5 if top else None, arousal=-0.25 if top else None,
            weights={"text": 0.12, "voice": 0.27, "face": 0.61}, changed=final, model="mea", backend="eager", features={"face": "a1b2c3d4"},
            newest={} if final else {"face": Newest(end=t - 30 * MS, grabbed=t, sent=t, received=t)}, started=t, computed=t + 9 * MS,
        )  # fmt: skip
        self.put("affect", message, header["sent"] + MS)

    def status(self, worker: str, state: Any, text: str = "", at: int = 0) -> None:
        self.put("status", Status(session="s", worker=worker, instance="i", state=state, text=text, sent=at), at)

    def play(self, seconds: int = 6) -> Scene:
        self.beacon()
        for k in range(1, seconds * 30):
            t = k * SECOND // 30
            self.face(t)
            if k % 3 == 0:
                rows: dict[str, Any] = {"begin": t - 100 * MS, "hop": 20 * MS, "rows": 5, "grabbed": t}
                voice = Voice(**self.header("voice", t + 24 * MS), **rows, uncertainty=0, features="v", level=-30.0)
                self.put("voice", voice, t + 25 * MS)
                self.affect(t)
                if t > 2 * SECOND:
                    self.affect(t - 1300 * MS, final=True)
        for worker in ("camera", "microphone", "transcriber", "fusion"):
            self.status(worker, "running", at=seconds * SECOND)
        self.beacon(seconds * SECOND)
        return self

    def text(self, width: int = 80, height: int = 24, ascii_only: bool = False) -> str:
        return render(self.state, width, height, ascii_only).plain


def test_rates_lags_and_latencies_are_those_of_the_messages() -> None:
    state = Scene().play().state
    rates = {name: state.flows[name].recent.rate(state.now) for name in ("face", "voice", "affect")}
    assert rates == {"face": pytest.approx(30, abs=0.5), "voice": pytest.approx(50, abs=1.5), "affect": pytest.approx(10, abs=0.5)}
    assert (state.lag("face"), state.lag("voice")) == (pytest.approx(38), pytest.approx(24, abs=0.1))
    assert (state.stage("face"), state.stage("window"), state.stage("final"), state.stage("model")) == pytest.approx((71, 41, 1300, 9))


def test_a_missing_number_is_a_loss_and_a_new_instance_is_not() -> None:
    scene = Scene()
    scene.beacon()
    for t in (1, 2):
        scene.face(t * SECOND)
    scene.seq["face"] += 3
    scene.face(3 * SECOND)
    assert scene.state.flows["face"].lost == 3
    scene.seq["face"] = 0
    scene.face(4 * SECOND, instance="j")
    assert scene.state.flows["face"].lost == 3
    assert "     3" in next(line for line in scene.text().splitlines() if line.startswith("  face"))


def test_everything_fits_in_eighty_by_twentyfour_and_says_what_it_must() -> None:
    scene = Scene().play()
    scene.words(6 * SECOND, "i am so happy", "to see you")
    lines = scene.text().splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for expected in (
        "▸ happy", "62%", "valence +0.50", "arousal -0.25", "i am so happy to see you", "3 tentative", "30.0/s", "38 ms", "mea eager",
        "face a1b2c3", "changed by late words", "reads expressions, not minds", "live", "● running",
    ):  # fmt: skip
        assert expected in text, expected


@pytest.mark.parametrize(("width", "height"), [(20, 5), (40, 10), (60, 20), (80, 24), (120, 40), (300, 80)])
def test_it_fits_every_terminal_and_keeps_the_emotions_longest(width: int, height: int) -> None:
    lines = Scene().play().text(width, height).splitlines()
    assert len(lines) <= height and max(map(len, lines)) <= width
    assert any("happy" in line for line in lines)


def test_provisional_and_final_are_both_seen_and_told_apart() -> None:
    scene = Scene().play()
    scene.affect(7 * SECOND, top="sad")
    text = scene.text()
    sad, happy = (next(line for line in text.splitlines() if line[2:].startswith(name)) for name in ("sad", "happy"))
    assert sad.startswith("▸") and "○" not in sad[:45]
    assert not happy.startswith("▸") and "62% ○" in happy


def test_tentative_words_are_pale_and_committed_ones_are_not() -> None:
    scene = Scene().play()
    scene.words(6 * SECOND, "surely", "perhaps")
    picture = render(scene.state, 80, 24)
    styles = {picture.plain[span.start:span.end].strip(): str(span.style) for span in picture.spans}
    assert "dim" in styles["perhaps"] and "dim" not in styles.get("surely", "")


def test_a_state_is_never_told_by_colour_alone() -> None:
    scene = Scene().play()
    scene.status("camera", "paused", "asked to pause", at=6 * SECOND)
    scene.status("microphone", "reconnecting", "the device is gone; trying again", at=6 * SECOND)
    out = io.StringIO()
    Console(file=out, width=80, no_color=True, force_terminal=True).print(render(scene.state, 80, 24))
    for expected in ("paused", "reconnecting", "camera: asked to pause", "microphone: the device is gone"):
        assert expected in out.getvalue()
    assert "38;5" not in out.getvalue() and "\x1b[32m" not in out.getvalue()


def test_absence_is_said_and_never_neutral() -> None:
    scene = Scene().play()
    scene.face(6 * SECOND, there=False)
    scene.affect(6 * SECOND, top=None, present=())
    text = scene.text()
    assert "not usable" not in text and "no face" in text and "no voice" in text and "nothing to read" in text and "▸" not in text
    assert summary(scene.state).endswith("nothing to read")


def test_gaps_silence_and_dead_workers_are_said() -> None:
    scene = Scene().play()
    scene.put("voice", Gap(**scene.header("voice", 6 * SECOND), begin=0, end=6 * SECOND, reason="overflow"), 6 * SECOND)
    scene.session.workers["camera"] = "failed"
    scene.status("microphone", "reconnecting", "desk: the device is gone; trying again", 9 * SECOND)
    scene.beacon(9 * SECOND)
    text = scene.text()
    assert "microphone: desk: the device is gone; trying again" in text and "◌ reconnecting" in text
    scene.status("microphone", "running", "", 9 * SECOND)
    text = scene.text()
    assert "voice: nothing known (overflow)" in text and "camera: no sign of life" in text and "affect: no message for 3 s" in text
    scene.state.tick(BASE + 20 * SECOND)
    assert "hub is silent" in scene.text()


def test_a_new_session_starts_with_nothing_and_the_end_is_said() -> None:
    scene = Scene().play()
    scene.put("affect", End(**{**scene.header("affect", 6 * SECOND), "watermark": FOREVER}, end=6 * SECOND), 6 * SECOND)
    assert "session over" in scene.text()
    scene.session = Session(session="other", epoch=None, host="h", window=1, hop=1, lateness={}, workers={"camera": "running"})
    scene.beacon(7 * SECOND)
    text = scene.text()
    assert "waiting for workers" in text and "joined so far: camera" in text and "62%" not in text


def test_without_a_clock_no_lag_is_claimed() -> None:
    state = Scene(speed=None).play().state
    assert state.lag("face") is None and state.stage("window") is None and state.stage("model") == pytest.approx(9)


def test_what_is_kept_is_bounded() -> None:
    scene = Scene()
    scene.beacon()
    for k in range(3000):
        scene.face(k)
        scene.words(k, "word", "maybe " * 200)
    assert len(scene.state.committed) <= State.WORDS and len(scene.state.tentative) <= State.WORDS
    assert len(scene.state.flows["face"].recent._entries) <= 2000 and scene.state.spoken == 3000


def test_a_plain_terminal_gets_ascii() -> None:
    text = Scene().play().text(ascii_only=True)
    assert text.isascii() and "> happy" in text and "####" in text


def test_the_picture_is_svg(tmp_path: Path) -> None:
    save_svg(Scene().play().state, tmp_path / "view.svg")
    written = (tmp_path / "view.svg").read_text()
    assert written.startswith("<svg") and "happy" in written and len(written) < 60_000


def test_the_screen_leaves_the_terminal_as_it_was_and_the_last_picture_standing() -> None:
    out = io.StringIO()
    with Screen("tcp://x:1", note="because", console=Console(file=out, force_terminal=True, width=80, height=24)) as screen:
        screen(None)
    written = out.getvalue()
    assert written.count("\x1b[?1049h") == written.count("\x1b[?1049l") == 1
    assert "because" in written.split("\x1b[?1049l")[1]


def test_watching_waits_for_a_hub_and_reads_it_without_a_terminal() -> None:
    from test_client import free_address

    address = free_address()
    said = threading.Event()
    out = io.StringIO()
    console = Console(file=out, width=100)
    found: list[State] = []
    thread = threading.Thread(target=lambda: found.append(watch(Connection(address), said.is_set, console)), daemon=True)
    thread.start()
    for _ in range(600):
        if "no hub at" in out.getvalue() or said.wait(0.05):
            break
    hub = Hub(Address.parse(address), HubOptions().session(), ("fusion",))
    hub.start()
    bus = Bus(address)
    header = Scene().header("affect", SECOND)
    message = Affect(
        **header, t=SECOND, window=10, final=False, closed_by="time", top="sad", probabilities={"sad": 0.7}, valence=-0.5, arousal=-0.2,
        weights={}, present=["face"], samples={},
    )  # fmt: skip
    try:
        for _ in range(600):
            bus.speaker.send_multipart(encode("affect", message))
            bus.speaker.send_multipart([b"affect", b"garbage", b""])
            if "sad" in out.getvalue() or said.wait(0.05):
                break
    finally:
        said.set()
        thread.join(timeout=30)
        bus.close()
        hub.stop()
    assert "no hub at" in out.getvalue() and "sad" in out.getvalue() and "valence -0.50" in out.getvalue()
    assert found[0].provisional is not None

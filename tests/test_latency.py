"""The latency benchmark: its arithmetic on literal timelines, and one short real run."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from capturing import ffmpeg
from session import untrained

from stream.protocol import FOREVER, MILLISECOND, Affect, End, Face, Message, Newest, Voice, Word, Words

TOOLS = Path(__file__).parents[1] / "tools"
sys.path.insert(0, str(TOOLS))

import latency  # noqa: E402
from latency_figures import STAGES, Event, Truth, closed_by, closings, first_shown, half_risen, rhythm, samples, spread  # noqa: E402

MS = MILLISECOND
CLIP = Path(__file__).parents[1] / "stream" / "assets" / "sample.mp4"


def header(stream: str, watermark: int, sent: int) -> dict[str, Any]:
    return {"session": "s", "stream": stream, "instance": "i", "seq": 0, "watermark": watermark * MS, "sent": sent * MS}


def frame(end: int, sent: int) -> Face:
    return Face(**header("face", end, sent), begin=end * MS, end=end * MS, uncertainty=0, grabbed=end * MS, features="f")


def sound(begin: int, end: int, sent: int) -> Voice:
    return Voice(**header("voice", end, sent), begin=begin * MS, hop=(end - begin) * MS, rows=1, uncertainty=0, grabbed=end * MS,
                 features="v", level=-20)


def result(k: int, at: int, top: str | None, final: bool = False, newest: dict[str, Newest] | None = None, by: str = "watermark",
           hop: int = 100) -> Affect:
    """Window k, computed in the 3 ms before `at`, a millisecond after its closing."""
    return Affect(
        **header("affect", 0, at), t=k * hop * MS, window=k, final=final, closed_by=by, top=top,  # type: ignore[arg-type]
        probabilities={}, valence=None, arousal=None, weights={}, present=[], samples={}, newest=newest or {},
        closed=(at - 4) * MS, started=(at - 3) * MS, computed=at * MS)


def said(heard: int, watermark: int, sent: int, committed: list[Word] = [], tentative: list[Word] = []) -> Words:  # noqa: B006
    return Words(**header("words", watermark, sent), committed=committed, tentative=tentative, revision=0, features="w", heard=heard * MS)


def word(text: str, begin: int, end: int) -> Word:
    return Word(text=text, begin=begin * MS, end=end * MS, probability=1.0)


def timeline(*messages: tuple[int, Message]) -> list[tuple[int, Message]]:
    return [(at * MS, message) for at, message in messages]


def test_quantiles_are_measurements_and_what_never_came_counts() -> None:
    assert spread([float(n) for n in range(1, 101)]) == {"n": 100, "p50": 50, "p95": 95, "p99": 99, "max": 100}
    assert spread([5.0, math.inf, 1.0]) == {"n": 3, "p50": 5.0, "p95": None, "p99": None, "max": None}
    assert spread([])["p50"] is None


def test_stages_follow_the_newest_sample_to_the_client() -> None:
    newest = {"face": Newest(end=90 * MS, grabbed=92 * MS, sent=97 * MS, received=98 * MS)}
    heard = timeline((98, frame(90, 97)), (98, frame(100, 98)), (107, result(1, 106, "happy", newest=newest)))
    found = samples(heard, Truth())
    assert [found[f"face stage, {stage}"] for stage in STAGES] == [[2], [5], [1], [4], [1], [3], [0], [1]]
    assert [found[f"face age, {stage}"] for stage in STAGES] == [[2], [7], [8], [12], [13], [16], [16], [17]]
    assert found["face grabbed to features"] == [7, -2]
    stale = {"face": Newest(end=-1000 * MS, grabbed=0, sent=0, received=0)}
    assert "face age, client" not in samples(timeline((107, result(1, 106, None, newest=stale))), Truth())


def test_overhead_begins_with_the_message_that_completes_the_window() -> None:
    heard = timeline((95, frame(95, 95)), (101, sound(80, 100, 101)), (106, frame(105, 104)), (110, result(1, 109, "sad")))
    assert samples(heard, Truth())["hub and windows, without the engine"] == [2]  # 109 - 104 - 3 of the engine
    late = timeline((95, frame(95, 95)), (145, result(1, 145, "sad", by="time")))
    assert samples(late, Truth())["hub and windows, without the engine"] == [2]  # 145 - (100 + 40) - 3


def test_without_computing_windows_close_when_their_content_has_happened() -> None:
    heard = timeline(
        (60, frame(50, 60)), (150, frame(125, 150)), (260, frame(260, 260)), (90, sound(0, 100, 90)), (190, sound(100, 200, 190)),
        (500, said(300, 250, 500)), (1, result(1, 160, "sad")), (1, result(2, 300, "sad")), (2, End(**header("face", FOREVER, 2), end=300)))
    assert closings(heard, 100 * MS, final=False) == {1: 125 * MS, 2: 240 * MS}  # the second frame; 40 ms are over before the third
    assert closings(heard, 100 * MS, final=True) == {1: 300 * MS, 2: 300 * MS}  # words are told up to there by then
    found = samples(heard, Truth())
    assert found["window end to provisional, unaware"] == [25, 40] and found["window end to provisional, aware"] == [-99, -199]


def test_the_grid_is_that_of_the_results() -> None:
    heard = timeline((52, frame(50, 52)), (130, frame(105, 130)), (60, result(1, 60, "sad", hop=50)), (140, result(2, 140, "sad", hop=50)))
    assert samples(heard, Truth())["window end to provisional, unaware"] == [0, 5]  # the second frame, 5 ms after 2 * 50


def test_an_event_is_shown_by_the_first_result_that_names_it() -> None:
    event = Event("happy", 150 * MS, 250 * MS, 600 * MS)
    tops = ["neutral", "neutral", "sad", "happy", "happy", "sad", "happy"]
    results = [(at, m) for at, m in timeline(*(((k * 100 + 30), result(k, k * 100 + 29, top)) for k, top in enumerate(tops, 1)))]
    assert first_shown(event, results, final=False) == (430 * MS, 4)  # type: ignore[arg-type]
    assert first_shown(event, results, final=True) == (math.inf, 0)  # type: ignore[arg-type]
    never = Event("angry", 150 * MS, 250 * MS, 600 * MS)
    assert first_shown(never, results, final=False) == (math.inf, 0)  # type: ignore[arg-type]
    already = Event("neutral", 150 * MS, 250 * MS, 600 * MS)
    assert first_shown(already, results, final=False) is None  # type: ignore[arg-type]
    heard = [*timeline((95, frame(95, 95)), (400, frame(410, 400))), *results]
    found = samples(heard, Truth(events=(event, never, already)))
    assert found["face event to provisional, aware"] == [180, math.inf]
    assert found["face event to provisional, unaware"] == [160, math.inf]  # window 4 closes with the frame of 410


def test_a_probability_answers_when_it_has_risen_half_its_way() -> None:
    event = Event("happy", 150 * MS, 250 * MS, 600 * MS)
    results: Any = timeline(*((k * 100 + 30, result(k, k * 100 + 29, "neutral")) for k in range(1, 8)))
    for (_, message), share in zip(results, (0.1, 0.2, 0.3, 0.45, 0.7, 0.6, 0.9), strict=True):
        message.probabilities["happy"] = share
    assert half_risen(event, results, final=False) == (430 * MS, 4)  # from 0.1 to 0.7: 0.4
    assert half_risen(event, results, final=True) == (math.inf, 0)
    assert half_risen(Event("sad", 150 * MS, 250 * MS, 600 * MS), results, final=False) == (math.inf, 0)


def test_words_are_followed_from_their_end_to_results() -> None:
    held = {"words": Newest(end=205 * MS, grabbed=0, sent=0, received=0)}
    heard = timeline(
        (350, said(300, 0, 349, tentative=[word("happy", 110, 220)])),
        (420, result(4, 419, "happy", newest=held)),
        (640, said(600, 200, 639, committed=[word("happy", 100, 205), word("uh", 210, 230)])),
        (700, result(2, 699, "happy", final=True)), (720, result(3, 719, "happy", final=True)))
    found = samples(heard, Truth(words=(word("happy", 90, 200), word("day", 300, 400))))
    assert found["word to tentative, aware"] == [150] and found["word to tentative, unaware"] == [100]
    assert found["word to committed, aware"] == [440] and found["word to committed, unaware"] == [400]
    assert found["committed word, recogniser and hub"] == [40]
    assert found["word to provisional that holds it"] == [220]
    assert found["word to final that holds it"] == [520]  # window 3: the recogniser's end lies beyond window 2
    without = samples(heard, Truth())
    assert without["word to committed, aware"] == [435, 410], "without a timeline the recogniser's own times count"


def test_rhythm_and_closings_of_provisionals() -> None:
    heard = timeline(*((at, result(k, at, None)) for k, at in ((1, 100), (2, 210), (3, 300))), (305, result(1, 305, None, final=True)),
                     (410, result(4, 410, None, final=True)))
    assert rhythm(heard) == {"rate_hz": 10.0, "jitter_ms": 10.0}
    assert closed_by(heard) == {"watermark": 3, "skipped": 1}
    assert rhythm(heard[:2]) == {}


def test_a_short_real_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, clip, out = untrained(tmp_path / "untrained.safetensors"), tmp_path / "short.mp4", tmp_path / "latency.json"
    ffmpeg("-i", str(CLIP), "-t", "3", "-c", "copy", str(clip))
    told = json.loads(CLIP.with_suffix(".json").read_text())
    clip.with_suffix(".json").write_text(json.dumps(told | {"segments": told["segments"][:2]}))
    arguments = ["--clip", str(clip), "--condition", "everything", "--runs", "1", "--warm-up", "0", "--json", str(out)]
    assert latency.main([*arguments, "--", "--model", str(weights)]) == 0
    figures = json.loads(out.read_text())
    condition, = figures["conditions"]
    rows = condition["figures_ms"]
    assert 0 < figures["machine"]["face_mesh_ms"] < 1000
    # A busy machine skips provisionals and says so, never a final.
    skipped = condition["provisionals_closed_by"][0]["skipped"]
    assert rows["window end to provisional, aware"]["n"] + skipped == rows["window end to final, aware"]["n"] >= 25 > 2 * skipped
    # Who computes in time cannot be faster than who computes in no time.
    assert rows["window end to provisional, aware"]["p50"] > rows["window end to provisional, unaware"]["p50"] >= 0
    assert all(rows[f"{stream} stage, {stage}"]["p50"] >= 0 for stream in ("face", "voice") for stage in STAGES)
    assert rows["word to committed, aware"]["n"] >= 3 and rows["word to committed, aware"]["p50"] > 0
    assert rows["face event to provisional, aware"]["n"] <= 1 == condition["events"]
    assert set(condition["cpu_percent"]) >= {"hub", "fusion", "camera", "microphone", "transcriber", "supervisor"}
    assert condition["lost"] == [0] and condition["first_result_s"][0] > condition["ready_s"][0] > 0
    assert out.with_suffix(".png").stat().st_size > 10_000
    capsys.readouterr()
    assert latency.main(["--show", str(out), "--compare", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "beside" in shown and "times what Face Mesh alone takes here" in shown
    assert "ratio" in shown and "| word spoken → committed here |" in shown
    assert latency.main([*arguments, "--", "--model", str(tmp_path / "nowhere.safetensors")]) == 1
    assert "nowhere.safetensors" in capsys.readouterr().err

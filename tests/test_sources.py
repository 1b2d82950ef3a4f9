"""Real sources through whole sessions: a PortAudio microphone that vanishes, people who leave the picture, real clips."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import soundfile
from capturing import SCRIPT, free_address, spoken, word_errors
from pulse import Pulse, pulse
from session import Listener, affect, untrained

from stream.capture.sound import RATE

__all__ = ["pulse"]  # a fixture
CLIP = Path(__file__).parents[1] / "stream/assets/sample.mp4"
CLIPS = Path(os.environ.get("AFFECT_DATA", Path(__file__).parents[2] / "shared")) / "data/clips"
real_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason="the clips are not here (AFFECT_DATA)")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("weights") / "untrained.safetensors")


def report(out: Path, *arguments: object) -> dict[str, Any]:
    command = affect("run", *arguments, "--no-view", "--hub", free_address(), "--json", out)
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_a_microphone_that_vanishes_is_said_and_survived(pulse: Pulse, weights: Path, tmp_path: Path) -> None:
    sound, script, out, address = tmp_path / "script.wav", " ".join(SCRIPT[:2]).split(), tmp_path / "out.json", free_address()
    soundfile.write(sound, spoken(SCRIPT[:2]), RATE)
    command = affect("run", "--camera", "none", "--microphone", "pulse", "--model", weights, "--no-view", "--hub", address, "--json", out)
    with Listener(address) as heard, subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True) as process:
        try:
            heard.wait(lambda h: len(h.heard["voice"]) > 20)
            assert pulse.play(sound).wait(60) == 0
            heard.wait(lambda h: len(h.words()) >= len(script) - 1)
            heard.wait(lambda h: any(set(m.present) == {"text", "voice"} for m, _ in h.heard["affect"]))

            pulse.unplug()
            heard.wait(lambda h: bool(h.said("microphone", "reconnecting")))
            # Results go on, and say that there is nothing to go by.
            heard.wait(lambda h: any(m.top is None and not m.present for m, _ in h.heard["affect"][-5:]))

            voices, told = len(heard.heard["voice"]), len(heard.heard["status"])
            pulse.plug()
            heard.wait(lambda h: len(h.heard["voice"]) > voices + 20 and bool(h.said("microphone", "running", told)))

            told = len(heard.heard["status"])
            pulse.stop()  # the whole server, and for good
            heard.wait(lambda h: bool(h.said("microphone", "reconnecting", told)))
            results = len(heard.heard["affect"])
            heard.wait(lambda h: len(h.heard["affect"]) > results + 50)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
    told_in_the_end = json.loads(out.read_text())
    assert word_errors(script, [word["text"] for word in told_in_the_end["words"]]) <= 0.3
    assert told_in_the_end["streams"]["voice"]["rate_hz"] > 0 and isinstance(told_in_the_end["audio_drift_ppm"], float)
    lost = [gap for gap in told_in_the_end["gaps"] if gap["stream"] == "voice" and gap["reason"] != "overflow"]
    assert [gap["reason"] for gap in lost] == ["microphone lost"]
    # Said in one line each time, on the terminal and in the report.
    notes = [note for note in told_in_the_end["notes"] if note.startswith("microphone")]
    assert ["trying again" in note for note in notes] == [True, False, True] and "works again" in notes[1]
    assert lines == [f"affect: {note}" for note in told_in_the_end["notes"]]
    # The windows follow one another through it all.
    ends = [round(10 * line["t"]) for line in told_in_the_end["timeline"] if not line["final"]]
    assert ends == sorted(set(ends)) and ends[-1] > 10 * lost[0]["end"]


def test_who_leaves_the_picture_is_absent_and_comes_back(weights: Path, tmp_path: Path) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    clip = tmp_path / "leaves.mp4"
    hide = "drawbox=enable='between(t,3,7)':t=fill:color=gray"
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(CLIP), "-t", "10", "-vf", hide, "-an", str(clip)], check=True, timeout=60)
    told = report(tmp_path / "out.json", "--camera", f"file:{clip}", "--microphone", "none", "--model", weights, "--speed", "max")
    present = {round(line["t"], 1): "face" in line["present"] for line in told["timeline"] if line["final"]}
    assert len(present) == 100
    assert all(here for t, here in present.items() if 0.3 <= t <= 2.9 or t >= 7.5)
    assert not any(here for t, here in present.items() if 4.2 <= t <= 6.9), "gone for over a second"
    assert all((line["top"] is None) == (not line["present"]) for line in told["timeline"])
    assert told["streams"]["face"]["present"] == pytest.approx(0.6, abs=0.03)


@real_clips
def test_a_person_comes_into_view(tmp_path: Path) -> None:
    clip = f"file:{CLIPS / 'noface_face.mp4'}"
    told = report(tmp_path / "out.json", "--camera", clip, "--microphone", clip, "--speed", "max")
    assert told["windows"] == told["finals"] == 63
    assert told["streams"]["face"]["present"] == pytest.approx(72 / 191, abs=0.02)
    finals = [line for line in told["timeline"] if line["final"]]
    before, after = [line for line in finals if line["t"] <= 3.9], [line for line in finals if line["t"] >= 4.5]
    assert not any("face" in line["present"] for line in before) and all("face" in line["present"] for line in after)
    assert all((line["top"] is None) == (not line["present"]) for line in finals)
    assert any(line["top"] is None for line in before) and all(line["top"] for line in after)


@real_clips
def test_a_talking_head_is_seen_and_heard_throughout(tmp_path: Path) -> None:
    clip = f"file:{CLIPS / 'talking_head_aoc.mp4'}"
    told = report(tmp_path / "out.json", "--camera", clip, "--microphone", clip, "--speed", "max")
    assert told["streams"]["face"]["present"] >= 0.99 and told["windows"] == told["finals"] == 80
    finals = [line for line in told["timeline"] if line["final"]]
    assert all(line["top"] for line in finals[3:]) and all("face" in line["present"] for line in finals[3:])
    assert any("text" in line["present"] for line in finals)
    assert len(told["words"]) > 5 and all(0 <= word["begin"] < word["end"] <= 8.01 for word in told["words"])


@real_clips
def test_a_speech_without_a_camera(tmp_path: Path) -> None:
    told = report(tmp_path / "out.json", "--camera", "none", "--microphone", f"file:{CLIPS / 'jfk.flac'}", "--speed", "max")
    assert told["windows"] == told["finals"] == 110
    assert told["streams"]["voice"]["rate_hz"] == pytest.approx(50, rel=0.02) and len(told["words"]) > 10
    assert all(set(line["present"]) <= {"voice", "text"} for line in told["timeline"])
    # The speech begins at 0.3 s and its pauses are short: words lie where there is voice.
    assert all(0.2 <= word["begin"] < word["end"] <= 11.0 for word in told["words"])

"""A real PortAudio microphone: a PulseAudio null sink that plays what it is given. Skips where PulseAudio is missing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from capturing import SCRIPT, Stage, spoken, word_errors
from pulse import Pulse, pulse
from safetensors.numpy import save_file

from stream.bus import Connection
from stream.capture import CaptureError, microphone, transcriber
from stream.capture.microphone import MicrophoneOptions
from stream.capture.sound import RATE, AdcClock, Block, DeviceSound, level
from stream.capture.transcriber import TranscriberOptions
from stream.clock import monotonic
from stream.protocol import MILLISECOND, SECOND, Control, Gap, Status, Voice, Words

__all__ = ["pulse"]  # a fixture


def test_a_played_script_is_heard(pulse: Pulse, tmp_path: Path) -> None:
    words = tmp_path / "words.safetensors"
    save_file({"table": np.zeros((64, 64), np.float16)}, words)
    sound = spoken(SCRIPT[:2])
    soundfile.write(tmp_path / "script.wav", sound, RATE)
    workers: dict[str, Any] = {
        "microphone": (microphone.run, MicrophoneOptions(source="pulse")),
        "transcriber": (transcriber.run, TranscriberOptions(model="pocketsphinx", weights=str(words))),
    }
    with Stage(workers, lossless=False) as stage:
        stage.wait(lambda: len(stage.messages(Voice)) > 20)
        script = " ".join(SCRIPT[:2]).split()

        def committed() -> list[Any]:
            return [word for m in stage.messages(Words) for word in m.committed]

        def left_out() -> float:
            return max((m.metrics.get("dropped_s", 0.0) for m in stage.messages(Status)), default=0.0)

        for _ in range(4):  # a machine too busy to keep up leaves sound out, and says so: then once more
            said, before = len(committed()), left_out()
            assert pulse.play(tmp_path / "script.wav").wait(60) == 0
            stage.wait(lambda: len(committed()) - said >= len(script) - 1 or left_out() > before)  # noqa: B023
            if left_out() == before:
                break
        voices, heard = stage.messages(Voice), committed()[said:]
        delays = [(m.sent - word.end) / SECOND for m in stage.messages(Words) for word in m.committed]
        metrics = [m.metrics for m in stage.messages(Status) if m.worker == "microphone"][-1]
        gaps = stage.messages(Gap, "voice")
    # Nothing is lost but what a machine that is too busy for its sound card loses, and that is counted.
    assert all(gap.reason == "overflow" for gap in gaps) and metrics["overflows"] >= len(gaps)
    assert word_errors(script, [word.text for word in heard]) <= 0.3
    begins = np.array([m.begin for m in voices])
    rate = (len(voices) - 1) * SECOND / (begins[-1] - begins[0])
    assert rate == pytest.approx(50, rel=0.02)
    assert (np.diff(begins) > 0).all() and sorted([m.seq for m in (*voices, *gaps)]) == list(range(len(voices) + len(gaps)))
    # Stamped when it sounded: before it was sent, and not long before.
    ages = np.array([m.sent - m.begin - m.hop for m in voices])
    assert -5 * MILLISECOND < np.median(ages) < SECOND
    assert all(age >= -m.uncertainty for age, m in zip(ages, voices, strict=True))
    assert all(m.uncertainty >= 20 * MILLISECOND for m in voices)
    assert {"drift_ppm", "level_db", "overflows"} <= metrics.keys()
    assert np.median(delays) > 0


def test_a_lost_microphone_comes_back(pulse: Pulse) -> None:
    with Stage({"microphone": (microphone.run, MicrophoneOptions(source="pulse"))}, lossless=False) as stage:
        stage.wait(lambda: len(stage.messages(Voice)) > 20)
        pulse.stop()
        stage.wait(lambda: any(m.state == "reconnecting" and "trying again" in m.text for m in stage.messages(Status)))
        lost = len(stage.messages(Voice))
        stage.wait(lambda: stage.messages(Status)[-1].streams["voice"].watermark > stage.messages(Status)[-1].sent - SECOND)
        pulse.start()
        stage.wait(lambda: len(stage.messages(Voice)) > lost + 20 and stage.messages(Status)[-1].state == "running")
        gaps, voices = [gap for gap in stage.messages(Gap, "voice") if gap.reason != "overflow"], stage.messages(Voice)
    assert [gap.reason for gap in gaps] == ["microphone lost"]
    assert voices[lost].segment > voices[lost - 1].segment and voices[lost].begin >= gaps[0].end >= gaps[0].begin


class Faulty(DeviceSound):
    """A 48 kHz device whose crystal runs 0.1 % fast. It loses half a second of sound after three, saying so, and after five, silently."""

    def open(self, timeout: float = 10.0) -> None:
        self.start()

    def start(self) -> None:
        self.rate, self.name, self.lost, self.ready = 48000, "faulty", "", True
        self._opened, self._given = monotonic(), 0

    def close(self) -> None:
        self.ready = False

    def take(self, timeout: float) -> list[Block]:
        time.sleep(0.005)
        blocks = []
        while (stamp := self._opened + self._given * 20_000_000 * 1000 // 1001) + 20_000_000 < monotonic():
            elapsed = self._given * 0.02
            if not (3.0 <= elapsed < 3.5 or 5.0 <= elapsed < 5.5):
                blocks.append(Block(np.full(960, self._given, np.int16), stamp, lost=3.5 <= elapsed < 3.511))
            self._given += 1
        return blocks


def run_faulty(options: MicrophoneOptions, connection: Connection) -> int:
    microphone.DeviceSound = Faulty  # type: ignore[misc]
    return microphone.run(options, connection)


def test_lost_sound_is_a_gap() -> None:
    with Stage({"microphone": (run_faulty, MicrophoneOptions(source="faulty"))}, lossless=False) as stage:
        stage.wait(lambda: len(stage.messages(Gap, "voice")) >= 2 and stage.messages(Voice)[-1].segment == 2)
        stage.wait(lambda: len([m for m in stage.messages(Voice) if m.segment == 2]) > 10)
        stage.order(Control(action="mute", target="microphone"))
        stage.wait(lambda: stage.messages(Status)[-1].state == "paused")
        quiet = len(stage.messages(Voice))
        stage.order(Control(action="unmute", target="microphone"))
        stage.wait(lambda: len(stage.messages(Voice)) > quiet + 10)
        gaps, voices, metrics = stage.messages(Gap, "voice"), stage.messages(Voice), [m.metrics for m in stage.messages(Status)]
    assert [gap.reason for gap in gaps] == ["overflow", "overflow", "paused"] and metrics[-1]["overflows"] == 2
    assert gaps[0].end - gaps[0].begin == pytest.approx(0.5 * SECOND, abs=50 * MILLISECOND)
    assert [voices[k].segment for k in (0, quiet - 1, -1)] == [0, 2, 3]
    for gap in gaps:
        assert any(m.begin == gap.end for m in voices) and not any(gap.begin < m.begin + m.hop and m.begin < gap.end for m in voices)
    # Within a segment rows follow one another without a hole; the fast crystal is seen.
    first = [m.begin for m in voices if m.segment == 0]
    assert np.abs(np.diff(first) - 20 * MILLISECOND).max() < MILLISECOND
    assert min(m.get("drift_ppm", 0) for m in metrics) < -500


def test_an_unknown_microphone_is_named(pulse: Pulse) -> None:
    device = DeviceSound("no such thing")
    with pytest.raises(CaptureError, match=r"microphone no such thing: no such input.*pulse.*affect devices"):
        device.open()


def test_adc_clock_takes_the_smallest_delay() -> None:
    clock = AdcClock()
    assert clock.stamp(100.0, 99.98, 5 * SECOND, 320, RATE) == pytest.approx(5 * SECOND - 20 * MILLISECOND, abs=1000)
    # A callback that came 30 ms late does not shift the sound.
    late = clock.stamp(100.02, 100.0, 5 * SECOND + 50 * MILLISECOND, 320, RATE)
    assert late == pytest.approx(5 * SECOND, abs=1000)
    # A host API that names the time of its callback: what is handed over has been heard.
    assert AdcClock().stamp(100.0, 100.0, 5 * SECOND, 320, RATE) == pytest.approx(5 * SECOND - 20 * MILLISECOND, abs=1000)
    # Host APIs that tell no time: the block ended when it was handed over.
    assert AdcClock().stamp(0.0, 0.0, SECOND, 320, RATE) == SECOND - 20 * MILLISECOND


def test_level() -> None:
    assert level(np.zeros(320, np.int16)) == -120
    tone = (np.sin(np.arange(1600) * 2 * np.pi / 16) * 32767).astype(np.int16)
    assert level(tone) == pytest.approx(-3.01, abs=0.01)

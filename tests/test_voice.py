"""Voice features: columns mean what they say, look backward only, and do not depend on how the sound was cut."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped]

from models.datasets import DataMissing, corpus
from models.perception.vad import FRAME, SileroVad, VadMissing, asset
from models.perception.voice import BANDS, DIM, ENERGY, HOP, PITCH, SAMPLE_RATE, SPEECH, VOICE, VOICING, VoicePerception

SECOND = np.arange(SAMPLE_RATE) / SAMPLE_RATE


@pytest.fixture(scope="module")
def voice() -> VoicePerception:
    return VoicePerception()


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    try:
        pcm, rate = soundfile.read(corpus("clips/jfk.flac"), dtype="float32")
    except DataMissing as missing:
        pytest.skip(str(missing))
    assert rate == SAMPLE_RATE
    return np.asarray(pcm)


def rows_of(voice: VoicePerception, pcm: np.ndarray) -> np.ndarray:
    voice.reset()
    return voice.feed(pcm)


def tone(hertz: float, level: float = 0.1) -> np.ndarray:
    harmonics = [np.sin(2 * np.pi * hertz * k * SECOND) / k for k in range(1, 9)]
    return np.asarray(level * np.sum(harmonics, axis=0), np.float32)


@pytest.mark.parametrize("hertz", [65, 150, 290, 380])
def test_pitch_of_a_tone(voice: VoicePerception, hertz: float) -> None:
    rows = rows_of(voice, tone(hertz))[4:]
    assert np.abs(50 * 2 ** rows[:, PITCH] / hertz - 1).max() < 0.01
    assert rows[:, VOICING].min() > 0.9


def test_pitch_without_its_fundamental(voice: VoicePerception) -> None:
    """A telephone cuts the fundamental away; people, and we, hear it still."""
    pcm = tone(150) - (0.1 * np.sin(2 * np.pi * 150 * SECOND)).astype(np.float32)
    rows = rows_of(voice, pcm)[4:]
    assert np.abs(50 * 2 ** rows[:, PITCH] / 150 - 1).max() < 0.01


def test_pitch_follows_a_glide(voice: VoicePerception) -> None:
    hertz = 100 * 2**SECOND
    pcm = np.sum([np.sin(2 * np.pi * k * np.cumsum(hertz) / SAMPLE_RATE) / k for k in range(1, 9)], axis=0)
    rows = rows_of(voice, (0.1 * pcm).astype(np.float32))
    centre = (np.arange(len(rows)) + 1) * HOP - 512
    assert np.abs(rows[4:, PITCH] - np.log2(hertz[centre[4:]] / 50)).max() < 0.03


def test_band_and_energy_of_a_sine(voice: VoicePerception) -> None:
    low, high = (rows_of(voice, (0.1 * np.sin(2 * np.pi * f * SECOND)).astype(np.float32))[10] for f in (300, 3000))
    assert np.argmax(low[:BANDS]) < np.argmax(high[:BANDS])
    for row in (low, high):
        assert row[ENERGY] == pytest.approx(np.log(0.005), abs=0.05)
        assert np.log(np.exp(row[:BANDS]).sum()) == pytest.approx(np.log(0.005), abs=0.7)


def test_silence_is_finite_and_says_nothing(voice: VoicePerception) -> None:
    rows = rows_of(voice, np.zeros(SAMPLE_RATE, np.float32))
    assert rows.shape == (50, DIM) and np.isfinite(rows).all()
    assert not rows[:, [PITCH, VOICING]].any() and rows[:, SPEECH].max() < 0.3
    assert np.allclose(rows[:, ENERGY], np.log(1e-10))


def test_noise_is_unvoiced(voice: VoicePerception) -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, 2 * SAMPLE_RATE).astype(np.float32)
    rows = rows_of(voice, noise)
    assert (rows[:, PITCH] > 0).mean() < 0.05 and rows[:, SPEECH].max() < 0.5


def test_speech_is_heard(voice: VoicePerception, speech: np.ndarray) -> None:
    rows = rows_of(voice, speech)
    assert len(rows) == len(speech) // HOP and np.isfinite(rows).all()
    assert 0.4 < (rows[:, SPEECH] > 0.5).mean() < 0.9
    talking = (rows[:, SPEECH] > 0.8) & (rows[:, PITCH] > 0)
    assert 150 < 50 * 2 ** np.median(rows[talking, PITCH]) < 280
    assert rows[:, VOICING].min() >= 0 and rows[:, VOICING].max() <= 1


@pytest.mark.parametrize("block", [1, 160, 333, 512, 7000])
def test_blocks_do_not_matter(voice: VoicePerception, speech: np.ndarray, block: int) -> None:
    part = speech[: SAMPLE_RATE if block == 1 else 4 * SAMPLE_RATE]
    whole = rows_of(voice, part)
    voice.reset()
    pieces = np.concatenate([voice.feed(part[i : i + block]) for i in range(0, len(part), block)])
    assert np.array_equal(whole, pieces)


def test_looks_backward_only(voice: VoicePerception, speech: np.ndarray) -> None:
    part = speech[: 2 * SAMPLE_RATE].copy()
    before = rows_of(voice, part)
    part[20 * HOP :] = 0.3
    assert np.array_equal(rows_of(voice, part)[:20], before[:20])
    assert not np.array_equal(rows_of(voice, part)[20], before[20])


def test_reset_forgets(voice: VoicePerception, speech: np.ndarray) -> None:
    first = rows_of(voice, speech[:8000])
    voice.feed(speech[8000:20000])
    assert np.array_equal(rows_of(voice, speech[:8000]), first)


def test_int16_equals_float(voice: VoicePerception, speech: np.ndarray) -> None:
    integers = np.round(speech[:SAMPLE_RATE] * 32768).astype(np.int16)
    assert np.array_equal(rows_of(voice, integers), rows_of(voice, integers.astype(np.float32) / 32768))


def test_gain_moves_levels_but_not_pitch(voice: VoicePerception, speech: np.ndarray) -> None:
    loud = rows_of(voice, speech[: 4 * SAMPLE_RATE])
    soft = rows_of(voice, (speech[: 4 * SAMPLE_RATE] * 0.1).astype(np.float32))
    clear = loud[:, VOICING] > 0.6
    assert clear.sum() > 50
    assert np.abs(soft - loud)[clear, PITCH].max() < 1e-3
    assert np.abs(soft - loud)[clear, VOICING].max() < 1e-2
    assert np.median((soft - loud)[clear, ENERGY]) == pytest.approx(2 * np.log(0.1), abs=0.01)


def test_bad_samples_do_not_spread(voice: VoicePerception) -> None:
    pcm = tone(150)
    pcm[4000:4100] = np.nan
    pcm[5000] = np.inf
    pcm[6000] = 1e30
    assert np.isfinite(rows_of(voice, pcm)).all()


@pytest.mark.parametrize("pcm", [np.zeros((2, 320), np.float32), np.zeros(320, np.int32), [0.0] * 320])
def test_wrong_sound_is_refused(voice: VoicePerception, pcm: object) -> None:
    with pytest.raises(ValueError, match="mono"):
        voice.feed(pcm)  # type: ignore[arg-type]


def test_feature_set() -> None:
    assert (VOICE.name, VOICE.dim, VOICE.rate_hz) == ("voice", 44, 50)
    assert len(VOICE.recipe["vad_sha256"]) == 64


def test_vad_rows_are_those_of_the_newest_complete_frame(voice: VoicePerception, speech: np.ndarray) -> None:
    rows, frames = rows_of(voice, speech[:SAMPLE_RATE]), SileroVad().feed(speech[:SAMPLE_RATE])
    for k, row in enumerate(rows):
        complete = (k + 1) * HOP // FRAME
        assert row[SPEECH] == (frames[complete - 1] if complete else 0)


def test_missing_vad_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(VadMissing, match="pip install"):
        asset()


def test_perception_needs_no_torch() -> None:
    code = "import sys, models.perception.voice, models.perception.words; sys.exit(not {'torch', 'faster_whisper'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0

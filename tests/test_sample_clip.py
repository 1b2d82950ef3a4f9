"""The sample clip: frozen, in step, followed by FaceMesh in every frame, heard by pocketsphinx, and truthful about its times."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "stream" / "assets"
CLIP = ASSETS / "sample.mp4"
sys.path.insert(0, str(ROOT / "tools"))

import clip_check  # noqa: E402

pytest.importorskip("av")


@pytest.fixture(scope="module")
def truth() -> dict[str, Any]:
    return clip_check.truth(ASSETS)


@pytest.fixture(scope="module")
def followed() -> dict[str, npt.NDArray[Any]]:
    """Times, and FaceMesh's points where it found a face, of every frame."""
    mediapipe = pytest.importorskip("mediapipe")
    if not hasattr(mediapipe, "solutions"):
        pytest.skip("this mediapipe carries no face_mesh (0.10.14 does)")
    times, points = [], []
    with mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=False, refine_landmarks=True, max_num_faces=1) as mesh:
        for t, picture in clip_check.pictures(CLIP):
            found = mesh.process(picture).multi_face_landmarks
            height, width = picture.shape[:2]
            times.append(t)
            points.append([[p.x * width, p.y * height] for p in found[0].landmark] if found else np.full((478, 2), np.nan))
    return {"t": np.array(times), "points": np.array(points)}


def test_is_the_frozen_one() -> None:
    assert CLIP.stat().st_size <= 2_000_000
    assert hashlib.sha256(CLIP.read_bytes()).hexdigest() in (ASSETS / "README.md").read_text()


def test_picture_and_sound_end_together(truth: dict[str, Any], followed: dict[str, npt.NDArray[Any]]) -> None:
    start, samples = clip_check.sound(CLIP)
    t = followed["t"]
    assert (truth["duration"] * 10) % 1 == 0
    assert start == 0 and len(samples) == truth["duration"] * 16000
    assert t[0] == 0 and len(t) == truth["duration"] * truth["fps"]
    assert np.allclose(t, np.arange(len(t)) / truth["fps"], atol=1e-4)


def test_true_times_are_consistent(truth: dict[str, Any]) -> None:
    segments, sentences, words = truth["segments"], truth["sentences"], truth["words"]
    assert truth["version"] == 1
    assert [s["emotion"] for s in segments] == ["neutral", "happy", "surprised", "sad", "angry"]
    assert segments[0]["begin"] == 0 and segments[-1]["end"] == truth["duration"]
    for segment, following in zip(segments, [*segments[1:], None], strict=True):
        assert segment["begin"] <= segment["onset"] <= segment["apex"] < segment["end"]
        assert following is None or (segment["end"] == following["begin"] and 0.3 <= following["apex"] - following["begin"] <= 0.6)
    assert " ".join(s["text"] for s in sentences).split() == [w["text"] for w in words]
    ends = [0.0] + [w["end"] for w in words]
    assert all(before <= w["begin"] < w["end"] for before, w in zip(ends, words, strict=False))
    for before, after in pairwise(sentences):
        assert after["begin"] - before["end"] >= 0.5
    for sentence, segment in zip(sentences, segments, strict=True):
        assert segment["apex"] <= sentence["begin"] and sentence["end"] <= segment["end"]
    assert truth["duration"] - words[-1]["end"] >= 0.8
    assert all(0 < b < truth["duration"] for b in truth["blinks"])


def test_face_is_followed_in_every_frame(followed: dict[str, npt.NDArray[Any]]) -> None:
    assert np.isfinite(followed["points"]).all()


def _distance(points: npt.NDArray[Any], a: int, b: int) -> npt.NDArray[Any]:
    """Distance of two landmarks in units of the distance between the outer corners of the eyes."""
    return np.asarray(np.linalg.norm(points[:, a] - points[:, b], axis=1) / np.linalg.norm(points[:, 33] - points[:, 263], axis=1))


@pytest.mark.parametrize(("emotion", "a", "b"), [("happy", 61, 291), ("surprised", 13, 14), ("angry", 55, 133)])
def test_expression_begins_when_the_truth_says(
    truth: dict[str, Any], followed: dict[str, npt.NDArray[Any]], emotion: str, a: int, b: int
) -> None:
    """Half of what landmarks see lies near the onset: mouth corners part (smile), lips part (surprise), the brow comes down (anger)."""
    t, course = followed["t"], _distance(followed["points"], a, b)
    segment = next(s for s in truth["segments"] if s["emotion"] == emotion)
    before = np.median(course[(t > segment["begin"] - 0.2) & (t < segment["begin"])])
    after = np.median(course[(t > segment["apex"]) & (t < segment["apex"] + 0.2)])
    span = (t > segment["begin"] - 0.2) & (t < segment["apex"] + 0.2)
    crossed = t[span][np.argmax((course[span] - before) / (after - before) > 0.5)]
    assert abs(after - before) > 0.015
    assert abs(crossed - segment["onset"]) < 0.15


def test_lids_are_shut_at_the_blinks(truth: dict[str, Any], followed: dict[str, npt.NDArray[Any]]) -> None:
    t = followed["t"]
    gap = _distance(followed["points"], 159, 145) + _distance(followed["points"], 386, 374)
    for blink in truth["blinks"]:
        shut = gap[np.abs(t - blink) < 0.1].min()
        beside = np.median(gap[(np.abs(t - blink) > 0.25) & (np.abs(t - blink) < 0.6)])
        assert shut < 0.8 * beside


def test_sound_lies_inside_the_sentences(truth: dict[str, Any]) -> None:
    _, samples = clip_check.sound(CLIP)
    t = np.arange(len(samples)) / 16000
    talk = np.zeros(len(samples), bool)
    for sentence in truth["sentences"]:
        talk |= (t > sentence["begin"] - 0.1) & (t < sentence["end"] + 0.15)
    level = samples.astype(np.float64) / 32768
    assert np.sqrt(np.mean(level[talk] ** 2)) > 100 * np.sqrt(np.mean(level[~talk] ** 2))
    assert np.abs(level[~talk]).max() < 0.01


def test_words_are_heard() -> None:
    pytest.importorskip("pocketsphinx")
    pairs = clip_check.hear(ASSETS)
    errors, words = sum(clip_check.word_errors(a, b) for a, b in pairs), sum(len(a.split()) for a, _ in pairs)
    assert words == 41
    assert errors / words <= 0.1


@pytest.mark.parametrize(("said", "heard", "errors"), [
    ("a b c", "a b c", 0), ("a b c", "", 3), ("a b c", "a c", 1), ("a b c", "a x c d", 2), ("now i am", "no i am", 1),
])
def test_word_errors(said: str, heard: str, errors: int) -> None:
    assert clip_check.word_errors(said, heard) == errors


def test_tool_does_not_write_over_the_frozen_clip() -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("pocketsphinx")
    before = CLIP.read_bytes()
    command = [sys.executable, str(ROOT / "tools" / "make_sample_clip.py"), "--out", str(ASSETS)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 2 and "frozen" in run.stderr
    assert CLIP.read_bytes() == before

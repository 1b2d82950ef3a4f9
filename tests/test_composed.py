"""Composed windows: deterministic, in the contract's layout, and true to what they claim to show."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_material import toy_material

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import quiet_words

from models.emotions import EMOTIONS
from models.live.composed import AFFECT_MEANS, DIMS, LEAST_VOICED_S, NEUTRAL, ROW_S, SUBSETS, Composer, Composition
from models.live.faceplay import pick, pools
from models.live.material import VARIANTS, Ints, Material, open_mouth, variant
from models.perception import voice
from models.window import Window, WindowSpec

CLEAN = Composition(conflict=0, only_text_affect=0, quiet=(0, 0, 0))


@pytest.fixture(scope="module")
def material() -> Material:
    return toy_material()


def test_the_seed_decides_everything(material: Material) -> None:
    composer = Composer(material)
    one, other = composer.batch(20, (3, 1)), Composer(material).batch(20, (3, 1))
    for a, b in zip(one[0], other[0], strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert all(np.array_equal(x, y) for x, y in zip(one[1], other[1], strict=True))
    assert not np.array_equal(one[1].classes, composer.batch(20, (3, 2))[1].classes)


def lately_shown(window: Window) -> Ints:
    """The emotion of each window's newest 0.4 s of face; a single frame trembles."""
    face = window.face
    newest = face.t.max(1, keepdims=True, where=face.mask > 0, initial=-9)
    return (face.x[..., 32:] * (face.mask * (face.t > newest - 0.4))[..., None]).sum(1).argmax(1)


def test_layout(material: Material) -> None:
    spec = WindowSpec()
    window, truth = Composer(material).batch(150, 0)
    patterns = set()
    for modality, s in zip(("text", "voice", "face"), window, strict=True):
        assert s.x.shape == (150, spec.capacity(modality), DIMS[modality]) and s.x.dtype == np.float32
        assert set(np.unique(s.mask)) <= {0, 1} and (np.diff(s.mask, axis=1) <= 0).all(), "rows fill from the front"
        assert (s.t <= 0).all() and (s.t >= -spec.seconds).all() and not s.t[s.mask == 0].any() and not s.x[s.mask == 0].any()
        rises = np.diff(s.t, axis=1)[(s.mask[:, 1:] > 0)]
        assert (rises >= 0).all() and np.isfinite(s.x).all()
        patterns.add(modality)
    present = np.stack([s.mask.max(1) for s in window], 1).astype(int)
    assert {tuple(row) for row in present} >= set(SUBSETS)
    assert present[:, 0].mean() <= 0.5
    known = truth.class_weight > 0
    np.testing.assert_allclose(truth.classes[known].sum(1), 1, atol=1e-5)


def test_target_is_the_state_at_the_end(material: Material) -> None:
    window, truth = Composer(material, composition=CLEAN).batch(200, 1, (1, 1, 1))
    sure = np.flatnonzero(truth.classes.max(1) > 0.999)
    last = window.voice.mask.sum(1).astype(int) - 1
    end = truth.classes.argmax(1)
    assert (window.voice.x[sure, last[sure], 0] == end[sure]).all()
    n = window.face.mask.sum(1).astype(int) - 1
    recent = sure[(window.face.t[sure, n[sure]] > -0.1)]
    assert (lately_shown(window)[recent] == end[recent]).mean() > 0.9
    assert len({tuple(row[mask > 0, 0]) for row, mask in zip(window.voice.x, window.voice.mask, strict=True)}) > 7
    np.testing.assert_allclose(truth.affect, truth.classes @ AFFECT_MEANS, atol=1e-5)
    assert (truth.classes.max(1) < 0.999).any(), "a change just before the end leaves a mixed target"


def test_a_target_turns_within_the_onset(material: Material) -> None:
    soon = replace(CLEAN, soon=1.0, subsets=(0, 0, 1, 0, 0, 0, 0))
    shares = []
    for onset in (0.25, 0.5):
        _, truth = Composer(material, composition=replace(soon, onset=onset)).batch(300, 0)
        assert np.allclose(truth.classes.sum(1), 1)
        shares.append(truth.classes.max(1))
    # Changes come evenly within the last second: of those in the last `onset` seconds the target still holds some of what was.
    assert [(share < 1).mean() for share in shares] == pytest.approx([0.2 / 0.95, 0.45 / 0.95], abs=0.06)
    quick, slow = shares
    assert (quick[slow == 1] == 1).all() and (quick < 1).any()


def test_balanced_and_changing(material: Material) -> None:
    window, truth = Composer(material, composition=CLEAN).batch(700, 2, (0, 0, 1))
    share = np.bincount(truth.classes.argmax(1), minlength=7) / 700
    assert share.min() > 0.08 and share.max() < 0.25
    first = np.array([x[0, 32:].argmax() for x in window.face.x])
    assert 0.25 < (first != truth.classes.argmax(1)).mean() < 0.6


def test_conflicting_windows_share_their_target(material: Material) -> None:
    _, truth = Composer(material, composition=replace(CLEAN, conflict=1.0, change=0.0)).batch(60, 3, (1, 0, 1))
    assert np.allclose(np.sort(truth.classes, 1)[:, -2:], 0.5)


def test_a_quiet_channel_does_not_change_what_is_shown(material: Material) -> None:
    window, truth = Composer(material, composition=replace(CLEAN, quiet=(1, 1, 1), change=0.0)).batch(200, 8, (0, 1, 1))
    end, rows = truth.classes.argmax(1), np.arange(200)
    heard = window.voice.x[rows, window.voice.mask.sum(1).astype(int) - 1, 0]
    newest = window.face.mask.sum(1).astype(int) - 1
    shown = lately_shown(window)
    settled = (truth.classes.max(1) == 1) & (window.face.t[rows, newest] > -0.1)
    felt = settled & (end != NEUTRAL)
    assert ((heard == NEUTRAL) ^ (shown == NEUTRAL))[felt].mean() > 0.9, "one is neutral, the other is not"
    assert ((heard == end) | (shown == end))[settled].mean() > 0.9
    assert 0.2 < (heard == NEUTRAL)[felt].mean() < 0.8


def test_changes_come_soon_as_often_as_told(material: Material) -> None:
    for subset in ((0, 0, 1), (0, 1, 1)):
        composer = Composer(material, composition=replace(CLEAN, soon=1.0, onset=0.5))
        window, truth = composer.batch(60, 9, subset)
        mixed = (truth.classes.max(1) < 0.999).mean()
        assert 0.3 < mixed < 0.7, "half of the changes lie in the half second in which the target moves"
        first = window.face.x[:, :5, 32:].sum(1).argmax(1)
        settled = (window.face.t[:, 0] < -2.5) & (truth.classes.max(1) > 0.999)
        assert (first != truth.classes.argmax(1))[settled].mean() > 0.9, "the window began with another emotion"


def test_a_turn_is_where_it_is_told(material: Material) -> None:
    composer, draw = Composer(material), np.random.default_rng(1)
    for subset in ((0, 0, 1), (1, 0, 1), (1, 1, 1)):
        for _ in range(10):
            window, turn = composer.turn(draw, subset, 1.5)
            assert abs(turn.begin + 1.5) < 0.2 and turn.before != turn.after
            text, heard, face = (s.x[0, s.mask[0] > 0] for s in window)
            times = [s.t[0, s.mask[0] > 0] for s in window]
            assert [bool(len(rows)) for rows in (text, heard, face)] == list(map(bool, subset))
            if subset[1]:
                assert (heard[times[1] < turn.begin, 0][-1], heard[-1, 0]) == (turn.before, turn.after)
            calm, turned = face[times[2] < turn.begin - 0.2, 32:], face[times[2] > turn.begin + 0.9, 32:]
            if len(calm) > 10 and len(turned) > 10:
                assert calm[-10:].sum(0).argmax() == turn.before and turned.sum(0).argmax() == turn.after


def test_voice_needs_half_a_second_of_speech(material: Material) -> None:
    window, _ = Composer(material).batch(60, 4, (0, 1, 0))
    spoken = (window.voice.x[..., voice.SPEECH] > 0.5).sum(1) * ROW_S
    assert spoken.min() >= LEAST_VOICED_S - 0.1


def test_words_lag_unless_final(material: Material) -> None:
    late, _ = Composer(material, composition=replace(CLEAN, final=0.0)).batch(60, 5, (1, 0, 0))
    newest = np.array([t[mask > 0].max() for t, mask in zip(late.text.t, late.text.mask, strict=True)])
    assert newest.max() <= -0.7 and newest.min() >= -3.0


def test_emobank_windows_have_affect_and_no_emotion(material: Material) -> None:
    window, truth = Composer(material, composition=replace(CLEAN, only_text_affect=1.0)).batch(10, 6, (1, 0, 0))
    assert not truth.class_weight.any() and np.allclose(truth.affect, [0.3, -0.2])
    assert (window.text.x[:, 0, 0] == 7).all()


def test_misread_items_come_as_often_as_told() -> None:
    label, misread = np.zeros(100, np.int64), np.arange(100) < 5
    pool, draw = pools(label, misread)[0], np.random.default_rng(0)
    shares = np.full(7, 0.4, np.float32)
    assert 0.35 < np.mean([misread[pick(draw, pool, shares, 0)] for _ in range(1000)]) < 0.45
    assert np.mean([misread[pick(draw, pool, None, 0)] for _ in range(1000)]) < 0.1


def test_misheard_voices_come_as_often_as_told(material: Material) -> None:
    composer = Composer(material, composition=replace(CLEAN, as_misheard=True, change=0.0))
    composer.misheard = np.roll(np.eye(7, dtype=np.float32), 1, 1)
    window, truth = composer.batch(40, 7, (0, 1, 1))
    last = window.voice.mask.sum(1).astype(int) - 1
    assert (window.voice.x[np.arange(40), last, 0] == (truth.classes.argmax(1) + 1) % 7).all()


def test_variants_of_a_face() -> None:
    draw = np.random.default_rng(0)
    crop = np.tile(np.linspace(60, 200, 48).astype(np.uint8), (48, 1)).T.copy()
    assert variant(crop, 0, draw) is crop
    made = [variant(crop, k, draw) for k in range(1, VARIANTS)]
    assert all(m.shape == (48, 48) and m.dtype == np.uint8 and not np.array_equal(m, crop) for m in made)
    opened = open_mouth(crop, 4)
    assert np.array_equal(opened[:30], crop[:30]), "above the mouth nothing moves"
    assert opened[39:41, 23].mean() < crop[39:41, 23].mean() - 20
    assert NEUTRAL == 0


@pytest.mark.skipif(
    not (Path(os.environ.get("AFFECT_DATA", Path(__file__).parents[2] / "shared")) / "data").is_dir(), reason="the corpora are not here"
)
def test_splits_share_no_text() -> None:
    from models.datasets.texts import texts

    everything = texts(0)
    parts = [{tuple(everything.words[k]) for k in everything.rows(split, "goemotions")} for split in ("train", "test")]
    shared = {words for words in parts[0] & parts[1] if len(words) > 6}
    assert len(shared) < 20, "longer texts that occur in both are few (they differ in punctuation only)"


def test_quiet_words_are_what_neutral_ones_and_shown_ones_make_up() -> None:
    written, share = [0.6, *[0.1] * 6], {"happy": 0.8, "sad": 0.25}
    shown = [0.5] + [share.get(emotion, 0.0) * 0.5 + (1 - share.get(emotion, 0.0)) * 0.1 for emotion in EMOTIONS[1:]]
    found = quiet_words.quiet(written, shown)
    assert found["happy"] == pytest.approx(0.8) and found["sad"] == pytest.approx(0.25) and found["angry"] == pytest.approx(0)
    assert quiet_words.quiet(written, [0.5, *[0.05] * 6])["angry"] == 0, "never less than none"

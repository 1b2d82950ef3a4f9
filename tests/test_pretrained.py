"""Networks that others trained: where they lie, what their encoders give, how the sentence reader is trained and kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.datasets import DataMissing, moonshine, ravdess_encoded
from models.datasets.carried import carried
from models.datasets.speech import Clip
from models.datasets.texts import Texts
from models.emotions import EMOTIONS
from models.encoders import sentence


def installed(package: str, relative: str) -> None:
    try:
        carried(package, relative)
    except DataMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def heard() -> None:
    installed(moonshine.PACKAGE, moonshine.FILE)


@pytest.fixture
def reads() -> None:
    pytest.importorskip("transformers")
    installed(sentence.PACKAGE, sentence.FOLDER)


def test_a_package_that_is_not_there_is_named_with_the_cure() -> None:
    assert carried("models", "emotions.py").is_file()
    for package, relative in (("no_such_package", "weights"), ("models", "no_such_file")):
        with pytest.raises(DataMissing, match=rf"{package}.*{relative}.*affect\[pretrained\]"):
            carried(package, relative)


def tone(seconds: float, hz: float = 200.0) -> np.ndarray:
    t = np.arange(int(seconds * moonshine.SAMPLE_RATE)) / moonshine.SAMPLE_RATE
    return (0.1 * np.sin(2 * np.pi * hz * t) * (1 + np.sin(2 * np.pi * 3 * t))).astype(np.float32)


def test_the_encoder_gives_a_row_each_24_ms_however_loud(heard: None) -> None:
    for samples in (0, 100, moonshine.REACH, moonshine.REACH + moonshine.HOP - 1, moonshine.REACH + moonshine.HOP, 16_000):
        rows = moonshine.rows(tone(2.0)[:samples])
        count = 1 + (max(samples, moonshine.REACH) - moonshine.REACH) // moonshine.HOP
        assert rows.shape == (count, moonshine.DIM) and np.isfinite(rows).all()
    loud, quiet, other = (moonshine.rows(sound) for sound in (tone(1.0), 0.05 * tone(1.0), tone(1.0, 330.0)))
    apart = np.abs(loud - other).mean()
    assert apart > 0.05 and np.abs(loud - quiet).mean() < 0.25 * apart  # 8-bit rounding is left


def test_a_faster_sound_is_shorter_and_higher() -> None:
    sound = tone(1.0, 400.0)
    fast = ravdess_encoded.faster(sound, 1.25)
    assert len(fast) == 12_800
    peak = np.abs(np.fft.rfft(fast)).argmax() * moonshine.SAMPLE_RATE / len(fast)
    assert peak == pytest.approx(500, abs=5)


def test_the_encoder_stands_beside_the_live_rows_of_its_share() -> None:
    states = np.arange(20, dtype=np.float32)[:, None].repeat(moonshine.DIM, 1)
    live = np.arange(30, dtype=np.float32)[:, None].repeat(44, 1)
    rows = ravdess_encoded.beside(states, live)
    assert rows.shape == (3, ravdess_encoded.DIM)
    assert rows[:, 0].tolist() == [3.5, 11.5, 17.5]  # the last is of the four that are left
    assert rows[:, moonshine.DIM].tolist() == [4.5, 14.5, 24.5] and rows[0, -1] == pytest.approx(live[:10, 0].std())
    assert ravdess_encoded.beside(states, live[:1]).shape == (3, ravdess_encoded.DIM)  # hardly any speech


def test_renderings_are_kept_and_differ(heard: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFFECT_CACHE", str(tmp_path))
    clips = [Clip("made", str(k), "somebody", "", "train", 0, "neutral", tone(1.0 + k)) for k in range(2)]
    times = (np.arange(40, dtype=np.float32) - 40) * 0.02 + 0.02
    sounds = [ravdess_encoded.cut(clip, times) for clip in clips]
    assert [len(sound) for sound in sounds] == [12_800, 12_800] and np.array_equal(sounds[1], clips[1].pcm[-12_800:])
    plain, moved = (ravdess_encoded._states(clips, sounds, k) for k in (0, 1))
    assert len(moved[0]) != len(plain[0]) or not np.allclose(moved[0], plain[0])
    monkeypatch.setattr(moonshine, "rows", lambda pcm: pytest.fail("it was kept"))
    assert all(np.array_equal(*pair) for pair in zip(moved, ravdess_encoded._states(clips, sounds, 1), strict=True))


def toy_texts() -> Texts:
    """Two feelings, told apart by their words; every text is in both splits."""
    vocabulary = ["what", "a", "wonderful", "lovely", "day", "how", "sad", "terrible", "loss"]
    words = [[0, 1, 2, 4], [5, 3], [0, 1, 3, 4], [5, 2], [0, 1, 7, 8], [5, 6], [0, 1, 6, 8], [5, 7]] * 2
    n = len(words)
    label = np.array([1, 1, 1, 1, 2, 2, 2, 2] * 2)
    target = np.eye(len(EMOTIONS), dtype=np.float32)[label]
    affect = np.where(label[:, None] == 1, [0.6, 0.4], [-0.6, -0.2]).astype(np.float32)
    return Texts(
        vocabulary, words, target, np.ones(n, np.float32), label, affect, np.ones(n, np.float32), np.zeros((n, 28), np.float32),
        np.zeros(n, np.float32), np.array(["goemotions"] * n), np.array(["train"] * 8 + ["valid"] * 8),
    )  # fmt: skip


def test_the_sentence_reader_learns_is_kept_and_made_anew(reads: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFFECT_CACHE", str(tmp_path))
    monkeypatch.setattr(sentence, "texts", lambda weight: toy_texts())
    config = sentence.SentenceTraining(epochs=12, batch=8)
    said: list[str] = []
    assert sentence.run(config, said.append)["goemotions_accuracy"] == 1.0 and said
    said.clear()
    reader = sentence.load(config, said.append)
    assert not said  # not trained again
    tokens = reader.tokens(["what a lovely day", "how sad"])
    with torch.inference_mode():
        both, alone = reader(tokens), torch.cat([reader([one]) for one in tokens])
    assert both.shape == (2, sentence.READINGS) and (both - alone).abs().max() < 0.1  # padding and neighbours change nothing but rounding
    assert both[:, : len(EMOTIONS)].argmax(1).tolist() == [1, 2] and both[0, len(EMOTIONS)] > 0 > both[1, len(EMOTIONS)]
    assert len(reader.tokens(["loss " * 200])[0]) == sentence.LONGEST
    config.path.write_bytes(b"damaged")
    sentence.load(config, said.append)
    assert said[0].startswith("training") and config.path.stat().st_size > 1e6

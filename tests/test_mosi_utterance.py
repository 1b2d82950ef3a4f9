"""Utterance-level MOSI: windows of context, splits by video, mixing of what saw the labels."""

from __future__ import annotations

import numpy as np
import pytest

from models.datasets import DataMissing, data_root, mosi_utterance
from models.datasets.examples import Examples
from models.datasets.mosi_utterance import CONTEXT, FILE, PLACE, RENDERINGS, VALID_VIDEOS


def made(path: object, videos: int = 16, each: int = 5) -> None:
    """A tiny file in the corpus's layout; column 0 of every feature is the utterance's own number."""
    n = videos * each
    number = np.arange(n, dtype=np.float32)
    draw = np.random.default_rng(0)
    text, audio, video = (draw.normal(size=(n, d)).astype(np.float32) for d in (100, 73, 100))
    text[:, 0], audio[:, 0] = number, number
    video = np.abs(video)
    np.savez(
        path, utterance_id=np.array([f"v{k // each}_{k % each}" for k in range(n)]),
        video_id=np.array([f"v{k // each}" for k in range(n)]), interval_s=np.stack([number % each, number % each + 1], 1),
        sentiment=number % 7 - 3, label_bin=(number % 7 >= 3).astype(np.int8), split_bclstm=(number // each >= videos - 2).astype(np.int8),
        text_cnn100=text, audio73=audio, video100=video, transcript=np.array(["A GOOD FILM"] * n),
    )  # fmt: skip


@pytest.fixture
def tiny(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> dict[str, Examples]:
    monkeypatch.setenv("AFFECT_DATA", str(tmp_path))
    (tmp_path / "data").mkdir()  # type: ignore[operator]
    made(tmp_path / "data" / FILE)  # type: ignore[operator]
    return mosi_utterance.load()


def test_a_window_is_an_utterance_among_its_neighbours(tiny: dict[str, Examples]) -> None:
    train, test = tiny["train"], tiny["test"]
    assert (len(train), len(test)) == (70, 10) and train.dims == (102, 75, 102) and not set(train.group) & set(test.group)
    k = 7  # third utterance of the second video
    text = train.window.text
    rows = text.x[k, text.mask[k] > 0]
    assert rows[:, 0].tolist() == [5, 6, 7, 8, 9, 7]  # the neighbours in order, then itself again
    assert rows[:, -PLACE].tolist() == [0, 0, 1, 0, 0, 1] and np.allclose(rows[:, -1] * CONTEXT, [-2, -1, 0, 1, 2, 0])
    t = text.t[k, :6]
    assert t[-1] == 0 and (np.diff(t) > 0).all() and t[0] >= -4
    assert train.values[k, 0] == pytest.approx(((7 % 7) - 3) / 3) and train.label[k] == 0


def test_validation_videos_are_not_trained_on(tiny: dict[str, Examples]) -> None:
    train, valid = mosi_utterance.split(tiny["train"], 3)
    assert not set(train.group) & set(valid.group) and len(set(valid.group)) == VALID_VIDEOS
    assert set(mosi_utterance.split(tiny["train"], 4)[1].group) != set(valid.group)


def test_mixing_touches_what_saw_labels_alone(tiny: dict[str, Examples]) -> None:
    train = tiny["train"]
    window = mosi_utterance.mixed(train, train, np.random.default_rng(0))
    assert np.array_equal(window.voice.x, train.window.voice.x)
    assert np.array_equal(window.text.x[..., -PLACE:], train.window.text.x[..., -PLACE:])
    k, rows = 7, 6
    assert np.allclose(window.text.x[k, 2], window.text.x[k, rows - 1])  # both places of the utterance are mixed alike
    assert not np.allclose(window.text.x[k, :rows, :100], train.window.text.x[k, :rows, :100])
    assert not window.text.x[train.window.text.mask == 0].any()
    many = mosi_utterance.rendered(train, train, 0)
    assert len(many) == RENDERINGS * len(train) and not np.allclose(many.window.text.x[7], many.window.text.x[7 + len(train)])


def test_the_real_corpus() -> None:
    try:
        data_root()
    except DataMissing as missing:
        pytest.skip(str(missing))
    parts = mosi_utterance.load()
    assert {name: (len(part), len(set(part.group))) for name, part in parts.items()} == {"train": (1447, 62), "test": (752, 31)}
    words = mosi_utterance.load("words")["test"]
    assert words.dims[0] == 100 + 128 + 9 + 64 + PLACE and np.isfinite(words.window.text.x).all()
    assert np.array_equal(words.window.text.x[..., :100], parts["test"].window.text.x[..., :100])

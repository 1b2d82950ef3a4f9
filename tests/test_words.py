"""Word features: stable hashing, the row's columns, and the same vectors live as in training."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from models import weights
from models.datasets import DataMissing, vectors
from models.encoders.text import TextHead, load_head
from models.encoders.textcard import card
from models.encoders.wordtable import WordTable, imitate
from models.perception.words import DIM, DURATION, PAUSE, PROBABILITY, VECTOR, WORDS, WordPerception, buckets, feature_set, normal

SIZE = 512


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Word weights of random numbers."""
    path = tmp_path / "made.safetensors"
    table = np.random.default_rng(0).normal(size=(SIZE, VECTOR)).astype(np.float16)
    head = {f"head.{name}": value.numpy() for name, value in TextHead(width=8).state_dict().items()}
    save_file({"table": table, **head}, path, {"head": '{"width": 8}'})
    return path


def test_normal_form() -> None:
    assert [normal(w) for w in ("Happy!", "DON\u2019T", "'cause", "…", "😂", "café", "")] == ["happy", "don't", "cause", "", "", "café", ""]


def test_hash_is_the_same_everywhere() -> None:
    """Literal buckets: trained tables are worthless if these ever change."""
    assert buckets("i", 1 << 15) == [5768]
    assert buckets("happy", 1 << 15) == [19668, 30087, 26704, 28879, 300, 28246, 10567, 10541, 5956, 18628, 21675, 969, 15928]
    code = "from models.perception.words import buckets; print(buckets('caf\\u00e9', 999))"
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
        assert said.stdout.strip() == str(buckets("café", 999)), said.stderr


def test_inflections_share_most_of_a_vector(made: Path) -> None:
    words = WordPerception(made)
    near = words.vector("happily") @ words.vector("happy")
    far = words.vector("happily") @ words.vector("wood")
    assert near > far


def test_row_columns(made: Path) -> None:
    words = WordPerception(made)
    row = words.row("Happy,", 1.0, 1.5, 0.25, 0.8)
    assert row.shape == (DIM,) and row.dtype == np.float32
    assert np.array_equal(row[:VECTOR], words.vector("happy"))
    assert row[[DURATION, PAUSE, PROBABILITY]] == pytest.approx([math.log(1.5), math.log(1.75), 0.8])
    first, late, overlapping = (words.row("a", 9.0, 9.0, before, 2.0) for before in (None, 1.0, 9.5))
    assert first[PAUSE] == late[PAUSE] == pytest.approx(math.log(5)) and overlapping[PAUSE] == 0 and first[PROBABILITY] == 1


def test_nothing_spoken_is_a_zero_vector(made: Path) -> None:
    words = WordPerception(made)
    assert not words.vector("?!").any() and words.rows([]).shape == (0, VECTOR)
    assert np.array_equal(words.rows(["so", "?"])[0], words.vector("so"))


def test_vectors_given_out_can_be_changed(made: Path) -> None:
    words = WordPerception(made)
    words.vector("so")[:] = 0
    assert words.vector("so").any()


def test_live_vectors_are_the_trained_ones(made: Path) -> None:
    vocabulary = ["i", "am", "happy", "don't", "unbelievably", "a"]
    table = WordTable(vocabulary, SIZE, 0.1)
    table.table.data = torch.from_numpy(weights.load(made)[0]["table"].astype(np.float32))
    trained = table(np.array([2, 0, 5, 4, 2])).detach().numpy()
    live = WordPerception(made).rows(["happy", "i", "a", "unbelievably", "happy"])
    assert np.allclose(trained, live, atol=1e-5)


def test_features_follow_the_table(made: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"table": np.zeros((4, VECTOR), np.float16)}, other)
    assert len({feature_set(made).hash, feature_set(other).hash, feature_set("no-such-weights").hash}) == 3
    assert (WORDS.dim, WORDS.rate_hz) == (67, 0)


def test_wrong_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    save_file({"table": np.zeros((4, 3), np.float16)}, path)
    with pytest.raises(weights.WeightsError, match="no word table"):
        WordPerception(path)
    with pytest.raises(weights.WeightsError, match="no text head"):
        load_head(path)


def test_head_is_blind_to_padding_and_batch_mates(made: Path) -> None:
    head = load_head(made)
    rows, mask = torch.randn(3, 24, DIM), torch.zeros(3, 24)
    mask[0, :5], mask[1, :24] = 1, 1
    logits, affect = head(rows, mask)
    assert logits.shape == (3, 7) and affect.shape == (3, 2) and torch.isfinite(logits).all() and affect.abs().max() <= 1
    rows[0, 5:] = float("nan")
    again, _ = head(rows, mask)
    alone, _ = head(rows[:1], mask[:1])
    assert torch.allclose(again[0], logits[0], atol=1e-5) and torch.allclose(alone[0], logits[0], atol=1e-5)
    rows[0, 0] += 1
    assert not torch.allclose(head(rows, mask)[0][0], logits[0], atol=1e-3)


def test_published_vectors_are_read_in_both_forms(tmp_path: Path) -> None:
    text, wink, odd = tmp_path / "glove.txt", tmp_path / "wink.json", tmp_path / "odd.txt"
    text.write_text("the 1 2 3\n, 0 0 0\nThe 9 9 9\ncat 4 5 6\nlate 7 8 9\n")
    wink.write_text(json.dumps({"dimensions": 3, "vectors": {"the": [1, 2, 3, 3.7, 0], ",": [0, 0, 0, 0, 1], "cat": [4, 5, 6, 8.8, 2]}}))
    for path, most in ((text, 4), (wink, 9)):
        words, found = vectors.load(path, most)
        assert words == ["the", "cat"] and np.array_equal(found, [[1, 2, 3], [4, 5, 6]])
    odd.write_text("the 1 2\ncat one\n")
    with pytest.raises(ValueError, match="line 2"):
        vectors.load(odd, 9)
    wink.write_text("[]")
    with pytest.raises(ValueError, match="wink"):
        vectors.load(wink, 9)
    with pytest.raises(DataMissing, match="GloVe"):
        vectors.load(tmp_path / "none.txt", 9)


def test_principal_axes_keep_what_differs() -> None:
    draw = np.random.default_rng(0)
    given = (draw.normal(0, 1, (500, 2)) * (3, 1) @ draw.normal(0, 1, (2, 5)) + 7).astype(np.float32)
    turned = vectors.principal(given, 2, 0.5)
    assert turned.std() == pytest.approx(0.5, rel=1e-3) and abs(np.corrcoef(turned.T)[0, 1]) < 0.01
    apart = [np.linalg.norm(x[:100, None] - x[None, :100], axis=-1).ravel() for x in (given, turned)]
    assert np.corrcoef(apart)[0, 1] > 0.999
    with pytest.raises(ValueError, match="cannot give 6 axes"):
        vectors.principal(given, 6, 0.5)


def test_a_table_imitates_vectors() -> None:
    words = ["happy", "happily", "wood", "woods", "stone", "i"]
    target = np.random.default_rng(1).normal(0, 0.5, (6, VECTOR)).astype(np.float32)
    table = WordTable(words, SIZE, 0.0)
    table.table.data = imitate(words, target, {"wood"}, SIZE, 0.02, 200, 2e-2, np.random.default_rng(2))
    assert np.abs(table(np.arange(6)).detach().numpy() - target).max() < 0.05


def shipped_words() -> tuple[WordPerception, TextHead]:
    try:
        return WordPerception(), load_head()
    except weights.WeightsError as missing:
        pytest.skip(str(missing))


def test_shipped_words_read_plain_feelings() -> None:
    """Sentences of this test's own: a head that has learnt anything gets the clear ones."""
    words, head = shipped_words()
    right, valence = 0, []
    cases = {"thank you so much this is wonderful": 1, "i am sad and lonely and i miss him": 2, "i hate you you stupid idiot": 3,
             "that is disgusting and gross": 5, "i am scared and terrified": 4, "wow i had no idea i am surprised": 6}  # fmt: skip
    for text, label in cases.items():
        rows = torch.zeros(1, 24, DIM)
        vectors = torch.from_numpy(words.rows(text.split()))
        rows[0, : len(vectors), :VECTOR] = vectors
        logits, affect = head(rows, (torch.arange(24) < len(vectors)).float()[None])
        right += int(logits.argmax() == label)
        valence.append(float(affect[0, 0].detach()))
    assert right >= 5 and valence[0] > max(valence[1:5])


def test_card_tells_the_figures() -> None:
    config = {"name": "words", "buckets": 8, "seed": 3, "prior": 0.5, "meld": 0.0, "vectors": None, "vector_words": 60_000,
              "hearing": {"share": 0.5, "errors": (0.1, 0.3), "crop": 0.2, "crop_words": (3, 12)}}  # fmt: skip
    text = card(config, {"valid_goemotions_macro_f1": 0.1234, "test_goemotions_macro_f1": 0.5678}, 4_000_000)
    assert "| 0.123 | 0.568 |" in text and "MELD (" not in text and "50% of the training texts have 10% to 30%" in text
    assert "MELD (" in card(config | {"meld": 0.3}, {}, 1) and "Nothing pretrained" in text
    assert "--vectors glove.txt" in card(config | {"vectors": "glove.txt"}, {}, 1)

"""Public pickles: read in their exact layouts, hostile ones refused with the reason."""

from __future__ import annotations

import collections
import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.datasets import DataMissing, affwild2, iemocap, mosei, mosi, pickles, unaligned
from models.datasets.pickles import PickleRefused
from models.datasets.table import TableError


def mult(n: int, seed: int = 0) -> dict[str, Any]:
    """One split as MulT's `mosi_data_noalign.pkl` has it."""
    draw = np.random.default_rng(seed)
    audio = draw.normal(size=(n, 9, 5)).astype(np.float32)
    audio[0, 0, 0] = -np.inf
    audio[:, 6:] = 0
    vision = draw.normal(size=(n, 8, 20)).astype(np.float32)
    vision[:, :3] = 0  # padded in front
    ids = np.array([[f"video{k}", str(1.5 * k), str(1.5 * k + 1)] for k in range(n)], dtype=object)
    return {"id": ids, "text": draw.normal(size=(n, 6, 300)), "audio": audio, "vision": vision, "labels": draw.uniform(-3, 3, (n, 1, 1))}


def mmsa(n: int) -> dict[str, Any]:
    """One split as MMSA's `unaligned_50.pkl` has it."""
    draw = np.random.default_rng(1)
    lengths = [int(k) for k in draw.integers(2, 8, n)]
    return {
        "raw_text": np.array(["well"] * n), "id": [f"v{k}$_$3" for k in range(n)],
        "audio": np.ones((n, 9, 5)), "vision": np.ones((n, 8, 20)),
        "text": draw.normal(size=(n, 6, 768)).astype(np.float32), "text_bert": np.zeros((n, 3, 50)), "audio_lengths": lengths,
        "vision_lengths": lengths, "annotations": ["Positive"] * n, "classification_labels": np.zeros(n), "regression_labels": np.ones(n),
    }  # fmt: skip


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AFFECT_DATA", str(tmp_path))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def write(path: Path, content: object, protocol: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol))


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tolist() == b.tolist()
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_containers_come_back_as_they_were(protocol: int) -> None:
    content = {
        "f": np.arange(12, dtype=np.float32).reshape(3, 4), "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"), "text": np.array(["ab", "c"]), "bytes": np.array([b"ab", b"c"]), "yes": np.array([True]),
        "objects": np.array([["a", 1], [None, 2.5]], dtype=object), "scalar": np.float64(2.5), "empty": np.zeros((0, 3)),
        "plain": [1, (2.5, "x"), {3}, None, b"raw", {"deep": np.int8(1)}],
    }  # fmt: skip
    assert same(pickles.loads(pickle.dumps(content, protocol)), content)


def test_numpy_1_wrote_other_module_names() -> None:
    old = pickle.dumps({"x": np.arange(3.0), "s": np.float32(1)}, 2).replace(b"numpy._core.", b"numpy.core.")
    assert b"numpy.core.multiarray" in old
    assert same(pickles.loads(old), {"x": np.arange(3.0), "s": np.float32(1)})


class _Calls:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.pair = call, arguments

    def __reduce__(self) -> Any:
        return self.pair


@pytest.mark.parametrize("call", [
    _Calls(os.system, "touch HERE"), _Calls(eval, "1"), _Calls(subprocess.Popen, ["true"]), _Calls(getattr, "", "join"),
    _Calls(bytearray, 10), _Calls(np.load, "x"), collections.Counter("a"), Path("x"),
])  # fmt: skip
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_pickle_is_refused_and_does_nothing(call: object, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PickleRefused, match=r"it asks for .*Only numpy arrays"):
        pickles.loads(pickle.dumps({"deep": [call]}, protocol))
    assert not list(tmp_path.iterdir())


def test_made_up_array_states_do_not_reach_numpy() -> None:
    class Made:
        def __init__(self, state: Any) -> None:
            self.state = state

        def __reduce__(self) -> Any:
            return np.array([1.0]).__reduce__()[0], (np.ndarray, (0,), b"b"), self.state

    whole = np.arange(2.0).__reduce__()[2]
    for state in (
        (1, (10**9,), whole[2], False, b"12345678"),  # more cells than content
        (1, (1,), np.dtype([("a", "f8")]), False, b"12345678"),
        (1, (1,), np.dtype(object), False, b"12345678"),  # bytes taken for pointers
        (1, (1,), "f8", False, b"12345678"),
    ):
        with pytest.raises(PickleRefused):
            pickles.loads(pickle.dumps(Made(state)))
    with pytest.raises(PickleRefused, match="type where a value"):
        pickles.loads(pickle.dumps([np.ndarray]))


def test_damaged_files_are_told(tmp_path: Path) -> None:
    whole = pickle.dumps({"x": np.arange(100.0)})
    for content in (b"", b"not a pickle", whole[: len(whole) // 2]):
        (tmp_path / "x.pkl").write_bytes(content)
        with pytest.raises(PickleRefused, match=r"x\.pkl cannot be read as a pickle"):
            pickles.load(tmp_path / "x.pkl")
    within: list[Any] = []
    within.append(within)
    with pytest.raises(PickleRefused, match="within itself"):
        pickles.loads(pickle.dumps(within))


def test_mult_layout(data: Path) -> None:
    write(data / "mosi/mosi_data_noalign.pkl", {name: mult(n) for name, n in (("train", 4), ("valid", 2), ("test", 3))}, 2)
    splits = mosi.load()
    train = splits["train"]
    assert {name: len(part) for name, part in splits.items()} == {"train": 4, "valid": 2, "test": 3}
    assert train.dims == (300, 5, 20) and train.rows == (6, 9, 8)
    assert np.isfinite(train.window.voice.x).all() and train.window.voice.mask.sum(1).tolist() == [6] * 4
    # Padding in front goes behind; the newest row stands at 0.
    assert np.array_equal(train.window.face.x[:, :5], mult(4)["vision"][:, 3:]) and train.window.face.mask.sum(1).tolist() == [5] * 4
    assert (train.window.face.t[:, 4] == 0).all() and (np.diff(train.window.face.t[:, :5]) > 0).all() and (train.window.face.t >= -4).all()
    assert np.allclose(train.values[:, 0], mult(4)["labels"].ravel()) and train.group[2] == "video2" and (train.label == -1).all()


def test_mmsa_layout(data: Path) -> None:
    write(data / "mosei/unaligned_50.pkl", {name: mmsa(3) for name in ("train", "valid", "test")})
    test = mosei.load()["test"]
    assert test.dims == (768, 5, 20) and test.group.tolist() == ["v0", "v1", "v2"] and test.values.tolist() == [[1.0]] * 3
    assert test.window.voice.mask.sum(1).tolist() == mmsa(3)["audio_lengths"] and test.window.text.mask.sum() == 18


def test_iemocap_layout(data: Path) -> None:
    labels = np.tile(np.array([1.0, 0.0]), (3, 4, 1))
    labels[0, 1] = labels[2, 2] = labels[2, 3] = [0, 1]
    part = {**mult(3), "labels": labels}
    del part["id"]
    write(data / "iemocap/iemocap_data_noalign.pkl", dict.fromkeys(("train", "valid", "test"), part))
    valid = iemocap.load()["valid"]
    assert iemocap.EMOTIONS[1] == "happy" and valid.classes.tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0.5, 0.5]]
    assert valid.class_weight.tolist() == [1, 0, 1] and valid.values.shape == (3, 0) and valid.label.tolist() == [1, -1, 2]


def test_missing_and_odd_files_are_named(data: Path) -> None:
    with pytest.raises(DataMissing, match=r"mosi_data_noalign\.pkl, mosi/unaligned_50\.pkl"):
        mosi.load()
    write(data / "mosi/unaligned_50.pkl", {"train": {}})
    with pytest.raises(unaligned.LayoutError, match="lacks the splits test, valid"):
        mosi.load()
    write(data / "mosi/unaligned_50.pkl", {name: {"text": 1} for name in ("train", "valid", "test")})
    with pytest.raises(unaligned.LayoutError, match="lacks audio, vision"):
        mosi.load()
    part = mult(3)
    write(data / "mosi/unaligned_50.pkl", {name: {**part, "labels": part["labels"][:2]} for name in ("train", "valid", "test")})
    with pytest.raises(unaligned.LayoutError, match=r"labels .* for 3 rows"):
        mosi.load()


def test_aff_wild2_annotations_mask_what_is_not_known(data: Path) -> None:
    folder = data / affwild2.FOLDER
    with pytest.raises(DataMissing):
        affwild2.load()
    for name, text in {
        "VA_Estimation_Challenge/Train_Set/a.txt": "valence,arousal\n0.25,-0.5\n-5,-5\n0.1,-5\n",
        "VA_Estimation_Challenge/Validation_Set/b_left.txt": "valence,arousal\n1.0,1.0\n",
        "EXPR_Recognition_Challenge/Train_Set/a.txt": "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other\n4\n-1\n7\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    a, b = affwild2.load()
    assert (a.name, a.split, b.name, b.split) == ("a", "train", "b_left", "valid")
    assert a.valid.tolist() == [1, 0, 0] and a.affect.tolist() == [[0.25, -0.5], [0, 0], [0, 0]]
    (c,) = affwild2.load("expression")
    assert c.valid.tolist() == [1, 0, 1] and [affwild2.EXPRESSIONS[k] for k in c.expression[[0, 2]]] == ["happy", "other"]
    (folder / "VA_Estimation_Challenge/Train_Set/a.txt").write_text("valence,arousal\n0.25\n")
    with pytest.raises(TableError, match=r"a\.txt, line 2"):
        affwild2.load()

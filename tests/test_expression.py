"""The expression network: its graph, rows and weights; FER+ crops and training."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from models import weights as shipped
from models.datasets import DataMissing
from models.emotions import EMOTIONS
from models.perception.face import DIM, FACE, FaceEncoder, FacePerception, features
from models.perception.facenet import EMBEDDING, WEIGHT_LEVELS, graph, ranges

SHARED = Path(os.environ.get("AFFECT_DATA", Path(__file__).parents[2] / "shared"))
SECOND = 1_000_000_000

pytestmark = pytest.mark.filterwarnings("ignore:SymbolDatabase.GetPrototype")  # pytest undoes MediaPipe's own filter.

needs_data = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="corpora not found: set AFFECT_DATA")
needs_weights = pytest.mark.skipif(FACE.recipe["weights"] == "absent", reason="face weights are not trained yet")


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    """A smiling astronaut, 512 x 512 RGB, public domain."""
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    return np.asarray(data.astronaut(), np.uint8)


def _grey(picture: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)


@pytest.fixture(scope="module")
def random_net() -> object:
    """An untrained network with statistics that make every folding term count."""
    torch = pytest.importorskip("torch")
    from models.encoders.face import ExpressionNet

    torch.manual_seed(0)
    net = ExpressionNet().eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2.0)
    return net


@pytest.fixture(scope="module")
def random_weights(random_net: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from models.encoders.face import save

    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save(random_net, path, {}, _crops(20))  # type: ignore[arg-type]
    return path


def _crops(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 48, 48), np.uint8)


def test_graph_equals_torch(random_net: object) -> None:
    import onnxruntime
    import torch

    from models.encoders.face import LAYERS, ExpressionNet, folded

    assert isinstance(random_net, ExpressionNet)
    crops = _crops(5)[:, None].astype(np.float32)
    model = graph(folded(random_net, torch.float32), [[name, stride, skip] for name, _, _, stride, skip in LAYERS])
    rows = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"crops": crops})[0]
    with torch.no_grad():
        pair = [random_net(torch.from_numpy(seen.copy()))[0] for seen in (crops, crops[..., ::-1])]
        embedding = (pair[0] + pair[1]) / 2
        logits = random_net.head(embedding)
    assert np.abs(rows[:, :EMBEDDING] - embedding.numpy()).max() < 1e-4
    assert np.abs(rows[:, EMBEDDING:] - torch.log_softmax(logits, 1).numpy()).max() < 1e-4
    assert np.abs(rows[0] - rows[1]).max() > 1e-3  # Not constant.
    assert (pair[0] - pair[1]).abs().max() > 1e-3  # Nor blind to which side is which before the mean is taken.


def test_the_first_layer_must_halve_the_picture() -> None:
    with pytest.raises(ValueError, match="stem, has a stride of 1"):
        graph({}, [["stem", 1, None]])


@needs_weights
def test_whole_numbers_stay_near_floating_point(tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    arrays, metadata = shipped.load("face")
    layers = json.loads(metadata["layers"])
    coarse = np.random.default_rng(1).integers(0, 256, (60, 5, 5), np.uint8)  # Noise would look all alike to the network.
    crops = np.stack([np.asarray(cv2.resize(one, (48, 48), interpolation=cv2.INTER_CUBIC), np.uint8) for one in coarse])
    bounds = ranges(arrays, layers, crops[20:])
    assert bounds.keys() == {name for name in arrays if name.endswith(".range")}
    assert all(low <= 0 <= high for low, high in bounds.values()) and bounds["stem.range"][0] == 0 > bounds["pooled.range"][0]

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimised.onnx"), 3
    whole = onnxruntime.InferenceSession(graph(arrays | bounds, layers), options, providers=["CPUExecutionProvider"])
    floating = {name: array for name, array in arrays.items() if name not in bounds}
    plain = onnxruntime.InferenceSession(graph(floating, layers), providers=["CPUExecutionProvider"])
    unseen = crops[:20, None].astype(np.float32)
    rows, exact = (np.concatenate([session.run(None, {"crops": crop[None]})[0] for crop in unseen]) for session in (whole, plain))
    assert 0 < np.abs(rows - exact).mean() < 0.15 * exact.std(0).mean()

    made = onnx.load(tmp_path / "optimised.onnx").graph
    kinds = [node.op_type for node in made.node]
    assert kinds.count("QLinearConv") == len(layers) + 1 and "Conv" not in kinds and "Relu" not in kinds
    weights = [onnx.numpy_helper.to_array(array) for array in made.initializer if array.name.endswith("weight.whole")]
    assert len(weights) == len(layers) + 1 and max(int(np.abs(array.astype(int)).max()) for array in weights) == WEIGHT_LEVELS


def test_rows_do_not_depend_on_their_neighbours(random_weights: Path) -> None:
    encoder = FaceEncoder(random_weights)
    crops = _crops(4)
    together = encoder(crops)
    assert together.shape == (4, DIM) and together.dtype == np.float32
    assert all(np.array_equal(encoder(crops[k : k + 1])[0], together[k]) for k in range(4))
    assert np.allclose(np.exp(together[:, EMBEDDING:]).sum(1), 1, atol=1e-5) and np.abs(together[:, :EMBEDDING]).max() <= 1
    assert encoder(crops[:0]).shape == (0, DIM)
    with pytest.raises(ValueError, match="48"):
        encoder(np.zeros((1, 64, 64), np.uint8))


def test_flat_crops_make_finite_rows(random_weights: Path) -> None:
    assert np.isfinite(FaceEncoder(random_weights)(np.stack([np.zeros((48, 48), np.uint8), np.full((48, 48), 255, np.uint8)]))).all()


def test_hash_tells_weights_apart(random_net: object, random_weights: Path, tmp_path: Path) -> None:
    from models.encoders.face import save

    other = tmp_path / "other.safetensors"
    save(random_net, other, {"seed": "1"}, _crops(20))  # type: ignore[arg-type]
    assert features(random_weights).hash == FaceEncoder(random_weights).features.hash
    assert len({features(random_weights).hash, features(other).hash, features(tmp_path / "none.safetensors").hash}) == 3
    assert FACE.dim == 39 and FACE.rate_hz == 30 and len(FACE.recipe["columns"]) == 39


def test_unfit_weights_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    with pytest.raises(shipped.WeightsError, match="no weights"):
        FaceEncoder(tmp_path / "none.safetensors")
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "words.safetensors", {"format": "words-1"})
    with pytest.raises(shipped.WeightsError, match="words-1"):
        FaceEncoder(tmp_path / "words.safetensors")
    metadata = {"format": "face-expression-1", "layers": json.dumps([["stem", 1, None]])}
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "broken.safetensors", metadata)
    with pytest.raises(shipped.WeightsError, match="train"):
        FaceEncoder(tmp_path / "broken.safetensors")


@needs_weights
def test_the_astronaut_is_happy(portrait: np.ndarray) -> None:
    made = FacePerception()
    face, row = made(portrait, 0)
    nobody = made(np.zeros_like(portrait), SECOND)
    made.close()
    assert face is not None and row is not None and row.shape == (39,) and row.dtype == np.float32
    assert EMOTIONS[int(row[EMBEDDING:].argmax())] == "happy"
    assert np.array_equal(row, made.encoder(face.crop[None])[0])
    assert nobody == (None, None)
    assert made.features.hash == FACE.hash


@needs_data
@needs_weights
def test_shipped_network_reads_validation_faces() -> None:
    from models.datasets.ferplus import still_crop
    from models.perception.facemesh import FaceMesh

    with np.load(SHARED / "data" / "ferplus48.npz", allow_pickle=False) as arrays:
        rows = np.flatnonzero((arrays["split"] == 1) & (arrays["label7"] >= 0) & (arrays["duplicate_of"] < 0))[::16]
        images, label = arrays["images"][rows], arrays["label7"][rows]
    mesh = FaceMesh(still=True)
    crops = np.stack([still_crop(mesh, image)[0] for image in images])
    mesh.close()
    top = FaceEncoder()(crops)[:, EMBEDDING:].argmax(1)
    assert len(rows) > 150 and (top == label).mean() > 0.75


# FER+ and training

@pytest.fixture
def small_corpus(portrait: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A FER+ of 64 pictures in the layout of ferplus48.npz: astronauts, noise, and copies across the splits."""
    monkeypatch.setenv("AFFECT_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    face = _grey(np.asarray(cv2.resize(portrait[60:190, 160:290], (48, 48), interpolation=cv2.INTER_AREA), np.uint8)).astype(int)
    images = np.clip(face + rng.integers(-6, 7, (64, 48, 48)), 0, 255).astype(np.uint8)
    images[10:14] = rng.integers(0, 256, (4, 48, 48))
    split = np.repeat([0, 1, 2], [40, 12, 12]).astype(np.uint8)
    twin = np.full(64, -1, np.int32)
    twin[[3, 45, 60]] = [2, 5, 44]  # Inside train; valid repeats train; test repeats valid.
    votes = np.zeros((64, 10), np.uint8)
    votes[np.arange(64), rng.integers(0, 7, 64)] = 8
    votes[:, 7] = 2
    votes[7] = [0, 5, 0, 4, 1, 0, 0, 0, 0, 0]
    names = np.array(["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF"])
    order = [0, 1, 6, 2, 3, 5, 4]  # FER+ column -> label7.
    label = np.array([order[k] for k in votes[:, :7].argmax(1)], np.int8)
    np.savez(tmp_path / "ferplus48.npz", images=images, split=split, duplicate_of=twin, votes=votes, vote_names=names, label7=label)
    return tmp_path


def test_ferplus_rows_votes_and_crops(small_corpus: Path) -> None:
    from models.datasets import ferplus

    parts = {split: ferplus.load(small_corpus, split) for split in ferplus.SPLITS}
    # Train loses row 5 (repeated in valid); valid loses row 45; test loses row 60.
    assert [len(parts[split].label) for split in ferplus.SPLITS] == [39, 11, 11]
    train = parts["train"]
    assert train.crops.shape == (39, 48, 48) and train.crops.dtype == np.uint8
    assert not train.found[9:13].any() and train.found.sum() >= 30
    happy, sad = EMOTIONS.index("happy"), EMOTIONS.index("sad")
    assert train.votes[6, happy] == pytest.approx(5 / 9) and train.votes[6, sad] == pytest.approx(4 / 9)  # The single vote is gone.
    assert train.other[0] == pytest.approx(0.2) and train.other[6] == 0
    assert np.array_equal(train.votes.argmax(1), train.label)
    kept = list((small_corpus / "cache").glob("ferplus-*.npz"))
    assert len(kept) == 1
    assert np.array_equal(ferplus.load(small_corpus, "train").crops, train.crops)
    with pytest.raises(ValueError, match="split"):
        ferplus.load(small_corpus, "dev")
    with pytest.raises(DataMissing, match="AFFECT_DATA"):
        ferplus.load(small_corpus / "cache", "train")


def test_training_writes_weights_that_run(small_corpus: Path) -> None:
    pytest.importorskip("torch")
    from models.encoders.face import FaceTraining

    out = small_corpus / "run"
    figures = FaceTraining(data=small_corpus, out=out, epochs=2, batch=16).run()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1] and all(np.isfinite(line["loss"]) for line in lines)
    assert figures["valid"]["n"] == 11 and 0 <= figures["valid"]["accuracy"] <= 1
    assert FaceEncoder(out / "face.safetensors")(_crops(2)).shape == (2, DIM)


def test_augmentation_is_seeded_and_bounded() -> None:
    torch = pytest.importorskip("torch")
    from models.encoders.faceaugment import augment

    crops = torch.from_numpy(_crops(16)[:, None].astype(np.float32) / 255)
    one, two, other = (augment(crops, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert one.shape == crops.shape and float(one.min()) >= 0 and float(one.max()) <= 1

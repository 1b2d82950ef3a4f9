"""Faces: aligned crops, tracker, expression network, FER+ crops and training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from models import weights as shipped
from models.emotions import EMOTIONS
from models.perception import facegeometry
from models.perception.face import DIM, FACE, FaceBackendError, FaceEncoder, FacePerception, FaceTracker, features
from models.perception.facenet import EMBEDDING, graph

SHARED = Path(os.environ.get("AFFECT_DATA", Path(__file__).parents[2] / "shared"))
TASK = SHARED / "data" / "models" / "face_landmarker.task"
SECOND = 1_000_000_000

pytestmark = pytest.mark.filterwarnings("ignore:SymbolDatabase.GetPrototype")  # pytest undoes MediaPipe's own filter.

needs_data = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="corpora not found: set AFFECT_DATA")
needs_weights = pytest.mark.skipif(FACE.recipe["weights"] == "absent", reason="face weights are not trained yet")
backends = pytest.mark.parametrize("backend", [
    "solutions",
    pytest.param("tasks", marks=pytest.mark.skipif(not TASK.is_file(), reason="no face_landmarker.task: set AFFECT_DATA")),
])


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    """A smiling astronaut, 512 x 512 RGB, public domain."""
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    return np.asarray(data.astronaut(), np.uint8)


@pytest.fixture(scope="module")
def tracker() -> Iterator[FaceTracker]:
    made = FaceTracker()
    yield made
    made.close()


@pytest.fixture(scope="module")
def landmarks(portrait: np.ndarray) -> np.ndarray:
    made = FaceTracker()
    face = made(portrait, 0)
    made.close()
    assert face is not None
    return face.landmarks


def _grey(picture: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)


def _moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    moved = points.copy()
    moved[:, :2] = points[:, :2] @ matrix[:, :2].T + matrix[:, 2]
    moved[:, 2] *= np.hypot(matrix[0, 0], matrix[1, 0])
    return moved


# Crops and geometry

def test_alignment_puts_the_anchors_in_place(landmarks: np.ndarray) -> None:
    transform = facegeometry.alignment(landmarks)
    placed = facegeometry.anchors(landmarks) @ transform[:, :2].T + transform[:, 2]
    assert np.abs(placed - np.array(list(facegeometry.ANCHORS.values()))).max() < 2.0


def test_alignment_of_a_point_is_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        facegeometry.alignment(np.zeros((468, 3), np.float32))


@pytest.mark.parametrize("ratio", [0.6, 1.7, 3.0])
def test_crop_is_the_same_at_every_resolution(portrait: np.ndarray, landmarks: np.ndarray, ratio: float) -> None:
    grey = _grey(portrait)
    kind = cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC
    resized = np.asarray(cv2.resize(grey, None, fx=ratio, fy=ratio, interpolation=kind), np.uint8)
    matrix = np.array([[ratio, 0, (ratio - 1) / 2], [0, ratio, (ratio - 1) / 2]])
    one = facegeometry.crop(grey, facegeometry.alignment(landmarks)).astype(int)
    other = facegeometry.crop(resized, facegeometry.alignment(_moved(landmarks, matrix))).astype(int)
    assert np.abs(one - other).mean() < 2.0
    assert one.std() > 30  # A face, not a flat patch.


def test_crop_does_not_see_the_tilt_of_the_head(portrait: np.ndarray, landmarks: np.ndarray) -> None:
    grey = _grey(portrait)
    matrix = cv2.getRotationMatrix2D((224, 124), 25, 1.0)
    turned = np.asarray(cv2.warpAffine(grey, matrix, (512, 512), flags=cv2.INTER_CUBIC), np.uint8)
    one = facegeometry.crop(grey, facegeometry.alignment(landmarks)).astype(int)
    other = facegeometry.crop(turned, facegeometry.alignment(_moved(landmarks, matrix))).astype(int)
    assert np.abs(one - other).mean() < 3.0


def test_geometry_does_not_see_position_size_and_tilt(landmarks: np.ndarray) -> None:
    plain = facegeometry.geometry(landmarks)
    matrix = cv2.getRotationMatrix2D((100, 300), -20, 1.8)
    moved = facegeometry.geometry(_moved(landmarks, matrix))
    assert moved["roll"] - plain["roll"] == pytest.approx(np.radians(20), abs=1e-3)
    for name in set(plain) - {"roll"}:
        assert moved[name] == pytest.approx(plain[name], abs=2e-3), name


def test_geometry_follows_the_mouth(landmarks: np.ndarray) -> None:
    changed = landmarks.copy()
    changed[[61, 291], 1] += 8  # Corners down.
    changed[14, 1] += 10  # Jaw down.
    before, after = facegeometry.geometry(landmarks), facegeometry.geometry(changed)
    assert after["mouth_curve"] < before["mouth_curve"]
    assert after["mouth_open"] > before["mouth_open"] + 0.1


def test_quality_falls_with_blur_and_size(portrait: np.ndarray, landmarks: np.ndarray) -> None:
    grey = _grey(portrait)
    transform = facegeometry.alignment(landmarks)
    sharp = facegeometry.quality(landmarks, facegeometry.crop(grey, transform), 512, 512)
    smeared = np.asarray(cv2.GaussianBlur(grey, (0, 0), 12), np.uint8)
    blurred = facegeometry.quality(landmarks, facegeometry.crop(smeared, transform), 512, 512)
    tiny = (landmarks * 0.2).astype(np.float32)
    small = facegeometry.quality(tiny, facegeometry.crop(grey, transform), 512, 512)
    assert 0 <= blurred < 0.5 * sharp and 0 <= small < 0.6 * sharp and sharp <= 1


# Tracker

@backends
def test_tracker_reads_the_astronaut(portrait: np.ndarray, backend: str) -> None:
    made = FaceTracker(backend, TASK if backend == "tasks" else None)
    faces = [made(portrait, k * SECOND // 30) for k in range(5)]
    made.close()
    face = faces[-1]
    assert all(found is not None for found in faces) and face is not None
    assert face.landmarks.shape == (478, 3) and face.landmarks.dtype == np.float32
    x0, y0, x1, y1 = face.box
    assert 160 < x0 < 200 < 250 < x1 < 290 and 50 < y0 < 90 < 160 < y1 < 200
    assert face.crop.shape == (48, 48) and face.crop.dtype == np.uint8
    assert face.track == 0 and 0.5 < face.quality <= 1
    assert face.geometry["mouth_curve"] > 0 and abs(face.geometry["yaw"]) < 0.3 and face.geometry["motion"] < 1


def test_track_outlives_a_short_absence_only(portrait: np.ndarray, tracker: FaceTracker) -> None:
    tracker.reset()
    blank = np.zeros_like(portrait)
    start = 100 * SECOND
    first = tracker(portrait, start)
    assert tracker(blank, start + SECOND // 2) is None
    again = tracker(portrait, start + 9 * SECOND // 10)
    assert tracker(blank, start + SECOND) is None
    late = tracker(portrait, start + 3 * SECOND)
    assert first is not None and again is not None and late is not None
    assert again.track == first.track and late.track == first.track + 1


def test_another_place_is_another_person(portrait: np.ndarray, tracker: FaceTracker) -> None:
    tracker.reset()
    left, right = np.full((300, 720, 3), 90, np.uint8), np.full((300, 720, 3), 90, np.uint8)
    head = portrait[0:240, 110:350]
    left[30:270, 20:260], right[30:270, 460:700] = head, head
    one = tracker(left, 200 * SECOND)
    blank = tracker(np.zeros_like(left), 200 * SECOND + SECOND // 5)
    other = tracker(right, 200 * SECOND + 2 * SECOND // 5)
    assert one is not None and blank is None and other is not None
    assert other.track == one.track + 1 and other.geometry["motion"] == 0


@backends
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_larger_face_is_chosen_and_kept(portrait: np.ndarray, backend: str, mirrored: bool) -> None:
    picture = np.full((460, 560, 3), 90, np.uint8)
    small = np.asarray(cv2.resize(portrait[20:220, 130:330], (120, 120), interpolation=cv2.INTER_AREA), np.uint8)
    large = np.asarray(cv2.resize(portrait[20:220, 130:330], (320, 320), interpolation=cv2.INTER_CUBIC), np.uint8)
    picture[40:160, 20:140], picture[80:400, 220:540] = small, large
    picture = np.ascontiguousarray(picture[:, ::-1]) if mirrored else picture
    made = FaceTracker(backend, TASK if backend == "tasks" else None)
    faces = [made(picture, k * SECOND // 30) for k in range(4)]
    made.close()
    for face in faces:
        assert face is not None and face.track == 0
        assert face.box[2] - face.box[0] > 100


def test_bad_frames_and_times_are_told(portrait: np.ndarray, tracker: FaceTracker) -> None:
    tracker.reset()
    with pytest.raises(ValueError, match="uint8"):
        tracker(portrait[..., 0], 0)
    with pytest.raises(ValueError, match="uint8"):
        tracker(portrait.astype(np.float32), 0)
    tracker(portrait, 300 * SECOND)
    with pytest.raises(ValueError, match=r"reset\(\)"):
        tracker(portrait, 300 * SECOND)
    tracker.reset()
    assert tracker(portrait, 0) is not None


def test_missing_landmarker_is_told(tmp_path: Path) -> None:
    with pytest.raises(FaceBackendError, match="not there"):
        FaceTracker(model_path=tmp_path / "face_landmarker.task")
    (tmp_path / "broken.task").write_bytes(b"not a model")
    with pytest.raises(FaceBackendError):
        FaceTracker(model_path=tmp_path / "broken.task")
    with pytest.raises(ValueError, match="backend"):
        FaceTracker(backend="dlib")


@needs_data
@backends
def test_face_comes_into_view_when_it_does(backend: str) -> None:
    av = pytest.importorskip("av")
    made = FaceTracker(backend, TASK if backend == "tasks" else None)
    with av.open(str(SHARED / "data" / "clips" / "noface_face.mp4")) as clip:
        found = [made(frame.to_ndarray(format="rgb24"), int(frame.time * SECOND)) is not None for frame in clip.decode(video=0)]
    made.close()
    expected = [118 <= k <= 189 for k in range(191)]
    assert len(found) == 191 and sum(a != b for a, b in zip(found, expected, strict=True)) <= 2


def test_mediapipe_keeps_quiet_and_torch_stays_out() -> None:
    code = (
        "import sys, numpy as np\nfrom models.perception.face import FaceTracker\n"
        "t = FaceTracker(); t(np.zeros((120, 160, 3), np.uint8), 0); t.reset(); t.close()\nprint('torch' in sys.modules)"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=root, check=True)
    assert done.stdout.strip() == "False"
    assert done.stderr == ""


# Expression network

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
    save(random_net, path, {})  # type: ignore[arg-type]
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
        embedding, logits = random_net(torch.from_numpy(crops))
    assert np.abs(rows[:, :EMBEDDING] - embedding.numpy()).max() < 1e-4
    assert np.abs(rows[:, EMBEDDING:] - torch.log_softmax(logits, 1).numpy()).max() < 1e-4
    assert np.abs(rows[0] - rows[1]).max() > 1e-3  # Not constant.


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
    save(random_net, other, {"seed": "1"})  # type: ignore[arg-type]
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
    with pytest.raises(FileNotFoundError, match="AFFECT_DATA"):
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

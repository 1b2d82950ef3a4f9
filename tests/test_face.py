"""Faces: aligned crops, geometry, quality, and the tracker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.perception import facegeometry, facemesh
from models.perception.face import FaceBackendError, FaceTracker

SHARED = Path(os.environ.get("AFFECT_DATA", Path(__file__).parents[2] / "shared"))
TASK = SHARED / "data" / "models" / "face_landmarker.task"
SECOND = 1_000_000_000

pytestmark = pytest.mark.filterwarnings("ignore:SymbolDatabase.GetPrototype")  # pytest undoes MediaPipe's own filter.

needs_data = pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="corpora not found: set AFFECT_DATA")
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


@pytest.mark.parametrize("ratio", [0.6, 1.7, 3.0, 8.0])
def test_crop_is_the_same_at_every_resolution(portrait: np.ndarray, landmarks: np.ndarray, ratio: float) -> None:
    grey = _grey(portrait)
    kind = cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC
    resized = np.asarray(cv2.resize(grey, None, fx=ratio, fy=ratio, interpolation=kind), np.uint8)
    matrix = np.array([[ratio, 0, (ratio - 1) / 2], [0, ratio, (ratio - 1) / 2]])
    one = facegeometry.crop(grey, facegeometry.alignment(landmarks)).astype(int)
    other = facegeometry.crop(resized, facegeometry.alignment(_moved(landmarks, matrix))).astype(int)
    assert np.abs(one - other).mean() < 2.0
    assert one.std() > 30  # A face, not a flat patch.


@pytest.mark.parametrize("cut", [0, 1, 5, 8])
def test_a_face_cut_by_the_edge_stays_in_its_place(portrait: np.ndarray, landmarks: np.ndarray, cut: int) -> None:
    """Where a fine picture is shrunk in blocks too, and its sides are no multiple of them."""
    large = np.asarray(cv2.resize(_grey(portrait), None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC), np.uint8)
    points = _moved(landmarks, np.array([[5.0, 0, 2], [0, 5.0, 2]]))
    right, lower = int(points[291, 0]) - cut, int(points[152, 1]) - cut
    inside = np.ascontiguousarray(large[:lower, :right])
    transform = facegeometry.alignment(points)
    assert 1 / np.hypot(*transform[:, 0]) > 4 * facegeometry.FINEST
    seen = cv2.erode(cv2.warpAffine(np.full_like(inside, 255), transform, (48, 48)), np.ones((5, 5), np.uint8)) == 255
    assert 0.3 < seen.mean() < 0.9
    one, whole = (facegeometry.crop(picture, transform).astype(int) for picture in (inside, large))
    assert np.abs(one - whole)[seen].mean() < 0.5 and np.abs(one - whole)[seen].max() < 12


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


def test_geometry_without_irises_looks_straight_ahead(landmarks: np.ndarray) -> None:
    whole, without = facegeometry.geometry(landmarks), facegeometry.geometry(landmarks[:468])
    assert without["gaze_x"] == without["gaze_y"] == 0 != whole["gaze_x"]
    assert {name: value for name, value in whole.items() if "gaze" not in name} == pytest.approx(
        {name: value for name, value in without.items() if "gaze" not in name})


def test_a_crop_is_of_the_grey_picture(portrait: np.ndarray, landmarks: np.ndarray) -> None:
    transform = facegeometry.alignment(landmarks)
    assert np.array_equal(facegeometry.crop(portrait, transform), facegeometry.crop(_grey(portrait), transform))


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


@pytest.mark.parametrize("more", [{}, {"visibility": 0.5}])
def test_landmarks_are_read_off_their_bytes(more: dict[str, float]) -> None:
    from mediapipe.framework.formats.landmark_pb2 import NormalizedLandmarkList

    truth = np.random.default_rng(0).normal(size=(478, 3)).astype(np.float32)
    truth[:3] = 0
    face = NormalizedLandmarkList()
    for x, y, z in truth.tolist():
        face.landmark.add(x=x, y=y, z=z, **more)
    assert np.array_equal(facemesh._points(face.SerializeToString()), truth)


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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=360, cwd=root, check=True)
    assert done.stdout.strip() == "False"
    assert done.stderr == ""

"""MediaPipe behind one small interface: a picture in, the landmarks of its faces out.

Two makers of the same 478 points: `mp.solutions.face_mesh` (bundled models, mediapipe up to 0.10.21) and the Tasks
FaceLandmarker (any mediapipe, needs a `face_landmarker.task` file).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
import tempfile
import threading
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.perception.facegeometry import Points

Picture = npt.NDArray[np.uint8]

_stderr = threading.Lock()


class FaceBackendError(RuntimeError):
    """MediaPipe or the model file it needs is missing or unusable."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what MediaPipe's C++ writes to stderr while it starts; give it back when starting fails."""
    os.environ.setdefault("GLOG_minloglevel", "3")
    with _stderr, tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        saved = os.dup(2)
        os.dup2(held.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            if failed:
                held.seek(0)
                sys.stderr.write(held.read().decode(errors="replace"))


@contextlib.contextmanager
def _without_plots() -> Iterator[None]:
    """MediaPipe's drawing helpers import all of matplotlib, two thirds of its start; nobody draws here, so they get an empty module."""
    plots = ("matplotlib", "matplotlib.pyplot")
    hidden = {} if "matplotlib" in sys.modules else {name: types.ModuleType(name) for name in plots}
    sys.modules.update(hidden)
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)


def _mediapipe() -> Any:
    warnings.filterwarnings("ignore", message="SymbolDatabase.GetPrototype", category=UserWarning)
    try:
        with _quiet(), _without_plots():
            return importlib.import_module("mediapipe")
    except ImportError as error:
        raise FaceBackendError(f"mediapipe cannot be imported: {error}. Run `pip install -c tools/constraints.txt mediapipe`.") from error


TICK_US = 33_333
"""Between two pictures, as MediaPipe's solutions count time."""
_LANDMARK = np.dtype([("head", "S3"), ("x", "<f4"), ("to_y", "S1"), ("y", "<f4"), ("to_z", "S1"), ("z", "<f4")])
"""A landmark of three numbers as protobuf writes it."""


@functools.cache
def _frame(count: int) -> tuple[bytes, npt.NDArray[np.uint8]]:
    """So many landmarks with zeros for their numbers, and a mask of all bits but those of the numbers."""
    marks, masked = np.zeros(count, _LANDMARK), np.zeros(count, _LANDMARK)
    for name, value in (("head", b"\x0a\x0f\x0d"), ("to_y", b"\x15"), ("to_z", b"\x1d")):
        marks[name], masked[name] = value, b"\xff" * len(value)
    return marks.tobytes(), masked.view(np.uint8)


def _points(data: bytes) -> Points:
    """The landmarks of a serialised protobuf list (N, 3), read off its bytes: asking for 1,434 numbers one by one takes a quarter of a
    millisecond. In memory each coordinate lies by itself, which makes what is asked of all points faster."""
    if len(data) % _LANDMARK.itemsize == 0:
        marks, masked = _frame(len(data) // _LANDMARK.itemsize)
        if (np.frombuffer(data, np.uint8) & masked).tobytes() == marks:
            read, points = np.frombuffer(data, _LANDMARK), np.empty((3, len(masked) // _LANDMARK.itemsize), np.float32)
            for coordinate, name in zip(points, "xyz", strict=True):
                coordinate[:] = read[name]
            return points.T
    from mediapipe.framework.formats.landmark_pb2 import NormalizedLandmarkList

    return np.array([(p.x, p.y, p.z) for p in NormalizedLandmarkList.FromString(data).landmark], np.float32)


class FaceMesh:
    """Finds and follows the landmarks of faces.

    backend: "solutions", "tasks" or "auto" (Tasks where a model is given or `mp.solutions` is gone). still: every picture by
    itself, for photographs. most: how many faces are looked for; with one, MediaPipe also smooths over time.
    Raises FaceBackendError when the backend or its model is missing.
    """

    def __init__(self, backend: str = "auto", model_path: str | Path | None = None, still: bool = False, most: int = 1) -> None:
        if backend not in ("auto", "solutions", "tasks"):
            raise ValueError(f"unknown face backend {backend!r}: use auto, solutions or tasks")
        self._mp = _mediapipe()
        bundled = hasattr(self._mp, "solutions")
        if backend == "auto":
            backend = "tasks" if model_path is not None or not bundled else "solutions"
        if backend == "solutions" and not bundled:
            raise FaceBackendError("this mediapipe has no mp.solutions: install mediapipe==0.10.14, or give a face_landmarker.task")
        self.backend = backend
        self._still, self._most = still, most
        self._model: bytes | None = None
        if backend == "tasks":
            found = None if model_path is None else Path(model_path)
            if found is None or not found.is_file():
                where = f"{found} is not there" if found else "no path was given"
                raise FaceBackendError(f"the Tasks face landmarker needs its model file: {where}. Give the path of a face_landmarker.task.")
            self._model = found.read_bytes()
        self._engine: Any = None
        self._last_ms = -1
        with _quiet():
            self._open()

    def _open(self) -> None:
        if self.backend == "solutions":
            self._engine = self._mp.solutions.face_mesh.FaceMesh(
                static_image_mode=self._still,
                max_num_faces=self._most,
                refine_landmarks=True,
                min_detection_confidence=0.5,
                min_tracking_confidence=0.5,
            )
        else:
            tasks = importlib.import_module("mediapipe.tasks.python")
            vision = tasks.vision
            try:
                self._engine = vision.FaceLandmarker.create_from_options(vision.FaceLandmarkerOptions(
                    base_options=tasks.BaseOptions(model_asset_buffer=self._model),
                    running_mode=vision.RunningMode.IMAGE if self._still else vision.RunningMode.VIDEO,
                    num_faces=self._most,
                ))
            except (RuntimeError, ValueError) as error:
                raise FaceBackendError(f"the face landmarker cannot be used: {error}. Fetch face_landmarker.task again.") from error
        self._begin()

    def _begin(self) -> None:
        """Show an empty picture: MediaPipe opens its models, and chatters, only with the first one."""
        self._last_ms = -1
        self(np.zeros((128, 128, 3), np.uint8), 0)

    def __call__(self, frame: Picture, time_ns: int = 0) -> list[Points]:
        """Landmarks (468 or 478, 3) float32 of each face in an RGB picture (H, W, 3) uint8.

        x and y are pixels with pixel centres at whole numbers, z has the scale of x and grows away from the camera.
        """
        height, width = frame.shape[:2]
        frame = np.ascontiguousarray(frame)
        faces: list[Points]
        if self.backend == "solutions":
            faces = [_points(face) for face in self._solve(frame)]
        else:
            image = self._mp.Image(image_format=self._mp.ImageFormat.SRGB, data=frame)
            if self._still:
                found = self._engine.detect(image).face_landmarks
            else:
                # The tracker demands rising whole milliseconds; two frames inside one millisecond still must rise.
                self._last_ms = max(self._last_ms + 1, time_ns // 1_000_000)
                found = self._engine.detect_for_video(image, self._last_ms).face_landmarks
            faces = [np.array([(p.x, p.y, p.z) for p in face], np.float32) for face in found]
        for face in faces:
            for coordinate, size, half in zip(face.T, (width, height, width), (0.5, 0.5, 0.0), strict=True):
                coordinate *= size
                coordinate -= half
        return faces

    def _solve(self, frame: Picture) -> list[bytes]:
        """What the solution's own `process` does, the same in all versions that are allowed (0.10.14 to 0.10.21), less what it does to each
        picture for convenience: it copies it, makes a class for the answer, and parses that. They are a tenth of its time."""
        engine = self._engine
        shared = frame.view()
        shared.flags.writeable = False  # By this MediaPipe knows that it need not copy.
        engine._graph_outputs.clear()
        engine._simulated_timestamp += TICK_US
        packet = self._mp.packet_creator.create_image_frame(shared, image_format=self._mp.ImageFormat.SRGB)
        engine._graph.add_packet_to_input_stream(stream="image", packet=packet.at(engine._simulated_timestamp))
        engine._graph.wait_until_idle()
        found = engine._graph_outputs.get("multi_face_landmarks")
        if found is None or found.is_empty():
            return []
        faces: list[bytes] = self._mp.packet_getter._packet_getter._get_serialized_proto_list(found)
        return faces

    def reset(self) -> None:
        """Forget the face that was followed."""
        with _quiet():
            if self.backend == "solutions":
                self._engine.reset()
                self._begin()
            else:
                self._engine.close()
                self._open()

    def close(self) -> None:
        """Free MediaPipe's threads. The object is of no use afterwards."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

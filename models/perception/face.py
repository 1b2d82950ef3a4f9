"""Faces in pictures -> face feature rows: follow one person, align, encode. No sockets, no torch."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from models.perception import facegeometry
from models.perception.facegeometry import Grey, Points
from models.perception.facemesh import FaceBackendError, FaceMesh, Picture
from models.perception.facenet import DIM, FaceEncoder, features

__all__ = ["DIM", "FACE", "Face", "FaceBackendError", "FaceEncoder", "FacePerception", "FaceTracker", "features"]

FACE = features("face")
"""The face feature set of the shipped weights; `features(weights)` gives that of others."""

Box = tuple[float, float, float, float]

ABSENCE_NS = 1_000_000_000
"""After this long without a face, the next one is a new track."""

CANDIDATES = 4
"""How many faces are compared when a person is chosen."""

SAME_PERSON = 0.1
"""Least overlap (intersection over union) of a face with the one before it, for the two to be one track."""

SMALLEST = 16.0
"""Faces with fewer pixels than this between the outer corners of the eyes are not read: a third of what the crop shows."""


@dataclass(frozen=True)
class Face:
    """One face in one picture.

    landmarks (468 or 478, 3) float32 in pixels; box (x0, y0, x1, y1) around them in pixels; track: a number that changes when
    another person takes over; quality 0..1 (size, sharpness, contrast, frontality, share inside the picture); crop (48, 48)
    uint8, aligned and grey; geometry: see `facegeometry.geometry`, and `motion`, the speed of the head in eye distances a second
    (0 in a track's first picture).
    """

    landmarks: Points
    box: Box
    track: int
    quality: float
    crop: Grey
    geometry: dict[str, float]


@dataclass
class _Seen:
    """What the tracker remembers of the last face."""

    time_ns: int
    box: Box
    centre: tuple[float, float]
    unit: float


def _box(points: Points) -> Box:
    (x0, x1, _, _), (y0, y1, _, _) = cv2.minMaxLoc(points[:, 0]), cv2.minMaxLoc(points[:, 1])
    return x0, y0, x1, y1


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def _prominence(box: Box, height: int, width: int) -> float:
    """Size of a face, discounted up to half towards the picture's corners."""
    size = max(box[2] - box[0], box[3] - box[1])
    off = np.hypot((box[0] + box[2]) / width - 1, (box[1] + box[3]) / height - 1) / np.sqrt(2)
    return float(size * (1 - 0.5 * min(1.0, off)))


class FaceTracker:
    """Follows one person: the largest, most central face, kept until it is lost.

    backend "auto", "solutions" or "tasks"; model_path: a `face_landmarker.task` for the latter. Raises FaceBackendError when they
    cannot be had. One tracker serves one video: call `reset` where time jumps. MediaPipe's detector is made for webcams: a face
    narrower than about an eighth of the picture is not found.
    """

    def __init__(self, backend: str = "auto", model_path: str | Path | None = None) -> None:
        self._mesh = FaceMesh(backend, model_path)
        self._crowd = FaceMesh(backend, model_path, still=True, most=CANDIDATES)
        self.backend = self._mesh.backend
        self._track = -1
        self._seen: _Seen | None = None
        self._following = False
        self._time_ns: int | None = None

    def __call__(self, frame: Picture, time_ns: int) -> Face | None:
        """The person's face in an RGB picture (H, W, 3) uint8 taken at `time_ns`, or None where there is none.

        Raises ValueError for another picture format, or when time does not rise.
        """
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or min(frame.shape[:2]) < 2:
            raise ValueError(f"a frame must be RGB (H, W, 3) uint8, not {frame.shape} {frame.dtype}")
        if self._time_ns is not None and time_ns <= self._time_ns:
            raise ValueError(f"frame time {time_ns} ns does not come after {self._time_ns} ns: call reset() where a source starts again")
        self._time_ns = time_ns
        faces = self._mesh(frame, time_ns)
        if faces and not self._following:
            faces = self._choose(frame, faces, time_ns)
        face = self._read(frame, faces[0], time_ns) if faces else None
        self._following = face is not None
        return face

    def _choose(self, frame: Picture, faces: list[Points], time_ns: int) -> list[Points]:
        """Where several faces could be followed, begin with the best: the others are hidden in this one picture."""
        boxes = [_box(points) for points in self._crowd(frame)]
        if len(boxes) < 2:
            return faces
        height, width = frame.shape[:2]
        best = max(boxes, key=lambda box: _prominence(box, height, width))
        if _overlap(best, _box(faces[0])) > SAME_PERSON:
            return faces
        hidden = frame.copy()
        for box in boxes:
            if box is not best:
                x0, y0, x1, y1 = (max(0, round(edge)) for edge in box)
                hidden[y0:y1, x0:x1] = 127
        x0, y0, x1, y1 = (max(0, round(edge)) for edge in best)
        hidden[y0:y1, x0:x1] = frame[y0:y1, x0:x1]
        self._mesh.reset()
        return self._mesh(hidden, time_ns) or faces

    def _read(self, frame: Picture, points: Points, time_ns: int) -> Face | None:
        height, width = frame.shape[:2]
        box = _box(points)
        unit = math.dist(points[263].tolist(), points[33].tolist())
        if not np.isfinite(points).all() or unit < SMALLEST or _overlap(box, (0.0, 0.0, float(width), float(height))) == 0:
            return None
        anchors, axes = facegeometry.anchors(points), facegeometry.pose(points)
        try:
            transform = facegeometry.fitted(anchors)
        except ValueError:
            return None
        crop = facegeometry.crop(frame, transform)
        (x0, y0), (x1, y1), _ = anchors.tolist()
        centre = (x0 + x1) / 2, (y0 + y1) / 2
        measures = facegeometry.geometry(points, axes)
        measures["motion"] = 0.0
        last = self._seen
        if last is None or time_ns - last.time_ns > ABSENCE_NS or _overlap(box, last.box) < SAME_PERSON:
            self._track += 1
        else:
            step = math.dist(centre, last.centre) / ((unit + last.unit) / 2)
            measures["motion"] = step / ((time_ns - last.time_ns) * 1e-9)
        self._seen = _Seen(time_ns, box, centre, unit)
        return Face(points, box, self._track, facegeometry.quality(points, crop, height, width, axes), crop, measures)

    def reset(self) -> None:
        """Forget the person and the time; the next face is a new track. Track numbers go on rising."""
        self._mesh.reset()
        self._seen, self._following, self._time_ns = None, False, None

    def close(self) -> None:
        """Free MediaPipe's threads."""
        self._mesh.close()
        self._crowd.close()


class FacePerception:
    """Tracker and encoder in one: picture in, face and feature row out."""

    def __init__(self, backend: str = "auto", model_path: str | Path | None = None, weights: str | os.PathLike[str] = "face") -> None:
        self.encoder = FaceEncoder(weights)
        self.features = self.encoder.features
        self.tracker = FaceTracker(backend, model_path)

    def __call__(self, frame: Picture, time_ns: int) -> tuple[Face | None, npt.NDArray[np.float32] | None]:
        """The face in an RGB picture and its row (39,) float32, or (None, None). Errors as in FaceTracker."""
        face = self.tracker(frame, time_ns)
        return (None, None) if face is None else (face, self.encoder(face.crop[None])[0])

    def reset(self) -> None:
        self.tracker.reset()

    def close(self) -> None:
        self.tracker.close()

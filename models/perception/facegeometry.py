"""From face landmarks to an aligned crop, pose-normalised geometry and a quality figure (numpy and OpenCV only).

Landmark indices are those of MediaPipe Face Mesh (Kartynnik et al. 2019, arXiv:1907.06724): 468 points, 478 with irises.
"Right" and "left" are the person's own; the right eye lies at smaller x in an unmirrored picture.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float32]
Grey = npt.NDArray[np.uint8]

CROP = 48
"""Side of the aligned crop in pixels: the native size of the FER images the expression network learns from."""

ANCHORS: dict[str, tuple[float, float]] = {"right_eye": (14.7, 18.4), "left_eye": (32.3, 18.4), "nose_base": (23.5, 30.8)}
"""Where the crop puts three points of the face: their medians over 1,440 FER training images, made symmetric.

The nose base stands in for the mouth because it hardly moves with the expression: a dropped jaw must not shrink the face.
"""

SMOOTHING = 0.35
"""Sigma, in crop pixels, of the blur that brings a high-resolution picture down to the sharpness of the training crops."""

SUPERSAMPLING = 4

FINEST = 2
"""Picture pixels to a crop pixel, at least, that are left of a fine picture before it is blurred: what is larger is first shrunk
by a whole number (block means), since of a large face a blur over all its pixels is most of the cost."""

RECIPE = {
    "side": CROP,
    "anchors": ANCHORS,
    "smoothing": SMOOTHING,
    "supersampling": SUPERSAMPLING,
    "finest": FINEST,
    "fit": "similarity of eye corners and nose base",
}
"""All that decides a crop's pixels, for the feature hash."""

_MIDDLE = tuple(sum(place[k] for place in ANCHORS.values()) / len(ANCHORS) for k in range(2))
_TARGET = [(x - _MIDDLE[0], y - _MIDDLE[1]) for x, y in ANCHORS.values()]
_EYES = {"right_eye": (33, 133), "left_eye": (362, 263)}
_NOSE_BASE = 2
_HEAD = [33, 263, 10, 152]
"""Outer corners of the eyes, top of the forehead, chin."""
_ANCHORED = [*_EYES["right_eye"], *_EYES["left_eye"], _NOSE_BASE]
_LIDS = {"right": (159, 145, 33, 133), "left": (386, 374, 362, 263)}
"""Upper lid, lower lid and the two corners of each eye."""
_BROWS = {"right": (105, 107), "left": (334, 336)}
"""Middle and inner end of each brow."""
_IRIS = {"right": 468, "left": 473}
_LIPS = (13, 14, 61, 291)
"""Upper and lower lip, the mouth's right and left corner."""
_MEASURED = [*dict.fromkeys([*_ANCHORED[:4], *sum(_LIDS.values(), ()), *sum(_BROWS.values(), ()), *_LIPS, *_IRIS.values()])]


def anchors(landmarks: Points) -> Points:
    """Eye centres (from the corners, which neither blinks nor gaze move) and nose base: (3, 2) pixels, in the order of `ANCHORS`."""
    corners = landmarks[_ANCHORED, :2].astype(np.float32)
    return np.concatenate([(corners[:4:2] + corners[1:4:2]) / 2, corners[4:]])


def alignment(landmarks: Points) -> npt.NDArray[np.float64]:
    """Similarity transform (2, 3) from picture pixels to crop pixels, least squares over the anchors (Umeyama 1991).

    A reflection is never fitted. Raises ValueError where the anchors fall together.
    """
    return fitted(anchors(landmarks))


def fitted(places: Points) -> npt.NDArray[np.float64]:
    """`alignment` of a face whose anchors are at `places` (3, 2)."""
    # Here and below: of a dozen numbers plain ones take a fraction of the time that small arrays do.
    source = places.tolist()
    middle = [sum(place[k] for place in source) / len(source) for k in range(2)]
    moved = [(x - middle[0], y - middle[1]) for x, y in source]
    spread = sum(x * x + y * y for x, y in moved)
    if not math.isfinite(spread) or spread < 1.0:
        raise ValueError("the eyes and nose of this face fall together: it is too small to be aligned")
    # In two dimensions the least-squares rotation and scale are one complex number.
    real = sum(x * u + y * v for (x, y), (u, v) in zip(moved, _TARGET, strict=True)) / spread
    imaginary = sum(x * v - y * u for (x, y), (u, v) in zip(moved, _TARGET, strict=True)) / spread
    return np.array([
        (real, -imaginary, _MIDDLE[0] - (real * middle[0] - imaginary * middle[1])),
        (imaginary, real, _MIDDLE[1] - (imaginary * middle[0] + real * middle[1])),
    ])


def centred(height: int, width: int) -> npt.NDArray[np.float64]:
    """Transform (2, 3) that maps a whole, already tight picture onto the crop: the fallback where no face was found."""
    scale = CROP / min(height, width)
    shift = (CROP - 1) / 2 - scale * np.array([(width - 1) / 2, (height - 1) / 2])
    return np.hstack([scale * np.eye(2), shift[:, None]])


def crop(picture: npt.NDArray[np.uint8], transform: npt.NDArray[np.float64]) -> Grey:
    """Aligned grey crop (48, 48) uint8 of a picture, grey (H, W) or RGB (H, W, 3), equally sharp whatever the size of the face.

    Pictures finer than the crop are first shrunk and blurred to the training resolution, then sampled four times finer than the
    crop and averaged over its pixels. Beyond the picture its edge is repeated (of a shrunk one the outermost blocks).
    """
    (a, b, right), (c, d, down) = transform.tolist()
    finer = 1.0 / math.hypot(a, c)
    height, width = picture.shape[:2]
    block = max(1, min(int(finer / FINEST), height, width))
    corners = [(x - right, y - down) for x in (-4, CROP + 4) for y in (-4, CROP + 4)]
    x0, columns = _blocks([(d * x - b * y) / (a * d - b * c) for x, y in corners], width, block)
    y0, rows = _blocks([(a * y - c * x) / (a * d - b * c) for x, y in corners], height, block)
    region = picture[y0 : y0 + rows * block, x0 : x0 + columns * block]
    if region.ndim == 3:
        region = np.asarray(cv2.cvtColor(region, cv2.COLOR_RGB2GRAY), np.uint8)
    if block > 1:
        region = np.asarray(cv2.resize(region, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)
    if finer > 1.0:
        # A block of n pixels has a variance of (n^2 - 1) / 12 of its own; SMOOTHING leaves more than that for the blur at any size.
        variance = SMOOTHING**2 * (finer**2 - 1.0) - (block**2 - 1) / 12
        region = np.asarray(cv2.GaussianBlur(region, (0, 0), math.sqrt(variance) / block, borderType=cv2.BORDER_REPLICATE), np.uint8)
    # From the pixels of the region, whose centres lie in the middle of their blocks, to the crop's.
    x, y = x0 + (block - 1) / 2, y0 + (block - 1) / 2
    # Pixel centres of the finer grid sit at (i + 0.5) / 4 - 0.5 crop pixels.
    centre = (SUPERSAMPLING - 1) / (2 * SUPERSAMPLING)
    moved = np.array([(a * block, b * block, a * x + b * y + right + centre), (c * block, d * block, c * x + d * y + down + centre)])
    moved *= SUPERSAMPLING
    side = CROP * SUPERSAMPLING
    kind = cv2.INTER_LINEAR if finer > 1.0 else cv2.INTER_CUBIC
    fine = cv2.warpAffine(region, moved, (side, side), flags=kind, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(fine, (CROP, CROP), interpolation=cv2.INTER_AREA), np.uint8)


def _blocks(reach: list[float], length: int, block: int) -> tuple[int, int]:
    """Along one side of a picture: the first pixel of the blocks that hold `reach`, and how many they are. Whole blocks only: at the far
    edge what does not fill one is left out."""
    first = min(max(math.floor(min(reach)), 0), length - block)
    return first, min(max(math.ceil((max(reach) + 1 - first) / block), 1), (length - first) // block)


def pose(landmarks: Points) -> npt.NDArray[np.float64]:
    """Rotation (3, 3) whose rows are the head's own axes (to the person's left, down, into the head) in the picture's frame."""
    right, left, top, chin = landmarks[_HEAD].tolist()
    a, b, c = (there - here for there, here in zip(left, right, strict=True))
    length = math.hypot(a, b, c) + 1e-9
    a, b, c = a / length, b / length, c / length
    d, e, f = (there - here for there, here in zip(chin, top, strict=True))
    common = a * d + b * e + c * f
    d, e, f = d - a * common, e - b * common, f - c * common
    length = math.hypot(d, e, f) + 1e-9
    d, e, f = d / length, e / length, f / length
    return np.array([(a, b, c), (d, e, f), (b * f - c * e, c * d - a * f, a * e - b * d)])


def geometry(landmarks: Points, axes: npt.NDArray[np.float64] | None = None) -> dict[str, float]:
    """Measures of one face, freed of position, size and head pose. Lengths are in units of the distance between the eyes. `axes` is its
    `pose`, where that is known.

    brow_raise, brow_inner: height of the brows' middles and inner ends over the eyes; brow_gap: distance of the inner ends;
    lid_right, lid_left: lid opening over eye width; gaze_x, gaze_y: irises within the eyes, -1..1, positive to the person's left
    and down (0 without irises); mouth_width; mouth_open; mouth_curve: corners over the lips' middle, positive as in a smile;
    yaw, pitch, roll: radians, positive turned to the person's left, downwards, and clockwise in the picture.
    """
    axes = pose(landmarks) if axes is None else axes
    indices = _MEASURED if len(landmarks) > _IRIS["left"] else [k for k in _MEASURED if k not in _IRIS.values()]
    points = landmarks[indices].astype(np.float64)
    eyes = (points[0] + points[1]) / 2, (points[2] + points[3]) / 2
    apart = eyes[1] - eyes[0]
    head = dict(zip(indices, ((points - (eyes[0] + eyes[1]) / 2) @ axes.T / (math.sqrt(apart @ apart) + 1e-9)).tolist(), strict=True))
    lids, gaze = {}, []
    for side, (upper, lower, one, other) in _LIDS.items():
        span = math.dist(head[other], head[one]) + 1e-9
        lids[side] = math.dist(head[upper], head[lower]) / span
        if iris := head.get(_IRIS[side]):
            gaze.append([(iris[k] - (head[one][k] + head[other][k]) / 2) * 2 / span for k in range(2)])
    across, down = axes[:2].tolist()
    return {
        "brow_raise": -(head[_BROWS["right"][0]][1] + head[_BROWS["left"][0]][1]) / 2,
        "brow_inner": -(head[_BROWS["right"][1]][1] + head[_BROWS["left"][1]][1]) / 2,
        "brow_gap": math.dist(head[_BROWS["left"][1]], head[_BROWS["right"][1]]),
        "lid_right": lids["right"],
        "lid_left": lids["left"],
        "gaze_x": sum(x for x, _ in gaze) / max(1, len(gaze)),
        "gaze_y": sum(y for _, y in gaze) / max(1, len(gaze)),
        "mouth_width": math.dist(head[291], head[61]),
        "mouth_open": math.dist(head[14], head[13]),
        "mouth_curve": (head[13][1] + head[14][1]) / 2 - (head[61][1] + head[291][1]) / 2,
        "yaw": math.atan2(-across[2], math.hypot(across[0], across[1])),
        "pitch": math.atan2(-down[2], math.hypot(down[0], down[1])),
        "roll": math.atan2(across[1], across[0]),
    }


def quality(landmarks: Points, grey_crop: Grey, height: int, width: int, axes: npt.NDArray[np.float64] | None = None) -> float:
    """How far this face can be trusted, 0..1: the product of size, sharpness and contrast, frontality, and share inside the picture.

    A face of 48 pixels or more between forehead and chin is large enough; sharpness is the high-frequency share of the crop's
    contrast. Each factor is a plain ramp: the figure orders frames, it is no probability. `axes` is the face's `pose`, where that is known.
    """
    x, y = landmarks[:, 0], landmarks[:, 1]
    size = math.hypot(x[152] - x[10], y[152] - y[10])
    inside = np.count_nonzero((x >= 0) & (y >= 0) & (x < width) & (y < height)) / len(landmarks)
    pixels = grey_crop.astype(np.float32)
    contrast, detail = (cv2.meanStdDev(part)[1].item() for part in (pixels, pixels - cv2.GaussianBlur(pixels, (0, 0), 1.5)))
    forward = abs((pose(landmarks) if axes is None else axes)[2, 2].item())
    factors = size / CROP, contrast / 24.0, detail / (0.15 * contrast + 1e-6), (forward - 0.3) / 0.5, (inside - 0.5) / 0.5
    return math.prod(min(1.0, max(0.0, factor)) for factor in factors)

"""The camera worker: pictures in, `face` out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.perception.face import Face as Seen
from models.perception.face import FaceBackendError, FacePerception
from models.weights import WeightsError
from stream.bus import Address, Connection
from stream.capture import CaptureError, pace
from stream.capture.browser import BrowserVideo
from stream.capture.files import is_file
from stream.capture.media import BROWSER, PreviewSender
from stream.capture.video import DeviceVideo, FileVideo, Picture, check_device
from stream.clock import monotonic
from stream.node import Node
from stream.protocol import MILLISECOND, SECOND, Face, FaceInfo, StreamInfo

RETRY = (1.0, 2.0, 3.0, 5.0)
"""Seconds between attempts to get a lost device back."""


@dataclass
class CameraOptions:
    """Watch a camera and publish what its faces show. No picture leaves this process, but for `--preview`."""

    source: str = "0"
    """Device index or path, any URL OpenCV opens, `file:PATH`, `browser` (whoever gives theirs on the page), or `none`."""
    latency_ms: float = 0.0
    """Milliseconds between exposure and grab of a device (measure it with a clock in the picture)."""
    width: int = 640
    """Picture asked of a device: width."""
    height: int = 480
    """Picture asked of a device: height."""
    fps: float = 30.0
    """Pictures a second asked of a device."""
    model_path: str = ""
    """A `face_landmarker.task` file, to use MediaPipe's Tasks API instead of its bundled FaceMesh."""
    weights: str = "face"
    """Face weights: a shipped name or a .safetensors file."""
    preview: bool = False
    """Hand small pictures to a page server on this machine."""


class Camera:
    """Perception and outlet of one camera; used by files and devices alike."""

    def __init__(self, node: Node, perception: FacePerception, preview: PreviewSender | None = None) -> None:
        self.node = node
        self.outlet = node.outlets["face"]
        self._perception = perception
        self._preview = preview
        self._hash = perception.features.hash
        self.skipped = 0
        self._last = -1
        self._gap_from: int | None = None

    def show(self, picture: Picture, end: int, grabbed: int, uncertainty: int) -> None:
        """One picture taken at `end`, all of session time (ns), through perception to the bus. Stamps that do not rise are passed over."""
        if end <= self._last:
            return
        if self._gap_from is not None:
            self._resume(end)
        self._last = end
        seen, row = self._perception(picture, end)
        info = _info(seen, picture)
        self.outlet.send(
            Face(
                **self.outlet.header(end), begin=end, end=end, uncertainty=uncertainty, grabbed=grabbed, features=self._hash,
                face=info, skipped=self.skipped,
            ),
            b"" if row is None else np.ascontiguousarray(row, "<f4").tobytes(),
        )
        if self._preview:
            self._preview.show(picture, info.box if info else None, end)

    def blind(self, until: int, reason: str) -> None:
        """Nothing is seen up to `until`: the watermark moves on, and a gap is written once pictures come again."""
        if self._gap_from is None:
            self._gap_from, self._reason = max(self.outlet.watermark, 0), reason
        self.outlet.watermark = max(self.outlet.watermark, until)

    def _resume(self, at: int) -> None:
        assert self._gap_from is not None
        self.outlet.gap(self._gap_from, at, self._reason)
        self._perception.reset()
        self._gap_from = None

    def end(self, at: int) -> None:
        if self._gap_from is not None:
            self._resume(at)
        self.outlet.end(at)

    def close(self) -> None:
        self._perception.close()
        if self._preview:
            self._preview.close()


def _info(seen: Seen | None, picture: Picture) -> FaceInfo | None:
    if seen is None:
        return None
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = seen.box
    return FaceInfo(
        track=seen.track, quality=float(seen.quality), box=(x0 / width, y0 / height, x1 / width, y1 / height),
        geometry={name: float(value) for name, value in seen.geometry.items()},
    )


def run(options: CameraOptions, connection: Connection) -> int:
    """The worker's process: opens the source, loads the models, joins, watches until told to stop. Raises CaptureError."""
    if options.source == "none":
        raise CaptureError("--source none leaves the camera nothing to do; give a device, a URL or file:PATH")
    hub = Address.parse(connection.hub)
    video: FileVideo | DeviceVideo | BrowserVideo
    if is_file(options.source):
        video = FileVideo(options.source)
    elif options.source == BROWSER:
        video = BrowserVideo(hub)
    else:
        check_device(options.source)
        video = DeviceVideo(options.source, options.width, options.height, options.fps)
    try:
        perception = FacePerception(model_path=options.model_path or None, weights=options.weights)
    except (FaceBackendError, WeightsError) as error:
        raise CaptureError(str(error)) from error
    # MediaPipe builds its graphs with the first picture.
    perception(np.zeros((48, 64, 3), np.uint8), 0)
    perception.reset()
    if isinstance(video, DeviceVideo):
        video.open()
    elif isinstance(video, BrowserVideo):
        video.start()
    name = options.source if is_file(options.source) or options.source == BROWSER else f"camera {options.source}"
    info = StreamInfo(name="face", features=perception.features.hash, dim=perception.features.dim, rate=video.rate or 30.0, source=name)
    node = Node(connection.open(), "camera", [info], detail={"source": name, "tracker": perception.tracker.backend})
    with pace.membership(node):
        camera = Camera(node, perception, PreviewSender(hub) if options.preview else None)
        if isinstance(video, FileVideo):
            _play(camera, video)
        else:
            _watch(camera, video, options)
    video.close()
    camera.close()
    return 0


def _play(camera: Camera, video: FileVideo) -> None:
    """A file: no picture before its time, none lost; its media time is session time."""
    node = camera.node
    for shot in video:
        if not pace.wait(node, shot.stamp, shot.stamp):
            return
        while pace.off(node) and node.clock.speed is None and not node.stopping:
            node.service(pace.STEP_MS)  # without a clock nothing passes by: the source stands still
        if pace.off(node):
            camera.blind(shot.stamp, "paused")
            node.state("paused")
            continue
        node.state("running")
        camera.show(shot.picture, shot.stamp, max(shot.stamp, node.clock.stamp()), 0)
    node.metrics["undecodable"] = video.undecodable
    if pace.wait(node, video.end, video.end):
        camera.end(video.end)
        node.state("ended", f"{video.source} is over" + (f"; {video.undecodable} damaged packets passed over" if video.undecodable else ""))
    pace.rest(node)


def _watch(camera: Camera, video: DeviceVideo | BrowserVideo, options: CameraOptions) -> None:
    """A device: always the newest picture; pauses and losses become gaps."""
    node, clock = camera.node, camera.node.clock
    latency = int(options.latency_ms * MILLISECOND)
    interval = int(SECOND / (video.rate or options.fps or 30))
    attempt, retry_at = 0, 0
    while not node.stopping:
        node.service(0)
        now = clock.stamp()
        if pace.off(node):
            video.close()  # the lamp goes out
            camera.blind(now, "paused")
            node.state("paused")
            node.service(50)
            attempt, retry_at = 0, monotonic()
            continue
        if node.slept():
            camera.blind(now, "the machine slept")
        if retry_at and monotonic() >= retry_at:
            video.start()
            retry_at = 0
        if retry_at:
            camera.blind(now, "camera lost")
            node.service(50)
            continue
        taken = video.take(0.05)
        if taken is None:
            if video.lost:
                node.state("reconnecting", f"{options.source}: {video.lost}; trying again")
                video.close()
                retry_at = monotonic() + int(RETRY[min(attempt, len(RETRY) - 1)] * SECOND)
                attempt += 1
            elif not video.ready:
                camera.blind(now, "camera lost")
                if isinstance(video, BrowserVideo):
                    node.state("reconnecting", video.hint)
            continue
        attempt = 0
        picture, stamp = taken
        camera.skipped = video.skipped
        node.metrics["skipped"] = video.skipped
        # A driver's stamp needs no correction by hand.
        end = clock.at(stamp) - (latency if video.stamped_by == "grab" else 0)
        if end <= camera.outlet.watermark:
            continue  # taken before the epoch, or before a pause ended
        node.state("running")
        grabbed = clock.stamp() if isinstance(video, BrowserVideo) else clock.at(stamp)
        camera.show(picture, end, grabbed, interval + clock.uncertainty() + video.uncertainty)

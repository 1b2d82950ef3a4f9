"""The camera worker on a live source: pictures over HTTP through OpenCV, as a network camera sends them."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from capturing import Stage
from test_capture import face_weights  # noqa: F401  (a fixture)

from stream.capture import CaptureError, camera
from stream.capture.camera import CameraOptions
from stream.capture.video import WIDEST, DeviceVideo, driver_stamp
from stream.protocol import MILLISECOND, SECOND, Control, Face, Gap, Status


class NetworkCamera:
    """Serves an endless MJPEG film at about 30 pictures a second; can be taken away and brought back."""

    def __init__(self) -> None:
        self._server: http.server.ThreadingHTTPServer | None = None
        self.port = 0
        self._size = (120, 160, 3)
        self._on = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/film.mjpg"

    def start(self) -> None:
        on = self._on = threading.Event()
        on.set()
        size = self._size

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=cut")
                self.end_headers()
                shade = 0
                while on.is_set():
                    shade = (shade + 1) % 250
                    jpeg = cv2.imencode(".jpg", np.full(size, shade, np.uint8))[1].tobytes()
                    try:
                        self.wfile.write(b"--cut\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n" % (len(jpeg), jpeg))
                    except OSError:
                        return
                    time.sleep(1 / 30)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._on.clear()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


@pytest.fixture
def network_camera() -> Iterator[NetworkCamera]:
    made = NetworkCamera()
    made.start()
    yield made
    made.stop()


def test_the_newest_picture_is_taken_and_the_others_counted(network_camera: NetworkCamera) -> None:
    video = DeviceVideo(network_camera.url, 0, 0, 0)
    video.open()
    first = video.take(20.0)
    assert first is not None and first[0].shape == (120, 160, 3)

    def skip(more: int) -> int:
        """Waits until so many more pictures were grabbed and not taken; when that was."""
        target, deadline = video.skipped + more, time.monotonic() + 30
        while video.skipped < target and time.monotonic() < deadline:
            time.sleep(0.01)
        assert video.skipped >= target
        return time.monotonic_ns()

    noted = skip(5)
    skip(3)
    late = video.take(20.0)
    assert late is not None and late[1] > noted  # the grabber went on reading: it is the newest
    video.close()


def test_a_camera_in_a_session(network_camera: NetworkCamera, face_weights: str) -> None:  # noqa: F811
    options = CameraOptions(source=network_camera.url, latency_ms=40, weights=face_weights)
    with Stage({"camera": (camera.run, options)}, lossless=False) as stage:
        stage.wait(lambda: len(stage.messages(Face)) > 20)
        faces = stage.messages(Face)
        assert all(m.face is None and m.grabbed - m.end == 40 * MILLISECOND and m.uncertainty > 0 for m in faces)
        assert all(m.grabbed <= m.sent for m in faces)

        stage.order(Control(action="pause", target="camera"))
        stage.wait(lambda: stage.messages(Status)[-1].state == "paused")
        paused = len(stage.messages(Face))
        stage.wait(lambda: stage.messages(Status)[-1].streams["face"].watermark > stage.messages(Face)[-1].end + SECOND)
        assert len(stage.messages(Face)) == paused
        stage.order(Control(action="resume", target="camera"))
        stage.wait(lambda: len(stage.messages(Face)) > paused + 5)

        network_camera.stop()
        stage.wait(lambda: stage.messages(Status)[-1].state == "reconnecting")
        lost = len(stage.messages(Face))
        network_camera.start()
        stage.wait(lambda: len(stage.messages(Face)) > lost + 5)
        gaps, faces = stage.messages(Gap), stage.messages(Face)
    assert [gap.reason for gap in gaps] == ["paused", "camera lost"]
    assert (faces[paused - 1].segment, faces[paused].segment, faces[-1].segment) == (0, 1, 2)
    for gap, first in zip(gaps, (paused, lost), strict=True):
        assert faces[first - 1].end == gap.begin and gap.end == faces[first].end and gap.end > gap.begin
    assert sorted({m.seq for m in faces} | {m.seq for m in gaps}) == list(range(len(faces) + len(gaps)))


@pytest.mark.parametrize(("source", "line"), [("77", "cannot be opened"), ("http://127.0.0.1:9/none", "cannot be opened")])
def test_what_does_not_open_is_said(source: str, line: str) -> None:
    with pytest.raises(CaptureError, match=f"camera {source}: .*{line}.*affect devices"):
        DeviceVideo(source, 0, 0, 0).open()


def test_driver_stamps_are_checked() -> None:
    grabbed = 100 * SECOND
    assert driver_stamp(99_970.0, grabbed) == 99_970 * MILLISECOND
    assert driver_stamp(0.0, grabbed) is None  # the driver has none
    assert driver_stamp(1_700_000_000_000.0, grabbed) is None  # the wall clock's
    assert driver_stamp(50_000.0, grabbed) is None  # some other clock's


def test_wide_pictures_are_scaled_down(network_camera: NetworkCamera) -> None:
    network_camera.stop()
    network_camera._size = (400, 2000, 3)
    network_camera.start()
    video = DeviceVideo(network_camera.url, 0, 0, 0)
    video.open()
    taken = video.take(20.0)
    assert taken is not None and taken[0].shape == (256, WIDEST, 3)
    video.close()

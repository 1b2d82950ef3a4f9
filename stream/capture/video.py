"""Camera sources: pictures with the time they were taken. Files through PyAV, everything else through OpenCV."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import numpy.typing as npt

from stream.capture import CaptureError
from stream.capture.files import damaged, nanoseconds, open_container, origin
from stream.clock import monotonic
from stream.protocol import MILLISECOND, SECOND

Picture = npt.NDArray[np.uint8]

WIDEST = 1280
"""Wider pictures are scaled down to this: no face feature needs more."""
OPEN_LIMIT, READ_LIMIT = 10.0, 2.0
"""Seconds a device may take to open, and to give the next picture, before it counts as lost."""
DRIVER_DELAY = SECOND
"""A driver's stamp is believed when it lies at most this long before the grab."""


@dataclass(frozen=True)
class Shot:
    """A picture RGB (H, W, 3) uint8 and when it was taken (ns: media time of a file, monotonic clock of a device)."""

    picture: Picture
    stamp: int


class FileVideo:
    """The pictures of a file, in order, stamped with the container's times counted from its start.

    Raises CaptureError when not even a first picture can be read.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._container, self._stream = open_container(source, "video")
        self._origin = origin(self._container)
        self.undecodable = 0
        """Damaged packets passed over."""
        self.end = 0
        """Where the last picture read so far ends (ns)."""
        self.rate = float(self._stream.average_rate or 0)
        self._shots = self._read()
        first = next(self._shots, None)
        if first is None:
            raise CaptureError(f"{source.removeprefix('file:')} holds no readable picture; give another file, or convert it with ffmpeg")
        self._first: Shot | None = first

    def __iter__(self) -> Iterator[Shot]:
        if self._first is not None:
            first, self._first = self._first, None
            yield first
        yield from self._shots

    def _read(self) -> Iterator[Shot]:
        last = -1
        interval = 1 / Fraction(self._stream.average_rate or 30)
        for frame in self._frames():
            if frame.pts is None:
                continue
            seconds = frame.pts * frame.time_base - self._origin
            stamp = max(0, nanoseconds(seconds))
            if stamp <= last:
                continue  # a damaged stamp: time may only rise
            last = stamp
            duration = frame.duration * frame.time_base if frame.duration else interval
            self.end = max(self.end, nanoseconds(seconds + duration))
            yield Shot(_upright(frame), stamp)

    def _frames(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
                frames = packet.decode()
            except StopIteration:
                return
            except av.error.EOFError:
                return
            except av.error.FFmpegError as error:
                self.undecodable += 1
                if self.undecodable > 1000:  # the container itself is broken: it would go on for ever
                    raise damaged(self.source, error) from error
                continue
            yield from frames

    def close(self) -> None:
        self._container.close()


def _upright(frame: Any) -> Picture:
    width, height = frame.width, frame.height
    if width > WIDEST:
        frame = frame.reformat(width=WIDEST, height=round(height * WIDEST / width))
    picture = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def driver_stamp(milliseconds: float, grabbed: int) -> int | None:
    """A driver's stamp on the monotonic clock (ns), or None when it is none or of another clock."""
    stamp = int(milliseconds * MILLISECOND)
    return stamp if 0 < stamp <= grabbed and grabbed - stamp <= DRIVER_DELAY else None


class DeviceVideo:
    """The newest picture of a device or URL. A thread of its own always reads, so that no driver queue makes pictures old.

    The device is open from `open` to `close`; when it stops giving pictures, `lost` says why.
    """

    def __init__(self, source: str, width: int, height: int, fps: float) -> None:
        self.source = source
        self._wish = (width, height, fps)
        self._latest: tuple[Any, int] | None = None
        self._condition = threading.Condition()
        self._generation = 0
        self._read_at = 0
        self._thread: threading.Thread | None = None
        self.skipped = 0
        """Pictures grabbed that a newer one replaced before anybody took them."""
        self.rate = 0.0
        self.lost = ""
        self.ready = False
        self.stamped_by = "grab"
        self.uncertainty = 0
        """Of the stamps, beyond a picture's interval (ns)."""

    def start(self) -> None:
        """Begins to open the device; `ready` or `lost` tells how it went. No new attempt while a driver hangs in the last one."""
        if self._thread is not None and self._thread.is_alive():
            self.lost = "its driver hangs"
            return
        with self._condition:
            self._generation += 1
            self._latest, self.ready, self.lost = None, False, ""
            self._read_at = monotonic()
            self._thread = threading.Thread(target=self._grab, args=(self._generation,), daemon=True, name="grabber")
            self._thread.start()

    def open(self) -> None:
        """Opens the device and waits for a first picture. Raises CaptureError with the reason when none comes."""
        self.start()
        with self._condition:
            self._condition.wait_for(lambda: self.ready or self.lost, OPEN_LIMIT)
        self.check()
        if self.lost:
            raise CaptureError(f"camera {self.source}: {self.lost}; see `affect devices`, or give --camera file:PATH or none")

    def check(self) -> None:
        """Notices a device that hangs."""
        limit = READ_LIMIT if self.ready else OPEN_LIMIT
        if not self.lost and monotonic() - self._read_at > limit * SECOND:
            self.lost = f"no picture for {limit:g} s"

    def take(self, timeout: float) -> tuple[Picture, int] | None:
        """The newest picture, RGB, and its stamp (monotonic ns), or None when none comes in `timeout` seconds."""
        import cv2

        with self._condition:
            self._condition.wait_for(lambda: self._latest is not None or self.lost, timeout)
            latest, self._latest = self._latest, None
        self.check()
        if latest is None:
            return None
        picture, stamp = latest
        height, width = picture.shape[:2]
        if width > WIDEST:
            picture = cv2.resize(picture, (WIDEST, round(height * WIDEST / width)), interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8), stamp

    def close(self) -> None:
        """Lets go of the device; its thread ends with the read it is in, which is not waited for long."""
        with self._condition:
            self._generation += 1
            self._latest, self.ready = None, False
        if self._thread is not None:
            self._thread.join(0.2)

    def _grab(self, generation: int) -> None:
        capture = None
        why = "cannot be opened: no camera behind it, used by another program, or no right to it"
        try:
            capture = _capture(self.source, *self._wish)
            driver = capture.isOpened() and capture.getBackendName() == "V4L2"
            while capture.isOpened() and generation == self._generation:
                good, picture = capture.read()
                stamp = monotonic()
                if not good or picture is None:
                    why = "gives no picture any more" if self.ready else "opens but gives no picture"
                    break
                if driver:
                    own = driver_stamp(_get(capture, "CAP_PROP_POS_MSEC"), stamp)
                    self.stamped_by = "driver" if own else "grab"
                    stamp = own or stamp
                with self._condition:
                    if generation != self._generation:
                        break
                    self.skipped += self._latest is not None
                    if not self.ready:
                        self.rate = _get(capture, "CAP_PROP_FPS")
                    self._latest, self.ready, self._read_at = (picture, stamp), True, monotonic()
                    self._condition.notify_all()
        except Exception as error:  # whatever a driver does, the worker lives and says so
            why = str(error).splitlines()[0]
        finally:
            if capture is not None:
                capture.release()
            with self._condition:
                if generation == self._generation and not self.lost:
                    self.lost = why
                self._condition.notify_all()


def _get(capture: Any, name: str) -> float:
    import cv2

    return float(capture.get(getattr(cv2, name)) or 0.0)


def check_device(source: str) -> None:
    """Raises CaptureError when `source` is plainly not a device or URL."""
    if Path(source).is_file():
        raise CaptureError(f"{source} is a file; to play it write --camera file:{source}")
    if source.startswith("/dev/") and not Path(source).exists():
        raise CaptureError(f"camera {source}: no such device; `affect devices` lists what is there")
    if not source.isdigit() and "://" not in source and not source.startswith("/dev/"):
        raise CaptureError(f"camera {source!r} is neither an index, a /dev path, a URL, file:PATH nor none; `affect devices` lists cameras")


def _capture(source: str, width: int, height: int, fps: float) -> Any:
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    import cv2

    if "://" in source:
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(OPEN_LIMIT * 1000), cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(READ_LIMIT * 1000)]
        return cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
    device: int | str = int(source) if source.isdigit() else source
    # Media Foundation takes tens of seconds to open some cameras.
    capture = cv2.VideoCapture(device, cv2.CAP_DSHOW if platform.system() == "Windows" else cv2.CAP_ANY)
    wishes = {cv2.CAP_PROP_FRAME_WIDTH: width, cv2.CAP_PROP_FRAME_HEIGHT: height, cv2.CAP_PROP_FPS: fps, cv2.CAP_PROP_BUFFERSIZE: 1}
    for name, value in wishes.items():
        if value:
            capture.set(name, value)
    return capture

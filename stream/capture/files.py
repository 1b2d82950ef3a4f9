"""Media files: opened once, with one media clock for picture and sound."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error

from stream.capture import CaptureError
from stream.protocol import SECOND

PREFIX = "file:"


def is_file(source: str) -> bool:
    return source.startswith(PREFIX)


def open_container(source: str, kind: str) -> tuple[Any, Any]:
    """The container of `file:PATH` and its first stream of `kind` ("video" or "audio").

    Raises CaptureError when the file is missing, is no media file, or has no such stream.
    """
    path = Path(source.removeprefix(PREFIX)).expanduser()
    if not path.is_file():
        raise CaptureError(f"{path}: no such file; give an existing one as file:PATH")
    what, flag = ("picture", "camera") if kind == "video" else ("sound", "microphone")
    try:
        container = av.open(str(path), metadata_errors="ignore")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise CaptureError(f"{path} cannot be read as a media file ({reason(error)}); give another, or convert it with ffmpeg") from error
    streams = container.streams.video if kind == "video" else container.streams.audio
    if not streams or not streams[0].codec_context:
        container.close()
        raise CaptureError(f"{path} has no {what}; give another file, or --{flag} none")
    stream = streams[0]
    stream.codec_context.thread_count = 1
    return container, stream


def origin(container: Any) -> Fraction:
    """Seconds of the container's first stamp, the same for all of its streams: media time 0."""
    return Fraction(container.start_time, av.time_base) if container.start_time is not None else Fraction(0)


def nanoseconds(seconds: Fraction) -> int:
    return round(seconds * SECOND)


def reason(error: BaseException) -> str:
    """What went wrong, without file names and error numbers."""
    return str(getattr(error, "strerror", "") or error)


def damaged(source: str, error: BaseException) -> CaptureError:
    return CaptureError(f"{source.removeprefix(PREFIX)} is damaged ({reason(error)}); convert it with ffmpeg, or give another file")

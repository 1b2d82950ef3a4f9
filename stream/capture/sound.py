"""Microphone sources: mono 16 kHz sound with the time it was heard. Files through PyAV, devices through PortAudio."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import av.error
import numpy as np
import numpy.typing as npt

from stream.capture import CaptureError
from stream.capture.files import damaged, nanoseconds, open_container, origin
from stream.clock import monotonic
from stream.protocol import MILLISECOND, SECOND

RATE = 16_000
HOP = 320
"""Samples of 20 ms: what is handled at once."""
Pcm = npt.NDArray[np.int16]

JUMP = Fraction(40, 1000)
"""Stamps of a file this far from where its samples lead are believed over them: sound is missing there."""
HELD = 500
"""Blocks of a device kept until somebody takes them: ten seconds."""
LATE = 200 * MILLISECOND
"""A device whose stamps run this far from its sample count has lost sound without saying so."""
SILENT = 1.0
"""Seconds without a callback after which a device counts as lost."""


@dataclass(frozen=True)
class Piece:
    """Consecutive samples. `begin` is the time of the first one (ns from the container's start); `joined`: it follows the piece before."""

    pcm: Pcm
    begin: int
    joined: bool


class FileSound:
    """The sound of a file: mono 16 kHz in hops, stamped by the container. Raises CaptureError when no sound can be read."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._container, self._stream = open_container(source, "audio")
        self._origin = origin(self._container)
        self.undecodable = 0
        self.end = 0
        """Where the sound read so far ends (ns)."""
        self._pieces = self._cut()
        self._first = next(self._pieces, None)
        if self._first is None:
            raise CaptureError(f"{source.removeprefix('file:')} holds no readable sound; give another file, or convert it with ffmpeg")

    def __iter__(self) -> Iterator[Piece]:
        """Pieces of HOP samples; the last before a jump or the end may be shorter."""
        if self._first is not None:
            first, self._first = self._first, None
            yield first
        yield from self._pieces

    def _cut(self) -> Iterator[Piece]:
        held: list[Pcm] = []
        count, anchor, given = 0, 0, 0
        for start, pcm in self._runs():
            if start is not None:
                if count:
                    yield self._piece(np.concatenate(held), anchor, given)
                held, count, anchor, given = [], 0, nanoseconds(start), 0
            held.append(pcm)
            count += len(pcm)
            while count >= HOP:
                whole = np.concatenate(held)
                yield self._piece(whole[:HOP], anchor, given)
                given += HOP
                held, count = [whole[HOP:]], count - HOP
        if count:
            yield self._piece(np.concatenate(held), anchor, given)

    def _piece(self, pcm: Pcm, anchor: int, given: int) -> Piece:
        self.end = anchor + (given + len(pcm)) * SECOND // RATE
        return Piece(pcm, anchor + given * SECOND // RATE, joined=given > 0)

    def _runs(self) -> Iterator[tuple[Fraction | None, Pcm]]:
        """Resampled sound; with a time where it starts anew (seconds from the container's start), None where it goes on."""
        converter, expected, start = resampler(), Fraction(0), None
        for frame in self._frames():
            at = frame.pts * frame.time_base - self._origin if frame.pts is not None else expected
            if start is None or abs(at - expected) > JUMP:
                if start is not None:
                    yield from ((None, pcm) for pcm in drain(converter, None))
                if at < 0:
                    at = Fraction(0)  # encoder delay that the container forgot to name
                converter, expected, start = resampler(), at, at
                fresh = True
            expected += Fraction(frame.samples, frame.sample_rate)
            frame.pts = None
            for pcm in drain(converter, frame):
                yield (start if fresh else None), pcm
                fresh = False
        if start is not None:
            for pcm in drain(converter, None):
                yield (start if fresh else None), pcm
                fresh = False

    def _frames(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                frames = next(packets).decode()
            except (StopIteration, av.error.EOFError):
                return
            except av.error.FFmpegError as error:
                self.undecodable += 1
                if self.undecodable > 1000:
                    raise damaged(self.source, error) from error
                continue
            yield from frames

    def close(self) -> None:
        self._container.close()


def resampler() -> Any:
    """Any sound to mono 16 kHz int16."""
    return av.AudioResampler(format="s16", layout="mono", rate=RATE)


def drain(converter: Any, frame: Any) -> list[Pcm]:
    """What a resampler makes of a frame; None: what it still held back."""
    return [out.to_ndarray().reshape(-1) for out in converter.resample(frame) if out.samples]


@dataclass(frozen=True)
class Block:
    """What one callback brought: samples (n,) int16 at the device's rate, and whether some were lost before them.

    `stamp`: when the first was converted (monotonic ns).
    """

    pcm: Pcm
    stamp: int
    lost: bool


class AdcClock:
    """Converts PortAudio's stream time to the monotonic clock.

    The smallest recent distance between them is the truest: callbacks come late, never early.
    """

    def __init__(self) -> None:
        self._offsets: deque[int] = deque(maxlen=200)

    def stamp(self, current: float, adc: float, now: int, frames: int, rate: int) -> int:
        """Monotonic time (ns) of a block's first sample: called at `now` with PortAudio's `current` and `adc` times (s)."""
        if current <= 0 or not 0 <= current - adc < 2 or adc <= 0:  # host APIs without times
            return now - frames * SECOND // rate
        self._offsets.append(now - int(current * SECOND))
        # Some host APIs (PulseAudio's ALSA plug-in) name the time of the callback: but sound that is here has been converted.
        adc = min(adc, current - frames / rate)
        return int(adc * SECOND) + min(self._offsets)


class DeviceSound:
    """A PortAudio input. The callback only copies; `take` hands out what has come.

    PortAudio is opened and closed in a thread of its own, because drivers hang. When the device stops bringing sound, `lost` says why.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.name = source
        self.rate = RATE
        self.lost = ""
        self.ready = False
        self.uncertainty = 0
        """Of the stamps, beyond what `AdcClock` leaves (ns)."""
        self._blocks: deque[Block] = deque(maxlen=HELD)
        self._dropped = False
        self._heard_at = 0
        self._came = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to open the device; `ready` or `lost` tells how it went. No new attempt while a driver hangs in the last one."""
        if self._thread is not None and self._thread.is_alive():
            self.lost = "its driver hangs"
            return
        self.lost, self.ready, self._dropped = "", False, False
        self._blocks.clear()
        self._closing = threading.Event()
        self._heard_at = monotonic()
        self._thread = threading.Thread(target=self._hold, args=(self._closing,), daemon=True, name="portaudio")
        self._thread.start()

    def open(self, timeout: float = 10.0) -> None:
        """Opens the device and waits for its first sound. Raises CaptureError with the reason when none comes."""
        self.start()
        deadline = monotonic() + int(timeout * SECOND)
        while not self._blocks and not self.lost and monotonic() < deadline:
            threading.Event().wait(0.01)
        if not self._blocks:
            why = self.lost or f"no sound within {timeout:g} s"
            self.close()
            raise CaptureError(f"microphone {self.source}: {why}; see `affect devices`, or give --microphone file:PATH or none")

    def take(self, timeout: float) -> list[Block]:
        """Everything that has come since the last call; waits at most `timeout` seconds for it. Notices a device that fell silent."""
        if not self._blocks:
            self._came.wait(timeout)
        self._came.clear()
        blocks = []
        while self._blocks:
            blocks.append(self._blocks.popleft())
        if not blocks and not self.lost and monotonic() - self._heard_at > (SILENT if self.ready else 10) * SECOND:
            self.lost = "no sound arrives any more" if self.ready else "it does not open"
        return blocks

    def close(self) -> None:
        """Lets go of the device, without waiting for its driver for long."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(0.5)
        self.ready = False
        self._blocks.clear()

    def _hold(self, closing: threading.Event) -> None:
        """The thread: one stream from open to close."""
        try:
            import sounddevice

            # PortAudio lists devices once, at its start: begin anew, or what was plugged in since is not seen.
            sounddevice._terminate()
            sounddevice._initialize()
            device = _find(sounddevice, self.source)
            self.name = str(device["name"])
            stream, self.rate = _open(sounddevice, device, self._callback)
        except CaptureError as error:
            self.lost = str(error)
            return
        except OSError as error:
            self.lost = f"PortAudio cannot be used ({error}); on Debian: apt-get install libportaudio2"
            return
        except Exception as error:
            self.lost = f"cannot be opened ({str(error).splitlines()[0]})"
            return
        try:
            while not closing.wait(0.1):
                if not stream.active:
                    self.lost = self.lost or "the device is gone"
                    break
        finally:
            stream.abort(ignore_errors=True)
            stream.close(ignore_errors=True)

    def _callback(self, data: Any, frames: int, time: Any, status: Any) -> None:
        now = monotonic()
        pcm = np.frombuffer(data, np.int16).copy()
        if not self.ready:
            self._clock, self.ready = AdcClock(), True
        if len(pcm) != frames:  # more than one channel
            pcm = pcm.reshape(frames, -1).mean(1).astype(np.int16)
        stamp = self._clock.stamp(time.currentTime, time.inputBufferAdcTime, now, frames, self.rate)
        self._heard_at = now
        if len(self._blocks) == HELD:
            self._dropped = True
            return
        self._blocks.append(Block(pcm, stamp, bool(status.input_overflow) or self._dropped))
        self._dropped = False
        self._came.set()


def _find(sounddevice: Any, source: str) -> Any:
    """What PortAudio knows of the input called `source`. Raises CaptureError."""
    wanted: int | str | None = None if source == "default" else int(source) if source.lstrip("-").isdigit() else source
    try:
        device = sounddevice.query_devices(wanted, "input")
    except (ValueError, sounddevice.PortAudioError) as error:
        inputs = sorted({entry["name"] for entry in sounddevice.query_devices() if entry["max_input_channels"] > 0})
        here = "inputs here: " + ", ".join(inputs) if inputs else "there is no input device here"
        raise CaptureError(f"no such input, or more than one ({here})" if inputs else here) from error
    if device["max_input_channels"] < 1:
        raise CaptureError("it has no inputs")
    return device


def _open(sounddevice: Any, device: Any, callback: Any) -> tuple[Any, int]:
    """A running input stream at 16 kHz mono where the device can, else as it can; and its rate."""
    native = round(device["default_samplerate"])
    last: Exception | None = None
    for rate, channels in ((RATE, 1), (native, 1), (native, min(2, device["max_input_channels"]))):
        try:
            stream = sounddevice.RawInputStream(
                samplerate=rate, channels=channels, dtype="int16", device=device["index"], blocksize=rate // 50, latency="low",
                callback=callback,
            )
            stream.start()
            return stream, rate
        except sounddevice.PortAudioError as error:
            last = error
    raise last or CaptureError("cannot be opened")


def level(pcm: Pcm) -> float:
    """RMS in dB relative to full scale; -120 for digital silence."""
    mean = float(np.mean(np.square(pcm, dtype=np.float64))) / 32768.0**2 if len(pcm) else 0.0
    return float(10 * np.log10(max(mean, 1e-12)))

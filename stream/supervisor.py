"""`affect run`: a whole session in the foreground, from its sources to its report."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stream.bus import DEFAULT, Bus, Connection
from stream.capture.media import BROWSER
from stream.clock import SessionClock
from stream.dashboard.options import DEFAULT_PAGE, DashboardOptions, free
from stream.processes import Entry, Processes, StartError
from stream.protocol import End, ProtocolError, Session, decode
from stream.report import Notes, Report

START_LIMIT = 90.0


@dataclass
class RunOptions:
    """Start a whole session: hub, camera, microphone, transcriber, fusion, and the terminal view."""

    camera: str = "0"
    """Device index or path, any URL OpenCV opens, `file:PATH`, `browser` (whoever gives theirs on the page), or `none`."""
    microphone: str = "default"
    """`default`, device name or index, `file:PATH`, `browser`, or `none`."""
    transcriber: str = "auto"
    """`auto` (faster-whisper if its model is here, else pocketsphinx), `pocketsphinx`, a Whisper model's folder or size, or `none`."""
    language: str = "en"
    """Language spoken. The built-in words are English."""
    offline: bool = False
    """Never ask a model hub for anything."""
    model: str = "mea"
    """Fusion weights: a shipped name or a .safetensors file."""
    backend: str = "auto"
    """What computes them: `tensorrt`, `onnx`, `eager`, or the first of these that can run here (`auto`)."""
    precision: Literal["fp16", "bf16", "fp32"] = "fp16"
    """Of TensorRT."""
    speed: str = "1"
    """Of file sources: 1, any number, or `max`."""
    camera_latency: float = 0.0
    """Milliseconds between exposure and grab of a camera device."""
    face_model: str = ""
    """A `face_landmarker.task` file, to use MediaPipe's Tasks API instead of its bundled FaceMesh."""
    hub: str = DEFAULT
    """Address to bind the hub to."""
    keys: str = ""
    """Folder of keys (`affect keys`): demanded to bind beyond loopback."""
    insecure: bool = False
    """Bind beyond loopback without keys."""
    hop_ms: int = 100
    """Milliseconds from one result to the next, 20 to 500. Fewer compute more, and gain little over the camera's own rate."""
    seconds: float = 0.0
    """Stop after this many seconds; 0 means when the sources end, or never."""
    no_view: bool = False
    """No terminal view."""
    page: str = DEFAULT_PAGE
    """HOST:PORT of the live page; beyond loopback a token is demanded."""
    no_page: bool = False
    """No live page."""
    page_token: str = ""
    """What a page beyond loopback must know; made up and printed where none is given."""
    page_cert: str = ""
    """TLS certificate of the page (PEM), with --page-key: browsers give their camera to https or to their own machine only."""
    page_key: str = ""
    """The certificate's private key (PEM)."""
    preview: bool = False
    """Show the camera's picture on pages beyond loopback, too."""
    json: str = ""
    """Write a report of the run to this file."""
    lateness: dict[str, float] = field(default_factory=dict)
    """Seconds a final waits for a stream (live sources): default face 0.3, voice 0.3, words 4."""
    note: str = ""
    """A line to show people, such as why these sources were chosen."""

    @property
    def pace(self) -> float | None:
        """Raises StartError when `speed` is neither a positive number nor `max`."""
        if self.speed == "max":
            return None
        try:
            value = float(self.speed)
        except ValueError:
            value = 0.0
        if not 0 < value < 1000:
            raise StartError(f"--speed {self.speed}: give a positive number, or max")
        return value

    def dashboard(self) -> DashboardOptions | None:
        """The live page's options; None where none is wanted, or nobody could follow it. Raises DashboardError."""
        if self.no_page or self.pace is None:
            return None
        page = free(self.page) if self.page == DEFAULT_PAGE else self.page
        return DashboardOptions(page, self.page_token, self.page_cert, self.page_key, self.preview).secured()

    @property
    def sources(self) -> dict[str, str]:
        return {name: source for name, source in (("camera", self.camera), ("microphone", self.microphone)) if source != "none"}

    @property
    def lossless(self) -> bool:
        """Every source is a file: nothing may be lost."""
        return all(source.startswith("file:") for source in self.sources.values())


def plan(options: RunOptions, page: DashboardOptions | None = None) -> dict[str, Entry]:
    """The hub and each worker: entry point and options. Raises StartError or HubError when they make no session."""
    from stream import fusion, hub
    from stream.capture import camera, microphone, transcriber
    from stream.dashboard import server

    sources = options.sources
    if not sources:
        raise StartError("nothing to watch or hear: give --camera, --microphone, or both")
    if BROWSER in sources.values() and page is None:
        raise StartError("a browser gives its camera and microphone through the page: leave out --no-page")
    if options.pace != 1.0 and not options.lossless:
        raise StartError(f"--speed {options.speed} needs file sources; devices run at the speed of life")
    engine = fusion.FusionOptions(model=options.model, backend=options.backend, precision=options.precision)
    workers: dict[str, Entry] = {"fusion": (fusion.run, engine)}
    streams: list[str] = []
    if "camera" in sources:
        streams.append("face")
        workers["camera"] = (camera.run, camera.CameraOptions(
            source=options.camera, latency_ms=options.camera_latency, model_path=options.face_model,
            preview=page is not None and page.shows_pictures))
    if "microphone" in sources:
        streams.append("voice")
        workers["microphone"] = (microphone.run, microphone.MicrophoneOptions(source=options.microphone))
        if options.transcriber != "none":
            streams.append("words")
            workers["transcriber"] = (transcriber.run, transcriber.TranscriberOptions(
                model=options.transcriber, language=options.language, offline=options.offline))
    session = hub.HubOptions(
        streams=tuple(streams), workers=tuple(workers), insecure=options.insecure, speed=options.pace, lossless=options.lossless,
        lateness_s=options.lateness, hop_ms=options.hop_ms,
    )
    session.session()  # what is wrong with it is said here, not by a process that ends
    if page is not None:  # no part of the session: nobody waits for it
        workers["dashboard"] = (server.run, page)
    return {"hub": (hub.run, session), **workers}


class _Stopped(Exception):
    """SIGINT or SIGTERM: the session is to end now."""


def _interrupt(number: int, frame: Any) -> None:
    raise _Stopped


def run(options: RunOptions) -> int:
    """A whole session in the foreground: until its sources end, `seconds` have passed, Ctrl-C or SIGTERM.

    Returns 0, or 1 when a file session lost anything. Raises StartError, HubError, BusError when it could not begin.
    """
    from stream import fusion

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Eager PyTorch otherwise spends a fifth of its time in page faults of the default allocator.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "268435456")
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", "268435456")
    page = options.dashboard()
    entries = plan(options, page)
    fusion.prepare(entries["fusion"][1])
    connection = Connection(options.hub, options.keys)
    bus = connection.open()
    notes = Notes(aloud=options.no_view)
    report = Report(options.sources, notes)
    # A page that nobody named, on a port that another session was quicker to take, is no reason not to begin.
    giving = BROWSER in options.sources.values()
    spare = options.page == DEFAULT_PAGE and not giving
    # Words are late anyway, and a page that only watches is in nobody's way. A browser that gives its camera on the same machine would
    # leave no processor idle.
    yielding, idle = ({"transcriber"}, set()) if giving else ({"dashboard"}, {"transcriber"})
    optional = {"dashboard"} if spare else set()
    processes = Processes(entries, connection, notes, frozenset(optional), frozenset(yielding), frozenset(idle))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        processes.start()
        with _screen(options, page) as show:
            _follow(bus, processes, report, options, show)
    except _Stopped:
        pass
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        processes.stop(bus)
        bus.close()
    notes.close()
    if report.usage:
        print(report.summary())
    if options.json:
        report.save(Path(options.json))
    if report.lost and options.lossless:
        print(f"affect: {report.lost} messages were lost in a session of files; this run cannot be reproduced", file=sys.stderr)
        return 1
    return 0


def _screen(options: RunOptions, page: DashboardOptions | None) -> Any:
    """A context that yields what is called with every message and every quiet moment."""
    from stream.watch import screen

    where = f"open {page.url}" if page else ""
    if where:
        print(f"affect: {where}", flush=True)
    return screen(options.hub, enabled=not options.no_view, note="  ".join(filter(None, (options.note, where))))


def _follow(bus: Bus, processes: Processes, report: Report, options: RunOptions, show: Any) -> None:
    """Listens until the session is over."""
    bus.subscribe("session", "status", "face", "voice", "words", "affect")
    clock: SessionClock | None = None
    started, deadline = time.monotonic(), float("inf")
    measured = 0.0
    while time.monotonic() < deadline:
        frames = bus.receive(50)
        received = None
        if frames is not None:
            with suppress(ProtocolError):
                received = decode(frames)
        if received is not None:
            message = received.message
            if isinstance(message, Session) and message.epoch is not None and clock is None:
                clock = SessionClock(message.epoch, message.speed)
                processes.begin()
                if options.seconds:
                    deadline = time.monotonic() + options.seconds + clock.until(0)
            report.update(received, clock.stamp() if clock else 0)
            if isinstance(message, End) and message.stream == "affect":
                break
        show(received)
        if time.monotonic() - measured > 0.5:
            measured = time.monotonic()
            processes.watch(begun=clock is not None)
            if clock is not None:
                report.usage = processes.measure()
            elif measured - started > START_LIMIT:
                raise StartError(f"not every worker was ready within {START_LIMIT:.0f} s; `affect doctor` looks what is missing here")
    if clock is not None:
        report.usage = processes.measure()

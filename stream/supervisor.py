"""Starts every worker of a session, watches and restarts them, shows what they say, and stops them all."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import zmq

from stream.bus import DEFAULT, Bus, Connection
from stream.clock import SessionClock
from stream.fusion import FusionOptions
from stream.hub import HubOptions
from stream.protocol import Control, End, ProtocolError, Session, decode, encode
from stream.report import Notes, Report

RESTARTS = 5
"""A worker that crashes more often than this within a minute stays down."""
STOP_GRACE, KILL_GRACE = 1.0, 0.5
"""Seconds that workers get after the order to stop, and after SIGTERM."""
START_LIMIT = 90.0


class StartError(Exception):
    """The session could not begin; the line says which worker failed and why."""


@dataclass
class RunOptions:
    """Start a whole session: hub, camera, microphone, transcriber, fusion, and the terminal view."""

    camera: str = "0"
    """Device index or path, any URL OpenCV opens, `file:PATH`, or `none`."""
    microphone: str = "default"
    """`default`, device name or index, `file:PATH`, or `none`."""
    transcriber: str = "auto"
    """`auto` (faster-whisper if its model is here, else pocketsphinx), `pocketsphinx`, a Whisper model's folder or size, or `none`."""
    language: str = "en"
    """Language spoken. The built-in words are English."""
    offline: bool = False
    """Never ask a model hub for anything."""
    model: str = "mea"
    """Fusion weights: a shipped name or a .safetensors file."""
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
    seconds: float = 0.0
    """Stop after this many seconds; 0 means when the sources end, or never."""
    no_view: bool = False
    """No terminal view."""
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

    @property
    def sources(self) -> dict[str, str]:
        return {name: source for name, source in (("camera", self.camera), ("microphone", self.microphone)) if source != "none"}


Entry = tuple[Callable[..., int], Any]


def plan(options: RunOptions) -> tuple[HubOptions, dict[str, Entry]]:
    """The hub's options, and each worker's entry point and options. Raises StartError when they make no session."""
    from stream import fusion
    from stream.capture import camera, microphone, transcriber

    sources = options.sources
    if not sources:
        raise StartError("nothing to watch or hear: give --camera, --microphone, or both")
    files = [source.startswith("file:") for source in sources.values()]
    if options.pace != 1.0 and not all(files):
        raise StartError(f"--speed {options.speed} needs file sources; devices run at the speed of life")
    workers: dict[str, Entry] = {"fusion": (fusion.run, FusionOptions(model=options.model))}
    streams: list[str] = []
    if "camera" in sources:
        streams.append("face")
        workers["camera"] = (camera.run, camera.CameraOptions(
            source=options.camera, latency_ms=options.camera_latency, model_path=options.face_model))
    if "microphone" in sources:
        streams.append("voice")
        workers["microphone"] = (microphone.run, microphone.MicrophoneOptions(source=options.microphone))
        if options.transcriber != "none":
            streams.append("words")
            workers["transcriber"] = (transcriber.run, transcriber.TranscriberOptions(
                model=options.transcriber, language=options.language, offline=options.offline))
    hub = HubOptions(
        streams=tuple(streams), workers=tuple(workers), insecure=options.insecure, speed=options.pace, lossless=all(files),
        lateness_s=options.lateness,
    )
    return hub, workers


def _enter(entry: Callable[..., int], options: Any, connection: Connection, log: str) -> None:
    """First thing in a worker's process: only the supervisor obeys Ctrl-C, and stderr goes where the view is not disturbed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 2)
    from stream.cli import guarded

    sys.exit(guarded(entry, options, connection))


class Supervisor:
    """The processes of one session on this host."""

    def __init__(self, hub: HubOptions, workers: dict[str, Entry], connection: Connection, notes: Notes) -> None:
        from stream import hub as hub_module

        self._entries: dict[str, Entry] = {"hub": (hub_module.run, hub), **workers}
        self._connection = connection
        self._context = multiprocessing.get_context("spawn")
        self._logs = tempfile.TemporaryDirectory(prefix="affect-")
        self.processes: dict[str, BaseProcess] = {}
        self._crashes: dict[str, list[float]] = {}
        self._due: dict[str, float] = {}
        self._usage: dict[str, psutil.Process] = {}
        self._first: dict[str, tuple[float, float]] = {}
        self._cpu: dict[str, tuple[float, float]] = {}
        self._notes = notes

    def start(self) -> None:
        for name in self._entries:
            self._start(name)

    def _start(self, name: str) -> None:
        entry, options = self._entries[name]
        log = str(Path(self._logs.name) / name)
        process = self._context.Process(target=_enter, args=(entry, options, self._connection, log), name=f"affect {name}", daemon=True)
        process.start()
        self.processes[name] = process
        with suppress(psutil.NoSuchProcess):
            self._usage[name] = psutil.Process(process.pid)

    def said(self, name: str) -> str:
        """The last line a worker wrote to stderr, which is kept from the screen: one cause is said once, by the supervisor."""
        file = Path(self._logs.name) / name
        lines = file.read_text(errors="replace").strip().splitlines() if file.exists() else []
        return lines[-1] if lines else ""

    def watch(self, begun: bool) -> None:
        """Looks after the processes. Raises StartError when one fails before the session has begun, or the hub at any time."""
        now = time.monotonic()
        for name, process in list(self.processes.items()):
            if process.is_alive() or name in self._due:
                continue
            code = process.exitcode
            line = self.said(name)
            if not begun or name == "hub":
                raise StartError(line.removeprefix("affect: ") or f"the {name} ended with exit status {code}")
            if code in (0, 2):  # done, or said why it cannot go on
                if line:
                    self._notes.add(f"the {name} gave up: {line.removeprefix('affect: ')}")
                self.processes.pop(name)
                continue
            self._crashes[name] = [at for at in self._crashes.get(name, []) if now - at < 60] + [now]
            if len(self._crashes[name]) > RESTARTS:
                self._notes.add(f"{name} keeps crashing and stays down: {line or f'exit status {code}'}")
                self.processes.pop(name)
                continue
            self._notes.add(f"{name} crashed ({line or f'exit status {code}'}); starting it again")
            self._due[name] = now + 0.5 * 2 ** (len(self._crashes[name]) - 1)
        for name in [name for name, at in self._due.items() if now >= at]:
            del self._due[name]
            self._start(name)

    def measure(self) -> dict[str, tuple[float, float]]:
        """CPU (percent of one core since the last `restart_measure`) and memory (MB) of each process."""
        for name, process in {**self._usage, "supervisor": psutil.Process()}.items():
            with suppress(psutil.Error):
                with process.oneshot():
                    seconds = sum(process.cpu_times()[:2])
                    memory = process.memory_info().rss / 1e6
                first = self._first.setdefault(name, (seconds, time.monotonic()))
                elapsed = time.monotonic() - first[1]
                if elapsed > 0.5:
                    self._cpu[name] = (100 * (seconds - first[0]) / elapsed, memory)
        return self._cpu

    def restart_measure(self) -> None:
        """Start-up is over: measure from here."""
        self._first.clear()
        self.measure()

    def stop(self, bus: Bus) -> None:
        """Orders, then terminates, then kills: nothing is left after about two seconds."""
        with suppress(zmq.ZMQError):  # a full queue or a hub that is gone: the signals below end everybody
            bus.speaker.send_multipart(encode("control", Control(action="stop")))
        for grace, act in ((STOP_GRACE, None), (KILL_GRACE, "terminate"), (KILL_GRACE, "kill")):
            if act:
                for process in self._living():
                    getattr(process, act)()
            deadline = time.monotonic() + grace
            while self._living() and time.monotonic() < deadline:
                time.sleep(0.02)
        self._logs.cleanup()

    def _living(self) -> list[BaseProcess]:
        return [process for process in self.processes.values() if process.is_alive()]


class _Stopped(Exception):
    """SIGINT or SIGTERM: the session is to end now."""


def _interrupt(number: int, frame: Any) -> None:
    raise _Stopped


def run(options: RunOptions) -> int:
    """A whole session in the foreground: until its sources end, `seconds` have passed, Ctrl-C or SIGTERM.

    Returns 0, or 1 when a file session lost anything. Raises StartError, BusError when it could not begin.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Eager PyTorch otherwise spends a fifth of its time in page faults of the default allocator.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "268435456")
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", "268435456")
    hub, workers = plan(options)
    connection = Connection(options.hub, options.keys)
    bus = connection.open()
    notes = Notes(aloud=options.no_view)
    report = Report(options.sources, notes)
    supervisor = Supervisor(hub, workers, connection, notes)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        supervisor.start()
        with _screen(options) as show:
            _follow(bus, supervisor, report, options, show)
    except _Stopped:
        pass
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        supervisor.stop(bus)
        bus.close()
    notes.close()
    if options.json:
        report.save(Path(options.json))
    if report.lost and hub.lossless:
        print(f"affect: {report.lost} messages were lost in a session of files; this run cannot be reproduced", file=sys.stderr)
        return 1
    return 0


def _screen(options: RunOptions) -> Any:
    """A context that yields what is called with every message and every quiet moment."""
    from stream.watch import screen

    return screen(options.hub, enabled=not options.no_view, note=options.note)


def _follow(bus: Bus, supervisor: Supervisor, report: Report, options: RunOptions, show: Any) -> None:
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
                supervisor.restart_measure()
                if options.seconds:
                    deadline = time.monotonic() + options.seconds + clock.until(0)
            report.update(received, clock.stamp() if clock else 0)
            if isinstance(message, End) and message.stream == "affect":
                break
        show(received)
        if time.monotonic() - measured > 0.5:
            measured = time.monotonic()
            supervisor.watch(begun=clock is not None)
            if clock is not None:
                report.usage = supervisor.measure()
            elif measured - started > START_LIMIT:
                raise StartError(f"not every worker was ready within {START_LIMIT:.0f} s; `affect doctor` looks what is missing here")
    if clock is not None:
        report.usage = supervisor.measure()

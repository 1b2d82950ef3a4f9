"""One session of real processes in real time, as a subscriber on its hub sees it."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stream.bus import Bus
from stream.clock import SessionClock, monotonic
from stream.protocol import SECOND, Affect, End, Face, Message, ProtocolError, Session, Voice, Words, decode

ROOT = Path(__file__).resolve().parents[1]
START_LIMIT = 600.0
"""Real seconds until the session must have begun: the engine may have to be compiled first."""
HANG_LIMIT = 30.0
"""Real seconds without any message after which a session has failed."""


class SessionFailed(Exception):
    """The session did not begin, or did not end by itself; the text holds what it said last."""


@dataclass
class Capture:
    """What came: messages with the session time (ns) of their arrival here; real seconds from the launch; the session's own report."""

    heard: list[tuple[int, Message]] = field(default_factory=list)
    ready_s: float = 0.0
    """From the command to the session's epoch: every worker is loaded and has joined."""
    first_result_s: float = 0.0
    """From the command to the first result here."""
    report: dict[str, Any] = field(default_factory=dict)


def record(arguments: list[str]) -> Capture:
    """Runs `affect run` with `arguments` until its sources end. Raises SessionFailed."""
    with tempfile.TemporaryDirectory() as folder:
        file, log = Path(folder) / "report.json", Path(folder) / "log"
        address = _free_address()
        command = [sys.executable, "-m", "stream.cli", "run", "--no-view", "--no-page", "--hub", address, "--json", str(file), *arguments]
        # A warm start has its bytecode.
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""}
        capture = Capture()
        launched = time.monotonic()
        with log.open("wb") as said, subprocess.Popen(command, env=environment, cwd=ROOT, stdout=said, stderr=said) as process:
            try:
                _listen(address, process, capture, launched)
                process.wait(HANG_LIMIT)
            except subprocess.TimeoutExpired:
                raise SessionFailed("the session is over and its processes are not") from None
            finally:
                if process.poll() is None:
                    process.terminate()
        if process.returncode != 0:
            lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            raise SessionFailed(f"`{' '.join(command[1:])}` ended with status {process.returncode}: {lines[-1]}")
        capture.report = json.loads(file.read_text())
    return capture


def _listen(address: str, process: subprocess.Popen[bytes], capture: Capture, launched: float) -> None:
    """Until the engine says that the session is over, or the process has ended."""
    bus = Bus(address)
    bus.subscribe("session", "face", "voice", "words", "affect")
    clock: SessionClock | None = None
    early: list[tuple[int, Message]] = []  # came before word of the epoch did
    last = time.monotonic()
    try:
        while process.poll() is None:
            frames = bus.receive(100)
            if frames is None:
                if time.monotonic() - last > (HANG_LIMIT if clock else START_LIMIT):
                    raise SessionFailed(f"nothing came for {time.monotonic() - last:.0f} s")
                continue
            arrived, last = monotonic(), time.monotonic()
            try:
                message = decode(frames).message
            except ProtocolError:
                continue
            if isinstance(message, Session):
                if clock is None and message.epoch is not None:
                    clock = SessionClock(message.epoch, message.speed)
                    capture.ready_s = message.epoch / SECOND - launched
                    capture.heard += [(clock.at(at), one) for at, one in early]
            elif isinstance(message, (Face, Voice, Words, Affect, End)):
                if isinstance(message, Affect) and not capture.first_result_s:
                    capture.first_result_s = last - launched
                if clock is None:
                    early.append((arrived, message))
                    continue
                capture.heard.append((clock.at(arrived), message))
                if isinstance(message, End) and message.stream == "affect":
                    return
    finally:
        bus.close(0)


def _free_address() -> str:
    """A hub address with three free ports in a row, below those that systems hand to outgoing connections."""
    for _ in range(100):
        port = random.randrange(20000, 32000)
        if all(_free(port + offset) for offset in range(3)):
            return f"tcp://127.0.0.1:{port}"
    raise SessionFailed("no three free ports in a row")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0

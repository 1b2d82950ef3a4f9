"""What the capture tests share: a real hub, workers as real processes, and somebody who listens to all of it."""

from __future__ import annotations

import multiprocessing
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest

from models.datasets import DataMissing, corpus
from stream.bus import Address, Bus, Connection
from stream.capture import CaptureError
from stream.hub import Hub, HubOptions
from stream.protocol import Audio, End, Face, Received, Status, Voice, Words, decode, encode

M = TypeVar("M")
Entry = Callable[[Any, Connection], int]
SCRIPT = (
    "today is a normal day", "i am so happy to see you again", "that is a big surprise i did not expect that at all",
    "now i am very sad my friend is leaving", "please leave me alone i am angry",
)


def clip(name: str) -> Path:
    try:
        return corpus(f"clips/{name}")
    except DataMissing as missing:
        pytest.skip(str(missing))


def ffmpeg(*arguments: str) -> bytes:
    """Runs ffmpeg; skips the test where it, or flite in it, is missing."""
    try:
        return subprocess.run(["ffmpeg", "-v", "error", "-y", *arguments], check=True, capture_output=True).stdout
    except FileNotFoundError:
        pytest.skip("ffmpeg is not installed")
    except subprocess.CalledProcessError as error:
        if b"flite" in error.stderr:
            pytest.skip("this ffmpeg carries no flite")
        raise


def say(text: str, voice: str = "rms") -> npt.NDArray[np.int16]:
    """16 kHz mono speech of flite."""
    raw = ffmpeg("-f", "lavfi", "-i", f"flite=text='{text}':voice={voice}", "-ar", "16000", "-ac", "1", "-f", "s16le", "-")
    return np.frombuffer(raw, np.int16)


def spoken(sentences: Sequence[str] = SCRIPT, pause: float = 0.8) -> npt.NDArray[np.int16]:
    """Sentences with pauses before, between and after, over a room's noise."""
    parts: list[npt.NDArray[Any]] = []
    for text in sentences:
        parts += [np.zeros(int(pause * 16000), np.int16), say(text)]
    parts.append(np.zeros(16000, np.int16))
    sound = np.concatenate(parts).astype(np.float64)
    return (sound + np.random.default_rng(0).normal(0, 6, len(sound))).clip(-32768, 32767).astype(np.int16)


def word_errors(script: Sequence[str], heard: Sequence[str]) -> float:
    """Word error rate: edits (insertion, deletion, substitution) a word of the script."""
    row = list(range(len(heard) + 1))
    for i, said in enumerate(script, 1):
        before, row = row, [i]
        for j, word in enumerate(heard, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (said != word)))
    return row[-1] / len(script)


def free_address() -> str:
    """Three free ports in a row, below those that systems hand to outgoing connections (one of which could else take ours)."""
    for _ in range(50):
        port = random.randrange(20000, 32000)
        if all(_free(port + offset) for offset in range(3)):
            return f"tcp://127.0.0.1:{port}"
    raise RuntimeError("no three free ports in a row")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def enter(entry: Entry, options: Any, hub: str) -> None:
    """What a worker's process does first."""
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        sys.exit(entry(options, Connection(hub)))
    except CaptureError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


@dataclass(frozen=True)
class Heard:
    """A message, its payload as bytes, and the real time at which it came."""

    message: Any
    payload: bytes
    at: float


class Stage:
    """A hub, its workers, and everything they say. Use as a context."""

    def __init__(self, workers: dict[str, tuple[Entry, Any]], speed: float | None = 1.0, lossless: bool = True) -> None:
        self.address = free_address()
        options = HubOptions(workers=tuple(workers), speed=speed, lossless=lossless)
        self._hub = Hub(Address.parse(self.address), options.session(), options.workers)
        self._workers = workers
        self.heard: list[Heard] = []
        self.processes: dict[str, BaseProcess] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> Stage:
        self._hub.start()
        self._bus = Bus(self.address)
        self._thread.start()
        context = multiprocessing.get_context("spawn")
        for name, (entry, options) in self._workers.items():
            self.processes[name] = context.Process(target=enter, args=(entry, options, self.address), name=name, daemon=True)
            self.processes[name].start()
        return self

    def __exit__(self, *_: object) -> None:
        from stream.protocol import Control

        self.order(Control(action="stop"))
        for process in self.processes.values():
            process.join(3)
            if process.is_alive():
                process.kill()
        self._stop.set()
        self._thread.join(5)
        self._bus.close()
        self._hub.stop()

    def order(self, message: Any) -> None:
        self._bus.speaker.send_multipart(encode("control" if type(message).__name__ == "Control" else "credit", message))

    def _listen(self) -> None:
        bus = Bus(self.address)
        bus.subscribe("")
        while not self._stop.is_set():
            frames = bus.receive(50)
            if frames is not None:
                received: Received = decode(frames)
                self.heard.append(Heard(received.message, bytes(received.payload), time.monotonic()))
        bus.close()

    def wait(self, done: Callable[[], bool], timeout: float = 150.0) -> None:
        """Until `done`; fails with what the workers said last when it takes too long or one of them dies."""
        deadline = time.monotonic() + timeout
        while not done():
            dead = [name for name, process in self.processes.items() if process.exitcode not in (None, 0)]
            assert not dead, f"{dead} died"
            assert time.monotonic() < deadline, [h.message for h in self.heard if isinstance(h.message, Status)][-3:]
            time.sleep(0.01)

    def wait_ended(self, *streams: str, timeout: float = 150.0) -> None:
        self.wait(lambda: set(streams) <= {h.message.stream for h in self.all(End)}, timeout)

    def all(self, kind: type[M], stream: str = "") -> list[Heard]:
        return [h for h in list(self.heard) if isinstance(h.message, kind) and (not stream or getattr(h.message, "stream", "") == stream)]

    def messages(self, kind: type[M], stream: str = "") -> list[M]:
        return [h.message for h in self.all(kind, stream)]

    def content(self) -> dict[str, Any]:
        """Everything that may not depend on the speed: rows, stamps, words, watermarks."""
        faces, voices, audio, words = self.all(Face), self.all(Voice), self.all(Audio), self.all(Words)
        return {
            "face": [(h.message.begin, h.message.end, h.message.watermark, h.message.face, h.payload) for h in faces],
            "voice": [(h.message.begin, h.message.hop, h.message.watermark, h.payload) for h in voices],
            "audio": [(h.message.begin, h.message.end, h.message.sample, h.message.speech, h.payload) for h in audio],
            "words": [(h.message.committed, h.message.tentative, h.message.watermark, h.message.revision, h.payload) for h in words],
            "end": sorted((h.message.stream, h.message.end) for h in self.all(End)),
        }

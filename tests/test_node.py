"""A worker's membership: long work, other hosts' clocks, keys, a machine that slept."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from capturing import Stage, free_address

from stream.bus import Address, Bus, Connection, Keys
from stream.capture import microphone
from stream.capture.microphone import MicrophoneOptions
from stream.capture.sound import Block
from stream.client import Client, ClientTimeout
from stream.clock import SuspendWatch
from stream.hub import Hub, HubError, HubOptions
from stream.node import Node
from stream.protocol import MILLISECOND, SECOND, Affect, Gap, Status, StreamInfo, Voice, decode


@contextmanager
def hub(address: str, host: str | None = None, keys: Keys | None = None) -> Iterator[Hub]:
    options = HubOptions(workers=("fusion",))
    session = options.session()
    session.host = host or session.host
    running = Hub(Address.parse(address), session, options.workers, keys)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def statuses(bus: Bus, seconds: float) -> list[Status]:
    found, deadline = [], time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (frames := bus.receive(20)) is not None and isinstance(message := decode(frames).message, Status):
            found.append(message)
    return found


def say(node: Node, k: int) -> None:
    outlet, t = node.outlets["affect"], k * 100 * MILLISECOND
    outlet.send(Affect(
        **outlet.header(t), t=t, window=k, final=False, closed_by="watermark", top="happy", probabilities={"happy": 1.0}, valence=0.5,
        arousal=0.1, weights={}, present=["face"], samples={},
    ))


def test_long_work_does_not_stop_the_heart() -> None:
    address = free_address()
    with hub(address):
        listener, node = Bus(address), Node(Bus(address), "fusion", [StreamInfo(name="affect")])
        listener.subscribe("status")
        node.join()

        def work(beats: int) -> int:
            """As long as it takes to hear so many heartbeats more."""
            deadline, heard = time.monotonic() + 60, 0
            while heard < beats and time.monotonic() < deadline:
                heard += len(statuses(listener, 0.1))
            return heard

        assert node.during(work, 5) >= 5
        with pytest.raises(ZeroDivisionError):
            node.during(lambda: 1 // 0)
        for bus in (listener, node.bus):
            bus.close()


def test_a_worker_on_another_host_probes_the_clock_and_says_how_sure_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    address = free_address()
    with hub(address, host="elsewhere"):
        listener, node = Bus(address), Node(Bus(address), "fusion", [StreamInfo(name="affect")])
        listener.subscribe("status")
        node.join()
        assert 0 < node.clock.uncertainty() < SECOND
        stamp = node.clock.stamp()
        # Both hosts are this one, so the converted time must be the unconverted one, but for what the probes cannot know.
        monkeypatch.setenv("AFFECT_HOST_IDENTITY", "elsewhere")
        near = Node(Bus(address), "fusion", [StreamInfo(name="affect")])
        near.join()
        assert near.clock.uncertainty() == 0
        assert -SECOND <= near.clock.stamp() - stamp < 60 * SECOND
        told: list[Status] = []
        deadline = time.monotonic() + 60
        while not any("clock_uncertainty_ms" in status.metrics for status in told) and time.monotonic() < deadline:
            node.beat()
            told += [status for status in statuses(listener, 0.1) if status.instance == node.instance]
        assert told[-1].metrics["clock_uncertainty_ms"] > 0
        for bus in (listener, node.bus, near.bus):
            bus.close()


def test_keys_let_in_and_keep_out(tmp_path: Path) -> None:
    port = free_address().rpartition(":")[2]
    keys, others = Keys.make(tmp_path / "keys"), Keys.make(tmp_path / "others")
    inside = f"tcp://127.0.0.1:{port}"
    with hub(f"tcp://0.0.0.0:{port}", keys=keys):
        node = Node(Bus(inside, keys), "fusion", [StreamInfo(name="affect")])
        node.join()
        with Client(inside, timeout=150, keys=keys.folder) as client:
            results = iter(client)
            stop = threading.Event()

            def speak() -> None:
                k = 0
                while not stop.wait(0.05):
                    say(node, k := k + 1)

            speaker = threading.Thread(target=speak, daemon=True)
            speaker.start()
            assert next(results).top == "happy"
        for wrong in (None, others.folder):
            with Client(inside, timeout=3, keys=wrong) as stranger, pytest.raises(ClientTimeout, match="its keys if it has some"):
                next(iter(stranger))
        stop.set()
        speaker.join(5)
        node.bus.close()


def sleepy(entry: object, options: object, connection: Connection) -> int:
    """A worker on a machine whose boot clock leaps ahead by a minute once it has been looked at some hundred times."""
    looks = itertools.count()
    SuspendWatch._measure = staticmethod(lambda: 60 * SECOND * (next(looks) > 300))  # type: ignore[method-assign]
    return entry(options, connection)  # type: ignore[operator,no-any-return]


class Tone:
    """A device that hears silence, at 16 kHz."""

    uncertainty = 0

    def __init__(self, source: str) -> None:
        self.source = source

    def open(self, timeout: float = 10.0) -> None:
        self.rate, self.name, self.lost, self.ready = 16000, "silence", "", True
        self._at = microphone.monotonic()

    def close(self) -> None:
        self.ready = False

    def take(self, timeout: float) -> list[Block]:
        time.sleep(0.005)
        blocks = []
        while self._at + 20 * MILLISECOND < microphone.monotonic():
            blocks.append(Block(np.zeros(320, np.int16), self._at, lost=False))
            self._at += 20 * MILLISECOND
        return blocks


def run_sleepy_microphone(options: MicrophoneOptions, connection: Connection) -> int:
    microphone.DeviceSound = Tone  # type: ignore[assignment,misc]
    return sleepy(microphone.run, options, connection)


def test_a_machine_that_slept_begins_a_new_segment() -> None:
    with Stage({"microphone": (run_sleepy_microphone, MicrophoneOptions(source="silence"))}, lossless=False) as stage:
        stage.wait(lambda: any(m.segment == 1 for m in stage.messages(Voice)), timeout=150)
        gaps, voices = stage.messages(Gap, "voice"), stage.messages(Voice)
    assert [gap.reason for gap in gaps] == ["the machine slept"]
    assert max(m.begin + m.hop for m in voices if m.segment == 0) <= min(m.begin for m in voices if m.segment == 1)


@pytest.mark.parametrize(("options", "line"), [
    (HubOptions(hop_ms=0), "--hop-ms 0"), (HubOptions(hop_ms=501), "--hop-ms 501"), (HubOptions(window_s=0.05), "--window-s 0.05"),
])
def test_a_grid_that_is_none_is_refused(options: HubOptions, line: str) -> None:
    with pytest.raises(HubError, match=line):
        options.session()

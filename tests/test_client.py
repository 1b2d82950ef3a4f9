"""The client against a real hub on loopback; the engine is played by a Node."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from capturing import free_address

from stream.bus import Address, Bus, BusError
from stream.client import Client, ClientError, ClientTimeout
from stream.hub import Hub, HubOptions
from stream.node import Node
from stream.protocol import MILLISECOND, SECOND, Affect, Control, StreamInfo

ROOT = Path(__file__).parents[1]
HOP = 100 * MILLISECOND


@contextmanager
def hub(address: str, lossless: bool = False, host: str | None = None, speed: float | None = 1.0) -> Iterator[Hub]:
    options = HubOptions(workers=("fusion",), lossless=lossless, speed=speed)
    session = options.session()
    if host:
        session.host = host
    running = Hub(Address.parse(address), session, options.workers)
    running.start()
    try:
        yield running
    finally:
        running.stop()


class Engine:
    """Publishes made-up results through a real Node, in a thread of its own: `tops` in turn, once or `forever`."""

    def __init__(self, address: str, tops: str = "h", pace: float = 0.02, forever: bool = True) -> None:
        self.orders: list[Control] = []
        self.node: Node | None = None
        self.over = threading.Event()
        self._tops, self._pace, self._forever = tops, pace, forever
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(address,), daemon=True)

    def __enter__(self) -> Engine:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=30)

    def play(self, tops: str) -> None:
        """From now on these."""
        self._tops = tops

    def end(self) -> None:
        self._forever, self._tops = False, ""

    def _run(self, address: str) -> None:
        bus = Bus(address)
        node = Node(bus, "fusion", [StreamInfo(name="affect")])
        obey = node._obey

        def note(message: Any) -> None:
            if isinstance(message, Control):
                self.orders.append(message)
            obey(message)

        node._obey = note  # type: ignore[method-assign]
        node.join()
        self.node = node
        outlet, k = node.outlets["affect"], 0
        while not self._stop.is_set() and (self._forever or k < len(self._tops)):
            k += 1
            for final in (False, True):
                tops = self._tops or "-"
                outlet.send(affect(node, k, tops[(k - 1) % len(tops)], final))
            node.service(int(self._pace * 1000))
        if not self._forever:
            outlet.end(k * HOP)
        self.over.set()
        while not self._stop.is_set():
            node.service(20)
        bus.close()


def affect(node: Node, k: int, letter: str, final: bool) -> Affect:
    top = {"h": "happy", "n": "neutral", "-": None}[letter]
    return Affect(
        **node.outlets["affect"].header(k * HOP), t=k * HOP, window=k, final=final, closed_by="watermark", top=top,
        probabilities={top: 0.8} if top else {}, valence=0.5, arousal=0.1, weights={}, present=["face"] if top else [], samples={},
    )


@pytest.fixture
def address() -> str:
    return free_address()


def test_it_imports_where_only_pyzmq_and_msgspec_are_installed() -> None:
    code = """
import sys
class Bare:
    def find_spec(self, name, path=None, target=None):
        first = name.partition(".")[0]
        if first not in {"stream", "zmq", "msgspec"} | set(sys.stdlib_module_names) and not first.startswith(("_cython", "cython")):
            raise ModuleNotFoundError(f"No module named {name!r} in this bare environment", name=name)
sys.meta_path.insert(0, Bare())
import stream.client
try:
    import numpy
except ModuleNotFoundError:
    print("bare")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "bare\n"), done.stderr


def test_results_are_provisional_unless_asked_and_end_with_the_session(address: str) -> None:
    with hub(address, lossless=True), Client(address) as live, Client(address, finals=True) as finals, Client(address, finals=None) as both:
        both.session()
        with Engine(address, "nnhh-", forever=False):
            seen = [(result.window, result.top, result.final) for result in both]
        expected = list(enumerate(["neutral", "neutral", "happy", "happy", None], start=1))
        assert seen == [(k, top, final) for k, top in expected for final in (False, True)]
        assert [(result.window, result.top) for result in live] == expected
        assert [result.final for result in finals] == [True] * 5


def test_a_slow_app_gets_the_newest_and_knows_what_it_missed(address: str) -> None:
    with hub(address), Client(address, backlog=3) as client, Engine(address, "h" * 60, forever=False) as engine:
        results = iter(client)
        first = next(results).window
        assert engine.over.wait(60)
        second = next(results).window
        assert client.skipped > 0
        assert second == first + client.skipped + 1


def test_changes_are_debounced(address: str) -> None:
    with hub(address, lossless=True), Client(address) as client:
        client.session()
        with Engine(address, "n" * 9 + "hh" + "n" * 3 + "h" * 9, forever=False):
            changes = [(change.emotion, change.previous, change.t // HOP) for change in client.changes()]
    assert changes == [("neutral", None, 7), ("happy", "neutral", 21)]


def test_without_a_hub_a_timeout_says_cause_and_cure(address: str) -> None:
    with Client(address, timeout=0.2) as client:
        with pytest.raises(ClientTimeout, match=r"no hub answers; start one with `affect run`"):
            next(iter(client))
        with pytest.raises(ClientTimeout, match="no hub answers"):
            client.session()
        with pytest.raises(ClientTimeout, match="takes the order"):
            client.control("pause")


def test_a_hub_without_results_is_told_apart(address: str) -> None:
    with hub(address), Client(address, timeout=3) as client, pytest.raises(ClientTimeout, match="workers: none has joined"):
        next(iter(client))


def test_a_hub_that_is_restarted_is_found_again(address: str) -> None:
    with Client(address, timeout=60) as client:
        with hub(address), Engine(address):
            before = next(iter(client)).session
            assert client.session().session == before
        with hub(address), Engine(address):
            after = next(result.session for result in client if result.session != before)
            assert client.session().session == after


def test_orders_arrive_even_when_they_are_the_first_thing_said(address: str) -> None:
    with hub(address), Engine(address) as engine:
        while engine.node is None:
            time.sleep(0.01)
        with Client(address) as client:
            client.control("pause", "camera")
            now = client.now()
            client.busy("voice", now, now + SECOND)
            result = next(result for result in client if len(engine.orders) >= 2)
        assert [(order.action, order.target) for order in engine.orders] == [("pause", "camera"), ("busy", "voice")]
        assert engine.orders[1].end - engine.orders[1].begin == SECOND
        assert abs(now - result.sent) < 5 * SECOND


def test_session_time_from_another_host_is_probed(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub(address, host="elsewhere"), Client(address) as client:
        session = client.session()
        with pytest.raises(ClientError, match="has not begun"):
            client.now()
        monkeypatch.setenv("AFFECT_HOST_IDENTITY", "elsewhere")
        with Engine(address):
            while client.session().epoch is None:
                pass
            here = client.now()
            monkeypatch.setenv("AFFECT_HOST_IDENTITY", "here")
            probed = client.now()
            assert session.host == "elsewhere" and client._offset is not None
            assert abs(probed - here) < SECOND


def test_a_session_without_a_clock_has_no_now(address: str) -> None:
    with hub(address, speed=None), Engine(address), Client(address) as client:
        while client.session().epoch is None:
            pass
        with pytest.raises(ClientError, match="no clock"):
            client.now()


def test_garbage_on_the_bus_is_counted_and_survived(address: str) -> None:
    with hub(address), Client(address) as client:
        client.session()
        bus = Bus(address)
        while not client.refused:
            bus.speaker.send_multipart([b"affect", b"\xff\xff", b""])
            client.session()
        bus.close()
        with Engine(address):
            assert next(iter(client)).top == "happy"


def test_a_bad_address_is_refused_at_once() -> None:
    with pytest.raises(BusError, match="not a hub address"):
        Client("http://127.0.0.1:5560")


def test_the_example_of_the_readme_runs_as_printed(address: str) -> None:
    readme = ROOT / "README.md"
    text = readme.read_text() if readme.exists() else ""
    found = re.search(r"<!-- example: client -->\s*```python\n(.*?)```", text, re.DOTALL)
    if not found:
        pytest.skip("README.md has no example marked `<!-- example: client -->` yet")
    example = found[1].replace("tcp://127.0.0.1:5560", address)
    assert address in example and len(found[1].strip().splitlines()) <= 10
    out = _play_to([sys.executable, "-u", "-c", example], address)
    assert "happy" in out and "neutral" in out, out


def test_the_robot_example_acts(address: str) -> None:
    out = _play_to([sys.executable, "-u", str(ROOT / "tools" / "robot_example.py"), "--hub", address], address)
    assert "nods" in out and "smiles" in out and "looks around" in out, out


def _play_to(command: list[str], address: str) -> str:
    """What `command` prints when a session plays neutral, happy, nobody, each until it says something, and ends."""
    with hub(address, lossless=True), Engine(address, "n") as engine:
        environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
        app = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert app.stdout is not None
        try:
            said = []
            for tops in ("n", "h", "-"):
                engine.play(tops)
                said.append(app.stdout.readline())
            engine.end()
            said.append(app.communicate(timeout=60)[0])
        finally:
            app.kill()
    out = "".join(said)
    assert app.returncode == 0, out
    return out

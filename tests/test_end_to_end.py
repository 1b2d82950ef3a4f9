"""The sample clip through real processes: live against `--speed max`, report, and how a session ends."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from capturing import free_address
from session import Listener, affect, untrained

from stream.client import Client, ClientTimeout
from stream.protocol import SECOND

CLIP = Path(__file__).parents[1] / "stream/assets/sample.mp4"
WINDOWS = 160


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(tmp_path_factory.mktemp("weights") / "untrained.safetensors")


def run(weights: Path, out: Path, *more: object, windows: int = WINDOWS) -> tuple[dict, Listener]:  # type: ignore[type-arg]
    address = free_address()
    with Listener(address) as listener:
        done = subprocess.run(
            affect("run", "--camera", f"file:{CLIP}", "--microphone", f"file:{CLIP}", "--model", weights, "--no-view",
                   "--hub", address, "--json", out, *more), capture_output=True, text=True, timeout=360, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{windows} provisional and {windows} final results" in done.stdout and "all but the transcriber" in done.stdout
    return json.loads(out.read_text()), listener


@pytest.fixture(scope="module")
def captured(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Listener]:  # type: ignore[type-arg]
    return run(weights, tmp_path_factory.mktemp("live") / "out.json")


@pytest.fixture(scope="module")
def live(captured: tuple[dict, Listener]) -> dict:  # type: ignore[type-arg]
    return captured[0]


def finals(report: dict) -> list[dict]:  # type: ignore[type-arg]
    return [line for line in report["timeline"] if line["final"]]


def readings(report: dict) -> list[list[object]]:  # type: ignore[type-arg]
    keys = ("t", "top", "probabilities", "valence", "arousal", "weights", "present", "samples")
    return [[line[key] for key in keys] for line in finals(report)]


def test_one_provisional_and_one_final_for_every_window_and_nothing_lost(live: dict) -> None:  # type: ignore[type-arg]
    for kind in (True, False):
        assert [line["t"] for line in live["timeline"] if line["final"] is kind] == pytest.approx([k / 10 for k in range(1, WINDOWS + 1)])
    assert live["windows"] == live["provisionals"] == live["finals"] == WINDOWS
    assert all(stream["lost"] == 0 for stream in live["streams"].values())
    assert all(line["closed_by"] == "watermark" for line in finals(live))
    assert live["finals_changed"] > 0


def test_streams_keep_their_own_rates(live: dict) -> None:  # type: ignore[type-arg]
    assert live["streams"]["face"]["rate_hz"] >= 20
    assert live["streams"]["voice"]["rate_hz"] == pytest.approx(50, rel=0.02)
    assert live["streams"]["face"]["present"] == 1.0


def test_words_against_the_script(live: dict) -> None:  # type: ignore[type-arg]
    truth = json.loads(CLIP.with_suffix(".json").read_text())["words"]
    heard = live["words"]
    said = [word["text"] for word in truth]
    table = np.arange(len(heard) + 1)
    for i, word in enumerate(said, 1):  # Levenshtein
        row = [i]
        for j, other in enumerate(heard, 1):
            row.append(min(table[j] + 1, row[-1] + 1, table[j - 1] + (word != other["text"])))
        table = np.array(row)
    assert table[-1] / len(said) <= 0.15
    errors = [min(abs(word["begin"] - other["begin"]) for other in heard if other["text"] == word["text"])
              for word in truth if any(other["text"] == word["text"] for other in heard)]
    assert np.median(errors) <= 0.1


def test_as_fast_as_possible_gives_the_same_features_and_finals(
    captured: tuple[dict, Listener], weights: Path, tmp_path: Path,  # type: ignore[type-arg]
) -> None:
    (live, there), (fast, here) = captured, run(weights, tmp_path / "out.json", "--speed", "max")
    assert here.arrays("face") == there.arrays("face") and len(here.arrays("face")) > 450
    assert here.rows("voice") == there.rows("voice") and len(here.rows("voice")) > 750 * 4 * 44
    assert here.words() == there.words() and len(here.words()) > 20
    assert here.finals() == there.finals() and len(here.finals()) == WINDOWS
    assert readings(fast) == readings(live)
    assert fast["words"] == live["words"]


def test_a_finer_grid_has_the_same_windows_among_its_own(live: dict, weights: Path, tmp_path: Path) -> None:  # type: ignore[type-arg]
    finer, _ = run(weights, tmp_path / "out.json", "--speed", "max", "--hop-ms", 50, windows=2 * WINDOWS)
    assert readings(finer)[1::2] == readings(live)
    assert [line["t"] for line in finals(finer)] == pytest.approx([k / 20 for k in range(1, 2 * WINDOWS + 1)])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("begun", [True, False])
def test_a_signal_ends_every_process(weights: Path, number: signal.Signals, begun: bool) -> None:
    address = free_address()
    with Listener(address) as heard, subprocess.Popen(
        affect("run", "--camera", f"file:{CLIP}", "--microphone", f"file:{CLIP}", "--model", weights, "--no-view", "--hub", address),
        start_new_session=True) as process:
        try:
            deadline = time.monotonic() + 60
            while len(children := psutil.Process(process.pid).children(recursive=True)) < 6 and time.monotonic() < deadline:
                time.sleep(0.05)
            if begun:
                heard.wait(lambda h: len(h.heard["affect"]) > 5)
            process.send_signal(number)
            assert process.wait(timeout=60) == 0
            # Python's own helper process ends when it sees that the supervisor has, a moment later.
            assert len(children) >= 6 and not psutil.wait_procs(children, timeout=30)[1]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(("arguments", "line"), [
    (("--camera", "file:nowhere.mp4", "--microphone", "none"), "nowhere.mp4"),
    (("--camera", "none", "--microphone", "none"), "nothing to watch or hear"),
    (("--camera", "none", "--microphone", "no such device"), "no such device"),
    (("--camera", f"file:{CLIP}", "--microphone", "none", "--speed", "-1"), "--speed"),
    (("--camera", f"file:{CLIP}", "--microphone", "none", "--hop-ms", "5"), "--hop-ms 5"),
    (("--camera", f"file:{CLIP}", "--microphone", "none", "--model", "nowhere.safetensors"), "nowhere.safetensors"),
])
def test_what_cannot_start_says_one_line(weights: Path, arguments: tuple[str, ...], line: str) -> None:
    model = () if "--model" in arguments else ("--model", weights)
    done = subprocess.run(
        affect("run", *arguments, *model, "--no-view", "--hub", free_address()), capture_output=True, text=True, timeout=360, check=False)
    assert done.returncode == 2
    lines = [said for said in done.stderr.splitlines() if said.startswith("affect:")]
    assert len(lines) == 1 and line in lines[0], done.stderr


def test_beyond_loopback_only_those_with_keys_hear(weights: Path, tmp_path: Path) -> None:
    port = free_address().rpartition(":")[2]
    inside, keys = f"tcp://127.0.0.1:{port}", tmp_path / "keys"
    command = affect("run", "--camera", "none", "--microphone", f"file:{CLIP}", "--transcriber", "none", "--model", weights, "--no-view",
                     "--hub", f"tcp://0.0.0.0:{port}")
    refused = subprocess.run(command, capture_output=True, text=True, timeout=360, check=False)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
    assert "can be reached from other machines" in refused.stderr and "affect keys" in refused.stderr
    assert subprocess.run(affect("keys", keys), capture_output=True, timeout=60, check=True)
    with Client(inside, timeout=90, keys=keys) as friend, Client(inside, timeout=3) as stranger, \
            subprocess.Popen([*command, "--keys", str(keys)]) as process:
        try:
            ends = [result.t for result, _ in zip(friend, range(20), strict=False)]
            assert {b - a for a, b in itertools.pairwise(ends)} == {SECOND // 10}
            with pytest.raises(ClientTimeout, match="no hub answers"):
                next(iter(stranger))
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_a_taken_port_says_so(weights: Path) -> None:
    from stream.bus import Address
    from stream.hub import Hub, HubOptions

    address = free_address()
    hub = Hub(Address.parse(address), HubOptions().session(), ("nobody",))
    hub.start()
    try:
        done = subprocess.run(
            affect("run", "--camera", f"file:{CLIP}", "--microphone", "none", "--model", weights, "--no-view", "--hub", address),
            capture_output=True, text=True, timeout=360, check=False)
        assert done.returncode == 2
        assert "cannot bind" in done.stderr
    finally:
        hub.stop()

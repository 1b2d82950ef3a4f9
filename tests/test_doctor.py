"""What the doctor and the device list say, on this machine and on made-up ones."""

from __future__ import annotations

import io
import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from models import engine
from models.runtime import onnx, tensorrt
from stream import demo, devices, doctor
from stream.bus import Connection
from stream.doctor import Check


@pytest.fixture
def no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_camera_names", lambda: [])
    monkeypatch.setattr(devices, "_ask", lambda *question, limit: {"microphones": []})


@pytest.fixture
def some_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[tuple[str, ...], dict[str, Any]] = {
        ("camera", "0"): {"error": "opens but gives no picture"},
        ("camera", "2"): {"width": 640, "height": 480, "fps": 30.0, "open_s": 0.4},
        ("microphones",): {"microphones": [
            {"index": 3, "name": "desk", "system": "ALSA", "channels": 2, "rate": 48000, "default": False},
            {"index": 5, "name": "head", "system": "ALSA", "channels": 1, "rate": 44100, "default": True},
        ]},
    }  # fmt: skip
    monkeypatch.setattr(devices, "_camera_names", lambda: [(0, "Infrared"), (2, "Webcam")])
    monkeypatch.setattr(devices, "_ask", lambda *question, limit: dict(answers[question]))


@pytest.mark.usefixtures("some_devices")
def test_devices_are_listed_with_what_works_and_how_fast(capsys: pytest.CaptureFixture[str]) -> None:
    assert devices.run(devices.DevicesOptions()) == 0
    out = capsys.readouterr().out
    assert "640x480 30 fps, opened in 0.4 s" in out and "opens but gives no picture" in out
    assert "48000 Hz" in out and "44100 Hz, default" in out


@pytest.mark.usefixtures("no_devices")
def test_without_devices_it_says_why_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert devices.run(devices.DevicesOptions()) == 0
    assert capsys.readouterr().out.count("none: ") == 2
    assert doctor.camera().level == doctor.microphone().level == "warn"
    assert "affect demo" in doctor.camera().cure


def test_a_device_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no answer within" in devices._ask("camera", "0", limit=0.001)["error"]


def test_a_driver_that_crashes_the_program_is_an_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    crashing = tmp_path / "python"
    crashing.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crashing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crashing))
    assert "ended the program" in devices._ask("camera", "0", limit=5)["error"]


def test_a_camera_that_is_not_there_is_said_in_words() -> None:
    assert "cannot be opened" in devices._ask("camera", "77", limit=60)["error"]


def test_missing_portaudio_is_said_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    answer = devices._list_microphones()
    assert "sounddevice cannot be used" in answer["error"] and "pip install sounddevice" in answer["error"]
    monkeypatch.setattr(devices, "_ask", lambda *question, limit: answer)
    assert doctor.microphone().level == "warn"
    with pytest.raises(devices.DevicesError):
        devices.microphones()


def test_packages_are_compared_with_the_tested_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "constraints.txt"
    file.write_text("# tested\nnumpy>=1\nrich>=9999  # not yet\n")
    found = doctor.packages(file)
    assert found.level == "warn" and "rich" in found.detail and "numpy" not in found.detail
    assert found.cure.startswith("pip install -c tools/constraints.txt")
    monkeypatch.setattr(doctor, "PACKAGES", ("numpy", "no-such-package"))
    missing = doctor.packages(file)
    assert (missing.level, missing.detail) == ("fail", "missing: no-such-package")


def test_missing_libraries_name_their_debian_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.platform, "system", lambda: "Linux")
    monkeypatch.setattr(doctor, "LIBRARIES", {"libnothere.so.9": "libnothere9", "libnorthis.so": "libnorthis1"})
    found = doctor.libraries()
    assert found.level == "fail" and found.cure.endswith("apt-get install -y libnothere9 libnorthis1")


def test_taken_ports_are_told_from_a_running_session() -> None:
    from test_client import free_address, hub

    address = free_address()
    assert doctor.ports(address).level == "ok"
    with hub(address):
        running = doctor.ports(address)
        assert running.level == "fail" and "a session" in running.detail and "affect watch" in running.cure
    address = free_address()
    port = int(address.rpartition(":")[2])
    with socket.socket() as other:
        other.bind(("127.0.0.1", port + 1))
        other.listen()
        held = doctor.ports(address)
        assert held.level == "fail" and str(port + 1) in held.detail and "--hub" in held.cure


def test_whisper_counts_only_whole_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--Systran--faster-whisper-tiny" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.bin").touch()
    assert doctor.whisper().level == "warn"
    (snapshot / "tokenizer.json").touch()
    assert doctor.whisper().detail == "on disk: faster-whisper-tiny"


def test_weights_are_checked_against_the_features_computed_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    monkeypatch.setattr(doctor, "TRAINED", (str(tmp_path / "mea.safetensors"),))
    monkeypatch.setattr(doctor, "live_features", lambda: {"face": "new", "voice": "same"})
    (missing,) = doctor.trained()
    assert missing.level == "fail" and missing.cure.endswith("affect train --model mea")
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "mea.safetensors", {"features": json.dumps({"face": "old", "voice": "same"})})
    (stale,) = doctor.trained()
    assert stale.level == "fail" and stale.detail.endswith("than these: face")
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "mea.safetensors", {"features": json.dumps({"face": "new"})})
    (good,) = doctor.trained()
    assert good.level == "ok" and "sha256" in good.detail


def test_licences_are_read_from_the_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.weights, "__file__", str(tmp_path / "__init__.py"))
    terms = "## Data and licences\n| corpus | for | licence |\n|---|---|---|\n| FER+ | faces | unclear |\n"
    (tmp_path / "face.md").write_text(f"# Face\n\n{terms}\n## Figures\n| a | b |\n|---|---|\n| 1 | 2 |\n")
    (tmp_path / "words.md").write_text("# Words\n### Licence\nResearch only.\n")
    said = doctor.licences()
    assert said["face"] == ["FER+: unclear"] and said["words"] == ["Research only."] and said["mea"] == []


@pytest.mark.usefixtures("no_devices")
def test_the_exit_status_says_whether_the_demo_can_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "examine", lambda connection: [Check("a", "ok", "fine"), Check("b", "warn", "less", "do b")])
    assert doctor.run(doctor.DoctorOptions(json=True), Connection()) == 0
    assert json.loads(capsys.readouterr().out)["demo"] is True
    monkeypatch.setattr(doctor, "examine", lambda connection: [Check("a", "fail", "gone", "mend a")])
    assert doctor.run(doctor.DoctorOptions(), Connection()) == 1
    out = capsys.readouterr().out
    assert "FAIL" in out and "-> mend a" in out and "cannot run" in out


@pytest.mark.usefixtures("no_devices")
def test_every_check_answers_here_and_a_broken_one_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Check:
        raise RuntimeError("driver on fire")

    monkeypatch.setattr(doctor, "engine", broken)
    found = doctor.examine(Connection("tcp://127.0.0.1:65000"))
    names = [check.name for check in found]
    expected = {"python", "packages", "libraries", "face tracker", "camera", "microphone", "built-in clip", "whisper", "ports"}
    assert expected <= set(names)
    assert any("driver on fire" in check.detail and check.level == "warn" for check in found)
    assert all(check.cure for check in found if check.level == "fail")
    out = io.StringIO()
    Console(file=out, width=60).print(doctor.report(found, False, {"face": ["FER+: unclear"]}))
    assert max(map(len, out.getvalue().splitlines())) <= 60


def test_what_computes_and_whether_it_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "missing", lambda: "no NVIDIA GPU here")
    monkeypatch.setattr(engine, "failed", lambda: "")
    monkeypatch.setattr(engine, "cold", lambda: True)
    assert doctor.engine().detail.startswith("onnx on the processor (no NVIDIA GPU here), to be compiled at the first start")
    monkeypatch.setattr(engine, "cold", lambda: False)
    assert doctor.engine().detail == "onnx on the processor (no NVIDIA GPU here), compiled"
    monkeypatch.setattr(engine, "failed", lambda: "no such operator")
    found = doctor.engine()
    assert (found.level, found.cure) == ("warn", "affect compile") and "onnx could not be compiled" in found.detail
    assert "no such operator" in found.detail
    monkeypatch.setattr(engine, "failed", lambda: "")
    monkeypatch.setattr(onnx, "missing", lambda: "onnxruntime not installed")
    assert doctor.engine().detail == "eager on the processor (no NVIDIA GPU here), slower than compiled"


@pytest.mark.usefixtures("some_devices")
def test_the_demo_takes_what_works() -> None:
    assert demo.choose("auto", "auto") == ("2", "default", "camera 2 (Webcam), microphone head")
    assert demo.choose("file:x.mp4", "none") == ("file:x.mp4", "none", "")


@pytest.mark.usefixtures("no_devices")
def test_the_demo_plays_the_clip_where_there_is_nothing_and_says_so() -> None:
    camera, microphone, note = demo.choose("auto", "auto")
    assert camera == microphone == f"file:{demo.CLIP}"
    assert note == "no camera here, no microphone here, so the built-in clip plays"
    assert demo.choose("1", "auto")[:2] == ("1", "none")

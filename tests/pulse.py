"""A real PortAudio microphone for tests: a PulseAudio null sink that plays what it is given. Skips where PulseAudio is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SINK = ("module-null-sink", "sink_name=vmic", "rate=16000", "channels=1", "norewinds=1")


class Pulse:
    """A PulseAudio server of our own with one virtual microphone, whose PortAudio name is `pulse`."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o700)
        self._socket = folder / "pulse.sock"
        self.environment = {"XDG_RUNTIME_DIR": str(folder), "PULSE_SERVER": f"unix:{self._socket}"}
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._server = subprocess.Popen(
            ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", "--disable-shm=yes",
             "-L", f"module-native-protocol-unix socket={self._socket} auth-anonymous=1", "-L", " ".join(SINK)],
            env={**os.environ, **self.environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for _ in range(600):
            if self._socket.exists() and self._run("pactl", "info").returncode == 0:
                return
            time.sleep(0.05)
        pytest.skip("PulseAudio does not start here")

    def stop(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._socket.unlink(missing_ok=True)

    def unplug(self) -> None:
        """The microphone goes, the server stays."""
        assert self._run("pactl", "unload-module", SINK[0]).returncode == 0

    def plug(self) -> None:
        assert self._run("pactl", "load-module", *SINK).returncode == 0

    def play(self, file: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["paplay", "--device=vmic", str(file)], env={**os.environ, **self.environment})

    def _run(self, *command: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(command, env={**os.environ, **self.environment}, capture_output=True, timeout=30)


@pytest.fixture
def pulse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pulse]:
    if not all(map(shutil.which, ("pulseaudio", "pactl", "paplay"))):
        pytest.skip("PulseAudio (pulseaudio, pulseaudio-utils, libasound2-plugins) is not installed")
    folder = tmp_path / "pulse"
    folder.mkdir()
    server = Pulse(folder)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.start()
    yield server
    server.stop()

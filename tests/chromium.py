"""Debian's Chromium for tests of the page: fake devices that play the sample clip, and a session whose sources are a browser."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from capturing import ffmpeg, free_address
from session import affect

from stream.bus import Address

CLIP = Path(__file__).parents[1] / "stream/assets/sample.mp4"
CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--no-default-browser-check",
    "--autoplay-policy=no-user-gesture-required",
)  # fmt: skip
LIMIT = 150.0
"""Seconds that anything may take: a busy machine with two cores decodes, draws and infers all at once."""


@contextmanager
def playing() -> Iterator[Any]:
    """What starts browsers. Skips where there is no Chromium, or no playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium here (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        yield playwright


@contextmanager
def browser(playwright: Any, *flags: str) -> Iterator[Any]:
    """A headless Chromium."""
    running = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, *flags])
    try:
        yield running
    finally:
        running.close()


class Watched:
    """A page, and everything it complained of or asked others for."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.asked: list[str] = []
        page.set_default_timeout(LIMIT * 1000)
        page.on("console", lambda message: message.type in ("error", "warning") and self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("websocket", lambda socket: self.asked.append(socket.url))
        page.goto(url)

    def until(self, script: str) -> None:
        """Until the expression is true (playwright's own waiting would have to evaluate strings, which the page forbids)."""
        deadline = time.monotonic() + LIMIT
        while not self.page.evaluate(script):
            assert time.monotonic() < deadline, (script, self.page.inner_text("body"))
            self.page.wait_for_timeout(200)

    def says(self, place: str, part: str) -> None:
        self.until(f"document.getElementById('{place}').textContent.includes({json.dumps(part)})")


def fake_devices(folder: Path, clip: Path = CLIP) -> tuple[str, ...]:
    """Chromium's flags for a camera and a microphone that play `clip` in a loop."""
    ffmpeg("-i", str(clip), "-an", "-c:v", "mjpeg", "-q:v", "4", str(folder / "camera.mjpeg"))
    ffmpeg("-i", str(clip), "-vn", "-ar", "48000", "-ac", "1", str(folder / "microphone.wav"))
    return (
        "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={folder / 'camera.mjpeg'}", f"--use-file-for-fake-audio-capture={folder / 'microphone.wav'}",
    )  # fmt: skip


class Session:
    """`affect run` with a page."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    def health(self) -> dict[str, Any]:
        """What /healthz says; empty while nobody answers."""
        try:
            with urllib.request.urlopen(f"{self.url}healthz", timeout=20) as answer:
                return dict(json.loads(answer.read()))
        except urllib.error.HTTPError as error:
            return dict(json.loads(error.read()))
        except OSError:
            return {}

    def until(self, done: Callable[[dict[str, Any]], Any], limit: float = LIMIT) -> None:
        """Until `done` with the health answer."""
        deadline = time.monotonic() + limit
        while not (health := self.health()) or not done(health):
            assert time.monotonic() < deadline, health
            assert self.process.poll() is None, "the session is over"
            time.sleep(0.2)

    def camera_says(self, part: str) -> None:
        self.until(lambda health: part in health["workers"]["camera"]["text"])

    def page_server(self) -> psutil.Process:
        """The process that serves the page."""
        port = Address.parse(self.url.removeprefix("http://").rstrip("/")).port
        children = psutil.Process(self.process.pid).children(recursive=True)
        return next(child for child in children if any(
            one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in child.net_connections("tcp")))


@contextmanager
def session(*arguments: object) -> Iterator[Session]:
    """A session that has begun."""
    page = f"127.0.0.1:{Address.parse(free_address()).port}"
    command = affect("run", *arguments, "--no-view", "--hub", free_address(), "--page", page)
    with subprocess.Popen(command, start_new_session=True, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            running = Session(process, f"http://{page}/")
            running.until(lambda health: (health["session"] or {}).get("begun"), 2 * LIMIT)
            yield running
            process.send_signal(signal.SIGINT)
            assert process.wait(LIMIT) == 0
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)

"""`affect devices`: which cameras and microphones are here, and how long each takes to open."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OPEN_LIMIT = 15.0
"""Seconds a device may take to answer. Drivers hang; each is asked in a process of its own that can be ended."""
PROBED = 6
"""Camera indices tried where the system has no list of them."""


class DevicesError(Exception):
    """The devices cannot be listed: a library is missing or its system hangs."""


@dataclass(frozen=True)
class Camera:
    """One camera. `works` says whether a picture came."""

    index: int
    name: str
    works: bool
    width: int = 0
    height: int = 0
    fps: float = 0.0
    """What the driver says; 0 where it says nothing."""
    open_s: float = 0.0
    """Seconds from asking for it to the first picture."""
    problem: str = ""


@dataclass(frozen=True)
class Microphone:
    """One input that PortAudio sees."""

    index: int
    name: str
    system: str
    """Host API: ALSA, Core Audio, WASAPI, …"""
    channels: int
    rate: int
    default: bool


def cameras(limit: float = OPEN_LIMIT) -> list[Camera]:
    """Every camera found, opened once and closed again: the lamp blinks. An empty list where there is none."""
    found = []
    for index, name in _camera_names():
        answer = _ask("camera", str(index), limit=limit)
        if "error" in answer and not name:
            continue  # a guessed index without a camera
        problem = str(answer.pop("error", ""))
        found.append(Camera(index=index, name=name or f"camera {index}", works=not problem, problem=problem, **answer))
    return found


def _camera_names() -> list[tuple[int, str]]:
    """Index and name of each possible camera; where the system keeps no list the first few indices, unnamed."""
    if platform.system() != "Linux":
        return [(index, "") for index in range(PROBED)]
    names = []
    for node in Path("/dev").glob("video*"):
        if node.name[5:].isdigit():
            label = Path("/sys/class/video4linux") / node.name / "name"
            names.append((int(node.name[5:]), label.read_text().strip() if label.exists() else str(node)))
    return sorted(names)


def microphones(limit: float = OPEN_LIMIT) -> list[Microphone]:
    """Every input device. Raises DevicesError where PortAudio is missing or does not answer."""
    answer = _ask("microphones", limit=limit)
    if "error" in answer:
        raise DevicesError(str(answer["error"]))
    return [Microphone(**entry) for entry in answer["microphones"]]


def _ask(*question: str, limit: float) -> dict[str, Any]:
    """Answer of this module run as a program, or {"error": why}."""
    try:
        command = [sys.executable, "-m", "stream.devices", *question]
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, cwd=Path(__file__).parents[1])
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return answer
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {limit:g} s: the driver hangs or another program holds it"}
    except (IndexError, ValueError):
        return {"error": (done.stderr.strip().splitlines() or [f"the driver ended the program (code {done.returncode})"])[-1]}


def _open_camera(index: int) -> dict[str, Any]:
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    import cv2

    begun = time.monotonic()
    capture = cv2.VideoCapture(index, cv2.CAP_DSHOW if platform.system() == "Windows" else cv2.CAP_ANY)
    try:
        if not capture.isOpened():
            return {"error": "cannot be opened: no camera behind it, used by another program, or no right to it (group `video` on Linux)"}
        if not capture.read()[0]:
            return {"error": "opens but gives no picture (an infrared or metadata node, or its lid is shut)"}
        taken = time.monotonic() - begun
        size = {"width": int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), "height": int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))}
        return {**size, "fps": float(capture.get(cv2.CAP_PROP_FPS) or 0.0), "open_s": round(taken, 2)}
    finally:
        capture.release()


def _list_microphones() -> dict[str, Any]:
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        cure = "; on Debian: apt-get install libportaudio2" if isinstance(error, OSError) else "; pip install sounddevice"
        return {"error": f"sounddevice cannot be used: {error}{cure}"}
    systems = [api["name"] for api in sounddevice.query_hostapis()]
    default = sounddevice.default.device[0]
    return {"microphones": [
        asdict(Microphone(
            index=entry["index"], name=entry["name"], system=systems[entry["hostapi"]], channels=entry["max_input_channels"],
            rate=round(entry["default_samplerate"]), default=entry["index"] == default,
        ))
        for entry in sounddevice.query_devices() if entry["max_input_channels"] > 0
    ]}


@dataclass
class DevicesOptions:
    """List cameras and microphones, each camera with the time it takes to open."""

    cameras: bool = True
    """Cameras too: each is opened for a moment."""
    microphones: bool = True
    """Microphones too."""
    json: bool = field(default=False)
    """Print JSON instead of a table."""


def run(options: DevicesOptions) -> int:
    """Prints what is there, and why where nothing is."""
    seen = cameras() if options.cameras else []
    problem, heard = "", []
    try:
        heard = microphones() if options.microphones else []
    except DevicesError as error:
        problem = str(error)
    if options.json:
        print(json.dumps({"cameras": [asdict(one) for one in seen], "microphones": [asdict(one) for one in heard]}, indent=2))
        return 0
    if options.cameras:
        print(_camera_table(seen))
    if options.microphones:
        print(("\n" if options.cameras else "") + _microphone_table(heard, problem))
    return 0


def _camera_table(seen: list[Camera]) -> str:
    lines = ["cameras (affect run --camera INDEX)"]
    for one in seen:
        size = f"{one.width}x{one.height}" + (f" {one.fps:.0f} fps" if one.fps else "") + f", opened in {one.open_s:.1f} s"
        lines.append(f"  {one.index:>2}  {one.name:<32}  {size if one.works else one.problem}")
    return "\n".join(lines if seen else [*lines, f"  none: {no_camera()}"])


def _microphone_table(heard: list[Microphone], problem: str) -> str:
    lines = ["microphones (affect run --microphone INDEX or a part of the name)"]
    for one in heard:
        channels = "mono" if one.channels == 1 else f"{one.channels} channels"
        lines.append(f"  {one.index:>2}  {one.name:<32}  {one.system}, {channels}, {one.rate} Hz{', default' if one.default else ''}")
    return "\n".join(lines if heard else [*lines, f"  none: {problem or no_microphone()}"])


def no_camera() -> str:
    """Why there may be no camera here, and what to do."""
    system = platform.system()
    if system == "Linux":
        return "there is no /dev/video*. Plug one in; in a container or virtual machine hand it over (docker: --device /dev/video0)"
    return f"none of the indices 0 to {PROBED - 1} opens. Plug one in, or allow its use in the system's privacy settings"


def no_microphone() -> str:
    """Why there may be no microphone here, and what to do."""
    if platform.system() == "Linux":
        return "PortAudio sees no input. Plug one in; in a container hand over /dev/snd or the PulseAudio socket (PULSE_SERVER)"
    return "PortAudio sees no input. Plug one in, or allow its use in the system's privacy settings"


if __name__ == "__main__":
    print(json.dumps(_open_camera(int(sys.argv[2])) if sys.argv[1] == "camera" else _list_microphones()))

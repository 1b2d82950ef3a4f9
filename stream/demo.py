"""`affect demo`: a session on whatever is here: camera and microphone, one of them, or the built-in clip."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from stream import devices, supervisor
from stream.supervisor import RunOptions

CLIP = Path(__file__).parent / "assets" / "sample.mp4"
AUTO = "auto"


@dataclasses.dataclass
class DemoOptions(RunOptions):
    """See it work: on your camera and microphone, or on the built-in clip where there are none."""

    camera: str = AUTO
    """`auto`: the first camera that gives a picture. Or as for `affect run`."""
    microphone: str = AUTO
    """`auto`: the system's default input. Or as for `affect run`."""


def choose(camera: str, microphone: str) -> tuple[str, str, str]:
    """Camera, microphone, and a line that says which were taken and why. Only what is `auto` is looked for."""
    said = []
    if camera == AUTO:
        camera, reason = _camera()
        said.append(reason)
    if microphone == AUTO:
        microphone, reason = _microphone()
        said.append(reason)
    if camera == microphone == "none":
        camera = microphone = f"file:{CLIP}"
        said.append("so the built-in clip plays")
    return camera, microphone, ", ".join(said)


def _camera() -> tuple[str, str]:
    found = devices.cameras()
    for one in found:
        if one.works:
            return str(one.index), f"camera {one.index} ({one.name})"
    return "none", "no camera gives a picture" if found else "no camera here"


def _microphone() -> tuple[str, str]:
    try:
        heard = devices.microphones()
    except devices.DevicesError:
        return "none", "no PortAudio for a microphone"
    if not heard:
        return "none", "no microphone here"
    default = next((one for one in heard if one.default), None)
    return ("default", f"microphone {default.name}") if default else (str(heard[0].index), f"microphone {heard[0].name}")


def run(options: DemoOptions) -> int:
    """Chooses the sources, says which, and runs a session on them."""
    camera, microphone, note = choose(options.camera, options.microphone)
    if note:
        print(f"affect demo: {note}", file=sys.stderr)
    return supervisor.run(dataclasses.replace(options, camera=camera, microphone=microphone, note=note))

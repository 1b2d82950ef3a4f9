"""`affect doctor`: what works here, what is missing, the one command that mends it, and what the weights may be used for."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from models import weights
from stream import devices
from stream.bus import Address, Connection
from stream.client import Client, ClientError

ROOT = Path(__file__).parents[1]
CLIP = Path(__file__).parent / "assets" / "sample.mp4"
PACKAGES = (
    "torch", "mediapipe", "opencv-contrib-python", "numpy", "protobuf", "onnx", "onnxscript", "onnxruntime", "faster-whisper",
    "pocketsphinx", "sounddevice", "soundfile", "av", "pyzmq", "msgspec", "safetensors", "psutil", "rich", "tyro",
    "starlette", "uvicorn", "websockets",
)  # fmt: skip
LIBRARIES = {
    "libportaudio.so.2": "libportaudio2", "libGL.so.1": "libgl1", "libEGL.so.1": "libegl1", "libGLESv2.so.2": "libgles2",
    "libglib-2.0.so.0": "libglib2.0-0",
}  # fmt: skip
"""Shared libraries that wheels expect from the system, with the Debian package of each."""
INSTEAD = "affect demo  # plays the built-in clip instead"
TRAINED = ("face", "words", "mea", "msaf", "ucrn", "iaca")
"""Shipped weights, as `affect train` calls them."""


@dataclass(frozen=True)
class Check:
    """One finding. `warn`: works with less; `fail`: the demo cannot run."""

    name: str
    level: Literal["ok", "warn", "fail"]
    detail: str
    cure: str = ""
    """The one command, or the one thing to do, that mends it."""


def python() -> Check:
    version = platform.python_version()
    if (3, 10) <= sys.version_info < (3, 13):
        return Check("python", "ok", f"{version}, {os.cpu_count()} processors, {platform.system()} {platform.machine()}")
    return Check("python", "fail", f"{version}; 3.10, 3.11 and 3.12 are supported", "make a virtual environment with one of them")


def packages(constraints: Path = ROOT / "tools" / "constraints.txt") -> Check:
    """Every package installed, in the versions that were tested together (where the constraints file is at hand)."""
    wanted = _constraints(constraints)
    missing, other, found = [], [], 0
    for name in PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        found += 1
        if not _satisfies(version, wanted.get(name, "")):
            other.append(f"{name} {version} (tested: {wanted[name]})")
    # One call for all: separate calls let a later package lift an earlier one.
    cure = "pip install -c tools/constraints.txt -e ." if constraints.exists() else "pip install --force-reinstall affect"
    if missing:
        return Check("packages", "fail", f"missing: {', '.join(missing)}", cure)
    if other:
        return Check("packages", "warn", "not the tested versions: " + ", ".join(other), cure)
    return Check("packages", "ok", f"{found} found" + (", in the tested versions" if wanted else "; no constraints file to compare with"))


def _constraints(file: Path) -> dict[str, str]:
    """Package name to version specifier, from a constraints file; empty where there is none."""
    if not file.exists():
        return {}
    lines = (line.split("#")[0].strip() for line in file.read_text().splitlines())
    return {match[1].lower(): match[2] for line in lines if (match := re.fullmatch(r"([\w.-]+)\s*([<>=!~].*)?", line)) and match[2]}


def _satisfies(version: str, specifier: str) -> bool:
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:  # comes with many packages, but is none of our own
        return True
    return not specifier or SpecifierSet(specifier).contains(version, prereleases=True)


def libraries() -> Check:
    """PortAudio for the microphone, GL and GLib for MediaPipe and OpenCV. Other systems' wheels carry their own."""
    if platform.system() != "Linux":
        return Check("libraries", "ok", "carried by the packages on this system")
    missing = []
    for name, package in LIBRARIES.items():
        try:
            ctypes.CDLL(name)
        except OSError:
            missing.append(package)
    if not missing:
        return Check("libraries", "ok", "PortAudio, GL, EGL, GLES and GLib found")
    level: Literal["warn", "fail"] = "warn" if missing == ["libportaudio2"] else "fail"
    sudo = "" if hasattr(os, "geteuid") and os.geteuid() == 0 else "sudo "
    return Check("libraries", level, f"missing: {', '.join(missing)}", f"{sudo}apt-get install -y {' '.join(missing)}")


def face_tracker() -> Check:
    """MediaPipe with models inside, or a landmarker file. Looks without importing: a broken install may crash."""
    spec = importlib.util.find_spec("mediapipe")
    if spec is None or spec.origin is None:
        return Check("face tracker", "fail", "mediapipe is not installed", "pip install -c tools/constraints.txt mediapipe")
    version = importlib.metadata.version("mediapipe")
    bundled = Path(spec.origin).parent / "modules" / "face_landmark" / "face_landmark.tflite"
    if bundled.exists():
        return Check("face tracker", "ok", f"mediapipe {version} with its models")
    return Check(
        "face tracker", "warn", f"mediapipe {version} carries no models: a face_landmarker.task file is needed",
        "pip install -c tools/constraints.txt mediapipe==0.10.14",
    )  # fmt: skip


def camera() -> Check:
    seen = devices.cameras()
    working = [one for one in seen if one.works]
    if working:
        named = ", ".join(f"{one.index}: {one.name} {one.width}x{one.height} in {one.open_s:.1f} s" for one in working)
        return Check("camera", "ok", named)
    if seen:
        return Check("camera", "warn", "; ".join(f"{one.index}: {one.problem}" for one in seen), "affect devices  # says more")
    return Check("camera", "warn", devices.no_camera(), INSTEAD)


def microphone() -> Check:
    try:
        heard = devices.microphones()
    except devices.DevicesError as error:
        return Check("microphone", "warn", str(error), INSTEAD)
    if not heard:
        return Check("microphone", "warn", devices.no_microphone(), INSTEAD)
    default = next((one.name for one in heard if one.default), "none")
    return Check("microphone", "ok", f"{len(heard)} inputs, default: {default}")


def clip() -> Check:
    if CLIP.exists():
        return Check("built-in clip", "ok", f"{CLIP.stat().st_size / 1e6:.1f} MB")
    return Check("built-in clip", "fail", f"{CLIP} is not there", "tools/make_sample_clip.py")


def pocketsphinx() -> Check:
    spec = importlib.util.find_spec("pocketsphinx")
    model = Path(spec.origin).parent / "model" / "en-us" if spec and spec.origin else None
    if model and model.exists():
        return Check("pocketsphinx", "ok", "its built-in model hears English, roughly")
    return Check("pocketsphinx", "fail", "not installed, or without its model", "pip install -c tools/constraints.txt pocketsphinx")


def whisper() -> Check:
    """faster-whisper models that are on disk; nothing is fetched to find out."""
    if importlib.util.find_spec("faster_whisper") is None:
        return Check("whisper", "warn", "faster-whisper is not installed", "pip install -c tools/constraints.txt faster-whisper")
    folder = hub_cache()
    whole = sorted(
        {snapshot.parents[2].name.rpartition("--")[2] for snapshot in folder.glob("models--*whisper*/snapshots/*/model.bin")
         if (snapshot.parent / "tokenizer.json").exists()}
    )  # fmt: skip
    if whole:
        return Check("whisper", "ok", f"on disk: {', '.join(whole)}")
    fetch = "python -c \"import faster_whisper; faster_whisper.download_model('base.en')\""
    return Check("whisper", "warn", f"no model in {folder}: pocketsphinx transcribes, with more errors", fetch)


def hub_cache() -> Path:
    """Where Hugging Face's library keeps models, by its own rules."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()


def engine() -> Check:
    """What would compute the fusion model here, why, and whether it is compiled already."""
    from models import engine
    from models.runtime import choice, tensorrt

    backend = choice.compiled() or "eager"
    where = f"on {tensorrt.gpu()}" if backend == "tensorrt" else f"on the processor ({tensorrt.missing()})"
    try:
        if reason := engine.failed():
            return Check("engine", "warn", f"{backend} could not be compiled, and the next best is taken: {reason}", "affect compile")
        ready = "to be compiled at the first start, once (`affect compile` does it now)" if engine.cold() else "compiled"
    except weights.WeightsError:
        ready = "without weights to compile"
    return Check("engine", "ok", f"{backend} {where}, {ready if backend != 'eager' else 'slower than compiled'}")


def trained() -> Iterator[Check]:
    """Each shipped weights file: there, readable, and made for the features that are computed here."""
    for name in TRAINED:
        cure = f"affect train --model {Path(name).stem}"
        try:
            metadata = weights.load(name)[1]
            digest = weights.sha256(name)
        except weights.WeightsError as error:
            again = f"git checkout -- models/weights  # or made anew: {cure}" if (ROOT / ".git").exists() else cure
            yield Check(f"weights {name}", "fail", str(error), again)
            continue
        features = json.loads(metadata.get("features", "{}"))
        live = live_features() if features else {}
        stale = [stream for stream, hashed in features.items() if hashed != live.get(stream, hashed)]
        if stale:
            yield Check(f"weights {name}", "fail", f"trained on other features than these: {', '.join(stale)}", cure)
        else:
            size = weights.path(name).stat().st_size / 1e6
            yield Check(f"weights {name}", "ok", f"{size:.1f} MB, sha256 {digest[:16]}")


def live_features() -> dict[str, str]:
    """Hash of each feature set as it is computed here, by stream."""
    from models.perception import facenet, voice, words

    return {"face": facenet.features().hash, "voice": voice.VOICE.hash, "words": words.feature_set().hash}


def ports(address: str) -> Check:
    """The hub's three ports are free."""
    hub = Address.parse(address)
    if not hub.local:
        return Check("ports", "ok", f"{hub} is another machine's; not looked at")
    taken = [hub.port + offset for offset in range(3) if not _free(hub.port + offset)]
    if not taken:
        return Check("ports", "ok", f"{hub.port} to {hub.port + 2} are free")
    try:
        with Client(address, timeout=1.5) as client:
            session = client.session().session
        return Check("ports", "fail", f"a session ({session}) runs at {hub}", "affect watch  # or end it, or give another --hub")
    except ClientError:
        other = f"affect demo --hub tcp://127.0.0.1:{hub.port + 1000}"
        return Check("ports", "fail", f"another program holds {', '.join(map(str, taken))}", other)


def _free(port: int) -> bool:
    with socket.socket() as probe:
        if platform.system() != "Windows":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just let go is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def licences() -> dict[str, list[str]]:
    """What the model cards say of licences, by weights: rows of their table, or lines of that section."""
    said = {}
    for name in TRAINED:
        card = Path(weights.__file__).with_name(f"{name}.md")
        section = re.search(r"^#+[^\n]*licen[cs]e[^\n]*\n(.*?)(?=^#|\Z)", card.read_text(), re.S | re.M | re.I) if card.exists() else None
        lines = section[1].strip().splitlines() if section else []
        rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith("|")][2:]
        said[name] = [f"{row[0]}: {row[-1]}" for row in rows] or [line.strip("-* ") for line in lines if line.strip()]
    return said


def examine(connection: Connection) -> list[Check]:
    """All checks. One that fails in an unforeseen way is a finding, not the end."""
    single: list[Callable[[], Check]] = [
        python, packages, libraries, face_tracker, camera, microphone, clip, pocketsphinx, whisper, engine, lambda: ports(connection.hub),
    ]  # fmt: skip
    found = []
    for look in single:
        try:
            found.append(look())
        except Exception as error:
            found.append(Check(look.__name__.replace("_", " "), "warn", f"could not be looked at: {type(error).__name__}: {error}"))
    try:
        found.extend(trained())
    except Exception as error:
        found.append(Check("weights", "fail", f"could not be looked at: {type(error).__name__}: {error}"))
    return found


@dataclass
class DoctorOptions:
    """Say what works here, what is missing, and the one command that mends it."""

    json: bool = False
    """Print JSON instead of a table."""


def run(options: DoctorOptions, connection: Connection) -> int:
    """Prints the findings; 0 if the demo can run here, else 1."""
    found = examine(connection)
    able = all(check.level != "fail" for check in found)
    if options.json:
        print(json.dumps({"demo": able, "checks": [asdict(check) for check in found], "licences": licences()}, indent=2))
        return 0 if able else 1
    Console(highlight=False).print(report(found, able, licences()))
    return 0 if able else 1


def report(found: list[Check], able: bool, said: dict[str, list[str]]) -> Group:
    """The findings for a terminal of any width."""
    marks = {"ok": Text("ok", "green"), "warn": Text("less", "dark_orange3"), "fail": Text("FAIL", "bold red")}
    table = Table.grid(padding=(0, 2))
    for check in found:
        table.add_row(marks[check.level], check.name, Text(check.detail))
        if check.cure and check.level != "ok":
            table.add_row("", "", Text.assemble(("-> ", "dim"), (check.cure, "bold")))
    terms = Table.grid(padding=(0, 2))
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, rows in said.items():
        alike.setdefault(tuple(rows), []).append(name)
    for same, names in alike.items():
        name = ", ".join(names)
        for row in same or ["no model card here says under what terms: ask before you pass them on"]:
            terms.add_row("", name, Text(row))
            name = ""
    verdict = "The demo can run here: affect demo" if able else "The demo cannot run here yet: mend what says FAIL."
    return Group(
        table, "", Text(verdict, "bold"), "",
        "The code is Apache-2.0. Its licence does not extend to the weights, which were made from:", terms,
        "Taken together: for research that earns no money; not to be sold or built into a product.",
        Text("Reads expressions, not minds.", "dim"),
    )  # fmt: skip

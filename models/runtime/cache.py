"""Compiled programs on disk: raw bytes with a JSON sidecar each. Never a pickle.

The name of an entry is the hash of everything that decides its bytes: weights, features, shapes, precision, versions, the model's source.
The sidecar repeats all that and the hash of the bytes; where either does not agree the entry is not used, and built again. A build that
failed leaves a sidecar alone, with the reason.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from models.datasets import cache_root
from models.runtime.trained import Trained

KEEP = 100
"""Entries; the ones used longest ago go first."""


class Entry(NamedTuple):
    data: bytes
    facts: dict[str, Any]
    """What its build found: seconds, parity, coverage."""


def key(trained: Trained, backend: str, batch: int, precision: str, packages: tuple[str, ...], machine: str = "any") -> dict[str, Any]:
    """All that decides the bytes of a compiled program. `machine` names the GPU where they depend on it."""
    return {
        "backend": backend, "precision": precision, "machine": machine, "model": trained.model, "weights": trained.digest,
        "features": dict(trained.features), "shapes": [list(shape) for shape in trained.shapes(batch)], "source": source(),
        "versions": {name: version(name) for name in packages},
    }


def folder() -> Path:
    found = cache_root() / "engines"
    found.mkdir(exist_ok=True)
    return found


def get(wanted: Mapping[str, Any]) -> Entry | None:
    """The entry made for exactly this key, or None where there is none that is whole."""
    data, sidecar = _files(wanted)
    try:
        said = json.loads(sidecar.read_bytes())
        found = data.read_bytes()
        if said["key"] != wanted or said["sha256"] != hashlib.sha256(found).hexdigest():
            return None
        os.utime(sidecar)
        return Entry(found, said["facts"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def put(wanted: Mapping[str, Any], entry: Entry) -> None:
    """Writes an entry; a reader at the same moment sees the old one, the new one or none."""
    data, sidecar = _files(wanted)
    _write(data, entry.data)
    said = {"key": wanted, "sha256": hashlib.sha256(entry.data).hexdigest(), "bytes": len(entry.data), "facts": entry.facts}
    _write(sidecar, json.dumps(said, indent=1).encode())
    by_use = sorted(folder().glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    for old in by_use[KEEP:]:
        old.with_suffix(".bin").unlink(missing_ok=True)
        old.unlink(missing_ok=True)


def fail(wanted: Mapping[str, Any], reason: str) -> None:
    """Remembers that no entry could be built for this key. One that is there stays."""
    if get(wanted) is None:
        _write(_files(wanted)[1], json.dumps({"key": wanted, "failed": reason}, indent=1).encode())


def failed(wanted: Mapping[str, Any]) -> str:
    """Why the last build for this key failed; empty where it did not, or there was none."""
    try:
        said = json.loads(_files(wanted)[1].read_bytes())
        return str(said["failed"]) if said["key"] == wanted else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _files(wanted: Mapping[str, Any]) -> tuple[Path, Path]:
    name = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:24]
    return folder() / f"{name}.bin", folder() / f"{name}.json"


def _write(file: Path, data: bytes) -> None:
    number, unfinished = tempfile.mkstemp(dir=file.parent)
    with os.fdopen(number, "wb") as out:
        out.write(data)
    os.replace(unfinished, file)


@functools.cache
def source() -> str:
    """Hash of the code that makes programs: other code may make something else of the same weights."""
    return hashlib.sha256(b"".join(file.read_bytes() for file in files())).hexdigest()[:16]


def files() -> list[Path]:
    """The source of the network, of its conversion, and of all in this project that these import. Found by reading, since importing
    them would bring torch."""
    root = Path(__file__).parents[2]
    waiting, seen = [Path(__file__).with_name(name) for name in ("program.py", "onnx.py", "tensorrt.py")], set[Path]()
    while waiting:
        file = waiting.pop()
        if file in seen or not file.exists():
            continue
        seen.add(file)
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "models":
                package = root.joinpath(*str(node.module).split("."))
                waiting += [package.with_suffix(".py"), package / "__init__.py", *(package / f"{name.name}.py" for name in node.names)]
    return sorted(seen)


@functools.cache
def version(package: str) -> str:
    """The installed version of a package, without importing it; "none" where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"

"""Compiled programs from the cache, or built there in a process of its own: PyTorch and its exporter stay out of the one that asks.

`python -m models.runtime.build WEIGHTS BACKEND BATCH PRECISION` builds one and puts it into the cache.
"""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Protocol, cast

from models.runtime import cache, trained
from models.runtime.trained import Trained

log = logging.getLogger(__name__)


class BuildError(Exception):
    """The program could not be made, or does not compute what eager computes."""


class Compiler(Protocol):
    """What the modules of compiled backends have."""

    def missing(self) -> str:
        """What the backend lacks here, with the cure; empty where it can run."""
        ...

    def key(self, trained: Trained, batch: int, precision: str) -> dict[str, Any]:
        """All that decides the bytes."""
        ...

    def build(self, trained: Trained, batch: int, precision: str) -> cache.Entry:
        """The program, compared with eager. Raises BuildError."""
        ...

    def open(self, data: bytes, trained: Trained, batch: int) -> Any:
        """The program ready to run."""
        ...


COMPILED = ("onnx", "tensorrt")


def compiler(backend: str) -> Compiler:
    """The module of a backend in `COMPILED`."""
    return cast(Compiler, importlib.import_module(f"models.runtime.{backend}"))


def cached(given: Trained, backend: str, batch: int, precision: str) -> cache.Entry | None:
    """The entry of a program, where there is one."""
    return cache.get(compiler(backend).key(given, batch, precision))


def failed(given: Trained, backend: str, batch: int, precision: str) -> str:
    """Why the last build of a program failed; empty where there is a program, or nobody tried."""
    return cache.failed(compiler(backend).key(given, batch, precision))


def load(given: Trained, backend: str, batch: int, precision: str) -> tuple[Any, dict[str, Any]]:
    """A program ready to run, and what its build found. Raises BuildError, at once where the last build of the same program failed."""
    made = compiler(backend)
    entry = cached(given, backend, batch, precision)
    if entry is not None:
        try:
            return made.open(entry.data, given, batch), {**entry.facts, "cached": True}
        except Exception as error:  # Whole, and yet not to the taste of what runs it.
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            log.warning("the cached %s program of %s cannot be opened and is compiled anew (%s)", backend, given.model, reason)
    elif reason := failed(given, backend, batch, precision):
        raise BuildError(f"{reason} (as it was last compiled; `affect compile` tries again)")
    entry = build(given, backend, batch, precision)
    return made.open(entry.data, given, batch), {**entry.facts, "cached": False}


def build(given: Trained, backend: str, batch: int, precision: str) -> cache.Entry:
    """Builds into the cache in another process, which ends when this one does. Raises BuildError, and remembers its reason."""
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", __name__, str(given.source), backend, str(batch), precision]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stderr is not None  # stdin stays open and silent: its end tells the other process that this one is gone.
        said = process.stderr.read().strip().splitlines()
        status = process.wait()
    if status != 0:
        reason = said[-1].removeprefix("BuildError: ") if said else f"the process that compiles ended with status {status}"
        if status > 0:  # Killed, it might have succeeded.
            cache.fail(compiler(backend).key(given, batch, precision), reason)
        raise BuildError(reason)
    entry = cached(given, backend, batch, precision)
    if entry is None:
        raise BuildError(f"the program was built, but {cache.folder()} does not keep it; is the disk full, or were the weights replaced?")
    return entry


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def main(source: str, backend: str, batch: str, precision: str) -> int:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    given, made = trained.read(source), compiler(backend)
    try:
        cache.put(made.key(given, int(batch), precision), made.build(given, int(batch), precision))
    except Exception as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())[:400]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # Without waiting for the thread that listens to stdin.

"""Which backend computes: the one asked for by name, or the best that can run here, with the reason in one line."""

from __future__ import annotations

from typing import Any, NamedTuple

from models.runtime.build import COMPILED, BuildError, compiler, load
from models.runtime.trained import Program, Trained
from models.weights import WeightsError

BACKENDS = ("auto", "tensorrt", "onnx", "eager")


class BackendError(Exception):
    """A backend that was asked for by name cannot run here; the line says what is missing."""


class Choice(NamedTuple):
    program: Program
    backend: str
    why: str
    """Why it was taken; empty where it was asked for."""
    facts: dict[str, Any]
    """What its build found: seconds, parity, whether it came from the cache."""


def choose(trained: Trained, backend: str = "auto", batch: int = 1, precision: str = "fp16") -> Choice:
    """The program of trained weights on a backend; `precision` is TensorRT's. `auto` takes TensorRT, else ONNX Runtime, else eager.

    Raises BackendError when a named backend cannot run, `weights.WeightsError` when the weights are unfit.
    """
    if backend not in BACKENDS:
        raise BackendError(f"no backend {backend!r}; there are {', '.join(BACKENDS)}")
    reasons = []
    for name in BACKENDS[1:] if backend == "auto" else (backend,):
        try:
            program, facts = _open(name, trained, batch, precision)
        except WeightsError:
            raise
        except Exception as error:
            line = " ".join(str(error).split())[:300]
            reason = line if isinstance(error, (BackendError, BuildError)) else f"{type(error).__name__}: {line}"
            if backend != "auto" or name == "eager":
                raise BackendError(f"the {name} backend cannot run here: {reason}") from error
            reasons.append(f"{name}: {reason}" if name != "tensorrt" else reason)
            continue
        return Choice(program, name, "; ".join(reasons) if backend == "auto" else "", facts)
    raise AssertionError("eager either runs or raises")


def compiled(backend: str = "auto") -> str:
    """The compiled backend that `choose` would try first; empty where that is eager. Looks at what can be seen at once.

    Raises BackendError when a named backend cannot run.
    """
    for name in COMPILED[::-1] if backend == "auto" else (backend,):
        if name in COMPILED:
            reason = compiler(name).missing()
            if not reason:
                return name
            if backend != "auto":
                raise BackendError(f"the {name} backend cannot run here: {reason}")
        elif name not in BACKENDS:
            raise BackendError(f"no backend {name!r}; there are {', '.join(BACKENDS)}")
    return ""


def _open(name: str, trained: Trained, batch: int, precision: str) -> tuple[Program, dict[str, Any]]:
    if name == "eager":
        from models.runtime import program

        return program.Eager(trained, batch), {}
    if reason := compiler(name).missing():
        raise BackendError(reason)
    return load(trained, name, batch, precision)

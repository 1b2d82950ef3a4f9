"""`affect compile`: the engine made ready ahead of time, so that a first session starts as fast as any later one."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from models import engine


@dataclass
class CompileOptions:
    """Compile the engine for this machine, ahead of the first session. Does it anew where it has been done before."""

    model: str = "mea"
    """Shipped weights by name, or a .safetensors file made by `affect train`."""
    backend: str = "auto"
    """`tensorrt`, `onnx`, or the first of these that can run here (`auto`)."""
    precision: Literal["fp16", "bf16", "fp32"] = "fp16"
    """Of TensorRT."""
    batch: tuple[int, ...] = (1,)
    """How many windows at once; a program each. A session needs 1."""


def run(options: CompileOptions) -> int:
    """Raises `engine.BackendError`, `engine.BuildError`, `weights.WeightsError`."""
    for batch in options.batch:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bars:
            bars.add_task(f"compiling {options.model}, {batch} window{'s' * (batch > 1)} at a time", total=None)
            backend, facts = engine.compile(options.model, options.backend, batch, options.precision)
        precision, size = options.precision if backend == "tensorrt" else "fp32", facts["bytes"] / 1e6
        print(
            f"{options.model} on {backend} in {precision}, batch {batch}: {size:.1f} MB, built in {facts['build_s']:.1f} s, "
            f"{facts['coverage']:.0%} of the network in {facts['operators']} operators, at most {facts['parity']:.1e} from eager, "
            f"the same emotion in {facts['agreement']:.1%} of windows")
    return 0

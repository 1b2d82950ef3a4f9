"""TensorRT on an NVIDIA GPU, through torch-tensorrt or torch-tensorrt-rtx: the whole network as one engine, or an error.

Precision is in the model. Engines are kept as their raw bytes and run through TensorRT's own bindings: one stream, one CUDA graph that
holds the copies too, pinned memory on the host.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import logging
import operator
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.runtime import cache
from models.runtime.trained import Trained

BUILT_BY = ("torch", "torch-tensorrt-rtx", "torch-tensorrt", "tensorrt-rtx", "tensorrt")
PARITY = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 5e-2}
"""Largest difference of a probability from eager that a build may show, by precision."""
AGREEMENT = {"fp32": 0.995, "fp16": 0.995, "bf16": 0.95}
"""Least share of `COMPARED` windows that must get the class that eager gives them, by precision."""
COMPARED = 200
ALIGNED = 256


@functools.cache
def missing() -> str:
    """What this backend lacks here, with the cure; empty where it can run. Asks in a process of its own: broken set-ups can crash."""
    if shutil.which("nvidia-smi") is None and not Path("/dev/nvidia0").exists():
        return "no NVIDIA GPU here"
    if importlib.util.find_spec("torch_tensorrt") is None:
        return "the package torch-tensorrt-rtx is not installed (pip install torch-tensorrt-rtx, of the same version as torch)"
    code = "import torch; assert torch.cuda.is_available(), 'torch sees no GPU: it was built without CUDA, or the driver is too old'; " \
           "import torch_tensorrt"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return "torch-tensorrt does not come up within two minutes (try: python -c 'import torch_tensorrt')"
    lines = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
    return "" if done.returncode == 0 else f"torch-tensorrt does not come up: {lines[-1]}"


@functools.cache
def gpu() -> str:
    """Name of the GPU, which engines are made for; empty where there is none."""
    try:
        done = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().partition("\n")[0]


def key(trained: Trained, batch: int, precision: str) -> dict[str, Any]:
    return cache.key(trained, "tensorrt", batch, precision, BUILT_BY, gpu())


def build(trained: Trained, batch: int, precision: str) -> cache.Entry:
    """Converts and, on the GPU, compares with eager. Raises BuildError, `weights.WeightsError`."""
    from models.runtime import program
    from models.runtime.build import BuildError

    data, facts = convert(trained, batch, precision)
    parity, agreement = program.compare(trained, open(data, trained, batch), COMPARED, probabilities=True)
    if not parity <= PARITY[precision]:
        raise BuildError(f"TensorRT in {precision} gives probabilities {parity:.1e} from eager's, more than {PARITY[precision]:.0e}")
    if agreement < AGREEMENT[precision]:
        least = f"less than {AGREEMENT[precision]:.1%}"
        raise BuildError(f"TensorRT in {precision} names eager's emotion in {agreement:.1%} of windows, {least}")
    return cache.Entry(data, {**facts, "parity": parity, "agreement": agreement})


def convert(trained: Trained, batch: int, precision: str) -> tuple[bytes, dict[str, Any]]:
    """The engine's bytes, and what was found on the way. Builds without a GPU too where `torch_tensorrt` can be imported.

    Raises BuildError where a single operator would stay outside the engine.
    """
    import torch_tensorrt

    started = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported, parts, options = partition(trained, batch, precision)
        data = checked(torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine)(exported, **options)
    graphs = [getattr(parts, name).graph for name, _ in parts.named_children()]
    operators, outside = (sum(node.op == "call_function" and node.target is not operator.getitem for graph in some for node in graph.nodes)
                          for some in (graphs, [parts.graph]))
    return bytes(data), {
        "build_s": round(time.monotonic() - started, 2), "operators": operators, "coverage": operators / (operators + outside)}


def partition(trained: Trained, batch: int, precision: str) -> tuple[Any, Any, dict[str, Any]]:
    """The exported program, the module that TensorRT would split it into, which computes in PyTorch, and the options of the build.

    Raises BuildError where that is more than one engine.
    """
    import torch
    import torch_tensorrt

    from models.runtime import program
    from models.runtime.build import BuildError

    if precision not in program.PRECISIONS:
        raise BuildError(f"no precision {precision!r}; there are {', '.join(program.PRECISIONS)}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    logging.getLogger("torch_tensorrt").setLevel(logging.ERROR)
    exported = program.export(trained, batch, precision, device)
    options: dict[str, Any] = {
        "arg_inputs": [torch.from_numpy(array).to(device) for array in program.probe(trained, batch)], "require_full_compilation": True,
        "min_block_size": 1, "decompose_attention": True, "disable_tf32": precision == "fp32",
    }
    parts = checked(torch_tensorrt.dynamo.compile)(exported, dryrun=True, **options)
    names = [name for name, _ in parts.named_children()]
    if len(names) != 1 or not names[0].startswith("_run_on_acc"):
        raise BuildError(f"TensorRT takes {trained.model} in {precision} in pieces ({', '.join(names)}), not as one engine")
    return exported, parts, options


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, refusing keyword arguments it has no parameter for: torch-tensorrt swallows what it does not know."""
    known = inspect.signature(function).parameters

    def call(*arguments: Any, **options: Any) -> Any:
        if unknown := set(options) - set(known):
            raise TypeError(f"{function.__name__} of this torch-tensorrt has no {', '.join(sorted(unknown))}")
        return function(*arguments, **options)

    return call


def open(data: bytes, trained: Trained, batch: int) -> TensorRT:
    return TensorRT(data, trained.shapes(batch), batch)


class TensorRT:
    """An engine on the GPU. What a call gives is overwritten by the next."""

    def __init__(self, data: bytes, shapes: Sequence[tuple[int, ...]], batch: int) -> None:
        import torch

        from models.runtime.program import NAMES, OUTPUTS

        trt = importlib.import_module("tensorrt_rtx" if importlib.util.find_spec("tensorrt_rtx") else "tensorrt")
        self.batch = batch
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise RuntimeError("TensorRT does not take the engine: it was built for another GPU or version")
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(k) for k in range(self._engine.num_io_tensors)]
        given = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        made = [name for name in names if name not in given]
        if not set(given) <= set(NAMES) or len(made) != len(OUTPUTS):
            raise RuntimeError(f"the engine takes {', '.join(given)} and gives {', '.join(made)}: not what was converted")
        # One block for all that goes in and one for all that comes out: one copy each way.
        self._in, inputs, self._given = self._block(NAMES, shapes)
        self._out, outputs, self._made = self._block(made, [tuple(self._engine.get_tensor_shape(name)) for name in made])
        for name, address in {**inputs, **outputs}.items():
            if name in names:
                self._context.set_tensor_address(name, address)
        self._stream, self._graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            self._enqueue()
            self._stream.synchronize()
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._enqueue()

    def _block(
        self, names: Sequence[str], shapes: Sequence[tuple[int, ...]]
    ) -> tuple[tuple[Any, Any], dict[str, int], list[np.ndarray]]:
        """Pinned and device memory for float32 arrays of these shapes, their device addresses by name, and views of the pinned side."""
        import torch

        sizes = [4 * int(np.prod(shape)) for shape in shapes]
        offsets = np.concatenate([[0], np.cumsum([-(-size // ALIGNED) * ALIGNED for size in sizes])]).tolist()
        host = torch.zeros(offsets[-1], dtype=torch.uint8).pin_memory()
        device = torch.zeros(offsets[-1], dtype=torch.uint8, device="cuda")
        plain = host.numpy()
        views = [plain[at:at + size].view(np.float32).reshape(shape) for at, size, shape in zip(offsets, sizes, shapes, strict=False)]
        return (host, device), {name: device.data_ptr() + at for name, at in zip(names, offsets, strict=False)}, views

    def _enqueue(self) -> None:
        (host, device), (answer, result) = self._in, self._out
        device.copy_(host, non_blocking=True)
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise RuntimeError("TensorRT refused to run the engine")
        answer.copy_(result, non_blocking=True)

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        import torch

        for view, array in zip(self._given, arrays, strict=True):
            view[...] = array
        with torch.cuda.stream(self._stream):
            self._graph.replay()
        self._stream.synchronize()
        return self._made

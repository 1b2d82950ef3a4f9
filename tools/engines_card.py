"""The networks on an NVIDIA GPU as PyTorch computes them: what TensorRT's rows of the engine benchmark are beside.

From pinned memory of the host and back, as TensorRT's own (`models.runtime.tensorrt`). No GPU has run this yet: without one the benchmark
leaves these rows out, and a test computes the first kind on the processor.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
import torch

from models.runtime import program
from models.runtime.trained import Trained

KINDS = ("cuda", "cuda graph", "inductor")
"""PyTorch's kernels one by one; the same, launched as one CUDA graph; kernels that torch.compile made, launched so."""
SIDE = 8192
"""Of the matrices whose product gives the card's rate."""


class OnCard:
    """A network on `device` in `precision`, `batch` windows at a time. What a call gives is overwritten by the next."""

    def __init__(self, given: Trained, batch: int, kind: str, precision: str = "fp16", device: str = "cuda") -> None:
        self.batch, pinned = batch, device == "cuda"
        self._model = program.Typed(program.network(given), program.PRECISIONS[precision]).to(device)
        if kind == "inductor":
            self._model.compile(mode="max-autotune-no-cudagraphs")
        self._in = [torch.from_numpy(array) for array in program.probe(given, batch)]
        self._in = [part.pin_memory() for part in self._in] if pinned else self._in
        self._here = [part.to(device) for part in self._in]
        self._out = [torch.empty(part.shape, pin_memory=pinned) for part in self._compute()]
        self._stream, self._graph = (torch.cuda.Stream() if pinned else None), None
        if kind != "cuda" and pinned:
            with torch.cuda.stream(self._stream):
                for _ in range(3):  # what is made at first use must not be captured
                    self._pass()
                self._synchronise()
                graph = torch.cuda.CUDAGraph()  # type: ignore[no-untyped-call]
                with torch.cuda.graph(graph, stream=self._stream):
                    self._pass()
            self._graph = graph

    def _compute(self) -> Sequence[torch.Tensor]:
        with torch.no_grad():
            answer: Sequence[torch.Tensor] = self._model(*self._here)
        return answer

    def _pass(self) -> None:
        for card, host in zip(self._here, self._in, strict=True):
            card.copy_(host, non_blocking=True)
        for host, card in zip(self._out, self._compute(), strict=True):
            host.copy_(card, non_blocking=True)

    def _synchronise(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        for host, array in zip(self._in, arrays, strict=True):
            host.numpy()[...] = array
        with torch.cuda.stream(self._stream):  # nothing where there is no stream
            self._graph.replay() if self._graph else self._pass()
        self._synchronise()
        return [part.numpy() for part in self._out]


def matrix_rate(precision: str = "fp16", times: int = 10) -> float:
    """FLOP/s of large matrix products on the card: the median of so many, after three."""
    a, b = (torch.randn(SIDE, SIDE, dtype=program.PRECISIONS[precision], device="cuda") for _ in range(2))
    seconds = []
    for _ in range(times + 3):
        begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        _ = a @ b
        done.record()
        done.synchronize()
        seconds.append(begun.elapsed_time(done) / 1e3)
    return 2 * SIDE ** 3 / statistics.median(seconds[3:])

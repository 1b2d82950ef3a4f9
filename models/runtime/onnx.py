"""ONNX Runtime on the CPU: the default where there is no NVIDIA GPU. Runs without torch once a program is in the cache."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from models.runtime import cache
from models.runtime.trained import Trained

BUILT_BY = ("torch", "onnx", "onnxscript", "onnxruntime")
OPSET = 23
"""The first in which attention is one operator."""
PARITY = 1e-5
"""Largest difference from eager that a build may show."""


def missing() -> str:
    """What this backend lacks here, with the cure; empty where it can run."""
    lacking = [name for name in BUILT_BY if importlib.util.find_spec(name) is None]
    return f"{', '.join(lacking)} not installed (pip install {' '.join(lacking)})" if lacking else ""


class Onnx:
    """A compiled program; takes and gives `batch` windows. The thread that opens one counts denormal numbers as zero from then on."""

    def __init__(self, data: bytes, batch: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Attention to what is masked underflows into denormal numbers, over which some processors take long: on a Xeon a tenth of a window.
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        self.batch = batch
        # A product and a sum for each linear layer; made one, they would need two reshapes besides, for the same time (0.97 to 1.01 of it).
        self._session = onnxruntime.InferenceSession(
            data, options, providers=["CPUExecutionProvider"], disabled_optimizers=["MatMulAddFusion"])
        self._names = [entry.name for entry in self._session.get_inputs()]

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        out: list[np.ndarray] = self._session.run(None, dict(zip(self._names, arrays, strict=True)))
        return out


def open(data: bytes, trained: Trained, batch: int) -> Onnx:
    return Onnx(data, batch)


def key(trained: Trained, batch: int, precision: str) -> dict[str, Any]:
    return cache.key(trained, "onnx", batch, "fp32", BUILT_BY)


def build(trained: Trained, batch: int, precision: str) -> cache.Entry:
    """Exports, converts, compares with eager; float32 whatever `precision`. Raises BuildError, `weights.WeightsError`."""
    import torch

    from models.runtime import program
    from models.runtime.build import BuildError

    started = time.monotonic()
    with _quiet():
        exported = program.export(trained, batch)
        converted = torch.onnx.export(
            exported, dynamo=True, optimize=True, verbose=False, opset_version=OPSET, input_names=list(program.NAMES),
            output_names=list(program.OUTPUTS),
            custom_translation_table={torch.ops.aten.scaled_dot_product_attention.default: _attention})
        assert converted is not None
        proto = converted.model_proto
    for node in proto.graph.node:  # Where in the source each came from: two megabytes.
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    data = proto.SerializeToString()
    parity, agreement = program.compare(trained, Onnx(data, batch))
    if not parity <= PARITY:
        raise BuildError(f"the ONNX program of {trained.model} differs from eager by {parity:.1e}, more than {PARITY:.0e}")
    operators = len(proto.graph.node)  # All of them: what cannot be converted ends the export with an error.
    return cache.Entry(data, {
        "parity": parity, "agreement": agreement, "build_s": round(time.monotonic() - started, 2), "operators": operators, "coverage": 1.0})


def _attention(
    q: Any, k: Any, v: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Attention whose heads lie side by side: ONNX Runtime parts them faster than the reshaping and turning that the networks part them
    with, which this undoes, so that neither is left. q (B, K, T, d), k and v (B, K, S, d) -> (B, K, T, d)."""
    import onnxscript

    op: Any = onnxscript.opset23
    batch, heads, rows, _ = q.shape

    def beside(x: Any) -> Any:
        return op.Reshape(op.Transpose(x, perm=(0, 2, 1, 3)), op.Constant(value_ints=[batch, x.shape[2], heads * x.shape[3]]))

    how = {"q_num_heads": heads, "kv_num_heads": heads, "is_causal": int(is_causal), **({} if scale is None else {"scale": scale})}
    y = op.Attention(beside(q), beside(k), beside(v), attn_mask, **how)[0]
    return op.Transpose(op.Reshape(y, op.Constant(value_ints=[batch, rows, heads, v.shape[3]])), perm=(0, 2, 1, 3))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter speaks of its own matters on every channel there is."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

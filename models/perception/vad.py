"""Voice activity: the streaming Silero network that faster-whisper's package carries, run by ONNX Runtime alone."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

SAMPLE_RATE = 16_000
FRAME = 512
"""Samples a decision: 32 ms."""
CONTEXT = 64
"""Samples of the frame before that the network sees again."""
_STATE = (1, 1, 128)


class VadMissing(RuntimeError):
    """The Silero network was not found."""


def asset() -> Path:
    """The ONNX file inside faster-whisper's package, found without importing that package. Raises VadMissing."""
    spec = importlib.util.find_spec("faster_whisper")
    roots: Sequence[str] = (spec.submodule_search_locations or []) if spec else []
    for root in roots:
        found = sorted(Path(root, "assets").glob("silero_vad*.onnx"))
        if found:
            return found[-1]
    raise VadMissing("no silero_vad*.onnx in the package faster_whisper. Cure: pip install 'faster-whisper>=1.2.1,<1.3'.")


@cache
def digest() -> str:
    """sha256 of the network file: part of the voice features' recipe."""
    return hashlib.sha256(asset().read_bytes()).hexdigest()


class SileroVad:
    """Speech probability of each 32 ms frame of a mono 16 kHz stream.

    Each frame enters the network alone with its recurrent state, so the figures do not depend on the block sizes.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(path or asset()), options, providers=["CPUExecutionProvider"])
        self.reset()

    def reset(self) -> None:
        """Forget everything heard so far."""
        self._h = np.zeros(_STATE, np.float32)
        self._c = np.zeros(_STATE, np.float32)
        self._input = np.zeros((1, CONTEXT + FRAME), np.float32)
        self._rest: npt.NDArray[np.float32] = np.zeros(0, np.float32)

    def feed(self, pcm: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Probabilities (n,) in 0..1 of the frames that `pcm` (float32 in [-1, 1], any length) completes."""
        heard = np.concatenate((self._rest, pcm)) if len(self._rest) else pcm
        frames = len(heard) // FRAME
        out = np.empty(frames, np.float32)
        for k in range(frames):
            out[k] = self._step(heard[k * FRAME : (k + 1) * FRAME])
        self._rest = heard[frames * FRAME :].copy()
        return out

    def _step(self, frame: npt.NDArray[np.float32]) -> float:
        self._input[0, CONTEXT:] = frame
        probability, self._h, self._c = self._session.run(None, {"input": self._input, "h": self._h, "c": self._c})
        self._input[0, :CONTEXT] = frame[-CONTEXT:]
        return float(probability.item())

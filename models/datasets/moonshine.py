"""What a speech recogniser's encoder makes of a voice: Moonshine tiny, English, 8 bit (Jeffries et al. 2024, arXiv:2410.15608).

Its weights (MIT) are carried by the Python package moonshine-voice and are used as they are. Research only: the live voice has its own
features, which need 13 MB less.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import onnxruntime

from models.datasets.carried import carried

PACKAGE, FILE = "moonshine_voice", "assets/tiny-en/encoder_model.ort"
SAMPLE_RATE = 16_000
DIM = 288
HOP = 384
"""Samples from one row to the next: 24 ms."""
REACH = 895
"""Samples that the convolutions of one row see; after them every row sees all others."""
LEVEL = 0.08
"""Root mean square that every sound is brought to: how loud a recording is says nothing of other recordings."""
Floats = npt.NDArray[np.float32]


@functools.lru_cache(maxsize=1)
def encoder() -> onnxruntime.InferenceSession:
    """Raises DataMissing where the package is not installed."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(carried(PACKAGE, FILE)), options)


def rows(pcm: Floats) -> Floats:
    """Rows (1 + (n - 895) // 384, 288), or a few fewer for want of whole strides, of a sound (n,) at 16 kHz; one row of the shortest."""
    level = float(np.sqrt(np.mean(np.square(pcm)))) if len(pcm) else 0.0
    sound = np.clip(pcm * (LEVEL / (level + 1e-6)), -1, 1).astype(np.float32)
    sound = np.pad(sound, (0, max(REACH - len(sound), 0)))
    (states,) = encoder().run(None, {"input_values": sound[None], "attention_mask": np.ones((1, len(sound)), np.int64)})
    found: Floats = states[0]
    return found

"""Voice features: 50 rows a second of log-mel bands, energy, pitch, voicing and speech probability. numpy only, backward only."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from models.features import FeatureSet
from models.perception import vad

SAMPLE_RATE = vad.SAMPLE_RATE
HOP = 320
"""Samples a row: 20 ms."""
BANDS = 40
ENERGY, PITCH, VOICING, SPEECH = BANDS, BANDS + 1, BANDS + 2, BANDS + 3
"""Columns after the mel bands 0..39."""
DIM = BANDS + 4

_MEL_WINDOW, _MEL_RANGE = 512, (60.0, 7600.0)
_PITCH_WINDOW, _PITCH_RANGE, _PITCH_CUTOFF = 1024, (60.0, 400.0), 1000.0
_PITCH_REFERENCE = 50.0
_FLOOR = 1e-10
"""Power added before every logarithm: -100 dB, just under the rounding noise of 16-bit sound."""
_VOICED = 0.5
_OCTAVE_COST = 0.03
_STEADY_BONUS, _STEADY_OCTAVES, _STEADY_ROWS = 0.05, 0.25, 5

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]


def _recipe() -> dict[str, Any]:
    try:
        speech = vad.digest()
    except vad.VadMissing:
        speech = "missing"
    return {
        "sample_rate": SAMPLE_RATE, "hop": HOP, "columns": "mel*40,log_energy,log2_f0_over_50hz,voicing,speech_probability",
        "mel": {"window": _MEL_WINDOW, "range_hz": _MEL_RANGE, "log": "ln(power + floor)", "floor": _FLOOR},
        "pitch": {"window": _PITCH_WINDOW, "range_hz": _PITCH_RANGE, "cutoff_hz": _PITCH_CUTOFF, "voiced": _VOICED,
                  "octave_cost": _OCTAVE_COST, "steady": [_STEADY_BONUS, _STEADY_OCTAVES, _STEADY_ROWS]},
        "vad_sha256": speech,
    }  # fmt: skip


VOICE = FeatureSet("voice", version=1, dim=DIM, rate_hz=SAMPLE_RATE / HOP, recipe=_recipe())


class VoicePerception:
    """Sound in, rows out.

    Row k covers the samples [k * HOP, (k + 1) * HOP) counted from the last `reset` and looks backward only (at most 64 ms; before
    the first sample there is silence). Columns, float32, without any level normalisation:

    - 0..39 natural logarithm of the power in 40 mel bands of 60-7600 Hz, over the newest 32 ms;
    - `ENERGY` natural logarithm of the mean square over the same 32 ms;
    - `PITCH` octaves above 50 Hz (0.26 at 60 Hz to 3 at 400 Hz), 0 where unvoiced;
    - `VOICING` 0..1, height of the normalised autocorrelation at the pitch lag;
    - `SPEECH` 0..1, Silero's probability in the newest complete 32 ms frame (0 before the first).

    Pitch follows Boersma 1993 (autocorrelation of the windowed sound divided by that of the window, a cost for long lags against
    octave errors) with a small bonus for staying near the last voiced row's pitch. Any
    periodic sound is voiced, mains hum too: `SPEECH` tells whether somebody speaks.
    """

    def __init__(self) -> None:
        self._vad = vad.SileroVad()
        self.reset()

    def reset(self) -> None:
        """Forget everything heard: the next sample is sample 0 of row 0."""
        self._vad.reset()
        self._heard = np.zeros(_PITCH_WINDOW - HOP, np.float32)
        self._speech = 0.0
        self._last_pitch, self._since_voiced = 0.0, _STEADY_ROWS

    def feed(self, pcm: npt.NDArray[np.int16] | npt.NDArray[np.float32]) -> Rows:
        """Rows (n, 44) completed by `pcm` (n_samples,): mono 16 kHz, int16 or float32 in [-1, 1], blocks of any length.

        The rows are bit-equal however the sound is cut into blocks. Samples that are not finite count as silence, larger ones
        are clipped. Raises ValueError for another shape or type.
        """
        self._heard = np.concatenate((self._heard, _to_float(pcm)))
        rows = (len(self._heard) - (_PITCH_WINDOW - HOP)) // HOP
        out = np.empty((rows, DIM), np.float32)
        for k in range(rows):
            self._row(self._heard[k * HOP : k * HOP + _PITCH_WINDOW], out[k])
        self._heard = self._heard[rows * HOP :].copy()
        return out

    def _row(self, past: Rows, out: Rows) -> None:
        recent = past[-_MEL_WINDOW:].astype(np.float64)
        window, mel, scale = _mel_tables()
        spectrum = np.fft.rfft(window * recent)
        power = (spectrum.real**2 + spectrum.imag**2) * scale
        out[:BANDS] = np.log(mel @ power + _FLOOR)
        out[ENERGY] = math.log(float(recent.var()) + _FLOOR)
        out[PITCH], out[VOICING] = self._pitch(past)
        speech = self._vad.feed(past[-HOP:])
        if len(speech):
            self._speech = float(speech[-1])
        out[SPEECH] = self._speech

    def _pitch(self, past: Rows) -> tuple[float, float]:
        self._since_voiced += 1
        window, keep, normal, lags, costs = _pitch_tables()
        centred = past.astype(np.float64)
        centred -= centred.mean()
        spectrum = np.fft.rfft(window * centred, 2 * _PITCH_WINDOW)
        correlation = np.fft.irfft((spectrum.real**2 + spectrum.imag**2) * keep)[: len(normal)]
        # The floor lets voicing fade into silence instead of measuring the period of rounding noise.
        heights = correlation / (correlation[0] + _FLOOR * _PITCH_WINDOW) * normal
        inner = heights[lags]
        peaks = lags[(inner >= heights[lags - 1]) & (inner > heights[lags + 1])]
        if not len(peaks):
            return 0.0, 0.0
        score = np.minimum(heights[peaks], 1.0) - costs[peaks]
        if self._since_voiced <= _STEADY_ROWS:
            pitches = np.log2(SAMPLE_RATE / (peaks * _PITCH_REFERENCE))
            score += _STEADY_BONUS * (np.abs(pitches - self._last_pitch) < _STEADY_OCTAVES)
        lag = int(peaks[np.argmax(score)])
        before, here, after = heights[lag - 1 : lag + 2]
        bend = before - 2 * here + after
        shift = 0.5 * (before - after) / bend if bend < 0 else 0.0
        voicing = float(min(max(here - 0.25 * (before - after) * shift, 0.0), 1.0))
        if voicing < _VOICED:
            return 0.0, voicing
        self._last_pitch = math.log2(SAMPLE_RATE / ((lag + shift) * _PITCH_REFERENCE))
        self._since_voiced = 0
        return self._last_pitch, voicing


def _to_float(pcm: npt.NDArray[Any]) -> Rows:
    if not isinstance(pcm, np.ndarray) or pcm.ndim != 1 or pcm.dtype not in (np.int16, np.float32):
        what = f"{pcm.dtype} of shape {pcm.shape}" if isinstance(pcm, np.ndarray) else type(pcm).__name__
        raise ValueError(f"voice features need a mono array (n_samples,) of int16 or float32, not {what}: mix down and convert first.")
    if pcm.dtype == np.int16:
        return pcm.astype(np.float32) / np.float32(32768)
    finite: Rows = np.nan_to_num(pcm, nan=0.0, posinf=0.0, neginf=0.0)
    return np.clip(finite, np.float32(-1), np.float32(1))


def _hann(n: int) -> Floats:
    return 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(n) + 0.5) / n)


@cache
def _mel_tables() -> tuple[Floats, Floats, float]:
    """Window (512,), triangular filters (40, 257) on the mel scale 2595 lg(1 + f / 700), and the scale that makes powers mean squares."""
    low, high = (2595 * math.log10(1 + f / 700) for f in _MEL_RANGE)
    edges = 700 * (10 ** (np.linspace(low, high, BANDS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(_MEL_WINDOW, 1 / SAMPLE_RATE)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    window = _hann(_MEL_WINDOW)
    return window, np.maximum(0, np.minimum(rising, falling)), 2 / (_MEL_WINDOW * float(np.sum(window**2)))


@cache
def _pitch_tables() -> tuple[Floats, Floats, Floats, npt.NDArray[np.intp], Floats]:
    """Window (1024,), spectral low-pass (1025,), window correction by lag, the lags searched, and the cost of each lag."""
    window = _hann(_PITCH_WINDOW)
    shortest, longest = (int(SAMPLE_RATE / f) for f in reversed(_PITCH_RANGE))
    own = np.fft.irfft(np.abs(np.fft.rfft(window, 2 * _PITCH_WINDOW)) ** 2)[: longest + 2]
    bins = np.fft.rfftfreq(2 * _PITCH_WINDOW, 1 / SAMPLE_RATE)
    keep = 1 / (1 + (bins / _PITCH_CUTOFF) ** 8)
    costs = np.zeros(longest + 2)
    costs[shortest:] = _OCTAVE_COST * np.log2(np.arange(shortest, longest + 2) / shortest)
    return window, keep, own[0] / own, np.arange(shortest, longest + 1), costs

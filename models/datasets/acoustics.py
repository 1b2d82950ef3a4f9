"""Rooms, microphones and noises: what happens to a voice on its way, applied to clean clips for training."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16_000

Pcm = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Range = tuple[float, float]


@dataclass(frozen=True)
class Acoustics:
    """How likely each effect is and the range it is drawn from, uniformly; decibels unless said otherwise."""

    gain: Range = (-20.0, 10.0)
    noise: float = 0.8
    snr: Range = (5.0, 30.0)
    reverb: float = 0.4
    decay_s: Range = (0.1, 0.5)
    direct: Range = (0.0, 12.0)
    band: float = 0.3
    low_cut_hz: Range = (80.0, 300.0)
    high_cut_hz: Range = (3000.0, 7000.0)

    def __call__(self, pcm: Pcm, rng: np.random.Generator) -> Pcm:
        """`pcm` (n,) float32 through a random room (reverb), microphone (band, gain) and background (white to pink noise)."""
        if not len(pcm):
            return pcm
        sound = pcm.astype(np.float64)
        if rng.random() < self.reverb:
            sound = reverberate(sound, rng.uniform(*self.decay_s), rng.uniform(*self.direct), rng)
        if rng.random() < self.noise:
            sound = add_noise(sound, rng.uniform(*self.snr), rng.uniform(0.0, 1.0), rng)
        if rng.random() < self.band:
            sound = band_limit(sound, rng.uniform(*self.low_cut_hz), rng.uniform(*self.high_cut_hz))
        sound = sound * 10 ** (rng.uniform(*self.gain) / 20)
        return np.clip(sound, -1.0, 1.0).astype(np.float32)


def noise(samples: int, slope: float, rng: np.random.Generator) -> Floats:
    """Noise (samples,) of mean square 1 whose power falls as 1 / f ** slope: 0 white, 1 pink. Below 40 Hz it stays flat."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.maximum(np.fft.rfftfreq(samples, 1 / SAMPLE_RATE), 40.0)
    sound: Floats = np.fft.irfft(spectrum * frequency ** (-slope / 2), samples)
    sound /= np.sqrt(np.mean(sound**2) + 1e-30)
    return sound


def add_noise(sound: Floats, snr: float, slope: float, rng: np.random.Generator) -> Floats:
    """`sound` with noise `snr` dB below its loud half: pauses inside a clip do not lower the noise."""
    power = float(np.sort(sound**2)[len(sound) // 2 :].mean())
    return sound + noise(len(sound), slope, rng) * math.sqrt(power * 10 ** (-snr / 10))


def reverberate(sound: Floats, decay_s: float, direct: float, rng: np.random.Generator) -> Floats:
    """`sound` and its diffuse tail: white noise that falls by 60 dB in `decay_s` seconds, `direct` dB weaker than the sound itself.

    The length stays: what rings on after the end is cut.
    """
    length = int(decay_s * SAMPLE_RATE)
    tail = rng.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    tail[: SAMPLE_RATE // 500] = 0.0
    tail *= 10 ** (-direct / 20) / np.sqrt(np.sum(tail**2) + 1e-30)
    size = 1 << (len(sound) + length).bit_length()
    wet: Floats = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(tail, size), size)[: len(sound)]
    return sound + wet


def band_limit(sound: Floats, low_hz: float, high_hz: float) -> Floats:
    """`sound` between two frequencies, with edges as of a fourth-order Butterworth filter but no phase shift."""
    size = 1 << (len(sound) + SAMPLE_RATE // 10).bit_length()
    frequency = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    keep = 1 / np.sqrt((1 + (low_hz / np.maximum(frequency, 1e-3)) ** 8) * (1 + (frequency / high_hz) ** 8))
    limited: Floats = np.fft.irfft(np.fft.rfft(sound, size) * keep, size)[: len(sound)]
    return limited

"""The voice of the sample clip: flite's sentences on a time line, with the times of their words."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pocketsphinx import Decoder

Array = npt.NDArray[np.floating[Any]]

RATE = 16000
VOICE = "rms"
FILTER = "asetrate=19200,aresample=16000,atempo=0.95"
"""Pitch and formants raised 1.2 times, to suit the portrait; pocketsphinx hears it as well as the plain voice."""
SENTENCES = (
    "today is a normal day",
    "i am so happy to see you again",
    "that is a big surprise i did not expect that at all",
    "now i am very sad my friend is leaving",
    "please leave me alone i am angry",
)
WORDS_FROM = "pocketsphinx forced alignment of the known script on the sound before encoding, 10 ms grid; not flite's own timing"
_LEAD = 0.75
_ROOM_TONE = 2e-4
"""Standard deviation of the noise under everything: a room, not digital silence."""


@dataclass(frozen=True)
class Word:
    text: str
    begin: float
    end: float


@dataclass(frozen=True)
class Speech:
    """samples (n,) at RATE, -1 to 1; the words of each sentence with their begin and end in seconds from the clip's start."""

    samples: Array
    sentences: tuple[tuple[Word, ...], ...]


def speak(duration: float, seed: int = 0) -> Speech:
    """Say SENTENCES with equal pauses so that the track lasts `duration` seconds and ends in a longer silence.

    Raises RuntimeError where ffmpeg or its flite filter is missing, ValueError where `duration` is too short.
    """
    decoder = Decoder(loglevel="FATAL")
    spoken = [_say(text) for text in SENTENCES]
    aligned = [_align(decoder, clip, text) for clip, text in zip(spoken, SENTENCES, strict=True)]
    talk = sum(words[-1].end - words[0].begin for words in aligned)
    pause = round((duration - talk - _LEAD - 1.15) / (len(SENTENCES) - 1), 2)
    if pause < 0.5:
        raise ValueError(f"{duration} s leave pauses of {pause} s between the sentences; at least 0.5 s are needed: ask for a longer clip.")
    track = np.random.default_rng(seed).normal(0, _ROOM_TONE, round(duration * RATE)).astype(np.float32)
    begin, placed = _LEAD, []
    for clip, words in zip(spoken, aligned, strict=True):
        offset = begin - words[0].begin
        first, last = round((words[0].begin - 0.10) * RATE), round((words[-1].end + 0.12) * RATE)
        piece = _fade(clip[max(first, 0):last])
        start = round(offset * RATE) + max(first, 0)
        track[start:start + len(piece)] += piece
        placed.append(tuple(Word(word.text, round(word.begin + offset, 3), round(word.end + offset, 3)) for word in words))
        begin = placed[-1][-1].end + pause
    return Speech(track, tuple(placed))


def envelope(samples: Array, fps: int) -> tuple[Array, Array]:
    """Loudness 0 to 1 and spread -1 (rounded, dark) to 1 (spread, bright) for each video frame, both (frames,)."""
    hop, size = RATE // fps, 1024
    frames = round(len(samples) / RATE * fps)
    padded = np.pad(samples, size)
    window = np.hanning(size)
    pitch = np.fft.rfftfreq(size, 1 / RATE)
    loudness, spread = np.zeros(frames), np.zeros(frames)
    for k in range(frames):
        middle = size + round((k + 0.5) * RATE / fps)
        power = np.abs(np.fft.rfft(padded[middle - size // 2:middle + size // 2] * window)) ** 2
        vowel = (pitch > 300) & (pitch < 3200)
        loudness[k] = np.sqrt(np.mean(padded[middle - hop:middle + hop] ** 2))
        spread[k] = (power[vowel] * pitch[vowel]).sum() / power[vowel].sum()
    voiced = loudness > 0.1 * np.percentile(loudness, 95)
    loudness = np.clip(loudness / np.percentile(loudness[voiced], 90), 0, 1) ** 1.2
    spread = np.clip((spread - np.median(spread[voiced])) / 500, -1, 1)
    smooth = np.array([0.25, 0.5, 0.25])
    return np.convolve(loudness, smooth, "same"), np.convolve(spread, smooth, "same")


def _say(text: str) -> Array:
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", f"flite=text='{text}':voice={VOICE},{FILTER}",
               "-ar", str(RATE), "-ac", "1", "-f", "s16le", "-"]
    try:
        raw = subprocess.run(command, check=True, capture_output=True).stdout
    except FileNotFoundError:
        raise RuntimeError("ffmpeg was not found: install it (Debian: apt-get install ffmpeg).") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode()
        raise RuntimeError(f"ffmpeg could not speak; does it carry flite (ffmpeg -filters | grep flite)? It said: {said}") from None
    return np.frombuffer(raw, np.int16).astype(np.float32) / 32768


def _align(decoder: Decoder, samples: Array, text: str) -> tuple[Word, ...]:
    """Times of the words of `text` in `samples`. Two passes: the first settles the recogniser's cepstral mean."""
    raw = (np.pad(samples, (0, RATE // 4)) * 32767).astype(np.int16).tobytes()
    decoder.set_align_text(text)
    for _ in range(2):
        decoder.start_utt()
        decoder.process_raw(raw, full_utt=True)
        decoder.end_utt()
    found = [(s.word.split("(")[0], s.start_frame / 100, (s.end_frame + 1) / 100) for s in decoder.seg() if s.word[0] not in "<["]
    if [word for word, _, _ in found] != text.split():
        raise RuntimeError(f"alignment of {text!r} gave {[word for word, _, _ in found]}")
    return tuple(Word(*each) for each in found)


def _fade(samples: Array) -> Array:
    ramp = np.ones(len(samples), np.float32)
    edge = RATE // 100
    ramp[:edge] = np.linspace(0, 1, edge)
    ramp[-edge:] = np.linspace(1, 0, edge)
    return np.asarray(samples * ramp, np.float32)

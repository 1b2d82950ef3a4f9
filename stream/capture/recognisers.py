"""Speech recognisers behind one small interface: sound of one utterance in, hypotheses about all of it out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from stream.capture import CaptureError
from stream.capture.agreement import RATE, Heard

Pcm = npt.NDArray[np.int16]

SIZES = ("base", "small", "tiny", "medium", "large-v3-turbo", "large-v3")
"""Whisper models that `auto` looks for on this disk, in this order: what a laptop keeps up with first."""


class Recogniser(Protocol):
    """What the transcriber needs of a recogniser. Times are samples since `begin`."""

    name: str
    """For people and for the session's detail."""
    interval: int
    """Samples between two hypotheses: as often as its cost allows."""

    def begin(self) -> None:
        """A new utterance of the same speaker."""

    def feed(self, pcm: Pcm) -> None:
        """More of its sound: mono 16 kHz int16."""

    def hypothesis(self) -> list[Heard]:
        """The words in what was fed and not cut off by `settle`, in order."""

    def settle(self, through: int) -> None:
        """Words up to sample `through` are committed: their sound may be forgotten."""

    def finish(self) -> list[Heard]:
        """The utterance is over: its last hypothesis."""

    def reset(self) -> None:
        """Another sound follows: forget the speaker."""


UNKNOWN = 1.0
"""Probability of a word whose recogniser says none when the word is committed."""


class PocketSphinx:
    """CMU Pocketsphinx with the English model of its package. Probabilities are `UNKNOWN`: it has posteriors of words only once an
    utterance is over, and by then most of its words have been committed.

    It recognises by cepstra less their mean over the speaker. The first utterance after a `reset` is held back until its first
    `HOLD` samples give that mean; from then on it is carried from utterance to utterance.
    """

    name = "pocketsphinx en-us"
    interval = RATE * 3 // 10
    HOLD = RATE * 3 // 2

    def __init__(self) -> None:
        try:
            from pocketsphinx import Decoder
        except ImportError as error:
            raise CaptureError(f"pocketsphinx cannot be used ({error}); pip install 'pocketsphinx>=5.1,<6'") from error
        try:
            self._decoder = Decoder(loglevel="FATAL")
        except RuntimeError as error:
            raise CaptureError(f"pocketsphinx finds no model ({error}); install its package again") from error
        self._means = self._decoder.get_cmn(False)
        self._open, self._known = False, False
        self._held: list[Pcm] = []

    def begin(self) -> None:
        if self._known:
            self._start()

    def feed(self, pcm: Pcm) -> None:
        if self._open:
            self._decoder.process_raw(_bytes(pcm), False, False)
            return
        self._held.append(pcm)
        if sum(map(len, self._held)) >= self.HOLD:
            self._meet()

    def _start(self) -> None:
        self._decoder.start_utt()
        self._open = True

    def _meet(self) -> None:
        """Learns the speaker's mean from the sound held back (an utterance without a search), then recognises it."""
        if not self._held:
            return
        sound = _bytes(np.concatenate(self._held))
        self._held, self._known = [], True
        self._decoder.start_utt()
        self._decoder.process_raw(sound, True, False)
        self._decoder.end_utt()
        self._start()
        self._decoder.process_raw(sound, False, False)

    def hypothesis(self) -> list[Heard]:
        if self._held or self._decoder.hyp() is None:
            return []
        return [
            Heard(segment.word.split("(")[0], segment.start_frame * RATE // 100, (segment.end_frame + 1) * RATE // 100, UNKNOWN)
            for segment in self._decoder.seg() if segment.word[0] not in "<[+"
        ]

    def settle(self, through: int) -> None:
        """Nothing to do: the search goes on from where it is."""

    def finish(self) -> list[Heard]:
        self._meet()
        if not self._open:
            return []
        self._decoder.end_utt()
        self._open = False
        return self.hypothesis()

    def reset(self) -> None:
        if self._open:
            self._decoder.end_utt()
        self._open, self._known, self._held = False, False, []
        self._decoder.set_cmn(self._means)


def _bytes(pcm: Pcm) -> bytes:
    return pcm.astype("<i2").tobytes()


class Whisper:
    """faster-whisper over a bounded buffer, decoded anew at each hypothesis. `model` is a faster_whisper.WhisperModel.

    Each pass encodes 30 s whatever the buffer holds (0.4 s of one core for the tiny size), hence the longer interval.
    """

    interval = RATE
    KEEP = 8 * RATE
    """The buffer is cut at the last committed word once it is longer than this."""

    def __init__(self, model: Any, name: str, language: str) -> None:
        self.name = name
        self._model, self._language = model, language
        self.begin()

    def begin(self) -> None:
        self._parts: list[Pcm] = []
        self._offset = self._length = 0

    def feed(self, pcm: Pcm) -> None:
        self._parts.append(pcm)
        self._length += len(pcm)

    def hypothesis(self) -> list[Heard]:
        if not self._parts:
            return []
        sound = np.concatenate(self._parts)
        self._parts = [sound]
        segments, _ = self._model.transcribe(
            sound.astype(np.float32) / 32768, language=self._language, beam_size=1, temperature=0.0, word_timestamps=True,
            condition_on_previous_text=False, hallucination_silence_threshold=2.0, vad_filter=False,
        )
        words = [word for segment in segments for word in segment.words or () if word.word.strip()]
        at = self._offset
        return [Heard(w.word.strip(), at + round(w.start * RATE), at + round(w.end * RATE), float(w.probability)) for w in words]

    def settle(self, through: int) -> None:
        cut = through - self._offset
        if self._length > self.KEEP and 0 < cut <= self._length:
            self._parts = [np.concatenate(self._parts)[cut:]]
            self._offset, self._length = through, self._length - cut

    def finish(self) -> list[Heard]:
        words = self.hypothesis()
        self.begin()
        return words

    def reset(self) -> None:
        self.begin()


def load(model: str, language: str = "en", offline: bool = False, device: str = "cpu") -> Recogniser:
    """The recogniser that `model` asks for: `auto`, `pocketsphinx`, the folder of a Whisper model, or its size. Raises CaptureError."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    if model == "pocketsphinx":
        return PocketSphinx()
    if model == "auto":
        for size in SIZES:
            for name in ([f"{size}.en", size] if language == "en" else [size]):
                if folder := cached(name):
                    return _whisper(str(folder), f"whisper {name}", language, device)
        return PocketSphinx()
    folder = Path(model).expanduser()
    if folder.is_dir() or "/" in model or "\\" in model:
        check_folder(folder)
        return _whisper(str(folder), f"whisper {folder.name}", language, device)
    if (found := cached(model)) is not None:
        return _whisper(str(found), f"whisper {model}", language, device)
    if offline:
        raise CaptureError(f"Whisper {model!r} is not on this disk and --offline forbids fetching it; use pocketsphinx or a folder")
    return _whisper(model, f"whisper {model}", language, device)


def check_folder(folder: Path) -> None:
    """Raises CaptureError unless `folder` holds a whole CTranslate2 model: a missing tokenizer would be looked for on the network."""
    if not folder.is_dir():
        raise CaptureError(f"{folder}: no such folder; give the folder of a converted Whisper model, a size such as base, or pocketsphinx")
    missing = [name for name in ("model.bin", "tokenizer.json") if not (folder / name).is_file()]
    if missing:
        raise CaptureError(f"{folder} is no whole Whisper model: {' and '.join(missing)} missing; fetch or convert it again")


def cached(size: str) -> Path | None:
    """The folder of Whisper `size` in the model hub's cache on this disk, or None. No network, no imports."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    for owner in ("Systran", "mobiuslabsgmbh"):
        for folder in sorted((hub / f"models--{owner}--faster-whisper-{size}" / "snapshots").glob("*")):
            if (folder / "model.bin").is_file() and (folder / "tokenizer.json").is_file():
                return folder
    return None


def _whisper(model: str, name: str, language: str, device: str) -> Recogniser:
    try:
        from faster_whisper import WhisperModel

        loaded = WhisperModel(model, device=device, compute_type="int8" if device == "cpu" else "float16", cpu_threads=1)
    except Exception as error:  # the library raises whatever its parts raise
        lines: Sequence[str] = str(error).strip().splitlines() or [type(error).__name__]
        raise CaptureError(f"{name} cannot be loaded ({lines[0]}); use pocketsphinx, or give the folder of a converted model") from error
    return Whisper(loaded, f"{name} on {device}", language)

"""What `affect train --model M --data D` means: which training is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

LIVE = "live"
ENCODERS = {
    "face": ("models.encoders.face", "FaceTraining"), "words": ("models.encoders.text", "TextTraining"),
    "sentences": ("models.encoders.sentence", "SentenceTraining"),
}  # fmt: skip
"""Networks with trainings of their own."""
FUSION = ("mea", "msaf", "ucrn", "iaca", "mult", "late")
CORPORA = (
    "mosi-utterance", "mosi-utterance-words", "mosi-utterance-sentences", "ravdess-av", "ravdess-24", "ravdess-24-fine",
    "ravdess-24-encoded", "ravdess-24-neutral", "mosi", "mosei", "iemocap", "aff-wild2",
)  # fmt: skip


class LearnError(ValueError):
    """No training is like this."""


class Choice(NamedTuple):
    """Where the options of a training are, and what is left of the command line."""

    module: str
    options: str
    rest: list[str]
    settled: tuple[str, ...]
    """Names in a configuration file that have done their work by choosing."""


def choose(arguments: list[str], file: Mapping[str, Any]) -> Choice:
    """The training that `arguments`, or else the configuration `file`, ask for; by default the live MEA.

    Raises LearnError for an unknown model or data.
    """
    model, bare = _take(arguments, "model")
    model = model or file.get("model", "mea")
    if model in ENCODERS:
        return Choice(*ENCODERS[model], bare, ("model",))
    if model not in FUSION:
        raise LearnError(f"no model {model!r} to train; there are {', '.join((*ENCODERS, *FUSION))}")
    data, rest = _take(bare, "data")
    data = data or file.get("data", LIVE)
    if data == LIVE:
        return Choice("models.live.training", "LiveTraining", ["--model", model, *rest], ("model", "data"))
    if data not in CORPORA:
        raise LearnError(f"no data {data!r} to train on; there are {', '.join((LIVE, *CORPORA))}")
    return Choice("models.research.training", "Training", ["--model", model, "--data", data, *rest], ("model", "data"))


def _take(arguments: list[str], name: str) -> tuple[str | None, list[str]]:
    """Splits `--name VALUE` (or `--name=VALUE`) off."""
    found, rest, waiting = None, [], iter(arguments)
    for argument in waiting:
        if argument == f"--{name}":
            found = next(waiting, None)
            if found is None:
                raise LearnError(f"--{name} needs a name after it")
        elif argument.startswith(f"--{name}="):
            found = argument.partition("=")[2]
        else:
            rest.append(argument)
    return found, rest


def explained() -> str:
    """What `affect train --help` says before the options."""
    return (
        f"--model M chooses what is trained: {', '.join((*ENCODERS, *FUSION))} (mea where it is not given).\n"
        f"--data D chooses on what a fusion model is trained: {LIVE} (windows composed from all corpora, for the live engine), "
        f"{', '.join(CORPORA)}.\nface, words and sentences have corpora of their own; for face --data names the folder.\n"
        "Below are the options of the training chosen."
    )

"""RAVDESS: acted English speech of 24 actors (Livingstone & Russo 2018, PLoS ONE 13(5)). CC BY-NC-SA 4.0."""

from __future__ import annotations

from models.datasets import speech, table

FOLDER = "ravdess_speech16k"
VALID, TEST = range(17, 21), range(21, 25)
"""Actors held out for the shipped models, two men and two women each; actors 1-16 train."""


def split_of(actor: int) -> str:
    """The split of the shipped models that an actor (1-24) belongs to. Speakers never cross splits."""
    return "test" if actor in TEST else "valid" if actor in VALID else "train"


def load(trimmed: bool = True) -> list[speech.Clip]:
    """All 1,440 clips, by default without the second of silence at each end. "Calm" counts as neutral, which doubles that class.

    There are two sentences only, so the words say nothing; and loudness, a strong cue here, does not carry over to other recordings.
    """
    rows = list(table.read(f"{FOLDER}/index.csv", ("clip_id", "file", "start_sample", "n_samples", "actor", "gender", "emotion", "label7")))
    sounds = speech.cut(FOLDER, ((row["file"], int(row["start_sample"]), int(row["n_samples"])) for row in rows))
    return [
        speech.Clip(
            "ravdess", row["clip_id"], f"ravdess{int(row['actor']):02d}", row["gender"], split_of(int(row["actor"])),
            int(row["label7"]), row["emotion"], speech.trim(pcm) if trimmed else pcm,
        )
        for row, pcm in zip(rows, sounds, strict=True)
    ]  # fmt: skip

"""EmoDB: acted German speech of ten speakers (Burkhardt et al. 2005, Interspeech). CC0 1.0."""

from __future__ import annotations

from models.datasets import speech, table

FOLDER = "emodb16k"
LONGEST = 32_000
"""Samples used of each clip. 132 clips exist only as their first 2 s, most of them bored, fearful or disgusted: any other cut lets
the length give the label away. Never use the duration as a feature."""
VALID, TEST = ("12", "14"), ("15", "16")
"""Speakers held out for the shipped models, a man and a woman each; the other six train."""


def split_of(speaker: str) -> str:
    """The split of the shipped models that a speaker ("03", "08" … "16") belongs to. Speakers never cross splits."""
    return "test" if speaker in TEST else "valid" if speaker in VALID else "train"


def load(labelled: bool = True) -> list[speech.Clip]:
    """The first 2 s of all clips; with `labelled`, of the 454 that carry one of the seven (boredom is none; nobody is surprised)."""
    wanted = ("clip_id", "file", "start_sample", "n_samples", "speaker", "gender", "emotion", "label7")
    rows = [row for row in table.read(f"{FOLDER}/index.csv", wanted) if not labelled or int(row["label7"]) >= 0]
    sounds = speech.cut(FOLDER, ((row["file"], int(row["start_sample"]), min(int(row["n_samples"]), LONGEST)) for row in rows))
    return [
        speech.Clip(
            "emodb", row["clip_id"], f"emodb{row['speaker']}", row["gender"], split_of(row["speaker"]),
            int(row["label7"]), row["emotion"], pcm,
        )
        for row, pcm in zip(rows, sounds, strict=True)
    ]  # fmt: skip

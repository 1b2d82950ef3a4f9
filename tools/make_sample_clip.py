#!/usr/bin/env python3
"""Make the sample clip: a face that shows five emotions while a voice says five sentences, with the true times of both.

    tools/make_sample_clip.py --out FOLDER            writes FOLDER/sample.mp4 and FOLDER/sample.json
    tools/make_sample_clip.py --check WEIGHTS         what a face network says of the clip in stream/assets

Needs the extra `clip` (scikit-image, pocketsphinx, av) and an ffmpeg with libx264 and flite. The clip in stream/assets is frozen:
models are measured on it, so this tool does not write over it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import clip_check
import clip_voice
import numpy as np
import numpy.typing as npt
import soundfile
from clip_face import HEIGHT, WIDTH, Expression, Face, Pose, blend, speak
from clip_mouth import Mouth

ASSETS = Path(__file__).resolve().parents[1] / "stream" / "assets"
FPS = 30
DURATION = 16.0
"""Seconds: 480 frames and 250 AAC packets of 1024 samples, so that picture and sound end together."""
RAMP = 0.5
_AFTER = 0.2
"""An expression begins to change this long after the sentence before it has ended."""
_SEED = 7

EXPRESSIONS = {
    "neutral": (Expression(), Pose()),
    "happy": (
        Expression(fold=1, cheek=2.2, lid_lower=1.6, lid_upper=-0.3, jaw=0.5, mouth=Mouth(
            width=21.5, height=42, corners=5.6, opening=5.4, upper_share=0.12, upper=2.6, lower=4, teeth=4.6, bow=0.5, square=0.1)),
        Pose(y=-0.6, roll=0.02)),
    "surprised": (
        Expression(brow_inner=4.2, brow_outer=4.2, wide=1, lid_upper=1.1, jaw=7, mouth=Mouth(
            width=11.5, height=44, corners=-0.5, opening=11.5, upper_share=0.2, upper=2.8, lower=3.6, teeth=1.5, bow=0.8)),
        Pose(y=-1.6, nod=-0.6, scale=0.012)),
    "sad": (
        Expression(
            brow_inner=4.7, brow_outer=-2.6, brow_knit=0.8, furrow=0.7, shade=0.6, crease=1.4, bags=1.3, lid_upper=-2.4, lid_lower=1.4,
            chin=2.4, mouth=Mouth(width=14.2, height=45, corners=-5.4, upper=3.0, lower=4.2, opening=1.2)),
        Pose(x=-0.6, y=2.4, roll=-0.035, nod=0.6)),
    "angry": (
        Expression(
            brow_inner=-5.0, brow_outer=-2.6, brow_knit=2.1, furrow=1.5, shade=1.5, crease=2.2, lid_upper=0.9, lid_lower=2.5, chin=1.9,
            wrinkle=4.5, jaw=3.9, mouth=Mouth(
                width=13.2, height=47, corners=0.5, upper=3.4, lower=5, bow=0.55, opening=8.8, upper_share=0.38, teeth=4.9, square=1)),
        Pose(y=0.8, nod=0.9, scale=0.02)),
}


def segments(speech: clip_voice.Speech) -> list[dict[str, Any]]:
    """When each expression is drawn: begin (its ramp starts), onset (half its apex), apex, end (the next begins), in seconds."""
    starts = [0.0] + [round(words[-1].end + _AFTER, 3) for words in speech.sentences[:-1]]
    rows = []
    for emotion, begin, end in zip(EXPRESSIONS, starts, [*starts[1:], DURATION], strict=True):
        ramp = RAMP if begin else 0.0
        rows.append({"emotion": emotion, "begin": begin, "onset": round(begin + ramp / 2, 3), "apex": round(begin + ramp, 3), "end": end})
    return rows


def blinks(noise: np.random.Generator) -> list[float]:
    """Instants at which the lids are shut, 2 to 3.6 s apart."""
    times = [round(float(noise.uniform(1.0, 1.8)), 3)]
    while (later := times[-1] + float(noise.uniform(2.0, 3.6))) < DURATION - 0.5:
        times.append(round(later, 3))
    return times


def frames(
    speech: clip_voice.Speech, rows: list[dict[str, Any]], shut: list[float], noise: np.random.Generator
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the clip's RGB pictures one by one; the k-th shows the instant (k + 0.5) / FPS."""
    face = Face(_SEED)
    loudness, spread = clip_voice.envelope(speech.samples, FPS)
    nods = np.convolve(loudness, np.hanning(13) / np.hanning(13).sum(), "same")
    rates, phases = noise.uniform(0.15, 0.5, (5, 3)), noise.uniform(0, 2 * np.pi, (5, 3))
    for k in range(round(DURATION * FPS)):
        t = (k + 0.5) / FPS
        shown, pose = EXPRESSIONS[rows[0]["emotion"]]
        for row in rows[1:]:
            share = _smooth((t - row["begin"]) / (row["apex"] - row["begin"]))
            expression, stance = EXPRESSIONS[row["emotion"]]
            shown = blend(shown, expression, share)
            pose = Pose(**{name: value + (getattr(stance, name) - value) * share for name, value in asdict(pose).items()})
        shut_now = max(_smooth((t - b + 0.11) / 0.11) * _smooth((b + 0.17 - t) / 0.15) for b in shut)
        moving = speak(shown, float(loudness[k]), float(spread[k]), min(1.0, 1.5 * float(nods[k])))
        sway = np.sin(2 * np.pi * rates * t + phases).mean(1)
        pose = Pose(pose.x + 1.5 * sway[0], pose.y + 0.9 * sway[1] + 0.7 * float(nods[k]), pose.roll + 0.022 * sway[2],
                    pose.turn + 1.6 * sway[3], pose.nod + 0.7 * sway[4] + 0.5 * float(nods[k]), pose.scale)
        yield face.frame(replace(moving, blink=shut_now), pose)


def _smooth(share: float) -> float:
    share = min(max(share, 0.0), 1.0)
    return share * share * (3 - 2 * share)


def make(folder: Path) -> Path:
    """Write sample.mp4 and sample.json into `folder`; return the first. Same versions of the libraries, same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(_SEED)
    speech = clip_voice.speak(DURATION, _SEED)
    rows, shut = segments(speech), blinks(noise)
    target = folder / "sample.mp4"
    with tempfile.TemporaryDirectory() as scratch:
        sound = Path(scratch) / "voice.wav"
        soundfile.write(sound, speech.samples, clip_voice.RATE)
        _encode(frames(speech, rows, shut, noise), sound, target)
    truth = {
        "version": 1, "duration": DURATION, "fps": FPS, "width": WIDTH, "height": HEIGHT, "segments": rows,
        "words": [asdict(word) for words in speech.sentences for word in words], "words_from": clip_voice.WORDS_FROM, "blinks": shut,
        "sentences": [{"text": text, "begin": words[0].begin, "end": words[-1].end}
                      for text, words in zip(clip_voice.SENTENCES, speech.sentences, strict=True)],
        "voice": f"flite {clip_voice.VOICE} (ffmpeg filters: {clip_voice.FILTER})",
        "face": "scikit-image data.astronaut() (NASA, public domain), mouth erased and drawn, brows and lids warped",
    }
    (folder / "sample.json").write_text(json.dumps(truth, indent=1) + "\n")
    return target


def _encode(pictures: Iterator[npt.NDArray[np.uint8]], sound: Path, target: Path) -> None:
    exact = ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact", "-map_metadata", "-1"]
    command = ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(FPS), "-i", "-",
               "-i", str(sound), "-c:v", "libx264", "-preset", "slow", "-crf", "20", "-pix_fmt", "yuv420p", "-threads", "1",
               "-g", str(2 * FPS), "-c:a", "aac", "-b:a", "64k", "-ac", "1", *exact, "-movflags", "+faststart", str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as encoder:
        assert encoder.stdin is not None
        for picture in pictures:
            encoder.stdin.write(picture.tobytes())
        encoder.stdin.close()
        if encoder.wait() != 0:
            raise RuntimeError("ffmpeg could not write the clip (its own message is above); does it carry libx264?")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder to make a clip in")
    parser.add_argument("--check", metavar="WEIGHTS", help="face weights (.safetensors) to compare with the drawn expressions")
    parser.add_argument("--clip", type=Path, default=ASSETS, help="folder of the clip to check (default: stream/assets)")
    options = parser.parse_args()
    if options.out is None and options.check is None:
        parser.error("say --out FOLDER to make a clip, or --check WEIGHTS to check one")
    if options.check is not None and not Path(options.check).is_file():
        parser.error(f"no weights at {options.check}: name a .safetensors file, such as the one a training run of the face network writes")
    folder = options.clip
    if options.out is not None:
        folder = options.out
        if folder.resolve() == ASSETS and (ASSETS / "sample.mp4").exists():
            parser.error(f"{ASSETS / 'sample.mp4'} is frozen: models are measured on it. Choose another folder.")
        made = make(folder)
        print(f"{made}: {made.stat().st_size / 1e6:.2f} MB")
        print(clip_check.heard(folder))
    if options.check is not None:
        print(clip_check.agreement(folder, options.check))
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except (RuntimeError, ValueError, OSError) as error:
        raise SystemExit(f"make_sample_clip: {error}") from None

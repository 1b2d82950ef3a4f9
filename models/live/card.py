"""The figures of a live model's card, written from what `models.live.evaluation` found: `python -m models.live.card mea EVALUATION.json`.

Replaces what stands under "## Figures" in `models/weights/NAME.md` up to the next heading; the words around it are people's.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models import weights

ALONE = (
    ("ferplus", "FER+, face alone"), ("ravdess", "RAVDESS held-out actors, voice alone"), ("emodb", "EmoDB held-out speakers, voice alone"),
    ("goemotions", "GoEmotions, text alone"),
)
MEASURES = ("accuracy", "balanced_accuracy", "macro_f1", "calibration_error")


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def figures(found: Mapping[str, Any]) -> str:
    """Markdown tables of an evaluation (`models.live.evaluation.evaluate`)."""
    return "\n\n".join([_alone(found), _composed(found["composed"]), _probes(found["probes"])])


def _alone(found: Mapping[str, Any]) -> str:
    heads = [*2 * ["accuracy", "balanced accuracy", "macro-F1", "calibration error"], "noise of few", "macro-F1"]
    lines = [
        f"Split `{found['split']}`, each real corpus alone, seven classes, in percent. Left under equal priors, right under the class\n"
        "shares of the corpus's training part, with the calibration error that exactly true probabilities would show on so few\n"
        "items; the last column is macro-F1 under the square roots of those shares.", "",
        f"| corpus | items | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|",
    ]
    for key, name in ALONE:
        row = found[key]
        cells = [percent(row[prefix + measure]) for prefix in ("", "own_prior_") for measure in MEASURES]
        cells += [percent(row["calibration_noise"]), percent(row["root_prior_macro_f1"])]
        lines.append(f"| {name} | {row['items']} | " + " | ".join(cells) + " |")
    faces, rated = found["ferplus"], found["emobank"]
    lines += ["", f"FER+ with faces that Face Mesh does not find counted as errors ({percent(faces['found'])} % are found): "
              f"{percent(faces['accuracy_unfound_as_errors'])} % (right-hand prior).\nEmoBank: valence r = {rated['valence_pearson']:.3f}, "
              f"arousal r = {rated['arousal_pearson']:.3f}."]
    return "\n".join(lines)


def _composed(found: Mapping[str, Any]) -> str:
    lines = [
        "Composed windows, equal priors: the model beside the product of its own calibrated unimodal posteriors, the ceiling by\n"
        "construction as long as nothing changes or conflicts (cross-entropy in nats and calibration error against the soft targets).\n"
        "The last column is the calibration error under a prior of 60 % neutral.", "",
        "| present | accuracy, model / product | cross-entropy | calibration error | mixed targets: cross-entropy | neutral-heavy |",
        "|---" * 6 + "|",
    ]
    for name, row in found.items():
        ours, product = row["model"], row["product"]
        mixed = f"{row['model_mixed']['cross_entropy']:.2f} / {row['product_mixed']['cross_entropy']:.2f}" if "model_mixed" in row else ""
        lines.append(
            f"| {name} | {percent(ours['accuracy'])} / {percent(product['accuracy'])} | {ours['cross_entropy']:.2f} / "
            f"{product['cross_entropy']:.2f} | {percent(ours['calibration_error'])} / {percent(product['calibration_error'])} | {mixed} | "
            f"{percent(row['neutral_heavy_calibration_error'])} |")
    return "\n".join(lines)


def _probes(found: Mapping[str, Any]) -> str:
    whole = found["whole"]
    lines = [
        "What matters (composed windows with all three):", "",
        "| change | accuracy | cross-entropy | other top emotion | total variation |",
        "|---" * 5 + "|", f"| none | {percent(whole['accuracy'])} | {whole['cross_entropy']:.2f} | | |",
    ]
    for name, row in found.items():
        if name.startswith("without") or name.endswith("shuffled"):
            lines.append(f"| {name} | {percent(row['accuracy'])} | {row['cross_entropy']:.2f} | {percent(row['top_changes'])} % | "
                         f"{row['total_variation']:.2f} |")
    shares = ", ".join(f"{name} {share:.2f}" for name, share in found["mean_weights"].items())
    return "\n".join([*lines, "", f"Mean weights there: {shares}."])


def rewrite(card: str, text: str) -> str:
    """The card with `text` under its "## Figures". Raises ValueError where it has no such heading."""
    new, count = re.subn(r"(## Figures\n).*?(?=\n## |\Z)", lambda found: f"{found[1]}\n{text}\n", card, count=1, flags=re.S)
    if not count:
        raise ValueError("the card has no heading '## Figures' to write under")
    return new


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    path = weights.path(sys.argv[1]).with_suffix(".md")
    path.write_text(rewrite(path.read_text(), "\n\n".join(figures(json.loads(Path(name).read_text())) for name in sys.argv[2:])))

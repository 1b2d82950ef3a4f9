"""A live model's card gets its figures: `python -m models.live.card mea tools/results/live_seeds.json`.

The file holds what `models.live.evaluation` found, by model and seed. That of the seed that ships goes under "## Figures" of
`models/weights/NAME.md`; mean and deviation of all seeds under "## Other seeds", up to the next heading; other words are people's.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models import weights

ALONE = (
    ("ferplus", "FER+, face alone"), ("ravdess", "RAVDESS held-out actors, voice alone"), ("emodb", "EmoDB held-out speakers, voice alone"),
    ("goemotions", "GoEmotions, text alone"),
)
LONE, SUBSETS = ("text", "voice", "face"), ("text+voice", "text+face", "voice+face", "text+voice+face")
TURNING = ("face", *SUBSETS[1:])
SEEDS = (
    "The same recipe with several seeds (`tools/live_seeds.py`); seed {} ships, which has the lowest cross-entropy on validation windows.\n"
    "Mean and deviation. Own shares: the class shares of the corpus; gain: accuracy less that of the product of the model's own posteriors."
)
SEED_ROWS = (
    ("FER+, own shares; unfound faces as errors", ("ferplus.own_prior_accuracy", "ferplus.accuracy_unfound_as_errors")),
    ("RAVDESS held-out actors; EmoDB held-out speakers", ("ravdess.own_prior_accuracy", "emodb.own_prior_accuracy")),
    ("GoEmotions macro-F1, square roots of the shares; own shares", ("goemotions.root_prior_macro_f1", "goemotions.own_prior_macro_f1")),
    ("EmoBank valence, r", ("emobank.valence_pearson",)),
    *((f"composed, {name}: accuracy; gain",
       (f"composed.{name}.model.accuracy", f"composed.{name}.model.accuracy - composed.{name}.product.accuracy")) for name in SUBSETS),
    ("a turn named within 0.3 s: face; text+face; voice+face; all three", tuple(f"reaction.{name}.within_300_ms" for name in TURNING)),
    ("calibration error, own shares: FER+; RAVDESS; EmoDB; GoEmotions",
     tuple(f"{corpus}.own_prior_calibration_error" for corpus, _ in ALONE)),
    ("calibration error, composed: text; voice; face", tuple(f"composed.{name}.model.calibration_error" for name in LONE)),
    ("text+voice; text+face; voice+face; all three", tuple(f"composed.{name}.model.calibration_error" for name in SUBSETS)),
    ("60 % neutral: text; voice; face", tuple(f"composed.{name}.neutral_heavy_calibration_error" for name in LONE)),
    ("text+voice; text+face; voice+face; all three", tuple(f"composed.{name}.neutral_heavy_calibration_error" for name in SUBSETS)),
)
"""What `seeds` tells: name, and paths within an evaluation."""
MEASURES = ("accuracy", "balanced_accuracy", "macro_f1", "calibration_error")


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def figures(found: Mapping[str, Any]) -> str:
    """Markdown tables of an evaluation (`models.live.evaluation.evaluate`)."""
    return "\n\n".join([_alone(found), _composed(found["composed"]), _probes(found["probes"]), _reaction(found["reaction"])])


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


def _reaction(found: Mapping[str, Any]) -> str:
    lines = [
        "How fast a turn is followed (`models/live/reaction.py`: composed turns from any emotion to any other, the engine's own prior,\n"
        "windows ten times a second): ms from the instant the face has turned half its way, in the mean, to the first window that\n"
        "names the new emotion; how many name it in time, in percent; and changes of the top in the second before, where nothing does.", "",
        "| present | median, ms | within 300 ms | 450 ms | 1250 ms | changes a second before |", "|---" * 6 + "|",
    ]
    for name, row in found.items():
        shares = " | ".join(percent(row[key]) for key in ("within_300_ms", "within_450_ms", "shown"))
        lines.append(f"| {name} | {'never' if row['p50_ms'] is None else row['p50_ms']} | {shares} | {row['flips_per_second']:.2f} |")
    return "\n".join(lines)


def shipped(name: str) -> str:
    """The seed of the shipped weights `name`. Raises WeightsError where there are none."""
    return str(json.loads(weights.load(name)[1]["training"])["seed"])


def seeds(found: Mapping[str, Mapping[str, Any]], chosen: str) -> str:
    """Markdown table of the main figures in percent: mean and deviation over seeds, beside those of the `chosen` one, if it is there."""
    lines = [f"| test figure, % | seeds {', '.join(sorted(found))} | shipped |", "|---|---|---|"]
    for name, parts in SEED_ROWS:
        values = [[100 * _at(one, part) for part in parts] for one in found.values()]
        cells = [f"{statistics.fmean(column):.1f}" + (f" ± {statistics.stdev(column):.1f}" if len(column) > 1 else "")
                 for column in zip(*values, strict=True)]
        own = [f"{100 * _at(found[chosen], part):.1f}" for part in parts] if chosen in found else []
        lines.append(f"| {name} | {'; '.join(cells)} | {'; '.join(own)} |")
    return "\n".join(lines)


def _at(found: Mapping[str, Any], part: str) -> float:
    """A figure by its path; of "a - b" the difference."""
    values = []
    for path in part.split(" - "):
        value: Any = found
        for key in path.split("."):
            value = value[key]
        values.append(float(value))
    return values[0] - sum(values[1:])


def rewrite(card: str, text: str, heading: str = "Figures") -> str:
    """The card with `text` in place of what stands under its heading "## Figures" or another. Raises ValueError where it has none."""
    new, count = re.subn(rf"(## {heading}\n).*?(?=\n## |\Z)", lambda found: f"{found[1]}\n{text}\n", card, count=1, flags=re.S)
    if not count:
        raise ValueError(f"the card has no heading '## {heading}' to write under")
    return new


def main(name: str, results: Path) -> None:
    path, found, seed = weights.path(name).with_suffix(".md"), json.loads(results.read_text())[name], shipped(name)
    text = rewrite(path.read_text(), figures(found[seed]))
    path.write_text(rewrite(text, f"{SEEDS.format(seed)}\n\n{seeds(found, seed)}", "Other seeds"))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]))

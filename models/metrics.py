"""Figures by which models are judged: torchmetrics where it has them, on numpy arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
)
from torchmetrics.functional.regression import concordance_corrcoef, pearson_corrcoef

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Yes = npt.NDArray[np.bool_]


def classification(probabilities: Array, label: Labels) -> dict[str, float]:
    """accuracy, balanced accuracy (UAR: mean recall of the classes that occur), macro F1 and expected calibration error (15 bins) of
    probabilities (N, C) against labels (N,)."""
    p, y = torch.as_tensor(probabilities), torch.as_tensor(label)
    classes = p.shape[1]
    return {
        "accuracy": float(multiclass_accuracy(p, y, classes, average="micro")),
        "balanced_accuracy": balanced_accuracy(probabilities.argmax(1), label),
        "macro_f1": float(multiclass_f1_score(p, y, classes, average="macro")),
        "calibration_error": float(multiclass_calibration_error(p, y, classes, n_bins=15)),
    }


def balanced_accuracy(predicted: Labels, label: Labels) -> float:
    """Mean over the classes that occur of the share recognised."""
    return float(np.mean([(predicted[label == k] == k).mean() for k in np.unique(label)]))


def calibration_noise(probabilities: Array, draws: int = 200) -> float:
    """The calibration error that probabilities (N, C) would show on N items if they were exactly true: the mean over labels drawn from
    them. With few items it is far from 0."""
    draw, upto, classes = np.random.default_rng(0), probabilities.cumsum(1), np.eye(probabilities.shape[1], dtype=np.float32)
    upto[:, -1] = 1 + 1e-6
    drawn = ((upto > draw.random((len(upto), 1))).argmax(1) for _ in range(draws))
    return float(np.mean([soft_calibration_error(probabilities, classes[label]) for label in drawn]))


def soft_calibration_error(probabilities: Array, target: Array, bins: int = 15) -> float:
    """Expected calibration error against soft labels (N, C): a window counts as right by the share its top emotion truly has."""
    top = probabilities.argmax(1)
    sure, right = probabilities.max(1), target[np.arange(len(target)), top]
    which = np.minimum((sure * bins).astype(int), bins - 1)
    inside = [which == b for b in range(bins) if (which == b).any()]
    return float(sum(abs(sure[rows].mean() - right[rows].mean()) * rows.mean() for rows in inside))


def cross_entropy(probabilities: Array, target: Array) -> float:
    """Mean cross-entropy in nats of probabilities (N, C) against soft labels (N, C)."""
    return float(-(target * np.log(np.maximum(probabilities, 1e-9))).sum(1).mean())


def concordance(value: Array, target: Array) -> float:
    """Concordance correlation coefficient (Lin 1989) of two (N,) arrays."""
    return float(concordance_corrcoef(torch.as_tensor(value), torch.as_tensor(target)))


def pearson(value: Array, target: Array) -> float:
    """Pearson correlation of two (N,) arrays."""
    return float(pearson_corrcoef(torch.as_tensor(value), torch.as_tensor(target)))


def confusion(predicted: Labels, label: Labels, classes: int = 7) -> Array:
    """Share (C, C) of each true class (row) taken for each class; a class that does not occur has zeros."""
    counted = multiclass_confusion_matrix(torch.as_tensor(predicted), torch.as_tensor(label), classes, normalize="true")
    shares: Array = np.nan_to_num(counted.numpy()).astype(np.float32)
    return shares


def sentiment(value: Array, truth: Array) -> dict[str, float]:
    """Figures of sentiment -3 to 3, value and truth (N,), as MulT's and MMSA's code count them.

    `acc2_has0`, `f1_has0`: negative against not negative, all rows (MMSA). `acc2_non0`, `f1_non0`: negative against positive, rows with
    truth 0 left out (MulT, MMSA). F1 is weighted by the truth's support, `f1_non0_mult` by the prediction's, as MulT's code hands them
    over. `acc7`, `acc5`: rounded half to even and clipped to ±3, ±2. `mae`; `pearson`, 0 where one of both is constant.
    """
    moved = truth != 0
    has0, non0 = (value >= 0, truth >= 0), (value[moved] > 0, truth[moved] > 0)
    out = {"mae": float(np.abs(value - truth).mean()), "pearson": _correlation(value, truth)}
    for most in (7, 5):
        limit = most // 2
        rounded = np.round(np.clip(value, -limit, limit)) == np.round(np.clip(truth, -limit, limit))
        out[f"acc{most}"] = float(rounded.mean())
    for name, (said, true) in (("has0", has0), ("non0", non0)):
        out[f"acc2_{name}"] = float((said == true).mean()) if len(true) else 0.0
        out[f"f1_{name}"] = weighted_f1(said, true)
    out["f1_non0_mult"] = weighted_f1(non0[1], non0[0])
    return out


def emotions_each(probabilities: Array, truth: Array, names: tuple[str, ...], threshold: float = 0.5) -> dict[str, float]:
    """Accuracy and weighted F1 of each emotion as a yes or no of its own, probabilities and truth (N, C): MulT's way with IEMOCAP."""
    out = {}
    for k, name in enumerate(names):
        said, true = probabilities[:, k] > threshold, truth[:, k] > 0
        out[f"{name}_accuracy"], out[f"{name}_f1"] = float((said == true).mean()), weighted_f1(said, true)
    return out


def weighted_f1(said: Yes, true: Yes) -> float:
    """F1 of yes and of no, (N,) truth values each, averaged by how often each is true; 0 for no rows."""
    if not len(true):
        return 0.0
    p, y = torch.as_tensor(said.astype(np.int64)), torch.as_tensor(true.astype(np.int64))
    return float(multiclass_f1_score(p, y, 2, average="weighted"))


def affect(value: Array, truth: Array, names: tuple[str, ...] = ("valence", "arousal")) -> dict[str, float]:
    """CCC and Pearson of each column of value and truth (N, k), and the mean CCC, by which the Aff-Wild2 challenges rank."""
    out = {}
    for k, name in enumerate(names):
        out[f"{name}_ccc"] = concordance(value[:, k], truth[:, k]) if np.ptp(truth[:, k]) and np.ptp(value[:, k]) else 0.0
        out[f"{name}_pearson"] = _correlation(value[:, k], truth[:, k])
    out["ccc"] = float(np.mean([out[f"{name}_ccc"] for name in names]))
    return out


def _correlation(value: Array, truth: Array) -> float:
    return pearson(value, truth) if len(value) > 1 and np.ptp(value) and np.ptp(truth) else 0.0

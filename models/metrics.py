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

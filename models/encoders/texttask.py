"""What every reader of texts learns from our corpora and is judged by: seven emotions, valence and arousal, GoEmotions' own 28 labels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional import pearson_corrcoef
from torchmetrics.functional.classification import multiclass_f1_score

from models.datasets.texts import Texts
from models.emotions import EMOTIONS

Ints = npt.NDArray[np.int64]
Answer = Callable[[Ints], tuple[Tensor, Tensor]]
"""Rows of the texts -> logits (N, 7) and affect (N, 2) in [-1, 1]."""


class TextLoss:
    """Loss of one batch. What a corpus does not give costs nothing.

    prior: strength of the logit adjustment (Menon et al. 2021): 0 learns the corpora's class shares, 1 balanced classes; affect and
    fine: weights of valence and arousal and of the 28 labels, the emotions weighing 1.
    """

    def __init__(self, data: Texts, prior: float, affect: float, fine: float) -> None:
        self.data, self.affect, self.fine = data, affect, fine
        rows = data.rows("train")
        shares = (data.target[rows] * data.weight[rows, None]).sum(0) + 1e-9
        self.prior = torch.tensor(np.log(shares / shares.sum()) * prior, dtype=torch.float32)

    def __call__(self, rows: Ints, emotion: Tensor, affect: Tensor, fine: Tensor) -> Tensor:
        """Of logits (B, 7), affect (B, 2) before its tanh and logits (B, 28), said of the texts `rows` (B,)."""
        data = self.data
        weight = torch.from_numpy(data.weight[rows])
        surprise = -(torch.from_numpy(data.target[rows]) * torch.log_softmax(emotion + self.prior, 1)).sum(1)
        loss = (surprise * weight).sum() / len(rows)
        rated = torch.from_numpy(data.rated[rows])
        error = (torch.tanh(affect) - torch.from_numpy(data.affect[rows])) ** 2
        loss = loss + self.affect * (error.sum(1) * rated).sum() / rated.sum().clamp(min=1)
        labels = F.binary_cross_entropy_with_logits(fine, torch.from_numpy(data.fine[rows]), reduction="none").sum(1)
        return loss + self.fine * (labels * torch.from_numpy(data.fined[rows])).mean()


@torch.no_grad()
def figures(data: Texts, split: str, answer: Answer, chunk: int = 512) -> dict[str, float]:
    """By corpus, on a split's clean texts: macro-F1 and accuracy of single-label rows, Pearson's r of valence and arousal."""
    out: dict[str, float] = {}
    for corpus in ("goemotions", "emobank", "meld"):
        rows = data.rows(split, corpus)
        parts = [answer(rows[a : a + chunk]) for a in range(0, len(rows), chunk)]
        if not parts:
            continue
        logits, affect = (torch.cat(part) for part in zip(*parts, strict=True))
        if corpus == "emobank":
            for k, what in enumerate(("valence", "arousal")):
                out[f"emobank_{what}_r"] = float(pearson_corrcoef(affect[:, k], torch.from_numpy(data.affect[rows, k])))
        else:
            label = torch.from_numpy(data.label7[rows])
            out[f"{corpus}_macro_f1"] = float(multiclass_f1_score(logits, label, len(EMOTIONS), average="macro"))
            out[f"{corpus}_accuracy"] = float((logits.argmax(1) == label).float().mean())
    return out

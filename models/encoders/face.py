"""The expression network: a small residual CNN on aligned 48x48 grey crops, trained on FER+ vote shares.

Run `affect train --model face --data DATA --out RUN`; the weights it writes are read by `models.perception.facenet` without torch.
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.numpy import save_file
from torch import Tensor, nn

from models.datasets import ferplus
from models.datasets.ferplus import FerPlus
from models.emotions import EMOTIONS
from models.encoders.faceaugment import augment
from models.perception.facenet import CONTRAST_FLOOR, EMBEDDING, FORMAT, FaceEncoder, ranges

LAYERS: tuple[tuple[str, int, int, int, str | None], ...] = (
    ("stem", 1, 40, 2, None),
    ("res1a", 40, 40, 1, None),
    ("res1b", 40, 40, 1, "stem"),
    ("down2", 40, 96, 2, None),
    ("res2a", 96, 96, 1, None),
    ("res2b", 96, 96, 1, "down2"),
    ("down3", 96, 160, 2, None),
    ("res3a", 160, 160, 1, None),
    ("res3b", 160, 160, 1, "down3"),
)
"""Convolutions, 5x5 for the stem and 3x3 after it: name, channels in, channels out, stride, and the layer whose output is added
before the rectifier. Half the crop's resolution from the stem on halves the work."""

LAST_SIDE = 6
RANGE_CROPS = 300
"""Training crops that the ranges of the network's values are taken from. A thousand gave wider ranges and no better rows (face.md)."""


def _conv(name: str, inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    kernel = 5 if name == "stem" else 3
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class ExpressionNet(nn.Module):
    """Crops (N, 1, 48, 48) float32 grey levels 0..255 -> embedding (N, 32) in (-1, 1) and logits (N, 7) in the order of EMOTIONS.

    Each crop is normalised by its own mean and deviation. The last map is pooled with weights for each place and channel
    (global depthwise convolution; Chen et al. 2018, MobileFaceNets, section 3.1): on an aligned face place means something.
    """

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        self.convs = nn.ModuleDict({name: _conv(name, a, b, stride) for name, a, b, stride, _ in LAYERS})
        self.norms = nn.ModuleDict({name: nn.BatchNorm2d(b) for name, _, b, _, _ in LAYERS})
        wide = LAYERS[-1][2]
        self.pool = nn.Conv2d(wide, wide, LAST_SIDE, groups=wide, bias=False)
        self.pool_norm = nn.BatchNorm2d(wide)
        self.dropout = nn.Dropout(dropout)
        self.embed = nn.Linear(wide, EMBEDDING)
        self.head = nn.Linear(EMBEDDING, len(EMOTIONS))
        for name, _, _, _, skip in LAYERS:
            if skip is not None:  # Residual branches begin as nothing (Goyal et al. 2017, section 5.1).
                nn.init.zeros_(self.norms[name].weight)  # type: ignore[arg-type]

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        level = crops - crops.mean((1, 2, 3), keepdim=True)
        last = level / ((level**2).mean((1, 2, 3), keepdim=True).sqrt() + CONTRAST_FLOOR)
        outputs: dict[str, Tensor] = {}
        for name, _, _, _, skip in LAYERS:
            last = self.norms[name](self.convs[name](last))
            last = F.relu(last if skip is None else last + outputs[skip])
            outputs[name] = last
        pooled = self.pool_norm(self.pool(last)).flatten(1)
        embedding = torch.tanh(self.embed(self.dropout(pooled)).float())
        return embedding, self.head(embedding)


def folded(net: ExpressionNet, dtype: torch.dtype = torch.float16) -> dict[str, np.ndarray]:
    """The network as plain convolutions and matrices with normalisation folded in: what `facenet.graph` takes."""
    arrays: dict[str, Tensor] = {}
    pairs = [(name, net.convs[name], net.norms[name]) for name, *_ in LAYERS] + [("pool", net.pool, net.pool_norm)]
    for name, conv, norm in pairs:
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None and norm.running_var is not None
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        arrays[f"{name}.weight"] = conv.weight * gain[:, None, None, None]
        arrays[f"{name}.bias"] = norm.bias - norm.running_mean * gain
    for name, linear in (("embed", net.embed), ("head", net.head)):
        arrays[f"{name}.weight"], arrays[f"{name}.bias"] = linear.weight, linear.bias
    return {name: array.detach().to(dtype).contiguous().numpy() for name, array in arrays.items()}


def save(net: ExpressionNet, path: Path, metadata: dict[str, str], crops: np.ndarray) -> None:
    """Write the folded network to a `.safetensors` file, with the ranges of its values on `RANGE_CROPS` of crops (N, 48, 48) uint8, which
    let it compute in whole numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    layers = [[name, stride, skip] for name, _, _, stride, skip in LAYERS]
    arrays = folded(net)
    some = np.random.default_rng(0).permutation(len(crops))[:RANGE_CROPS]
    arrays |= ranges(arrays, layers, crops[some])
    save_file(arrays, path, {"format": FORMAT, "layers": json.dumps(layers), "emotions": json.dumps(EMOTIONS), **metadata})


@dataclass(frozen=True)
class FaceTraining:
    """How the expression network is trained."""

    data: Path
    """Folder that holds ferplus48.npz."""
    out: Path
    """Run folder: gets face.safetensors, metrics.jsonl and config.json."""
    seed: int = 0
    epochs: int = 36
    batch: int = 128
    rate: float = 2e-3
    """Peak learning rate of the one-cycle schedule (AdamW)."""
    decay: float = 0.05
    """Weight decay."""
    balance: float = 0.5
    """Sampling of the emotions: 0 as often as they are, 1 equally often. The posteriors are set back to FER+'s own shares."""
    average: float = 0.998
    """Decay, per step, of the running average of the weights; the average is what is kept."""
    bfloat16: bool = True
    """Mixed precision; a matter of speed on processors that have it."""

    def run(self) -> dict[str, Any]:
        """Train, choose the epoch on the validation split, calibrate there, write the weights; returns the validation figures."""
        torch.set_num_threads(1)
        torch.manual_seed(self.seed)
        generator = torch.Generator().manual_seed(self.seed)
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "config.json").write_text(json.dumps(asdict(self), default=str, indent=1))
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns) as progress, (self.out / "metrics.jsonl").open("w") as log:
            cropping = progress.add_task("aligned crops", total=None)
            train, valid = (
                ferplus.load(self.data, split, lambda done, total: progress.update(cropping, completed=done, total=total))
                for split in ("train", "valid")
            )
            progress.remove_task(cropping)
            train = _usable(train)
            net, figures = self._fit(train, valid, generator, progress, log)
        temperature = calibrate(net, valid)
        figures |= {"temperature": temperature, "epochs": self.epochs, "seed": self.seed}
        save(net, self.out / "face.safetensors", {"corpus": "FER+", "seed": str(self.seed), "epochs": str(self.epochs)}, train.crops)
        figures["valid"] = evaluate(self.out / "face.safetensors", valid)
        return figures

    def _fit(
        self, train: FerPlus, valid: FerPlus, generator: torch.Generator, progress: Progress, log: TextIO
    ) -> tuple[ExpressionNet, dict[str, Any]]:
        crops, votes = torch.from_numpy(train.crops)[:, None], torch.from_numpy(train.votes)
        share = votes.mean(0)
        chance = (votes * share ** -self.balance).sum(1)
        sampled = (votes * (chance / chance.sum())[:, None]).sum(0)
        adjustment = torch.log(share / sampled)
        net = ExpressionNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        kept = copy.deepcopy(net).eval()
        best: tuple[float, int, dict[str, Tensor]] = (float("inf"), -1, {})
        steps = len(crops) // self.batch
        optimizer = torch.optim.AdamW(_groups(net, self.decay), lr=self.rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.rate, total_steps=steps * self.epochs, pct_start=0.2)
        task = progress.add_task("training", total=steps * self.epochs)
        for epoch in range(self.epochs):
            net.train()
            order = torch.multinomial(chance, steps * self.batch, replacement=True, generator=generator).reshape(steps, -1)
            total = 0.0
            for step, rows in enumerate(order):
                batch = augment(crops[rows].float() / 255, generator) * 255
                with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
                    _, logits = net(batch.contiguous(memory_format=torch.channels_last))
                loss = F.cross_entropy(logits.float(), votes[rows])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(net.parameters(), 2.0)
                optimizer.step()
                schedule.step()
                total += loss.item()
                _follow(kept, net, min(self.average, 1 - 1 / (1 + step + epoch * steps)))
                progress.advance(task)
            with torch.no_grad():
                shifted = copy.deepcopy(kept)
                shifted.head.bias += adjustment
            figures = {"epoch": epoch, "loss": total / steps} | _score(_logits(shifted, valid), valid)
            log.write(json.dumps(figures) + "\n")
            log.flush()
            if figures["nll"] < best[0]:
                best = (figures["nll"], epoch, copy.deepcopy(shifted.state_dict()))
            progress.update(task, description=f"training, valid {figures['accuracy']:.3f}")
        kept.load_state_dict(best[2])
        return kept, {"epoch": best[1]}


def train(data: Path, out: Path, seed: int = 0, epochs: int = 36) -> dict[str, Any]:
    """Train the expression network on FER+ under `data` into run folder `out`; see `FaceTraining`."""
    return FaceTraining(data=Path(data), out=Path(out), seed=seed, epochs=epochs).run()


def _usable(part: FerPlus) -> FerPlus:
    """Rows whose votes mostly went to one or more of the seven emotions."""
    keep = (part.votes.sum(1) > 0) & (part.other < 0.5)
    return FerPlus(part.crops[keep], part.found[keep], part.label[keep], part.votes[keep], part.other[keep])


def _groups(net: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weight decay for matrices and kernels, none for gains and biases."""
    flat = [p for p in net.parameters() if p.ndim < 2]
    return [{"params": [p for p in net.parameters() if p.ndim >= 2], "weight_decay": decay}, {"params": flat, "weight_decay": 0.0}]


@torch.no_grad()
def _follow(kept: nn.Module, net: nn.Module, decay: float) -> None:
    """Move the running average towards the network, normalisation statistics too."""
    for mine, theirs in zip(kept.state_dict().values(), net.state_dict().values(), strict=True):
        if mine.is_floating_point():
            mine.lerp_(theirs, 1 - decay)
        else:
            mine.copy_(theirs)


@torch.no_grad()
def _logits(net: ExpressionNet, part: FerPlus) -> Tensor:
    net.eval()
    crops = torch.from_numpy(part.crops)[:, None]
    return torch.cat([net(crops[start : start + 256].float())[1] for start in range(0, len(crops), 256)])


@torch.no_grad()
def calibrate(net: ExpressionNet, valid: FerPlus) -> float:
    """Divide the head by the temperature that makes labels likeliest on `valid` (Guo et al. 2017, section 4.2); returns it."""
    rows = torch.from_numpy(valid.label >= 0)
    logits, label = _logits(net, valid)[rows], torch.from_numpy(valid.label).long()[rows]
    choices = torch.exp(torch.linspace(-1.0, 1.0, 201))
    losses = torch.stack([F.cross_entropy(logits / choice, label) for choice in choices])
    temperature = float(choices[int(losses.argmin())])
    net.head.weight.div_(temperature)
    net.head.bias.div_(temperature)
    return temperature


def _score(logits: Tensor, part: FerPlus) -> dict[str, float]:
    """Figures over rows with a label: accuracy; accuracy with unfound faces counted as errors; mean recall; likelihood; calibration."""
    rows = torch.from_numpy(part.label >= 0)
    label, found = torch.from_numpy(part.label).long()[rows], torch.from_numpy(part.found)[rows]
    log_p = torch.log_softmax(logits[rows], 1)
    sure, top = log_p.exp().max(1)
    right = top == label
    bins = (sure * 15).long().clamp(max=14)
    gaps = [abs(float((right[bins == k].float() - sure[bins == k]).sum())) for k in range(15)]
    return {
        "n": len(label),
        "found": float(found.float().mean()),
        "accuracy": float(right.float().mean()),
        "accuracy_found": float((right & found).float().mean()),
        "recall": float(np.mean([float(right[label == k].float().mean()) for k in range(len(EMOTIONS)) if bool((label == k).any())])),
        "nll": float(F.nll_loss(log_p, label)),
        "ece": sum(gaps) / len(label),
    }


def evaluate(weights: str | Path, part: FerPlus) -> dict[str, Any]:
    """Figures of weights, run as they run live (ONNX Runtime), on one FER+ split.

    `accuracy` is over all pictures with one of the seven labels, `accuracy_found` counts those without a found face as errors;
    `recall` is the unweighted mean over emotions, `ece` the expected calibration error (15 bins); `recalls` one an emotion.
    """
    rows = part.label >= 0
    kept = FerPlus(part.crops[rows], part.found[rows], part.label[rows], part.votes[rows], part.other[rows])
    posteriors = torch.from_numpy(FaceEncoder(weights)(kept.crops)[:, EMBEDDING:])
    figures: dict[str, Any] = dict(_score(posteriors, kept))
    top = posteriors.argmax(1).numpy()
    of = {name: top[kept.label == k] == k for k, name in enumerate(EMOTIONS)}
    figures["recalls"] = {name: round(float(hit.mean()), 4) for name, hit in of.items() if len(hit)}
    return figures


if __name__ == "__main__":
    import tyro

    print(json.dumps(tyro.cli(FaceTraining).run(), indent=1))

"""The voice front end learns before the fusion models take it over: windows of talks made of clips of one speaker, voice alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models import metrics
from models.datasets import cache_root
from models.encoders import voice as voice_encoder
from models.encoders.voice import VoiceFront, augment
from models.live import material
from models.live.composed import Composer, Composition
from models.live.material import Floats, Material, Talk
from models.losses import soft_cross_entropy
from models.mea import MEAConfig
from models.perception.voice import VOICE
from models.window import Window

VOICE_ONLY = (0, 1, 0)
STRIDE = MEAConfig.live().strides[1]
SMOOTHING = 0.1
"""Share of every target that is spread over all emotions."""
Log = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class VoiceTraining:
    """All that decides the trained front end, beside the clips."""

    seed: int = 0
    batch: int = 64
    decay: float = 0.02
    every: int = 200
    """Steps between two looks at the validation windows."""
    steps: int = 4500
    rate: float = 3e-3
    copies: int = 4
    """Renderings of the training voices in different rooms."""
    windows: int = 900
    """Validation windows."""

    def run(self, log: Log, tell: material.Progress) -> tuple[VoiceFront, Floats]:
        """The front end, kept at its best on unseen speakers; and what it takes their emotions for, (7, 7).

        It needs neither face nor word weights, so it is kept in `cache_root()` for the next run that asks for the same.
        """
        own = [asdict(self), STRIDE, VOICE.hash, material.RECIPE, asdict(Composition()), Path(voice_encoder.__file__).read_text()]
        path = cache_root() / f"voice-front-{hashlib.sha256(json.dumps(own).encode()).hexdigest()[:16]}.safetensors"
        net = VoiceFront(stride=STRIDE)
        if not path.is_file():
            net, confused = self.fit(material.load_talks("train", self.copies, tell), material.load_talks("valid", 1, tell), log, tell)
            save_file({**net.state_dict(), "confused": torch.from_numpy(confused)}, path)
        state = load_file(path)
        confused = state.pop("confused").numpy()
        net.load_state_dict(state)
        return net.eval(), confused

    def fit(self, talks: Sequence[Talk], held_talks: Sequence[Talk], log: Log, tell: material.Progress) -> tuple[VoiceFront, Floats]:
        """The same from these talks, which need not have every emotion; `held_talks` choose the step."""
        train, valid = (_composer(part) for part in (talks, held_talks))
        torch.manual_seed(self.seed)
        net = VoiceFront(stride=STRIDE)
        voices = train.batch(512, (self.seed, 2), VOICE_ONLY)[0].voice
        net.fit(torch.from_numpy(voices.x), torch.from_numpy(voices.mask))
        optimiser = torch.optim.AdamW(net.parameters(), self.rate, weight_decay=self.decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, self.rate, total_steps=self.steps, pct_start=0.1)
        held, held_truth = valid.batch(self.windows, 3, VOICE_ONLY)
        noise = torch.Generator().manual_seed(self.seed)
        best, kept, confused = float("inf"), net.state_dict(), np.eye(7, dtype=np.float32)
        for step in range(self.steps):
            window, truth = train.batch(self.batch, (self.seed, 3, step), VOICE_ONLY)
            x, t, mask = (torch.from_numpy(part) for part in window.voice)
            net.train()
            soft = (1 - SMOOTHING) * torch.from_numpy(truth.classes) + SMOOTHING / 7
            loss = soft_cross_entropy(net(augment(x, mask, noise), t, mask)[3], soft, torch.ones(len(soft)))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            tell("voice", step + 1, self.steps)
            if (step + 1) % self.every == 0 or step + 1 == self.steps:
                p, label = voice_logits(net, held).softmax(1).numpy(), held_truth.classes.argmax(1)
                cost = metrics.cross_entropy(p, held_truth.classes)
                right = float((p.argmax(1) == label).mean())
                log({"stage": "voice", "step": step + 1, "loss": loss.item(), "cross_entropy": cost, "accuracy": right})
                if cost < best:
                    best, kept = cost, {k: v.clone() for k, v in net.state_dict().items()}
                    confused = metrics.confusion(p.argmax(1), label)
        net.load_state_dict(kept)
        return net.eval(), confused / confused.sum(1, keepdims=True).clip(1e-6)


def _composer(talks: Sequence[Talk]) -> Composer:
    """Windows of the talks, all emotions that occur in them as often."""
    there = np.isin(np.arange(7), np.unique(np.concatenate([talk.label for talk in talks])))
    return Composer(Material.of_voices(list(talks)), composition=Composition(shares=tuple(there.astype(float).tolist())))


def voice_logits(net: VoiceFront, window: Window, chunk: int = 100) -> Tensor:
    """The voice front end's own logits (B, 7) of many windows."""
    net.eval()
    with torch.inference_mode():
        whole = [torch.from_numpy(part) for part in window.voice]
        return torch.cat([net(*(part[k:k + chunk] for part in whole))[3] for k in range(0, len(whole[0]), chunk)])

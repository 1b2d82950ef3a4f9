"""Training of the live fusion models: `python -m models.live.training --model mea` makes `models/weights/mea.safetensors` from the corpora.

Two stages. The voice front end learns first, by its own reading, for it needs many more passes over its few speakers than the rest.
Then the model learns on composed windows; validation windows choose the step that is kept and give the calibration.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from rich.progress import Progress
from torch import Tensor, nn

from models import calibration, engine, metrics
from models.emotions import EMOTIONS
from models.encoders.facefront import FaceFront
from models.encoders.text import load_head
from models.encoders.voice import VoiceFront, augment
from models.encoders.wordfront import WordFront
from models.fusion import FusionModel
from models.live import material
from models.live.alone import corpora
from models.live.composed import SUBSETS, Composer, Composition, Truth, misread_shares
from models.live.voice import VOICE_ONLY, Log, VoiceTraining, voice_logits
from models.losses import Targets, TaskLoss
from models.perception.facenet import features as face_features
from models.perception.voice import VOICE
from models.perception.words import feature_set as word_features
from models.registry import MODELS
from models.window import Sequence, Window, WindowSpec

SHARES = tuple(float(share) for share in np.sqrt(calibration.stated_prior()))
"""Emotions of training windows: by the square root of how often they occur. The loss is logit-adjusted (Menon et al. 2021, ICLR), so that
the logits are those of balanced classes."""


@dataclass(frozen=True)
class LiveTraining:
    """What `affect train --data live` can be told. The data is found as `models.datasets.data_root` says."""

    model: str = "mea"
    """A name in `models.registry.MODELS`."""
    out: Path | None = None
    """Where the weights go; models/weights/MODEL.safetensors where it is not given."""
    run_folder: Path | None = None
    """Where configuration, metrics.jsonl and figures go; runs/MODEL where it is not given."""
    seed: int = 0
    steps: int = 1600
    """Optimiser steps of the model."""
    batch: int = 64
    rate: float = 2e-3
    """Peak learning rate, one cycle (Smith and Topin 2018)."""
    decay: float = 0.02
    """Weight decay."""
    clip: float = 0.8
    """Largest norm of the gradient."""
    every: int = 200
    """Steps between two looks at the validation windows."""
    voice_steps: int = 4500
    """Optimiser steps of the voice front end."""
    voice_rate: float = 3e-3
    voice_copies: int = 4
    """Renderings of the training voices in different rooms."""
    valid_windows: int = 900
    calibration_windows: int = 1500
    """Validation windows for each presence pattern, other than those that choose the step."""
    neutral: float | None = None
    """Share of neutral in the prior that the engine assumes; that of conversations where it is not given."""
    lone_cap: float = 0.95
    """Most probability one emotion gets from one modality alone."""
    soon: float = 0.4
    """Odds that the state of a training window changes in its last second (`Composition.soon`)."""
    haste: float = 0.7
    """What is left of the time in which a face is forgotten, as learned; chosen on validation for naming turns sooner (mea.md)."""
    evidence: float = 0.3
    """Weight of the cross-entropy of each modality's own reading in the loss."""
    changes: Annotated[Mapping[str, Any], tyro.conf.Suppress] = field(default_factory=dict)
    """Fields of the model's live configuration to be otherwise, for ablations."""
    loss_changes: Annotated[Mapping[str, Any], tyro.conf.Suppress] = field(default_factory=dict)
    """Fields of the model's loss to be otherwise, for ablations."""
    face: str = "face"
    """Weights of the face network: a shipped name or a path."""
    words: str = "words"
    """Weights of the word table."""

    def run(self) -> dict[str, Any]:
        """Trains, calibrates, saves; gives the validation figures. Raises DataMissing or WeightsError with the cure, ValueError for a model
        that is not in the registry."""
        if self.model not in MODELS:
            raise ValueError(f"no model {self.model!r}; there are {', '.join(MODELS)}")
        torch.set_num_threads(1)
        torch.manual_seed(self.seed)
        folder = self.run_folder or Path("runs") / self.model
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(asdict(self), default=str, indent=1))
        started = time.monotonic()
        with Progress() as bars, (folder / "metrics.jsonl").open("w") as lines:

            def log(entry: dict[str, Any]) -> None:
                lines.write(json.dumps({"seconds": round(time.monotonic() - started, 1), **entry}) + "\n")
                lines.flush()

            task = bars.add_task("material", total=None)

            def tell(what: str, done: int, total: int) -> None:
                bars.update(task, description=what, completed=done, total=total)

            voice, confused = self.voice().run(log, tell)
            train, valid = self._composers(tell)
            train.misheard = self._misheard(voice, confused, train, valid)
            model = self._fit(train, valid, voice, log, tell)
            hasten(model, self.haste)
            fitted = self._calibrate(model, valid)
        summary = {"seed": self.seed, "steps": self.steps, "haste": self.haste, "minutes": round((time.monotonic() - started) / 60, 1)}
        out = self.out or Path("models/weights") / f"{self.model}.safetensors"
        engine.save(out, self.model, model, WindowSpec(), self.features(), fitted, summary)
        return summary

    def voice(self) -> VoiceTraining:
        """The training of the voice front end that goes before."""
        return VoiceTraining(
            self.seed, self.batch, self.decay, self.every, self.voice_steps, self.voice_rate, self.voice_copies, self.valid_windows,
        )

    def loss(self) -> Any:
        """The model's loss on live windows."""
        own = {"normalise_hsic": True} if self.model == "mea" else {}
        return MODELS[self.model].loss(**{**own, "task": TaskLoss(evidence=self.evidence), **self.loss_changes})

    def features(self) -> dict[str, str]:
        """Hashes of the feature sets trained on, by stream."""
        return {"words": word_features(self.words).hash, "voice": VOICE.hash, "face": face_features(self.face).hash}

    def _composers(self, tell: material.Progress) -> tuple[Composer, Composer]:
        valid = Composer(material.load("valid", self.face, self.words, progress=tell))
        truthful = Composition(as_misread=True, as_misheard=True, shares=SHARES, soon=self.soon)
        train = Composer(material.load("train", self.face, self.words, self.voice_copies, tell), composition=truthful)
        faces, texts = valid.material.faces, valid.material.texts
        train.misread = {"face": misread_shares(faces.label, faces.misread), "text": misread_shares(texts.label, texts.misread)}
        return train, valid

    def _misheard(self, voice: VoiceFront, confused: material.Floats, train: Composer, valid: Composer) -> material.Floats:
        """What voices to draw for each emotion (7, 7), so that training voices mislead as often as unseen ones do."""
        right = []
        for composer in (train, valid):
            window, truth = composer.batch(self.valid_windows, (6,), VOICE_ONLY)
            right.append(float((voice_logits(voice, window).argmax(1).numpy() == truth.classes.argmax(1)).mean()))
        share = max(1 - right[1] / right[0], 0)
        wrong = confused * (1 - np.eye(len(confused)))
        shares = (1 - share) * np.eye(len(confused)) + share * wrong / np.maximum(wrong.sum(1, keepdims=True), 1e-6)
        summing_to_one: material.Floats = (shares / shares.sum(1, keepdims=True)).astype(np.float64)
        return summing_to_one

    def _fit(self, train: Composer, valid: Composer, voice: VoiceFront, log: Log, tell: material.Progress) -> FusionModel:
        torch.manual_seed(self.seed)
        entry, judge = MODELS[self.model], self.loss()
        model = entry.build(entry.config.live(**self.changes))
        model.fronts.fit(train.batch(512, (self.seed, 0))[0])
        words, voices, faces = model.fronts
        assert isinstance(words, WordFront) and isinstance(voices, VoiceFront) and isinstance(faces, FaceFront)
        words.begin_as(load_head(self.words))
        learnt = voice.state_dict()
        voices.load_state_dict({name: learnt[name] for name in voices.state_dict()})
        if faces.reader is not None:
            faces.reader.begin_as(torch.from_numpy(material.face_shares()))
        held, held_truth = valid.batch(self.valid_windows, 1)
        # These have learnt already; the voice front end would soon know its training speakers by heart.
        slow = [*words.pretrained(), *voices.parameters(), *(faces.reader.pretrained() if faces.reader is not None else ())]
        rest = [p for p in model.parameters() if all(p is not q for q in slow)]
        optimiser = torch.optim.AdamW([{"params": rest}, {"params": slow}], self.rate, weight_decay=self.decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, [self.rate, self.rate / 10], total_steps=self.steps, pct_start=0.1)
        noise = torch.Generator().manual_seed(self.seed)
        adjust = torch.tensor(SHARES).log()
        best, kept = float("inf"), {k: v.clone() for k, v in model.state_dict().items()}
        for step in range(self.steps):
            window, truth = train.batch(self.batch, (self.seed, 1, step))
            inputs = tensors(window)
            inputs[3] = augment(inputs[3], inputs[5], noise)
            model.train().progress(step / self.steps)
            output, aux = model.study(*inputs)
            adjusted = output._replace(logits=output.logits + adjust), aux._replace(evidence=aux.evidence + adjust)
            loss, parts = judge(*adjusted, targets(truth))
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), self.clip)
            optimiser.step()
            schedule.step()
            tell(self.model, step + 1, self.steps)
            if (step + 1) % self.every == 0 or step + 1 == self.steps:
                figures = validate(model, held, held_truth)
                log({"stage": self.model, "step": step + 1, "loss": parts, **figures})
                if figures["cross_entropy"] < best:
                    best, kept = figures["cross_entropy"], {k: v.clone() for k, v in model.state_dict().items()}
        model.load_state_dict(kept)
        return model.eval()

    def _calibrate(self, model: FusionModel, valid: Composer) -> calibration.Calibration:
        """From composed windows of every presence pattern and besides: of one modality alone, the real corpora, for composed windows are
        damaged and change, and by these alone a plain text is read too unsurely; of several, windows with emotions as frequent as the
        engine assumes, for by balanced ones alone probabilities under such a prior were further off."""
        sets, prior = [], calibration.stated_prior(self.neutral)

        def read(window: Window, soft: material.Floats, shares: material.Floats) -> None:
            present = np.stack([s.mask.max(1) for s in window], 1)
            sets.append(calibration.Labelled(forward(model, window)[0].numpy(), soft, present, shares))

        for stage, shares in ((2, np.full(len(EMOTIONS), 1 / len(EMOTIONS), np.float32)), (3, prior)):
            composer = Composer(valid.material, valid.spec, Composition(shares=tuple(shares.tolist())))
            for k, subset in enumerate(SUBSETS):
                if shares is prior and sum(subset) == 1:
                    continue
                window, truth = composer.batch(self.calibration_windows, (stage, k), subset)
                known = truth.class_weight > 0
                read(Window(*(Sequence(*(part[known] for part in one)) for one in window)), truth.classes[known], shares)
        for corpus in corpora(valid.spec, valid.material, "valid"):
            read(corpus.window, np.eye(len(EMOTIONS), dtype=np.float32)[corpus.label], corpus.shares)
        return calibration.fit(sets, prior, self.lone_cap)


def hasten(model: FusionModel, share: float) -> None:
    """The front end's own reading of the face forgets in this share of the time that it did."""
    faces = model.fronts[2]
    if isinstance(faces, FaceFront) and faces.reader is not None:
        with torch.no_grad():
            faces.reader.memory.add_(math.log(share))


def tensors(window: Window) -> list[Tensor]:
    """A window's nine arrays in the order of `FusionModel.forward`."""
    return [torch.from_numpy(part) for sequence in window for part in sequence]


def targets(truth: Truth) -> Targets:
    return Targets(*(torch.from_numpy(part) for part in truth))


def forward(model: nn.Module, window: Window, chunk: int = 100) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, affect and weights of many windows, without gradients."""
    model.eval()
    inputs = tensors(window)
    with torch.inference_mode():
        parts = [model(*(x[k:k + chunk] for x in inputs)) for k in range(0, len(inputs[0]), chunk)]
    logits, affect, weights = (torch.cat(part) for part in zip(*parts, strict=True))
    return logits, affect, weights


def validate(model: nn.Module, window: Window, truth: Truth) -> dict[str, float]:
    """Cross-entropy and accuracy (top against the main true emotion), concordance of valence, on windows of all kinds."""
    logits, affect, _ = forward(model, window)
    known = truth.class_weight > 0
    p = logits.softmax(1).numpy()[known]
    soft = truth.classes[known]
    return {
        "cross_entropy": metrics.cross_entropy(p, soft),
        "accuracy": float((p.argmax(1) == soft.argmax(1)).mean()),
        "valence_ccc": metrics.concordance(affect[:, 0].numpy(), truth.affect[:, 0]),
    }


if __name__ == "__main__":
    print(json.dumps(replace(tyro.cli(LiveTraining)).run()))

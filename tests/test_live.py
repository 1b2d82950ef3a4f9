"""Training runs, learns and repeats itself on toy material; the evaluation's figures are what they claim."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from toy_material import toy_material

from models import metrics
from models.calibration import Calibration
from models.encoders.text import TextHead
from models.encoders.voice import VoiceFront, augment
from models.encoders.wordfront import WordFront
from models.engine import load, save
from models.fusion import FusionModel
from models.live import alone, evaluation
from models.live import card as livecard
from models.live import training as live
from models.live.composed import Composer
from models.live.training import LiveTraining
from models.mea import MEA, MEAConfig
from models.window import WindowSpec

SHORT = LiveTraining(steps=8, batch=16, every=4, voice_steps=8, valid_windows=30, calibration_windows=8, voice_copies=1)


def quiet(*_: Any) -> None:
    """No progress, no log."""


@pytest.fixture()
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[LiveTraining], FusionModel]:
    """Trains a model for a few steps on toy material."""
    monkeypatch.setenv("AFFECT_CACHE", str(tmp_path))
    monkeypatch.setattr(live.material, "load_talks", lambda *_: toy_material().talks)
    monkeypatch.setattr(live.material, "face_shares", lambda: np.full(7, 1 / 7, np.float32))
    monkeypatch.setattr(live, "load_head", lambda _: TextHead())

    def train(training: LiveTraining) -> FusionModel:
        torch.manual_seed(0)
        train, valid = Composer(toy_material()), Composer(toy_material())
        voice, confused = training.voice().run(quiet, quiet)
        train.misheard = training._misheard(voice, confused, train, valid)
        assert train.misheard.shape == (7, 7) and np.allclose(train.misheard.sum(1), 1)
        return training._fit(train, valid, voice, quiet, quiet)

    return train


def test_training_repeats_itself_and_reads_windows(toy: Callable[[LiveTraining], FusionModel], tmp_path: Path) -> None:
    model = toy(SHORT)
    again = toy(SHORT)
    for (name, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    save(tmp_path / "toy.safetensors", "mea", model, WindowSpec(), {}, Calibration.none(), {})
    engine = load(tmp_path / "toy.safetensors", backend="eager")
    figures = {**evaluation.probes(engine, Composer(toy_material()), 12), "c": evaluation.composed(engine, Composer(toy_material()), 12)}
    assert set(figures["probes"]) == {"whole", "without text", "without voice", "without face", "time shuffled", "mean_weights"}
    assert figures["probes"]["without face"]["total_variation"] > 0
    lone = figures["c"]["voice"]
    assert lone["model"]["cross_entropy"] == pytest.approx(lone["product"]["cross_entropy"], abs=1e-4), "one modality's product is itself"


def test_windows_of_one_corpus_alone_hold_that_and_nothing_else() -> None:
    spec, stock = WindowSpec(), toy_material()
    chosen = np.flatnonzero(stock.texts.label >= 0)[:3]
    made = {
        "text": alone.texts(spec, stock, chosen), "face": alone.faces(spec, stock.faces.rows[:3, 0].astype(np.float32)),
        "voice": alone.voices(spec, [talk.rows[:n] for talk, n in zip([stock.talks[0]] * 3, (5, 40, 60), strict=True)]),
    }
    for modality, window in made.items():
        for name, sequence in zip(window._fields, window, strict=True):
            assert bool(sequence.mask.any()) == (name == modality)
            assert (sequence.t <= 0).all() and (sequence.t >= -spec.seconds).all()
            assert not sequence.x[sequence.mask == 0].any()
    assert made["voice"].voice.mask.sum(1).tolist() == [5, 40, 60]
    assert made["text"].text.mask.sum(1).tolist() == [min(len(stock.texts.words[k]), spec.text) for k in chosen]


def test_a_card_gets_its_figures(tmp_path: Path) -> None:
    kinds = [prefix + name for prefix in ("", "own_prior_", "root_prior_") for name in livecard.MEASURES]
    row = {"items": 9, "calibration_noise": 0.0625, **dict.fromkeys(kinds, 0.5)}
    fused = {"accuracy": 0.625, "cross_entropy": 1.25, "calibration_error": 0.0625, "top_changes": 0.25, "total_variation": 0.125}
    found = {
        "split": "test", **{name: row for name, _ in livecard.ALONE}, "emobank": {"valence_pearson": 0.625, "arousal_pearson": 0.25},
        "composed": {"text+face": {"model": fused, "product": fused, "model_mixed": fused, "product_mixed": fused,
                                   "neutral_heavy_calibration_error": 0.125}},
        "probes": {"whole": fused, "without face": fused, "mean_weights": {"text": 0.5, "voice": 0.25, "face": 0.25}},
    }
    turned = {"turns": 9, "p50_ms": 250, "within_300_ms": 0.5, "within_450_ms": 0.75, "shown": 0.875, "flips_per_second": 0.25}
    found["reaction"] = {**dict.fromkeys(livecard.TURNING, turned), "text+face": {**turned, "p50_ms": None}}
    found["ferplus"] = {**row, "found": 0.875, "accuracy_unfound_as_errors": 0.75}
    card = livecard.rewrite("# A\n\n## Figures\nold\n\n## Limits\nfew\n", livecard.figures(found))
    assert "old" not in card and card.endswith("\n## Limits\nfew\n")
    assert "| text+face | 62.5 / 62.5 | 1.25 / 1.25 | 6.2 / 6.2 | 1.25 / 1.25 | 12.5 |" in card
    assert "| 50.0 | 6.2 | 50.0 |" in card
    assert "(87.5 % are found): 75.0 %" in card and "| without face | 62.5 | 1.25 | 25.0 % | 0.12 |" in card
    assert "| face | 250 | 50.0 | 75.0 | 87.5 | 0.25 |" in card and "| text+face | never | 50.0 |" in card
    with pytest.raises(ValueError, match="Figures"):
        livecard.rewrite("# A\n", "x")
    alone = {"model": fused, "product": fused, "neutral_heavy_calibration_error": 0.125}
    first = {**found, "composed": dict.fromkeys((*livecard.LONE, *livecard.SUBSETS), alone)}
    better = {"model": {**fused, "accuracy": 0.75}, "product": fused, "neutral_heavy_calibration_error": 0.125}
    two = {"1": first, "0": {**first, "composed": {**first["composed"], "text+face": better}}}
    table = livecard.seeds(two, "1")
    assert "| test figure, % | seeds 0, 1 | shipped |" in table and "| EmoBank valence, r | 62.5 ± 0.0 |  |" in livecard.seeds(two, "2")
    assert "| EmoBank valence, r | 62.5 ± 0.0 | 62.5 |" in table
    assert "| composed, text+face: accuracy; gain | 68.8 ± 8.8; 6.2 ± 8.8 | 62.5; 0.0 |" in table
    save_file({"any": np.zeros(1, np.float32)}, tmp_path / "made.safetensors", {"training": '{"seed": 7}'})
    assert livecard.shipped(str(tmp_path / "made.safetensors")) == "7"


def test_any_model_of_the_registry_is_trained_or_refused(toy: Callable[[LiveTraining], FusionModel], tmp_path: Path) -> None:
    assert type(toy(replace(SHORT, model="late"))).__name__ == "Late"
    assert toy(replace(SHORT, changes={"evidence": False})).evidence is None, "an ablation"
    with pytest.raises(ValueError, match="no model 'lstm'; there are mea, "):
        replace(SHORT, model="lstm", run_folder=tmp_path).run()


def test_word_front_begins_as_the_head() -> None:
    torch.manual_seed(0)
    head, front = TextHead(), WordFront(8)
    front.begin_as(head)
    for part in ("words", "phrases"):
        ours, theirs = getattr(front, part), getattr(head, part)
        assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)


def test_voice_augmentation_moves_rows_and_keeps_padding() -> None:
    x, mask = torch.randn(4, 60, 44), torch.ones(4, 60)
    mask[:, 50:] = 0
    x[..., 41] = 1.0
    x[:, ::2, 41] = 0.0
    changed = augment(x * mask.unsqueeze(-1), mask, torch.Generator().manual_seed(0))
    assert not changed[:, 50:].any() and not torch.allclose(changed[:, :50, :40], x[:, :50, :40])
    assert not changed[:, 0:50:2, 41].any(), "unvoiced rows stay unvoiced"
    assert torch.equal(changed[:, :50, 42:], x[:, :50, 42:])
    assert VoiceFront().eval()(changed, -torch.rand(4, 60), mask)[3].shape == (4, 7)


def test_metrics() -> None:
    label = np.array([0, 0, 0, 1])
    p = np.zeros((4, 7), np.float32)
    p[:, 0] = 1
    figures = metrics.classification(p, label)
    assert figures["accuracy"] == 0.75 and figures["balanced_accuracy"] == 0.5
    assert figures["calibration_error"] == pytest.approx(0.25)
    soft = np.zeros((4, 7), np.float32)
    soft[:, 0] = 0.75
    soft[:, 1] = 0.25
    assert metrics.soft_calibration_error(p, soft) == pytest.approx(0.25)
    assert metrics.cross_entropy(soft, soft) == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)), abs=1e-4)
    assert metrics.confusion(np.array([1, 0, 1]), np.array([0, 0, 1]), 2).tolist() == [[0.5, 0.5], [0, 1]]
    values = np.arange(5, dtype=np.float32)
    assert metrics.pearson(values, values * 2) == pytest.approx(1) and metrics.concordance(values, values) == pytest.approx(1)


def test_a_hastened_face_forgets_sooner() -> None:
    model = MEA(MEAConfig.live()).eval()
    reader = model.fronts[2].reader
    before = float(reader.memory.detach().exp())
    t = torch.linspace(-2, 0, 40)[None]
    x = torch.zeros(1, 40, 39)
    x[:, :30, 32 + 2], x[:, 30:, 32 + 3] = 5.0, 5.0  # What is shown turns half a second before the end.
    mask = torch.ones(1, 40)
    slow = reader.read(x, t, mask)[0].detach()
    live.hasten(model, 0.5)
    quick = reader.read(x, t, mask)[0].detach()
    assert float(reader.memory.detach().exp()) == pytest.approx(before / 2)
    assert quick[3] - quick[2] > slow[3] - slow[2]
    kept = copy.deepcopy(model.state_dict())
    live.hasten(model, 1.0)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_what_a_face_ruled_out_before_it_turned_can_be_named_soon_after() -> None:
    reader = MEA(MEAConfig.live()).fronts[2].reader
    sad, neutral, happy = 0, 1, 2
    before, after = torch.tensor([0.0001, 0.05, 0.9499]), torch.tensor([0.55, 0.44, 0.01])
    t = torch.linspace(-4, 0, 100)[None]
    memory = float(reader.memory.detach().exp())
    x = torch.full((1, 100, 39), -20.0)
    x[..., 32:35] = torch.where(t[..., None] < -1.3 * memory, before, after).log()
    said = reader.read(x, t, torch.ones(1, 100))[0]
    assert said[sad] > said[neutral] > said[happy]
    logarithms = ((t / memory).softmax(1) @ x[0, :, 32:])[0]
    assert logarithms[neutral] > logarithms[sad], "what the mean of logarithms would have said"

"""The training loop: learns, goes on after kill -9 with the same result, tells what is wrong; disturbances do what they say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")
pytest.importorskip("torchmetrics")

from safetensors.torch import load_file

from models.datasets.examples import Examples, nothing, ragged, untimed
from models.registry import MODELS
from models.research import runs, tasks
from models.research.robustness import DELAYS_S, DROPS, SIGMAS, cost_of_noise, holed, late, noisy, robustness
from models.research.runs import RunError
from models.research.scoring import Evaluation
from models.research.task import Task, batch, some_absent
from models.research.training import Training, TrainingError, configuration, one_cycle
from models.window import Sequence, Window

ROOT = Path(__file__).parents[1]
SMALL: dict[str, tuple[str, ...]] = {
    "mea": ("d=8", "d_h=8", "heads=2", "psa_layers=1", "hca_layers=1"), "late": ("d=8",),
    "msaf": ("d=8", "widths=[8,8,8]", "block=8", "stages=1", "insertions=[1]"),
    "ucrn": ("d=8", "heads=2", "crm_heads=2", "urm_layers=1", "crm_layers=1"), "iaca": ("d=8", "heads=2", "steps=4"),
    "mult": ("d=8", "heads=2", "memory_heads=2", "layers=1"),
}  # fmt: skip


def windows(n: int, seed: int) -> Examples:
    """Three classes that the sign of voice and of face tell together; no text. Rows of ragged lengths with real times."""
    draw = np.random.default_rng(seed)
    label = draw.integers(0, 3, n)
    pieces: list[list[np.ndarray]] = [[], []]
    times = []
    for one in label:
        length = int(draw.integers(3, 8))
        times.append(np.arange(-length + 1, 1, dtype=np.float32) / 2)
        for m, sign in enumerate(((1, 1, -1)[one], (1, -1, -1)[one])):
            pieces[m].append((draw.normal(size=(length, 4)) * 0.7 + sign).astype(np.float32))
    window = Window(nothing(n), ragged(pieces[0], times, 8, 4), ragged(pieces[1], times, 8, 4))
    made = Examples.of_classes(window, label, 3, np.arange(n) % 5, np.arange(n))
    return replace(made, values=(label[:, None] - 1).astype(np.float32) / 2, values_weight=np.ones(n, np.float32))


def toy(fold: int = 0, seed: int = 0) -> Task:
    return Task("toy", windows(96, 0), windows(60, 1), windows(60, 2), tasks.by_class, "cross_entropy", timed=True,
                disturb=tasks.absent_at_random(0.2))


def plan(out: Path, **changes: Any) -> Training:
    model = changes.get("model", "late")
    return Training(**{"model": model, "data": "toy", "epochs": 6, "batch": 16, "rate": 0.01, "out": out, "set": SMALL[model], **changes})


@pytest.mark.parametrize("model", list(MODELS))
def test_every_model_learns_and_its_run_is_whole(model: str, tmp_path: Path) -> None:
    task = toy()
    figures = plan(tmp_path, model=model, epochs=8).run(task, quiet=True)
    assert figures["valid"]["accuracy"] > 0.55  # chance is a third
    left = {"config.json", "metrics.jsonl", "curves.png", "weights.safetensors", "summary.json", "README.md"}
    assert {file.name for file in tmp_path.iterdir()} == left
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    best = min(lines, key=lambda entry: entry["valid"]["cross_entropy"])
    assert figures["epoch"] == best["epoch"] and figures["valid"] == best["valid"]
    # What was kept gives again what was noted of it.
    again = Evaluation(tmp_path, "valid").run(task)
    assert again["cross_entropy"] == pytest.approx(figures["valid"]["cross_entropy"], abs=1e-6)
    assert plan(tmp_path, model=model, epochs=8).run(task, quiet=True) == figures  # finished: nothing is done again


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        plan(tmp_path / name, seed=seed, epochs=2).run(toy(), quiet=True)
    a, b, c = (load_file(tmp_path / name / "weights.safetensors") for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a) and not all(torch.equal(a[key], c[key]) for key in a)


def test_kill_nine_and_resume_gives_equal_weights(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests'); from pathlib import Path; from test_training import plan, toy; "
        "plan(Path(sys.argv[1]), model='iaca', epochs=int(sys.argv[2])).run(toy(), quiet=True)"
    )
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    plan(tmp_path / "whole", model="iaca", epochs=12).run(toy(), quiet=True)
    process = subprocess.Popen([*command, str(tmp_path / "killed"), "12"], cwd=ROOT, env=environment)
    lines = tmp_path / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (lines.is_file() and lines.read_text().count("\n") >= 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert (tmp_path / "killed" / "state.pt").is_file() and not (tmp_path / "killed" / "weights.safetensors").exists()
    plan(tmp_path / "killed", model="iaca", epochs=12).run(toy(), quiet=True)
    whole, resumed = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    kept = [[{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in (tmp_path / name / "metrics.jsonl").open()]
            for name in ("whole", "killed")]  # fmt: skip
    assert kept[0] == kept[1]


def test_patience_ends_a_training_that_gets_no_better(tmp_path: Path) -> None:
    plan(tmp_path, epochs=50, rate=0.0, average=0.0, patience=3).run(toy(), quiet=True)
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 4


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    plan(tmp_path, epochs=1).run(toy(), quiet=True)
    with pytest.raises(RunError, match="another rate"):
        plan(tmp_path, epochs=1, rate=0.5).run(toy(), quiet=True)
    with pytest.raises(TrainingError, match="no fusion model 'tfn'"):
        Training(model="tfn", out=tmp_path / "x").run(toy())
    with pytest.raises(TrainingError, match="'depth=3' changes nothing"):
        configuration(MODELS["late"], "live", toy(), ("depth=3",))
    with pytest.raises(TrainingError, match="must be one of bilstm, conv"):
        configuration(MODELS["late"], "live", toy(), ("temporal=gru",))
    with pytest.raises(ValueError, match=r"no data 'nope'; there are .*mosi-utterance"):
        tasks.build("nope")
    with pytest.raises(RunError, match="no run folder"):
        Evaluation(tmp_path / "none").run()
    (tmp_path / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(RunError, match="no weights that can be read"):
        Evaluation(tmp_path).run(toy())
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "state.pt").write_bytes(b"damaged")
    with pytest.raises(RunError, match="Delete it to begin anew"):
        plan(tmp_path / "y").run(toy(), quiet=True)


def test_batches_depend_on_seed_and_epoch_alone_and_take_every_window() -> None:
    task = replace(toy(), disturb=None)
    first, again, other = (list(task.batches(0, epoch, 25)) for epoch in (0, 0, 1))
    assert all(torch.equal(a, b) for one, two in zip(first, again, strict=True) for a, b in zip(one.inputs, two.inputs, strict=True))
    assert not torch.equal(first[0].inputs[3], other[0].inputs[3])
    assert sum(len(one.inputs[0]) for one in first) == 96
    assert torch.cat([one.targets.classes for one in first]).sum(0).tolist() == task.train.classes.sum(0).tolist()


def test_the_learning_rate_rises_and_falls_to_nothing() -> None:
    rates = [one_cycle(k / 100) for k in range(101)]
    assert max(rates) == pytest.approx(1, abs=0.02) and rates[0] < 0.01 and rates[-1] == pytest.approx(0, abs=1e-9)
    assert np.argmax(rates) in (9, 10)


def test_a_modality_may_go_but_never_the_last() -> None:
    whole = windows(400, 3).window
    fewer = some_absent(whole, 0.5, np.random.default_rng(0))
    left = np.stack([s.mask.any(1) for s in fewer], 1)
    assert not left[:, 0].any() and left.any(1).all()
    assert 0.4 < (left.sum(1) == 2).mean() < 0.6  # none gone, or both, who then stay


def test_disturbances_do_what_they_say() -> None:
    one = windows(200, 4)
    spread = [np.ones(1, np.float32), np.full(4, 2, np.float32), np.ones(4, np.float32)]
    shaken = noisy(one.window, (1,), 0.5, spread, np.random.default_rng(0))
    added = (shaken.voice.x - one.window.voice.x)[one.window.voice.mask > 0]
    assert added.std() == pytest.approx(1.0, abs=0.03) and np.array_equal(shaken.face.x, one.window.face.x)
    assert not shaken.voice.x[one.window.voice.mask == 0].any()
    fewer = holed(one.window, (1, 2), 0.7, np.random.default_rng(0))
    assert fewer.voice.mask.sum() / one.window.voice.mask.sum() == pytest.approx(0.3, abs=0.05)
    for sequence in fewer:
        assert (np.diff(sequence.mask, axis=1) <= 0).all()  # rows stand in front, padding behind
    behind = late(one.window, 1, 1.0)
    assert behind.voice.t[behind.voice.mask > 0].max() == -1.0 and np.array_equal(behind.face.mask, one.window.face.mask)
    kept = one.window.voice.x[(one.window.voice.mask > 0) & (one.window.voice.t <= -1)]
    assert np.array_equal(behind.voice.x[behind.voice.mask > 0], kept)


def test_robustness_curves_and_their_picture(tmp_path: Path) -> None:
    task = toy()
    plan(tmp_path).run(task, quiet=True)
    out = Evaluation(tmp_path, "test", robustness=True).run(task)
    curves = out["robustness"]
    assert json.loads((tmp_path / "robustness-test.json").read_text())["whole"] == curves["whole"] == out["accuracy"]
    assert (tmp_path / "robustness-test.png").stat().st_size > 5000
    assert set(curves["missing"]) == {"voice", "face"} and set(curves["noise"]) == {"voice", "face", "all"}
    assert [x for x, _ in curves["noise"]["all"]] == list(SIGMAS) and [x for x, _ in curves["drop"]["face"]] == list(DROPS)
    assert [x for x, _ in curves["delay"]["voice"]] == list(DELAYS_S) and "all" not in curves["delay"]
    # Each modality tells two of the three classes apart at most, so what is left when one is gone is worse.
    assert max(curves["missing"].values()) < curves["whole"]
    cost = cost_of_noise(runs.load(tmp_path)[1], task, "test", sigma=3.0, draws=3)
    assert set(cost) == {"voice", "face", "all"} and set(cost["all"]) <= set(out)
    assert cost["all"]["accuracy"] > 0 > cost["all"]["cross_entropy"]  # accuracy is lost, cross-entropy gained
    assert not robustness(runs.load(tmp_path)[1], replace(task, timed=False), "valid", "accuracy")["delay"]


def test_voices_of_training_are_moved_and_those_that_judge_are_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    draw, n = np.random.default_rng(0), 96
    voice = draw.normal(size=(n, 16, 44)).astype(np.float32)
    mask = np.ones((n, 16), np.float32)
    mask[:, 12:] = 0
    sound = Sequence(voice * mask[..., None], np.zeros((n, 16), np.float32), mask)
    face = Sequence(draw.normal(size=(n, 1, 70)).astype(np.float32), np.zeros((n, 1), np.float32), np.ones((n, 1), np.float32))
    actors = np.array([f"{k % 24 + 1:02d}" for k in range(n)])
    whole = Examples.of_classes(Window(nothing(n), sound, face), np.arange(n) % 8, 8, actors, np.arange(n))
    monkeypatch.setattr(tasks.ravdess_faces, "fine", lambda: whole)
    task = tasks.build("ravdess-24-fine", fold=1)
    sides = [set(part.group) for part in (task.train, task.valid, task.test)]
    assert [len(side) for side in sides] == [16, 4, 4] and len(set.union(*sides)) == 24
    assert task.disturb is not None
    once, again, other = (task.disturb(task.train, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(once.voice.x, again.voice.x) and not np.array_equal(once.voice.x, other.voice.x)
    assert not np.array_equal(once.voice.x, task.train.window.voice.x) and not once.voice.x[:, 12:].any()
    assert np.array_equal(task.train.window.voice.x, whole.take(np.isin(actors, list(sides[0]))).window.voice.x)
    figures = plan(tmp_path, data="ravdess-24-fine", epochs=1).run(task, quiet=True)
    assert np.isfinite(figures["valid"]["cross_entropy"])


def test_rows_without_times_are_spread_and_padding_goes_behind() -> None:
    x = np.zeros((2, 4, 3), np.float32)
    x[0, 2:], x[1, :3] = 1, 2
    x[1, 1, 0] = np.nan
    s = untimed(x)
    assert s.mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 0]] and s.t[0].tolist() == [-2, 0, 0, 0] and s.x[1, 1].tolist() == [0, 2, 2]
    assert np.isfinite(s.x).all()


def test_a_batch_carries_all_targets() -> None:
    one = batch(windows(5, 0))
    assert len(one.inputs) == 9 and one.targets.classes.shape == (5, 3) and one.targets.affect.shape == (5, 1)


def test_aff_wild2_is_told_step_by_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFFECT_DATA", str(tmp_path))
    root = tmp_path / "data" / "aff-wild2"
    draw = np.random.default_rng(0)
    (root / "features").mkdir(parents=True)
    for split, names in {"Train_Set": "abcdef", "Validation_Set": "xy"}.items():
        folder = root / "VA_Estimation_Challenge" / split
        folder.mkdir(parents=True)
        for name in names:
            affect = np.repeat(draw.uniform(-0.9, 0.9, (20, 2)), 15, 0).round(3)  # half a second each, 10 s
            affect[60:90] = -5
            (folder / f"{name}.txt").write_text("valence,arousal\n" + "".join(f"{v},{a}\n" for v, a in affect))
            t = np.arange(500) / 50
            voice = np.concatenate([affect[np.minimum((t * 30).astype(int), 299)], draw.normal(size=(500, 3))], 1)
            np.savez(root / "features" / f"{name}.npz", voice=voice, voice_t=t, face=draw.normal(size=(300, 4)), face_t=np.arange(300) / 30)
    with pytest.raises(ValueError, match="one official split"):
        tasks.build("aff-wild2", fold=1)
    task = tasks.build("aff-wild2")
    assert {video for part in (task.train, task.valid) for video in part.group} == set("abcdef") and set(task.test.group) == set("xy")
    first = task.test.take(np.arange(1))  # the first 4 s of a video; frames 60 to 89 (steps 8 to 11) are not known
    assert first.steps is not None and first.steps_weight is not None and first.steps.shape == (1, 16, 2)
    assert first.steps_weight[0].tolist() == [1] * 8 + [0] * 4 + [1] * 4
    assert np.allclose(first.values[0], first.steps[0, -1], atol=1e-6) and not first.steps[0, 8:12].any()
    assert first.window.voice.mask.sum() >= 199 and first.window.face.t.min() > -4
    training = Training(model="iaca", data="aff-wild2", epochs=3, batch=8, out=tmp_path / "run", set=("d=8", "heads=2"))
    figures = training.run(task, quiet=True)
    assert -1 <= figures["valid"]["ccc"] <= 1
    assert "steps" in json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    (root / "features" / "x.npz").unlink()
    (root / "features" / "y.npz").unlink()
    with pytest.raises(FileNotFoundError, match="features of none of 2 videos"):
        tasks.build("aff-wild2")

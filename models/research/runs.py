"""The folder of a training run: config.json, metrics.jsonl, curves.png, weights.safetensors, summary.json, README.md (the card); state.pt
while it goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from models.fusion import FusionModel
from models.registry import MODELS

FORMAT = "affect-study-1"
CONFIG, METRICS, CURVES, WEIGHTS, CARD, STATE, SUMMARY = (
    "config.json", "metrics.jsonl", "curves.png", "weights.safetensors", "README.md", "state.pt", "summary.json",
)  # fmt: skip


class RunError(ValueError):
    """A run folder is not what it should be."""


def claim(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Makes `folder` the run of `recipe`. Raises RunError where another training lives in it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CONFIG
    plain = json.loads(json.dumps(recipe))
    if path.is_file():
        there = read_config(folder)
        other = sorted(key for key in {*there, *plain} if there.get(key) != plain.get(key))
        if other:
            raise RunError(f"{folder} holds a training with another {', '.join(other)}. Give another --out, or delete the folder.")
        return
    _write(path, json.dumps(plain, indent=1))


def read_config(folder: Path) -> dict[str, Any]:
    """What the training in `folder` was told. Raises RunError."""
    try:
        read: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{folder} is no run folder: {CONFIG} cannot be read ({error}). `affect train` makes one.") from error
    return read


def summary(folder: Path) -> dict[str, Any] | None:
    """The figures of a finished run, None before it has finished."""
    path = folder / SUMMARY
    if not path.is_file():
        return None
    figures: dict[str, Any] = json.loads(path.read_text())
    return figures


def keep(folder: Path, history: list[dict[str, Any]], state: Mapping[str, Any]) -> None:
    """Writes the state of an unfinished training, whole or not at all, and the figures so far."""
    unfinished = folder / f"{STATE}.tmp"
    torch.save(dict(state), unfinished)
    unfinished.replace(folder / STATE)
    _write(folder / METRICS, "".join(json.dumps(entry) + "\n" for entry in history))


def kept(folder: Path) -> dict[str, Any] | None:
    """What `keep` wrote last, None where nothing is kept. Raises RunError where it is damaged."""
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except Exception as error:  # a damaged file can fail in any way
        raise RunError(f"{path} cannot be read ({error}). Delete it to begin anew.") from error
    return state


def finish(
    folder: Path, name: str, config: Mapping[str, Any], weights: Mapping[str, Tensor], history: list[dict[str, Any]],
    figures: Mapping[str, Any], select: str,
) -> None:
    """Writes weights, curves, card and figures; the state for going on is not needed any more."""
    metadata = {"format": FORMAT, "model": name, "config": json.dumps(config), "training": json.dumps(figures)}
    unfinished = folder / f"{WEIGHTS}.tmp"
    save_file({key: value.contiguous() for key, value in weights.items()}, unfinished, metadata)
    unfinished.replace(folder / WEIGHTS)
    _write(folder / METRICS, "".join(json.dumps(entry) + "\n" for entry in history))
    draw(folder / CURVES, history, select)
    _write(folder / CARD, card(read_config(folder), config, figures))
    _write(folder / SUMMARY, json.dumps(figures, indent=1))
    (folder / STATE).unlink(missing_ok=True)


def load(folder: Path) -> tuple[str, FusionModel]:
    """Name and model of a finished run. Raises RunError."""
    path = folder / WEIGHTS
    try:
        with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise RunError(f"{folder} has no weights that can be read ({error}). Let `affect train` finish first.") from error
    if metadata.get("format") != FORMAT or metadata.get("model") not in MODELS:
        raise RunError(f"{path} holds no fusion model of a research corpus (format {metadata.get('format')!r}).")
    model = MODELS[metadata["model"]].build(json.loads(metadata["config"]))
    model.load_state_dict(state)
    return metadata["model"], model.eval()


def draw(path: Path, history: list[dict[str, Any]], select: str) -> None:
    """Training loss and the chosen validation figure by epoch, as a picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    epochs = [entry["epoch"] for entry in history]
    for name in history[0]["loss"]:
        left.plot(epochs, [entry["loss"].get(name) for entry in history], label=name)
    left.set(xlabel="epoch", ylabel="training loss")
    left.legend(fontsize="small")
    right.plot(epochs, [entry["valid"][select] for entry in history])
    right.set(xlabel="epoch", ylabel=f"validation {select}")
    figure.savefig(path, dpi=100)


def card(recipe: Mapping[str, Any], config: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """The model card."""
    entry = MODELS[recipe["model"]]
    command = " ".join(f"--{key} {value}" for key, value in recipe.items() if not isinstance(value, list))
    changes = " ".join(recipe.get("set", ()))
    valid = "\n".join(f"| {name} | {value:.4f} |" for name, value in figures["valid"].items())
    shape = ", ".join(f"{key} = {value}" for key, value in config.items())
    return f"""# {recipe["model"]} on {recipe["data"]}, fold {recipe["fold"]}, seed {recipe["seed"]}

Model: {entry.paper}; {figures["parameters"]:,} parameters. {shape}.

Trained by `affect train {command}{" --set " + changes if changes else ""}`; weights of epoch {figures["epoch"]}, chosen on validation data,
{figures["seconds"]} s.

| validation figure | value |
|---|---|
{valid}

Test figures, where they were asked for, are in `test.json` (`affect evaluate`).

Data and their licences are the corpus's own: see its authors' terms; weights learnt from research data are for research. Not for deciding
anything about a person. It reads expressions, not minds.
"""


def _write(path: Path, text: str) -> None:
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)

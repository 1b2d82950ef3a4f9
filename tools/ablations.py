#!/usr/bin/env python3
"""What each part of the live MEA earns, and what its size buys: `tools/ablations.py [--steps 400] [--seeds 0] [--only NAME ...]`.

Trains the live MEA once for each row and seed, everything else equal, and judges it on the same validation windows (composed, of all
kinds; equal priors). Goes on where it was stopped: rows that are in tools/results/ablations.json are not made again. With `--time` it
trains nothing: it measures how long the rows of other sizes take in ONNX Runtime, interleaved, adds that to what is there and counts all
operations again. Both draw the trade-off beside it (tools/results/ablations.png).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ablations_size
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.datasets import DataMissing
from models.live.training import LiveTraining
from models.mea import MEA, MEAConfig
from models.window import WindowSpec, empty

RESULTS = Path(__file__).parent / "results/ablations.json"
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "whole": ({}, {}),
    "without PSA": ({"psa_layers": 0}, {}),
    "without the prediction chain": ({"mu": 0.0}, {}),
    "without WAL": ({"wal": "none"}, {}),
    "without HCA": ({"hca_layers": 0}, {}),
    "without mixed attention": ({"without": ("mixed",)}, {}),
    "without coarse attention": ({"without": ("coarse",)}, {}),
    "without fine attention": ({"without": ("fine",)}, {}),
    "without exclusive": ({"without": ("exclusive",)}, {}),
    "without agnostic": ({"without": ("agnostic",)}, {}),
    "graphs replaced by concatenation": ({"graph": "concat"}, {}),
    "without the adversary (beta = 0)": ({}, {"beta": 0.0}),
    "without HSIC (alpha = 0)": ({}, {"alpha": 0.0}),
    "BiLSTM for convolutions": ({"temporal": "bilstm"}, {}),
    "without own readings": ({"evidence": False}, {}),
    "strides 1, 4, 4": ({"strides": (1, 4, 4)}, {}),
    "strides 1, 16, 16": ({"strides": (1, 16, 16)}, {}),
    "one PSA and one HCA layer": ({"psa_layers": 1, "hca_layers": 1}, {}),
    "three PSA and two HCA layers": ({"psa_layers": 3, "hca_layers": 2}, {}),
}
"""Name -> changes to the configuration, changes to the loss."""


def mflop(changes: dict[str, Any]) -> float:
    """Millions of floating-point operations (two a multiply-add) of matrix products and convolutions for one window."""
    model = MEA(MEAConfig.live(**changes)).eval()
    window = empty(WindowSpec(), dict(zip(("text", "voice", "face"), model.config.dims, strict=True)), 1)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(*(torch.from_numpy(part) for sequence in window for part in sequence))
    return float(counter.get_total_flops()) / 1e6


def judge(name: str, seed: int, steps: int) -> dict[str, float]:
    """Validation figures of the best step of one training."""
    changes, loss_changes = ROWS[name]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        LiveTraining(
            out=run / "mea.safetensors", run_folder=run, seed=seed, steps=steps, calibration_windows=50, changes=changes,
            loss_changes=loss_changes,
        ).run()
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = min((line for line in lines if line["stage"] == "mea"), key=lambda line: float(line["cross_entropy"]))
    return {key: round(best[key], 4) for key in ("cross_entropy", "accuracy", "valence_ccc")}


def table(kept: dict[str, Any]) -> str:
    """Markdown of all rows, the mean over seeds and, with several, the standard deviation."""
    lines = ["| live MEA | parameters | MFLOP | `onnx`, ms | cross-entropy | accuracy, % | CCC of valence |", "|---" * 7 + "|"]
    for name, row in kept["rows"].items():
        cells = []
        for key, scale, digits in (("cross_entropy", 1, 3), ("accuracy", 100, 1), ("valence_ccc", 1, 2)):
            values = [scale * run[key] for run in row["seeds"].values()]
            spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.{digits}f}{spread}")
        took = f"{row['onnx_ms']:.2f}" if "onnx_ms" in row else ""
        lines.append(f"| {name} | {row['parameters']:,} | {row['mflop']:.1f} | {took} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _time(kept: dict[str, Any]) -> int:
    names = [name for name in ablations_size.SIZES if name in kept["rows"]]
    if not names:
        print(f"ablations: {RESULTS} holds none of {', '.join(ablations_size.SIZES)}; train them first (without --time)", file=sys.stderr)
        return 2
    for name, took in ablations_size.times({name: ROWS[name][0] for name in names}).items():
        kept["rows"][name]["onnx_ms"] = took
    for name, row in kept["rows"].items():
        row["mflop"] = round(mflop(ROWS[name][0]), 2)
    _keep(kept)
    print(table(kept))
    return 0


def _keep(kept: dict[str, Any]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    ablations_size.picture(kept, RESULTS.with_suffix(".png"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--time", action="store_true", help="time the trained rows of other sizes; nothing may train meanwhile")
    asked = parser.parse_args(arguments)
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"steps": asked.steps, "rows": {}}
    if asked.time:
        return _time(kept)
    if kept["steps"] != asked.steps:
        print(f"ablations: {RESULTS} was made with --steps {kept['steps']}; give the same, or move it away", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    for name in asked.only:
        changes = ROWS[name][0]
        row = kept["rows"].setdefault(name, {
            "parameters": sum(p.numel() for p in MEA(MEAConfig.live(**changes)).parameters()), "mflop": round(mflop(changes), 2),
            "seeds": {},
        })
        for seed in asked.seeds:
            if str(seed) not in row["seeds"]:
                try:
                    row["seeds"][str(seed)] = judge(name, seed, asked.steps)
                except DataMissing as missing:
                    raise SystemExit(f"ablations: {missing}") from None
                _keep(kept)
    print(table(kept))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

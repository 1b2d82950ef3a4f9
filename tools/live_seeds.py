#!/usr/bin/env python3
"""How far the live models' figures are luck: `tools/live_seeds.py [--models mea msaf ucrn iaca] [--seeds 0 1 2]`.

Trains each live model with each seed as the shipped ones were and reads the test part of each once. Goes on where it was stopped: weights
lie in the cache folder under a hash of their recipe, figures in tools/results/live_seeds.json, by model and seed. `--show` prints the table
that the cards have.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.datasets import DataMissing, cache_root
from models.live import card
from models.live.composed import Composition
from models.live.evaluation import evaluate
from models.live.training import LiveTraining
from models.registry import MODELS

RESULTS = Path(__file__).parent / "results/live_seeds.json"
SHIPPED = ("mea", "msaf", "ucrn", "iaca")


def weights(model: str, seed: int) -> Path:
    """Where this training's weights are kept: by all that decides them but the corpora and the code. Delete them where that has changed."""
    plan = LiveTraining(model=model, seed=seed)
    recipe = [asdict(plan), MODELS[model].config.live().to_dict(), asdict(Composition()), plan.features()]
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return cache_root() / "live" / f"{model}-{seed}-{key}.safetensors"


def figures(model: str, seed: int) -> dict[str, Any]:
    """Test figures of one training, made where it is missing."""
    path = weights(model, seed)
    if not path.is_file():
        LiveTraining(model=model, seed=seed, out=path, run_folder=path.with_suffix("")).run()
    return evaluate(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=list(SHIPPED))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--show", action="store_true")
    asked = parser.parse_args()
    kept: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for seed in asked.seeds:
        for model in asked.models:
            mine = kept.setdefault(model, {})
            if str(seed) not in mine and not asked.show:
                try:
                    mine[str(seed)] = figures(model, seed)
                except DataMissing as missing:
                    raise SystemExit(f"live_seeds: {missing}") from None
                RESULTS.write_text(json.dumps(kept) + "\n")
    for model in asked.models:
        if kept.get(model):
            print(f"{model}\n\n{card.seeds(kept[model], card.shipped(model) if model in SHIPPED else '')}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

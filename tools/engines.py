#!/usr/bin/env python3
"""How fast every backend computes every fusion model, side by side in one process and one thread.

    tools/bench_engine                                  all models at live size and the paper-sized MEA, batches 1, 8, 64
    tools/bench_engine --model mea --batch 1            less of it
    tools/bench_engine --sessions 40                    whether one core holds 40 sessions; --sessions 0 finds how many it holds

Cases are interleaved in rounds of shuffled order, so that other work on the machine favours none. Beside the time on the wall the
thread's own processor time is measured, which other work disturbs less; the floor is the time that the model's FLOPs would take in one
large matrix product. FLOPs are those of matrix products and convolutions (an LSTM's are not counted). Weights are untrained: they cost
the same.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import engines_show
import numpy as np
import torch
from engine_sessions import capacity, hold
from torch.utils.flop_counter import FlopCounterMode

from models import engine
from models.calibration import Calibration
from models.datasets import cache_root
from models.mea import MEAConfig
from models.registry import MODELS
from models.runtime import choice, program, trained
from models.window import Sequence, Window, WindowSpec

PAPER = "mea, paper-sized"
LIVE = MEAConfig.live()


class Case(NamedTuple):
    model: str
    backend: str
    batch: int
    call: Callable[[], Any]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools/bench_engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*MODELS, PAPER], action="append", help="this alone; may be given again (default: all)")
    parser.add_argument("--backend", choices=choice.BACKENDS[1:], action="append", help="this alone (default: all that can run here)")
    parser.add_argument("--batch", type=int, action="append", help="windows at once; may be given again (default: 1, 8, 64)")
    parser.add_argument("--rounds", type=int, default=40, help="of all cases (default 40)")
    parser.add_argument("--round-ms", type=float, default=25.0, help="each case's share of a round, at least one call (default 25)")
    parser.add_argument("--seed", type=int, default=0, help="of the order")
    parser.add_argument("--sessions", type=int, help="sessions at 10 Hz on one core, result within 100 ms; 0 finds the most it holds")
    parser.add_argument("--json", type=Path, default=Path("engines.json"), help="where the figures go; the picture goes beside it")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"version": 1, "machine": machine()}
    if options.sessions is None:
        figures |= latencies(options)
    else:
        figures |= sessions(options.sessions, (options.backend or ["auto"])[0], options.seed)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(figures, indent=1) + "\n")
    engines_show.table(figures)
    if "rows" in figures:
        engines_show.picture(figures, options.json.with_suffix(".png"))
    print(f"{options.json} is written")
    return 0


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        cpu = next((line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")), cpu)
    threshold = os.environ.get("MALLOC_MMAP_THRESHOLD_")
    return {
        "cpu": cpu, "cores": os.cpu_count(), "load_before": round(os.getloadavg()[0], 1), "threads": 1, "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "malloc": f"mmap and trim thresholds {threshold}" if threshold else "default",
    }


def untrained(model: str) -> trained.Trained:
    """A model with random weights, the same ones every time, so that its programs are found in the cache."""
    name = "mea" if model == PAPER else model
    config = MEAConfig.paper(dims=LIVE.dims, rows=LIVE.rows) if model == PAPER else MODELS[name].config.live()
    file = cache_root() / "untrained" / f"{model.replace(', ', '-')}.safetensors"
    torch.manual_seed(0)
    engine.save(file, name, MODELS[name].build(config), WindowSpec(), {}, Calibration.none(), {})
    return trained.read(file)


def latencies(options: argparse.Namespace) -> dict[str, Any]:
    cases, rows = [], []
    for model in options.model or [*MODELS, PAPER]:
        given = untrained(model)
        network = program.network(given)
        one = [torch.from_numpy(array) for array in program.probe(given, 1)]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(*one)
        facts = {"mflop": counter.get_total_flops() / 1e6, "parameters": sum(part.numel() for part in network.parameters())}
        exact = program.Eager(given, precision=torch.float64)
        for backend in options.backend or choice.BACKENDS[1:]:
            for batch in options.batch or (1, 8, 64):
                try:
                    print(f"preparing {model}, {backend}, batch {batch}", file=sys.stderr)
                    made = choice.choose(given, backend, batch)
                except choice.BackendError as error:
                    print(f"left out: {error}", file=sys.stderr)
                    break
                asked = program.probe(given, max(batch, 8))
                parity = 0.0
                for first in range(0, len(asked[0]), batch):
                    some = [array[first:first + batch] for array in asked]
                    alone = [exact([array[k:k + 1] for array in some]) for k in range(batch)]
                    answer = [part.copy() for part in made.program(some)]
                    parity = max(parity, program.difference([np.concatenate(parts) for parts in zip(*alone, strict=True)], answer))
                cases.append(Case(model, backend, batch, lambda run=made.program, given=some: run(given)))
                rows.append({"model": model, "backend": backend, "batch": batch, "parity": parity, **facts})
    walls, own, rates = measure(cases, options.rounds, options.round_ms / 1e3, random.Random(options.seed))
    rate = float(np.median(rates))
    for k, (case, row) in enumerate(zip(cases, rows, strict=True)):
        wall = np.array(walls[k]) * 1e3
        p5, p50, p95, p99 = np.quantile(wall, (0.05, 0.5, 0.95, 0.99)).tolist()
        thread, floor = float(np.median(own[k])) * 1e3, case.batch * row["mflop"] * 1e9 / rate
        row |= {
            "calls": len(wall), "p5_ms": p5, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "thread_p50_ms": thread,
            "windows_per_s": case.batch / p50 * 1e3, "to_floor": thread / floor,
        }
    return {"rounds": options.rounds, "seed": options.seed, "gemm_gflops": rate / 1e9, "rows": rows}


def measure(
    cases: list[Case], rounds: int, share: float, order: random.Random
) -> tuple[dict[int, list[float]], dict[int, list[float]], list[float]]:
    """Seconds on the wall and of the thread for every call, by case; and FLOP/s of a large matrix product, each round."""
    a, b = (np.random.default_rng(k).normal(size=(512, 512)).astype(np.float32) for k in range(2))
    walls, own, rates = defaultdict(list), defaultdict(list), []
    for case in cases:
        for _ in range(5):  # warm: the first calls allocate
            case.call()
    for done in range(rounds):
        print(f"\rround {done + 1} of {rounds}", end="", file=sys.stderr, flush=True)
        started = time.thread_time()
        _ = a @ b
        rates.append(2 * 512 ** 3 / (time.thread_time() - started))
        for k in order.sample(range(len(cases)), len(cases)):
            until = time.perf_counter() + share
            while True:
                thread, started = time.thread_time(), time.perf_counter()
                cases[k].call()
                walls[k].append(time.perf_counter() - started)
                own[k].append(time.thread_time() - thread)
                if time.perf_counter() > until:
                    break
    print(file=sys.stderr)
    return walls, own, rates


def sessions(count: int, backend: str, seed: int) -> dict[str, Any]:
    """How many sessions one core holds with MEA: each due every 100 ms at a phase of its own, 99 % to be answered within 100 ms."""
    given = untrained("mea")
    made = choice.choose(given, backend)
    read = engine.Engine(given, made)
    asked = program.probe(given, 16)
    windows = [Window(*(Sequence(*(part[k:k + 1] for part in asked[3 * m: 3 * m + 3])) for m in range(3))) for k in range(16)]
    held = hold(count, {1: read}, windows, seed=seed) if count else capacity({1: read}, windows, seed=seed)
    return {"backend": made.backend, "sessions": held._asdict()}


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""How fast every backend computes every fusion model, side by side in one process and one thread.

    tools/bench_engine                                  all models at live size and the paper-sized MEA, batches 1, 8, 64
    tools/bench_engine --model mea --batch 1            less of it
    tools/bench_engine --sessions 40                    whether one core holds 40 sessions; --sessions 0 finds how many it holds

Cases are interleaved in rounds of shuffled order, so that other work on the machine favours none; batches over 8 take part in every tenth
round. Quantiles are those of each round's first call, right after another case: other work has had the caches, as in a session ten times a
second. What is left of a case's share of the round it is called *again* and again, with warm caches; that median gives windows a second.
Beside the time on the wall the thread's own processor time is measured, which other work disturbs less; the floor is the time that the
model's FLOPs would take in one large matrix product, beside it the thread's time of calls made again. How much of a tail (p99 / p50) is the
machine's own show plain matrix products among the cases, as long as the first case and through as many weights. FLOPs are those of matrix
products and convolutions (an LSTM's are not counted). Weights are untrained: they cost the same. Quantiles that too few calls stand behind
are left out. On an NVIDIA GPU the rows of TensorRT and of PyTorch (`cuda`, `cuda graph`, `inductor`) are in fp16, from pinned memory and
back; their floor is the card's own matrix rate, beside the time on the wall of calls made again. Programs are compiled once and kept
(half a minute each, 21 in all): stopped, the same command goes on with those it has.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import statistics
import sys
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import engines_card
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

BACKENDS = (*choice.BACKENDS[1:], *engines_card.KINDS)
ON_CARD = ("tensorrt", *engines_card.KINDS)
PAPER = "mea, paper-sized"
LIVE = MEAConfig.live()
LARGE = 8
"""Windows: larger batches take part in every tenth round."""
SELDOM = 10
SIDE = 128
"""Of the matrices in the plain products."""
ENOUGH = {"p5_ms": (0.05, 20), "p50_ms": (0.5, 1), "p95_ms": (0.95, 20), "p99_ms": (0.99, 100)}
"""Quantiles, and from how many calls on they are told."""


class Case(NamedTuple):
    model: str
    backend: str
    batch: int
    call: Callable[[], Any]


class Times(NamedTuple):
    """Seconds of a case's calls: on the wall, those right after another case and those right after itself; of the thread, the latter."""

    walls: list[float]
    again: list[float]
    own: list[float]

    def figures(self) -> dict[str, Any]:
        """In ms; None where the calls are too few."""
        known = {key: float(np.quantile(self.walls, share)) * 1e3 if len(self.walls) >= calls else None
                 for key, (share, calls) in ENOUGH.items()}
        tail = known["p99_ms"] / known["p50_ms"] if known["p99_ms"] and known["p50_ms"] else None
        return {"calls": len(self.walls), **known, "tail": tail, "again_p50_ms": statistics.median(self.again) * 1e3,
                "thread_p50_ms": statistics.median(self.own) * 1e3}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools/bench_engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*MODELS, PAPER], action="append", help="this alone; may be given again (default: all)")
    parser.add_argument("--backend", choices=BACKENDS, action="append", help="this alone (default: all that can run here)")
    parser.add_argument("--batch", type=int, action="append", help="windows at once; may be given again (default: 1, 8, 64)")
    parser.add_argument("--rounds", type=int, default=200, help="of all cases (default 200)")
    parser.add_argument("--round-ms", type=float, default=10.0, help="each case's share of a round, at least two calls (default 10)")
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
    if model == PAPER:
        return random_weights(model, "mea", MEAConfig.paper(dims=LIVE.dims, rows=LIVE.rows))
    return random_weights(model, model, MODELS[model].config.live())


def random_weights(label: str, name: str, config: Any) -> trained.Trained:
    """The model `name` so configured, kept under `label`."""
    file = cache_root() / "untrained" / f"{label.replace(',', '').replace(' ', '-')}.safetensors"
    torch.manual_seed(0)
    engine.save(file, name, MODELS[name].build(config), WindowSpec(), {}, Calibration.none(), {})
    return trained.read(file)


def latencies(options: argparse.Namespace) -> dict[str, Any]:
    cases, rows = [], []
    sizes = options.batch or (1, 8, 64)
    for model in options.model or [*MODELS, PAPER]:
        given = untrained(model)
        network = program.network(given)
        one = [torch.from_numpy(array) for array in program.probe(given, 1)]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(*one)
        facts = {"mflop": counter.get_total_flops() / 1e6, "parameters": sum(part.numel() for part in network.parameters())}
        asked = program.probe(given, math.lcm(*sizes, 8))
        eager = program.Eager(given, precision=torch.float64)
        alone = [eager([array[k:k + 1] for array in asked]) for k in range(len(asked[0]))]
        exact = [np.concatenate(parts) for parts in zip(*alone, strict=True)]
        for backend in options.backend or BACKENDS:
            for batch in sizes:
                try:
                    print(f"preparing {model}, {backend}, batch {batch}", file=sys.stderr)
                    made = prepare(given, backend, batch)
                except choice.BackendError as error:
                    print(f"left out: {error}", file=sys.stderr)
                    break
                parity = 0.0
                for first in range(0, len(asked[0]), batch):
                    some = [array[first:first + batch] for array in asked]
                    parity = max(parity, program.difference([part[first:first + batch] for part in exact], made(some)))
                cases.append(Case(model, backend, batch, lambda run=made, given=some: run(given)))
                rows.append({"model": model, "backend": backend, "batch": batch, "parity": parity, **facts})
    if not cases:
        raise SystemExit("bench_engine: no backend that was asked for can run here")
    passes, product = plain(rows[0]["parameters"], cases[0].call)
    together = [*cases, Case("plain products", "numpy", 1, product)]
    (*times, own), rates = measure(together, options.rounds, options.round_ms / 1e3, random.Random(options.seed))
    rate = float(np.median(rates))
    card = engines_card.matrix_rate() if torch.cuda.is_available() else None
    for case, row, timed in zip(cases, rows, times, strict=True):
        row |= timed.figures()
        took = row["again_p50_ms"] * card if card and case.backend in ON_CARD else row["thread_p50_ms"] * rate
        row |= {"windows_per_s": case.batch / row["again_p50_ms"] * 1e3, "to_floor": took / (case.batch * row["mflop"] * 1e9)}
    return {"rounds": options.rounds, "seed": options.seed, "gemm_gflops": rate / 1e9, "card_gflops": card and card / 1e9,
            "machine_itself": {"passes": passes, "like": f"{cases[0].model}, {cases[0].backend}", **own.figures()}, "rows": rows}


def prepare(given: trained.Trained, backend: str, batch: int) -> trained.Program:
    """What computes. Raises choice.BackendError where it cannot run here."""
    if backend not in engines_card.KINDS:
        return choice.choose(given, backend, batch).program
    if not torch.cuda.is_available():
        raise choice.BackendError(f"{backend}: no NVIDIA GPU here, or a torch built without CUDA")
    return engines_card.OnCard(given, batch, backend)


def plain(numbers: int, other: Callable[[], Any]) -> tuple[int, Callable[[], Any]]:
    """Matrix products and nothing else, through matrices of so many `numbers` in all, repeated until it takes as long as `other`."""
    draw = np.random.default_rng(0)
    matrices = draw.normal(size=(max(1, numbers // SIDE ** 2), SIDE, SIDE)).astype(np.float32)
    rows = draw.normal(size=(SIDE // 4, SIDE)).astype(np.float32)
    out = np.empty_like(rows)

    def walk(passes: int = 1) -> None:
        for _ in range(passes):
            for matrix in matrices:
                np.matmul(rows, matrix, out)

    passes = max(1, round(min(timeit.repeat(other, number=1, repeat=20)) / min(timeit.repeat(walk, number=1, repeat=20))))
    return passes, lambda: walk(passes)


class Measured(NamedTuple):
    times: list[Times]
    rates: list[float]
    """FLOP/s of a large matrix product, each round."""


def measure(cases: list[Case], rounds: int, share: float, order: random.Random) -> Measured:
    """Calls every case for `share` seconds in each round, twice at least."""
    a, b = (np.random.default_rng(k).normal(size=(512, 512)).astype(np.float32) for k in range(2))
    times, rates = [Times([], [], []) for _ in cases], []
    for case in cases:
        for _ in range(5 if case.batch <= LARGE else 1):  # warm: the first calls allocate
            case.call()
    for done in range(rounds):
        print(f"\rround {done + 1} of {rounds}", end="", file=sys.stderr, flush=True)
        started = time.thread_time()
        _ = a @ b
        rates.append(2 * 512 ** 3 / (time.thread_time() - started))
        due = [k for k, case in enumerate(cases) if case.batch <= LARGE or done % SELDOM == 0]
        for k in order.sample(due, len(due)):
            begun = time.perf_counter()
            cases[k].call()
            times[k].walls.append(time.perf_counter() - begun)
            while True:
                thread, started = time.thread_time(), time.perf_counter()
                cases[k].call()
                times[k].again.append(time.perf_counter() - started)
                times[k].own.append(time.thread_time() - thread)
                if time.perf_counter() > begun + share:
                    break
    print(file=sys.stderr)
    return Measured(times, rates)


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

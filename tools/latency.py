#!/usr/bin/env python3
"""How long after a smile or a word the result says so: real processes, real time, stage by stage.

    tools/bench_latency                                       the built-in clip; table, JSON and picture
    tools/bench_latency --clip A.mp4 --clip B.mp4 --runs 5    other clips; a timeline A.json beside a clip gives true times
    tools/bench_latency --compare OTHER.json                  beside an earlier run
    tools/bench_latency --show latency.json                   no run: a file's figures

Each condition (everything, without transcriber, face alone) runs as often as asked, in an order shuffled by the seed, so that a
machine that has other work does not favour one of them; a first run of each is thrown away (caches). Machines are compared by
MediaPipe's Face Mesh alone, timed on the built-in clip before the runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import latency_show
from latency_figures import Samples, Truth, closed_by, rhythm, samples, spread
from latency_session import ROOT, Capture, SessionFailed, record

from models.perception.facemesh import FaceMesh
from stream.capture.video import FileVideo

CLIP = ROOT / "stream" / "assets" / "sample.mp4"
CONDITIONS = {"everything": (), "without transcriber": ("--transcriber", "none"), "face alone": ("--microphone", "none")}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools/bench_latency", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, action="append", help="to play, picture and sound; may be given again (default: the built-in)")
    parser.add_argument("--condition", choices=CONDITIONS, action="append", help="measure this alone; may be given again (default: all)")
    parser.add_argument("--runs", type=int, default=3, help="of each condition (default 3)")
    parser.add_argument("--warm-up", type=int, default=1, help="runs of each condition that are thrown away first (default 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of runs")
    parser.add_argument("--json", type=Path, default=Path("latency.json"), help="where the figures go; the picture goes beside it")
    parser.add_argument("--compare", type=Path, help="figures of an earlier run, to be shown beside these")
    parser.add_argument("--show", type=Path, help="measure nothing: show this file's figures, and the headlines as Markdown")
    parser.add_argument("run", nargs="*", metavar="-- OPTION", help="options for `affect run`, after --, such as -- --model FILE")
    options = parser.parse_args(arguments)
    other = json.loads(options.compare.read_text()) if options.compare else None
    if options.show:
        figures = json.loads(options.show.read_text())
        latency_show.table(figures, other)
        print("\n\n".join(map(latency_show.markdown, figures["conditions"])))
        return 0
    clips = options.clip or [CLIP]
    if missing := [clip for clip in clips if not clip.is_file()]:
        parser.error(f"{missing[0]}: no such clip")
    jobs = [(clip, condition) for clip in clips for condition in options.condition or CONDITIONS]
    order = [job for _ in range(options.runs) for job in random.Random(options.seed).sample(jobs, len(jobs))]
    captures: dict[tuple[Path, str], list[Capture]] = defaultdict(list)
    machine = _machine()
    try:
        for clip, condition in jobs * options.warm_up:
            _record(clip, condition, options.run, "warm-up")
        for clip, condition in order:
            captures[clip, condition].append(_record(clip, condition, options.run, f"run {len(captures[clip, condition]) + 1}"))
    except SessionFailed as error:
        print(f"bench_latency: {error}", file=sys.stderr)
        return 1
    figures = {
        "version": 1, "machine": machine, "runs": options.runs, "warm_up": options.warm_up, "seed": options.seed,
        "options": options.run,
        "conditions": [_condition(clip, condition, captures[clip, condition]) for clip, condition in jobs],
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(figures, indent=1) + "\n")
    latency_show.table(figures, other)
    latency_show.picture(figures, options.json.with_suffix(".png"))
    print(f"{options.json} and {options.json.with_suffix('.png')} are written")
    return 0


def _record(clip: Path, condition: str, more: list[str], what: str) -> Capture:
    print(f"{clip.name}, {condition}: {what}", file=sys.stderr, flush=True)
    source = f"file:{clip.resolve()}"
    return record(["--camera", source, "--microphone", source, *CONDITIONS[condition], *more])


def _condition(clip: Path, condition: str, captures: list[Capture]) -> dict[str, Any]:
    """The figures of one condition: pooled over its runs, with each run's median beside."""
    truth = Truth.beside(clip)
    runs = [samples(capture.heard, truth) for capture in captures]
    reports = [capture.report for capture in captures]
    return {
        "clip": clip.name, "condition": condition, "model": reports[0]["model"], "backend": reports[0]["backend"],
        "events": len(truth.events) * len(runs),
        "figures_ms": {name: _pooled(name, runs) for name in dict.fromkeys(name for run in runs for name in run)},
        "provisionals_closed_by": [closed_by(capture.heard) for capture in captures],
        "rhythm": [rhythm(capture.heard) for capture in captures],
        "ready_s": [round(capture.ready_s, 2) for capture in captures],
        "first_result_s": [round(capture.first_result_s, 2) for capture in captures],
        "cpu_percent": _mean([report["cpu_percent"] for report in reports]),
        "memory_mb": _mean([report["memory_mb"] for report in reports]),
        "lost": [sum(stream["lost"] for stream in report["streams"].values()) for report in reports],
    }


def _pooled(name: str, runs: list[Samples]) -> dict[str, Any]:
    values = [run.get(name, []) for run in runs]
    return {**spread([value for run in values for value in run]), "p50_by_run": [spread(run)["p50"] for run in values]}


def _mean(tables: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.fmean(table[name] for table in tables), 1) for name in tables[0]}


def _machine() -> dict[str, Any]:
    load = os.getloadavg()[0]
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {"cpu": cpu, "cores": os.cpu_count(), "load_before": round(load, 2), "python": platform.python_version(),
            "system": platform.platform(), "face_mesh_ms": round(_mesh_alone(), 2)}


def _mesh_alone() -> float:
    """Median ms of Face Mesh on one picture after the other of the built-in clip: a yardstick of this machine on this day."""
    mesh, times = FaceMesh(), []
    for shot in FileVideo(str(CLIP)):
        began = time.perf_counter()
        mesh(shot.picture, shot.stamp)
        times.append(1000 * (time.perf_counter() - began))
    mesh.close()
    return statistics.median(times)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the session that runs, too
    sys.exit(main())

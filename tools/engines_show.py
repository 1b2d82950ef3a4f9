"""Figures of the engine benchmark for people: a table and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

COLOURS = {"eager": "#8d99ae", "onnx": "#2a9d8f", "tensorrt": "#e76f51", "cuda": "#e9c46a", "cuda graph": "#f4a261", "inductor": "#6d597a"}


def table(figures: dict[str, Any], console: Console | None = None) -> None:
    """Prints every figure."""
    console = console or Console(width=140)
    machine = figures["machine"]
    console.print(f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores, load before {machine['load_before']}, one thread, "
                  f"torch {machine['torch']}, malloc: {machine['malloc']}")
    if held := figures.get("sessions"):
        console.print(f"{figures['backend']}: {held['sessions']} sessions at 10 Hz on one core, {held['met']:.1%} answered within 100 ms "
                      f"(p50 {held['p50_ms']:.1f}, p99 {held['p99_ms']:.1f} ms, busy {held['busy']:.0%})")
        return
    card = f", on the card {figures['card_gflops']:,.0f}" if figures.get("card_gflops") else ""
    console.print(f"matrix products here: {figures['gemm_gflops']:.1f} GFLOP/s{card}; {figures['rounds']} interleaved rounds")
    if itself := figures.get("machine_itself"):
        quantiles = " · ".join(_number(itself[key]) for key in ("p50_ms", "p95_ms", "p99_ms"))
        console.print(f"the machine itself, plain products as long as {itself['like']} through as many weights: "
                      f"p50 · p95 · p99 {quantiles} ms, p99 / p50 {_number(itself['tail'])}")
    shown = Table()
    times = ("p5 ms", "p50", "p95", "p99", "p99/p50", "again", "thread p50")
    for name in ("model", "backend", "batch", *times, "windows/s", "times floor", "MFLOP", "params", "parity"):
        shown.add_column(name, justify="left" if name in ("model", "backend") else "right")
    for row in figures["rows"]:
        shown.add_row(
            row["model"], row["backend"], str(row["batch"]),
            *(_number(row.get(key)) for key in ("p5_ms", "p50_ms", "p95_ms", "p99_ms", "tail", "again_p50_ms", "thread_p50_ms")),
            f"{row['windows_per_s']:.0f}", f"{row['to_floor']:.1f}", f"{row['mflop']:.1f}", f"{row['parameters']:,}",
            f"{row['parity']:.0e}")
    console.print(shown)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def picture(figures: dict[str, Any], file: Path) -> None:
    """Median time of one window by model and backend, p95 as a line; where larger batches were measured, windows a second beside it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in figures["rows"] if row["batch"] == 1]
    if not rows:
        return
    models = list(dict.fromkeys(row["model"] for row in rows))
    backends = list(dict.fromkeys(row["backend"] for row in rows))
    height = 0.8 / len(backends)
    batches = sorted({row["batch"] for row in figures["rows"]})
    fig, panels = plt.subplots(
        1, 1 + (len(batches) > 1), figsize=(9 + 5 * (len(batches) > 1), max(3.0, 0.4 + 0.75 * len(models))), layout="constrained",
        squeeze=False)
    axes = panels[0][0]
    if len(batches) > 1:
        _throughput(panels[0][1], figures["rows"], models, batches)
    for row in rows:
        y = models.index(row["model"]) + (backends.index(row["backend"]) - (len(backends) - 1) / 2) * height
        label = row["backend"] if row["model"] == models[0] else None
        axes.barh(y, row["p50_ms"], height * 0.9, color=COLOURS[row["backend"]], label=label)
        end = row["p95_ms"] or row["p50_ms"]
        axes.plot([row["p50_ms"], end], [y, y], color="black", linewidth=1, marker="|")
        axes.text(end, y, f"  {row['p50_ms']:.2f}", va="center", fontsize=8)
    axes.set_yticks(range(len(models)), models)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.1)
    axes.set_xlabel("ms for one window, one thread, after other work (bar: median; line: to p95)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    fig.suptitle(f"{figures['machine']['gpu'] or figures['machine']['cpu']}, load {figures['machine']['load_before']}", fontsize=10)
    fig.savefig(file, dpi=110)
    plt.close(fig)


def _throughput(axes: Any, rows: list[dict[str, Any]], models: list[str], batches: list[int]) -> None:
    """Windows a second by windows at once; a colour a model, a dash a backend."""
    dashes = {"onnx": "-", "eager": ":", "tensorrt": "--"}
    for k, model in enumerate(models):
        for backend, dash in dashes.items():
            points = [(row["batch"], row["windows_per_s"]) for row in rows if (row["model"], row["backend"]) == (model, backend)]
            if points:
                axes.plot(*zip(*points, strict=True), dash, marker="o", markersize=3, color=f"C{k}", label=f"{model}, {backend}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(batches, map(str, batches))
    axes.minorticks_off()
    axes.set_xlabel("windows at once")
    axes.set_ylabel("windows a second")
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.spines[["top", "right"]].set_visible(False)

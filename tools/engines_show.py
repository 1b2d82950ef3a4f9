"""Figures of the engine benchmark for people: a table and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

COLOURS = {"eager": "#8d99ae", "onnx": "#2a9d8f", "tensorrt": "#e76f51"}


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
    console.print(f"matrix products here: {figures['gemm_gflops']:.1f} GFLOP/s; {figures['rounds']} interleaved rounds")
    shown = Table()
    times = ("p5 ms", "p50", "p95", "p99", "thread p50")
    for name in ("model", "backend", "batch", *times, "windows/s", "times floor", "MFLOP", "parameters", "parity"):
        shown.add_column(name, justify="left" if name in ("model", "backend") else "right")
    for row in figures["rows"]:
        shown.add_row(
            row["model"], row["backend"], str(row["batch"]),
            *(f"{row[key]:.2f}" for key in ("p5_ms", "p50_ms", "p95_ms", "p99_ms", "thread_p50_ms")),
            f"{row['windows_per_s']:.0f}", f"{row['to_floor']:.1f}", f"{row['mflop']:.1f}", f"{row['parameters']:,}",
            f"{row['parity']:.0e}")
    console.print(shown)


def picture(figures: dict[str, Any], file: Path) -> None:
    """Median time of one window by model and backend, p95 as a line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in figures["rows"] if row["batch"] == 1]
    if not rows:
        return
    models = list(dict.fromkeys(row["model"] for row in rows))
    backends = list(dict.fromkeys(row["backend"] for row in rows))
    height = 0.8 / len(backends)
    fig, axes = plt.subplots(figsize=(9, 0.4 + 0.75 * len(models)), layout="constrained")
    for row in rows:
        y = models.index(row["model"]) + (backends.index(row["backend"]) - (len(backends) - 1) / 2) * height
        label = row["backend"] if row["model"] == models[0] else None
        axes.barh(y, row["p50_ms"], height * 0.9, color=COLOURS[row["backend"]], label=label)
        axes.plot([row["p50_ms"], row["p95_ms"]], [y, y], color="black", linewidth=1, marker="|")
        axes.text(row["p95_ms"], y, f"  {row['p50_ms']:.2f}", va="center", fontsize=8)
    axes.set_yticks(range(len(models)), models)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.1)
    axes.set_xlabel("ms for one window, one thread (bar: median; line: to p95)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    fig.suptitle(f"{figures['machine']['gpu'] or figures['machine']['cpu']}, load {figures['machine']['load_before']}", fontsize=10)
    fig.savefig(file, dpi=110)
    plt.close(fig)

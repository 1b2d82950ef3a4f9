"""Figures of the latency benchmark for people: a table and a waterfall picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latency_figures import STAGES
from rich.console import Console
from rich.table import Table

COLOURS = ("#8d99ae", "#2a9d8f", "#e9c46a", "#b5838d", "#cdb4db", "#e76f51", "#6d6875", "#457b9d")
"""One a stage, told apart in grey too by their order and labels."""


def table(figures: dict[str, Any], other: dict[str, Any] | None = None, console: Console | None = None) -> None:
    """Prints every figure of every condition; with those of another run beside and their ratio."""
    console = console or Console(width=140)
    machine = figures["machine"]
    console.print(f"{_described(machine)}; {figures['runs']} runs after {figures['warm_up']} to warm up")
    if other:
        console.print(f"beside {_described(other['machine'])}")
    for condition in figures["conditions"]:
        before = _counterpart(condition, other)
        shown = Table(title=_title(condition), title_justify="left")
        shown.add_column("ms")
        for name in ("n", "p50", "p95", "p99", "max", "p50 by run", *(("other p50", "ratio") if before else ())):
            shown.add_column(name, justify="right")
        for name, row in condition["figures_ms"].items():
            if " age, " in name and not name.endswith(STAGES[-1]):
                continue  # sums of the stages above: in the file alone
            cells = [str(row["n"]), *(_number(row[key]) for key in ("p50", "p95", "p99", "max")), " ".join(map(_number, row["p50_by_run"]))]
            if before:
                old = before["figures_ms"].get(name, {}).get("p50")
                cells += [_number(old), f"{row['p50'] / old:.2f}" if old and row["p50"] is not None else ""]
            shown.add_row(name, *cells)
        console.print(shown)
        console.print(f"start to first result {condition['first_result_s']} s; results {condition['rhythm']}; "
                      f"provisionals closed by {condition['provisionals_closed_by']}; lost {condition['lost']}")
        frame, mesh = condition["figures_ms"].get("face grabbed to features"), machine.get("face_mesh_ms")
        if frame and mesh:
            console.print(f"frame grabbed to features: {frame['p50'] / mesh:.1f} times what Face Mesh alone takes here")
        cpu, memory = condition["cpu_percent"], condition["memory_mb"]
        whole = sum(share for name, share in cpu.items() if name != "transcriber")
        console.print("CPU % of one core and memory MB: " + ", ".join(f"{name} {cpu[name]:.0f} {memory[name]:.0f}" for name in cpu)
                      + f"; all but the transcriber {whole:.0f} %\n")


def _described(machine: dict[str, Any]) -> str:
    mesh = machine.get("face_mesh_ms")
    return (f"{machine['cpu']}, {machine['cores']} cores, load before {machine['load_before']}"
            + (f", Face Mesh alone {_number(mesh)} ms" if mesh else ""))


HEADLINES = {
    "hub and windows, without the engine": "newest sample published → result published, without the engine's time",
    "face grabbed to features": "frame grabbed → face features published",
    "face age, client": "age of the newest frame when a provisional result arrives",
    "voice age, client": "age of the newest sound then",
    "window end to provisional, aware": "end of a window → its provisional result here",
    "window end to final, aware": "end of a window → its final result here",
    "face event to provisional, aware": "**face passes half its apex → first provisional that shows it**",
    "face event to provisional, unaware": "the same, if computing took no time",
    "face event to provisional half risen, aware": "face passes half its apex → its probability has risen half its way",
    "face event to final, aware": "face passes half its apex → first final that shows it",
    "word to tentative, aware": "word spoken → its first guess here",
    "word to committed, aware": "word spoken → committed here",
    "word to committed, unaware": "the same, if computing took no time",
    "word to provisional that holds it": "word spoken → first provisional that holds it",
}


def markdown(condition: dict[str, Any]) -> str:
    """The headlines of one condition as a table for a page."""
    lines = [f"| {condition['clip']}, {condition['condition']} (ms) | n | p50 | p95 | p99 |", "|---|---|---|---|---|"]
    for name, said in HEADLINES.items():
        if row := condition["figures_ms"].get(name):
            lines.append(f"| {said} | {row['n']} | {' | '.join(_number(row[key]) for key in ('p50', 'p95', 'p99'))} |")
    return "\n".join(lines)


def _title(condition: dict[str, Any]) -> str:
    return f"{condition['clip']}, {condition['condition']}: {condition['model']} on {condition['backend']}"


def _counterpart(condition: dict[str, Any], other: dict[str, Any] | None) -> dict[str, Any] | None:
    key = (condition["clip"], condition["condition"])
    return next((c for c in (other or {"conditions": []})["conditions"] if (c["clip"], c["condition"]) == key), None)


def _number(value: float | None) -> str:
    """None: it never came."""
    return "never" if value is None else f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"


def picture(figures: dict[str, Any], file: Path) -> None:
    """The first condition as a waterfall: the age of the newest frame and hop of sound after each stage, and the way of a word."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    condition = figures["conditions"][0]
    rows = condition["figures_ms"]
    fig, (top, bottom) = plt.subplots(2, 1, figsize=(10, 6.5), height_ratios=(3, 4), layout="constrained")
    streams = [stream for stream in ("face", "voice") if f"{stream} stage, client" in rows]
    for y, stream in enumerate(streams):
        left = 0.0
        for stage, colour in zip(STAGES, COLOURS, strict=True):
            width = rows[f"{stream} stage, {stage}"]["p50"]
            top.barh(y, width, 0.55, left, color=colour, edgecolor="white", label=stage if y == 0 else None)
            left += width
        age = rows[f"{stream} age, client"]
        top.plot([age["p50"], age["p95"]], [y, y], color="black", linewidth=1, marker="|", markersize=9)
        top.text(age["p95"], y, f"  p50 {age['p50']:.1f}, p95 {age['p95']:.1f}", va="center", fontsize=9)
    top.set_yticks(range(len(streams)), [{"face": "newest frame", "voice": "newest sound"}[stream] for stream in streams])
    top.set_xlabel("ms since it happened (bars: median of each stage; line: p50 to p95 of the whole)")
    top.invert_yaxis()
    top.margins(x=0.15)
    top.legend(ncols=len(STAGES), fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.2), frameon=False)
    _ways(bottom, rows)
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.3)
    fig.suptitle(f"{_title(condition)}, {figures['machine']['cpu']}", fontsize=11)
    fig.savefig(file, dpi=110)
    plt.close(fig)


def _ways(axes: Any, rows: dict[str, Any]) -> None:
    """From an event to what says so: the rules' share dark, the machine's light."""
    names = sorted(name.removesuffix(", aware") for name in rows if name.endswith(", aware"))
    for y, name in enumerate(names):
        aware, unaware = rows[f"{name}, aware"], rows[f"{name}, unaware"]
        if aware["p50"] is None or unaware["p50"] is None:
            axes.text(0, y, " not in half of the cases", va="center", fontsize=9)
            continue
        axes.barh(y, unaware["p50"], 0.55, color="#457b9d", label="rules and recogniser's policy (unaware)" if y == 0 else None)
        axes.barh(y, aware["p50"] - unaware["p50"], 0.55, unaware["p50"], color="#a8dadc", label="computing (aware)" if y == 0 else None)
        end = aware["p95"] if aware["p95"] is not None else aware["p50"]
        axes.plot([aware["p50"], end], [y, y], color="black", linewidth=1, marker="|", markersize=9)
        axes.text(end, y, f"  p50 {aware['p50']:.0f}, p95 {_number(aware['p95'])}", va="center", fontsize=9)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("ms (bars: medians; line: p50 to p95)")
    axes.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.12), frameon=False)

"""The calm live view in a terminal: a picture of what is known of a session, drawn from `State` alone."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from models.emotions import EMOTIONS
from stream.protocol import Affect
from stream.state import State

STREAMS = (("face", "camera", "face"), ("voice", "microphone", "voice"), ("words", "transcriber", "text"), ("affect", "fusion", ""))
"""Each stream with the worker that makes it and the modality it feeds."""

# Middle tones of the fixed palette, read equally well on dark and on light ground; and never colour alone: states are words too.
ACCENT, GOOD, CARE, BAD, PALE = "turquoise4", "green4", "dark_orange3", "red3", "dim"
STATES = {"running": ("●", GOOD), "ended": ("■", PALE), "failed": ("✕", BAD), "absent": ("·", PALE)}
EIGHTHS = " ▏▎▍▌▋▊▉█"
PLAIN = str.maketrans("█▉▊▋▌▍▎▏●○■✕·◌│─┼▸→…", "####=== *oox.~|-+>>.")
"""For terminals that cannot show more than ASCII."""

MAX_WIDTH = 120
LEGEND = "reads expressions, not minds"


def render(state: State, width: int, height: int, ascii_only: bool = False) -> Text:
    """The view in `width` columns and at most `height` lines. What matters least goes first where there is little room."""
    width = max(20, min(width, MAX_WIDTH))
    sections = _sections(state, width)
    while sum(len(section.lines) for section in sections) > max(1, height) and len(sections) > 1:
        sections.remove(min(sections, key=lambda section: section.matters))
    lines = [line for section in sections for line in section.lines][:height]
    for line in lines:
        line.truncate(width, overflow="crop")
        line.rstrip()
        if ascii_only:
            line.plain = line.plain.translate(PLAIN).encode("ascii", "replace").decode()
    picture = Text("\n", no_wrap=True, overflow="crop").join(lines)
    picture.no_wrap, picture.overflow = True, "crop"
    return picture


@dataclass
class Section:
    matters: int
    lines: list[Text]


def _sections(state: State, width: int) -> list[Section]:
    return [
        Section(9, [_header(state, width)]),
        Section(10, _feelings(state, width)),
        Section(8, _words(state, width)),
        Section(7, _streams(state, width)),
        Section(6, _notes(state, width)),
        Section(5, _latency(state, width)),
        Section(7, [_sides(Text(LEGEND, f"{PALE} italic"), _model(state), width)]),
    ]


def _header(state: State, width: int) -> Text:
    left = Text.assemble(("affect", "bold"), "  ")
    if state.session is None:
        left.append(f"no hub at {state.hub} yet", CARE)
        return left
    elapsed = state.elapsed
    left.append(f"session {state.session.session}", PALE)
    if elapsed is not None:
        left.append(f"  {int(elapsed) // 60}:{elapsed % 60:04.1f}")
    if not state.connected:
        right = Text("hub is silent", CARE)
    elif state.ended:
        right = Text("session over", "bold")
    elif state.session.epoch is None:
        right = Text("waiting for workers", CARE)
    elif state.session.speed is None:
        right = Text("as fast as it can", PALE)
    elif state.session.speed != 1.0:
        right = Text(f"speed x{state.session.speed:g}", PALE)
    else:
        right = Text("live", GOOD)
    return _sides(left, right, width)


def _feelings(state: State, width: int) -> list[Text]:
    now, final = state.current, state.final
    plane_width = 32 if width >= 74 else 0
    bar_width = width - plane_width - 27
    title = Text.assemble((f"  {'emotion':<11}{'now':<{max(4, bar_width) + 5}}{'final':>6}", PALE))
    lines = [title, *(_emotion(name, now, final, max(4, bar_width)) for name in EMOTIONS)]
    if plane_width:
        for line, part in zip(lines, _plane(now, final, plane_width - 3), strict=True):
            line.truncate(width - plane_width, pad=True)
            line.append("   ")
            line.append_text(part)
    return lines


def _emotion(name: str, now: Affect | None, final: Affect | None, width: int) -> Text:
    usable = now is not None and now.top is not None
    probability = now.probabilities.get(name, 0.0) if now and usable else 0.0
    top = usable and now is not None and now.top == name
    line = Text.assemble(("▸ " if top else "  ", ACCENT), (f"{name:<10} ", "bold" if top else ""))
    line.append_text(_bar(probability, width, ACCENT if top else PALE))
    line.append(f" {probability:4.0%} " if usable else "    - ", "bold" if top else "")
    settled = final is not None and final.top is not None
    line.append(f" {final.probabilities.get(name, 0.0):4.0%}" if final and settled else "    -", PALE)
    line.append(" ○" if final and final.top == name else "", PALE)
    return line


def _bar(share: float, width: int, style: str) -> Text:
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    return Text(("█" * full + (EIGHTHS[rest] if rest else "")).ljust(width), style)


def _plane(now: Affect | None, final: Affect | None, width: int) -> list[Text]:
    """Valence to the right, arousal upwards: ● now, ○ final. A heading and seven rows."""
    valence, arousal = (now.valence, now.arousal) if now else (None, None)
    heading = Text.assemble(("valence ", PALE), _signed(valence), ("   arousal ", PALE), _signed(arousal))
    half = width // 2
    rows = [f"{'':<{half}}│{'':>{width - half - 1}}"] * 7
    rows[0] = f"{'tense':<{half}}│{'excited':>{width - half - 1}}"
    rows[3] = f"{'─' * half}┼{'─' * (width - half - 1)}"
    rows[6] = f"{'gloomy':<{half}}│{'calm':>{width - half - 1}}"
    marks: dict[tuple[int, int], str] = {}
    for mark, result in (("○", final), ("●", now)):
        if result and result.valence is not None and result.arousal is not None:
            row = 3 - round(max(-1.0, min(1.0, result.arousal)) * 3)
            marks[row, round((max(-1.0, min(1.0, result.valence)) + 1) / 2 * (width - 1))] = mark
    lines = []
    for row, cells in enumerate(rows):
        line = Text(cells, PALE)
        for (at, column), mark in marks.items():
            if at == row:
                line = Text.assemble(line[:column], (mark, f"{ACCENT} bold" if mark == "●" else ""), line[column + 1:])
        lines.append(line)
    return [heading, *lines]


def _signed(value: float | None) -> Text:
    return Text("    -" if value is None else f"{value:+.2f}", "bold" if value is not None else PALE)


def _words(state: State, width: int) -> list[Text]:
    """Committed words, then the tentative ones in pale italics: the newest two lines of them."""
    title = _rule("words", f"{len(state.tentative)} tentative" if state.tentative else "", width)
    lines: list[Text] = [Text("  ")]
    for word, style in [*((word, "") for word in state.committed), *((word, f"{PALE} italic") for word in state.tentative)]:
        if len(lines[-1]) + len(word.text) + 1 > width and len(lines[-1]) > 2:
            lines.append(Text("  "))
        lines[-1].append(f"{word.text} ", style)
    return [title, *([Text("")] * (2 - len(lines)) + lines)[-2:]] if len(lines) > 1 else [title, lines[0], Text("")]


def _streams(state: State, width: int) -> list[Text]:
    heading = f"  {'stream':<8}{'made by':<12}{'state':<15}{'rate':>8}{'lag':>9}{'lost':>6}  "
    lines = [_rule("", "", width), Text(heading + "counts for", PALE)]
    for stream, worker, modality in STREAMS:
        flow = state.flows[stream]
        name, _ = state.worker_state(worker)
        mark, style = STATES.get(name, ("◌", CARE))
        line = Text.assemble(f"  {stream:<8}", (f"{worker:<12}", PALE), (f"{mark} {name:<13}", style))
        line.append(f"{_rate(state, stream):>8}{_milliseconds(state.lag(stream)):>9}")
        line.append(f"{flow.lost:>6}  ", BAD if flow.lost else "")
        if modality:
            line.append_text(_weight(state, modality, width - len(line) - 6))
        lines.append(line)
    return lines


def _rate(state: State, stream: str) -> str:
    if stream == "words":
        return f"{state.spoken} heard"
    rate = state.flows[stream].recent.rate(state.now)
    if rate is None or state.flows[stream].ended:
        return "-"
    return f"{rate:.1f}/s"


def _weight(state: State, modality: str, width: int) -> Text:
    now = state.current
    if now is None:
        return Text("-", PALE)
    if modality not in now.present:
        unused = "not usable" if state.flows["face"].present else "no face"
        return Text({"face": unused, "voice": "no voice", "text": "no words"}[modality], PALE)
    weight = now.weights.get(modality, 0.0)
    return Text.assemble(_bar(weight, max(1, min(width, 24)), ACCENT), f" {weight:4.0%}")


def _milliseconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f} ms" if abs(value) < 1000 else f"{value / 1000:.1f} s"


def _notes(state: State, width: int) -> list[Text]:
    """What is not as it should be, in words; one line stays free so that the view does not jump."""
    notes = [Text(f"  {state.note}", PALE)] if state.note else []
    if state.session is None:
        notes.append(Text("  start one with `affect run`; this view attaches by itself", CARE))
    elif state.session.epoch is None:
        notes.append(Text(f"  joined so far: {', '.join(sorted(state.session.workers)) or 'nobody'}", CARE))
    for stream, worker, _ in STREAMS:
        name, text = state.worker_state(worker)
        silence, gap = state.silent(stream), state.flows[stream].gap
        if text and name != "ended":
            notes.append(Text(f"  {worker}: {text}", BAD if name == "failed" else CARE if name != "running" else PALE))
        elif gap:
            notes.append(Text(f"  {stream}: nothing known ({gap})", CARE))
        elif silence and name == "running":
            notes.append(Text(f"  {stream}: no message for {silence:.0f} s", CARE))
    if state.flows["face"].skipped:
        notes.append(Text(f"  camera: {state.flows['face'].skipped} frames skipped because newer ones were there", PALE))
    current = state.current
    if current and current.top is None and not state.ended:
        notes.append(Text("  nothing to read: no face, no voice, no words", CARE))
    return notes[:4] or [Text("")]


def _latency(state: State, width: int) -> list[Text]:
    """World to result for face and voice (their newest sample), computing, and how the windows end."""
    first = Text.assemble(("  latency   ", PALE))
    for name in ("face", "voice", "model"):
        middle, tail = state.stage(name), state.stage(name, 0.95)
        spread = f" p95 {tail:.0f}" if tail is not None else ""
        first.append_text(Text.assemble((f"{name} ", PALE), _milliseconds(middle), (f"{spread}   ", PALE)))
    second = Text.assemble(
        ("  windows   ", PALE), f"{state.provisionals}", (" at once, ", PALE), f"{state.finals}", (" final", PALE),
        (f" ({state.changed} changed by late words) after ", PALE), _milliseconds(state.stage("final")),
    )
    return [_rule("", "", width), first, second]


def _model(state: State) -> Text:
    current = state.current
    if current is None:
        return Text("Ctrl-C ends", PALE)
    features = "  ".join(f"{name} {digest[:6]}" for name, digest in sorted(current.features.items()))
    return Text.assemble(current.model, (f" {current.backend}  {features}", PALE))


def _rule(title: str, right: str, width: int) -> Text:
    left, right = f"── {title} " if title else "", f" {right} ──" if right else ""
    return Text(left + "─" * max(0, width - len(left) - len(right)) + right, PALE)


def _sides(left: Text, right: Text, width: int) -> Text:
    gap = max(1, width - len(left) - len(right))
    return Text.assemble(left, " " * gap, right)


def summary(state: State) -> str:
    """The reading in one line, for pipes and logs."""
    now = state.current
    if state.session is None or now is None:
        return "waiting for results" if state.session else f"no hub at {state.hub} yet"
    moment = f"{now.t / 1e9:8.1f} s"
    if now.top is None:
        return f"{moment}  nothing to read"
    affect = f"valence {now.valence:+.2f} arousal {now.arousal:+.2f}" if now.valence is not None and now.arousal is not None else ""
    return f"{moment}  {now.top:<10}{now.probabilities.get(now.top, 0.0):5.0%}  {affect}  from {', '.join(now.present)}"


def save_svg(state: State, file: str | Path, width: int = 100, height: int = 25) -> None:
    """Writes the view as an SVG picture."""
    console = Console(record=True, width=width, height=height, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(render(state, width, height))
    Path(file).write_text(console.export_svg(title="affect run"), encoding="utf-8")

"""What a run came to: counts, rates, latencies by stage, timeline and words, as one versioned JSON file (README, "Report")."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec

from models.emotions import MODALITY_OF
from stream.protocol import SECOND, Affect, Face, Gap, Received, Session, Status, Voice, Words

VERSION = 1
ROUNDING = 3
TROUBLE = ("reconnecting", "failed")
"""States of a worker that people are told of, as is the end of them."""


class Notes:
    """What happened to workers, in lines for people, newest last. Where no view shows it, `aloud` prints each line at once."""

    def __init__(self, aloud: bool) -> None:
        self.lines: list[str] = []
        self._aloud = aloud

    def add(self, line: str) -> None:
        self.lines.append(line)
        if self._aloud:
            self._print(line)

    def close(self) -> None:
        """The view is gone: prints what has not been."""
        for line in () if self._aloud else self.lines:
            self._print(line)

    @staticmethod
    def _print(line: str) -> None:
        print(f"affect: {line}", file=sys.stderr, flush=True)


class Report:
    """Feed it every message of a session with `update`; `to_dict` at the end.

    It keeps one line a result, so it grows by about 1 KB a second: meant for runs with an end.
    """

    def __init__(self, source: dict[str, str], notes: Notes) -> None:
        self.source = source
        self.notes = notes
        self.session: Session | None = None
        self.usage: dict[str, tuple[float, float]] = {}
        """Process name to (CPU percent of one core, memory in MB), filled in by the supervisor."""
        self._states: dict[str, str] = {}
        self._results: list[Affect] = []
        self._latency: dict[str, list[float]] = defaultdict(list)
        self._faces = self._present = self._skipped = self._rows = self._tentative = 0
        self._spans: dict[str, list[int]] = {}
        self._lost: dict[str, float] = {}
        self._words: list[dict[str, Any]] = []
        self._seen: dict[tuple[str, str], int] = {}
        self._missing: dict[str, int] = defaultdict(int)
        self._guessed = ""
        self._drift = 0.0
        self._gaps: list[dict[str, Any]] = []

    def update(self, received: Received, stamp: int) -> None:
        """Takes a message; `stamp` is the session time (ns) at which it reached this listener."""
        message = received.message
        if isinstance(message, Session):
            self.session = message
        elif isinstance(message, Status):
            if message.worker == "fusion":
                self._lost = {key[:-5]: value for key, value in message.metrics.items() if key.endswith("_lost")}
            self._drift = message.metrics.get("drift_ppm", self._drift)
            self._note(message)
        elif isinstance(message, (Face, Voice, Words, Affect, Gap)):
            self._number(message.stream, message.instance, message.seq)
            if isinstance(message, Face):
                self._face(message)
            elif isinstance(message, Voice):
                self._rows += message.rows
                self._span("voice", message.begin, message.begin + message.rows * message.hop)
                self._stage("voice", message.sent - message.grabbed)
            elif isinstance(message, Words):
                self._heard(message)
            elif isinstance(message, Gap):
                self._gaps.append({"stream": message.stream, "begin": _s(message.begin), "end": _s(message.end), "reason": message.reason})
            else:
                self._result(message, stamp)

    def _note(self, status: Status) -> None:
        """Trouble and its end, once each: a device that is looked for in vain says so at every attempt."""
        before, self._states[status.worker] = self._states.get(status.worker), status.state
        if (before in TROUBLE) != (status.state in TROUBLE):
            text = "works again" if status.state == "running" else status.text or status.state
            self.notes.add(f"{status.worker}: {text} (at {max(0, status.sent) / SECOND:.1f} s)")

    def _number(self, stream: str, instance: str, seq: int) -> None:
        expected = self._seen.get((stream, instance), seq)
        self._missing[stream] += max(0, seq - expected)
        self._seen[stream, instance] = max(expected, seq + 1)

    def _face(self, message: Face) -> None:
        self._faces += 1
        self._present += message.face is not None
        self._skipped = message.skipped
        self._span("face", message.begin, message.end)
        self._stage("face", message.sent - message.grabbed)

    def _heard(self, message: Words) -> None:
        self._tentative += bool(message.tentative)
        for word in message.committed:
            self._words.append(
                {"text": word.text, "begin": _s(word.begin), "end": _s(word.end), "probability": round(word.probability, ROUNDING)})
            if self._clocked:
                self._stage("word_to_committed", message.sent - word.end)
        newest = message.tentative[-1].text if message.tentative else ""
        if newest and newest != self._guessed and self._clocked:  # a guess is told again with every message: its first time counts
            self._stage("word_to_tentative", message.sent - message.tentative[-1].end)
        self._guessed = newest

    def _result(self, message: Affect, stamp: int) -> None:
        self._results.append(message)
        self._stage("window", message.started - message.closed)
        self._stage("engine", message.computed - message.started)
        self._stage("publish", message.sent - message.computed)
        self._stage("delivery", stamp - message.sent)
        if not message.final and self._clocked:
            prompt = [newest for name, newest in message.newest.items() if name != "words"]
            if prompt:
                last = max(prompt, key=lambda newest: newest.sent)
                self._stage("hub", last.received - last.sent)
                self._stage("wait", message.closed - last.received)
                self._stage("sample_to_provisional", stamp - max(newest.end for newest in prompt))
        if self._clocked:
            self._stage("window_to_final" if message.final else "window_to_provisional", stamp - message.t)

    @property
    def _clocked(self) -> bool:
        return self.session is not None and self.session.speed == 1.0

    def _stage(self, name: str, duration: int) -> None:
        self._latency[name].append(duration / 1e6)

    def _span(self, name: str, begin: int, end: int) -> None:
        span = self._spans.setdefault(name, [begin, end])
        span[1] = max(span[1], end)

    def _rate(self, name: str, count: int) -> float:
        begin, end = self._spans.get(name, (0, 0))
        # n instants span n - 1 intervals; n rows with extent span n.
        return round((count - (name == "face")) * SECOND / (end - begin), 2) if end > begin else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The report (see README for every field). Times are seconds from the source's start, latencies ms."""
        finals = [r for r in self._results if r.final]
        last = self._results[-1] if self._results else None
        span = (max(r.t for r in self._results) - min(r.t for r in self._results)) / SECOND if self._results else 0.0
        return {
            "version": VERSION, "source": self.source, "speed": self.session.speed if self.session else None,
            "model": last.model if last else None, "backend": last.backend if last else None, "features": last.features if last else {},
            "results": len(self._results), "rate_hz": round((len(finals) - 1) / span, 2) if span else 0.0,
            "windows": len({r.window for r in self._results}), "provisionals": len(self._results) - len(finals), "finals": len(finals),
            "finals_changed": sum(r.changed for r in finals),
            "streams": {
                "face": {"messages": self._faces, "rate_hz": self._rate("face", self._faces), "lost": self._loss("face"),
                         "skipped": self._skipped, "present": round(self._present / self._faces, ROUNDING) if self._faces else 0.0},
                "voice": {"messages": self._rows, "rate_hz": self._rate("voice", self._rows), "lost": self._loss("voice")},
                "words": {"committed": len(self._words), "tentative": self._tentative, "lost": self._loss("words")},
                "affect": {"lost": self._missing["affect"]},
            },
            "gaps": self._gaps, "notes": self.notes.lines,
            "latency_ms": {name: _spread(values) for name, values in sorted(self._latency.items())},
            "cpu_percent": {name: round(cpu, 1) for name, (cpu, _) in self.usage.items()},
            "memory_mb": {name: round(memory, 1) for name, (_, memory) in self.usage.items()},
            "audio_drift_ppm": round(self._drift, 1),
            "timeline": [self._line(r) for r in self._results],
            "words": self._words,
        }

    def summary(self) -> str:
        """A few lines for people: results, losses, and what each process cost."""
        finals = sum(r.final for r in self._results)
        cpu = {name: share for name, (share, _) in self.usage.items()}
        whole = sum(share for name, share in cpu.items() if name != "transcriber")
        provisionals = len(self._results) - finals
        lines = [f"{provisionals} provisional and {finals} final results, {len(self._words)} words, {self.lost} messages lost",
                 f"{'process':<12}{'CPU %':>7}{'MB':>7}"]
        lines += [f"{name:<12}{share:>7.1f}{memory:>7.0f}" for name, (share, memory) in self.usage.items()]
        lines.append(f"of one core, all but the transcriber: {whole:.0f} %")
        return "\n".join(lines)

    @property
    def lost(self) -> int:
        """Messages lost in all streams together."""
        return sum(self._loss(stream) for stream in ("face", "voice", "words")) + self._missing["affect"]

    def _loss(self, stream: str) -> int:
        """Lost on the way to the engine or to this listener, whichever is more."""
        return max(int(self._lost.get(stream, 0)), self._missing[stream])

    @staticmethod
    def _line(result: Affect) -> dict[str, Any]:
        return {
            "t": _s(result.t), "final": result.final, "closed_by": result.closed_by, "top": result.top,
            # Unrounded: two runs over the same files must agree bit for bit, and the report is where that is seen.
            "probabilities": result.probabilities, "valence": result.valence, "arousal": result.arousal,
            "weights": result.weights, "present": result.present,
            "samples": {MODALITY_OF[name]: n for name, n in result.samples.items()}, "changed": result.changed,
        }

    def save(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(msgspec.json.format(msgspec.json.encode(self.to_dict()), indent=1) + b"\n")


def _s(ns: int) -> float:
    return round(ns / SECOND, 4)


def _spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    picked = {f"p{q}": ordered[min(len(ordered) - 1, len(ordered) * q // 100)] for q in (50, 95, 99)}
    return {name: round(value, ROUNDING) for name, value in {**picked, "max": ordered[-1]}.items()}

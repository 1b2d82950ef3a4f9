"""What a page is told, as JSON: the hello with the last minute, then small updates. Times are milliseconds of session time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from models.emotions import EMOTIONS, MODALITIES
from stream.clock import host_identity, monotonic
from stream.dashboard.watcher import Watcher
from stream.protocol import MILLISECOND, SECOND, Affect, Word
from stream.state import State

VERSION = 1
BEHIND = 20
"""Readings told at once at most: a page that fell further behind misses the older ones."""
SLOW = 0.45
"""Seconds between updates of what changes slowly: streams, workers, session."""
STREAMS = {"face": "camera", "voice": "microphone", "words": "transcriber", "affect": "fusion"}
"""Each stream and the worker that makes it."""

encode = msgspec.json.Encoder().encode


@dataclass
class Cursor:
    """How far one page has been told."""

    session: str = ""
    serial: int = 0
    words: int = 0
    revision: tuple[int, int] = (-1, -1)
    slow_at: float = 0.0


def update(watcher: Watcher, cursor: Cursor, now: float) -> bytes | None:
    """The next message for a page, or None when there is nothing new. `now`: monotonic seconds."""
    with watcher.lock:
        state = watcher.state
        state.tick(int(now * SECOND))
        session = state.session.session if state.session else ""
        told: dict[str, Any] = {}
        if session != cursor.session or not cursor.slow_at:
            told = _hello(watcher, state)
            cursor.session, cursor.serial, cursor.words, cursor.revision, cursor.slow_at = session, watcher.serial, 0, (-1, -1), 0.0
        rows = [message for serial, message in watcher.minute if serial > cursor.serial][-BEHIND:]
        cursor.serial = watcher.serial
        if rows:
            told["rows"] = [row(message) for message in rows]
            told["face"] = _face(state)
            told["standing"] = watcher.standing.current
            if newest := next((message for message in reversed(rows) if not message.final), None):
                told["stages"] = _stages(newest)
        if (revision := (state.spoken, hash(tuple(word.text for word in state.tentative)))) != cursor.revision:
            fresh = state.spoken - cursor.words
            told["words"] = [_word(word) for word in state.committed[-fresh:]] if fresh else []
            told["tentative"] = [word.text for word in state.tentative]
            cursor.words, cursor.revision = state.spoken, revision
        if now - cursor.slow_at >= SLOW:
            cursor.slow_at = now
            told |= _slow(watcher, state)
    return encode(told) if told else None


def row(message: Affect) -> list[Any]:
    """One reading in few bytes: t, final, top, valence, arousal, probabilities, weights, present (a bit a modality), changed."""
    return [
        message.t / MILLISECOND, int(message.final), EMOTIONS.index(message.top) if message.top in EMOTIONS else -1,
        _round(message.valence), _round(message.arousal), [round(message.probabilities.get(name, 0.0), 3) for name in EMOTIONS],
        [round(message.weights.get(name, 0.0), 3) for name in MODALITIES],
        sum(1 << k for k, name in enumerate(MODALITIES) if name in message.present), int(message.changed),
    ]  # fmt: skip


def _hello(watcher: Watcher, state: State) -> dict[str, Any]:
    """Everything anew: the last minute once, finals in place of their provisionals."""
    newest: dict[int, Affect] = {}
    for _, message in watcher.minute:
        if message.final or message.t not in newest or not newest[message.t].final:
            newest[message.t] = message
    missing = watcher.giver_missing
    if state.session and state.session.host != host_identity():
        missing = "the session runs on another machine: open the page that is served there"
    return {
        "hello": VERSION, "emotions": EMOTIONS, "modalities": MODALITIES, "minute": [row(newest[t]) for t in sorted(newest)],
        "ready": not missing, "why": missing,
    }


def _slow(watcher: Watcher, state: State) -> dict[str, Any]:
    session, current = state.session, state.current
    now = watcher.clock.now() if watcher.clock else None
    return {
        "session": None if session is None else {
            "name": session.session, "begun": session.epoch is not None, "wall": session.wall, "speed": session.speed,
            "window": session.window / MILLISECOND, "hop": session.hop / MILLISECOND, "connected": state.connected, "ended": state.ended,
            "now": None if now is None else now / MILLISECOND, "hub": state.hub,
            "clock_uncertainty": watcher.clock.uncertainty() / MILLISECOND if watcher.clock else None,
        },
        "streams": {name: _stream(state, name, now) for name in STREAMS},
        "workers": {name: dict(zip(("state", "text"), state.worker_state(name), strict=True)) for name in STREAMS.values()},
        "sources": {name: session.streams[name].source for name in ("face", "voice") if session and name in session.streams},
        "counts": {"provisionals": state.provisionals, "finals": state.finals, "changed": state.changed},
        "latency": {name: {"p50": _round(state.stage(name), 1), "p95": _round(state.stage(name, 0.95), 1)}
                    for name in ("face", "voice", "window", "final", "model")},
        "engine": None if current is None else {"model": current.model, "backend": current.backend, "features": current.features},
    }  # fmt: skip


def _stream(state: State, name: str, now: int | None) -> dict[str, Any]:
    flow = state.flows[name]
    rate = flow.recent.rate(state.now)
    session = state.session
    return {
        "declared": session is None or name == "affect" or name in session.lateness,
        "rate": None if rate is None or flow.ended else round(rate, 1),
        "age": round((now - flow.end) / MILLISECOND, 1) if now is not None and flow.end and not flow.ended else None,
        "lag": _round(state.lag(name), 1), "lost": flow.lost, "skipped": flow.skipped, "uncertainty": flow.uncertainty / MILLISECOND,
        "gap": flow.gap, "ended": flow.ended, "present": flow.present, "silent": _round(state.silent(name), 1), "spoken": state.spoken,
    }


def _face(state: State) -> dict[str, Any] | None:
    flow = state.flows["face"]
    face = state.face if flow.present and state.now - flow.heard < SECOND else None
    if face is None:
        return None
    return {"box": [round(edge, 4) for edge in face.box], "quality": round(face.quality, 2), "track": face.track}


def _stages(message: Affect) -> dict[str, Any]:
    """When the newest sample of each stream passed each stage, and the window after it (ms)."""
    return {
        "streams": {name: [moment / MILLISECOND for moment in (newest.end, newest.grabbed, newest.sent, newest.received)]
                    for name, newest in message.newest.items()},
        "window": [moment / MILLISECOND for moment in (message.t, message.closed, message.started, message.computed, message.sent)],
    }  # fmt: skip


def _word(word: Word) -> list[Any]:
    return [word.text, word.begin / MILLISECOND, word.end / MILLISECOND]


def _round(value: float | None, digits: int = 3) -> float | None:
    return None if value is None else round(value, digits)


def health(watcher: Watcher, pages: int) -> tuple[bool, dict[str, Any]]:
    """Whether all is well, and the state of every stream and worker."""
    with watcher.lock:
        state = watcher.state
        state.tick(monotonic())
        told = _slow(watcher, state)
    session = told["session"]
    failed = [name for name, worker in told["workers"].items() if worker["state"] == "failed"]
    well = bool(session and session["connected"] and not failed)
    cause = "no hub answers" if not (session and session["connected"]) else f"failed: {', '.join(failed)}" if failed else ""
    return well, {"ok": well, "cause": cause, "pages": pages, **told}

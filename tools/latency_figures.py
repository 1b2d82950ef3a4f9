"""What a captured session says of latency: pure arithmetic on stamped messages. Times are ns of session time, figures ms.

*Aware* figures are what a subscriber lives through. *Unaware* ones are those of a machine that computes in no time (the clock stops
while anything computes): what the rules of windows and of the recogniser cost by themselves. The difference is the machine's.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stream.protocol import MILLISECOND, SECOND, Affect, Face, Header, Message, Voice, Word, Words
from stream.schedule import PROVISIONAL_AFTER

Heard = Sequence[tuple[int, Message]]
"""Messages in order of arrival, each with the session time of its arrival."""
Samples = dict[str, list[float]]
"""Figure name to its measurements; infinite where what was waited for never came."""

STAGES = ("grabbed", "features", "hub", "window", "tensors", "engine", "publish", "client")
"""From the world to a subscriber: in the worker's memory; features made and sent; received by the engine; window closed; assembled;
computed; sent; received here."""
SAME_WORD = 300 * MILLISECOND
"""A word heard this close to a true word of the same text is that word."""


@dataclass(frozen=True)
class Event:
    """The drawn face turns to `emotion`: it begins to move at `begin`, passes half its apex at `onset`, moves on at `end`."""

    emotion: str
    begin: int
    onset: int
    end: int


@dataclass(frozen=True)
class Truth:
    """What happens in a clip, and when."""

    events: tuple[Event, ...] = ()
    words: tuple[Word, ...] = ()

    @classmethod
    def beside(cls, clip: Path) -> Truth:
        """From the clip's timeline, a JSON file of the same name; nothing where there is none."""
        file = clip.with_suffix(".json")
        if not file.exists():
            return cls()
        table = json.loads(file.read_text())
        # Before the first segment there was nothing to change from.
        events = [Event(s["emotion"], *(round(s[key] * SECOND) for key in ("begin", "onset", "end"))) for s in table["segments"][1:]]
        words = [Word(text=w["text"], begin=round(w["begin"] * SECOND), end=round(w["end"] * SECOND), probability=1.0)
                 for w in table["words"]]
        return cls(tuple(events), tuple(words))


def spread(values: Sequence[float]) -> dict[str, float | int | None]:
    """Count and nearest-rank quantiles, rounded to a microsecond; None where the quantile was never reached."""
    ordered = sorted(values)
    found: dict[str, float | int | None] = {"n": len(ordered)}
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)):
        value = ordered[math.ceil(share * len(ordered)) - 1] if ordered else math.inf
        found[name] = None if math.isinf(value) else round(value, 3)
    return found


def samples(heard: Heard, truth: Truth) -> Samples:
    """Every measurement of one session."""
    found: Samples = defaultdict(list)
    results = [(at, m) for at, m in heard if isinstance(m, Affect)]
    hop = next((m.t // m.window for _, m in results), SECOND)
    early, late = closings(heard, hop, final=False), closings(heard, hop, final=True)
    for name, value in (*_stages(results, hop), *_features(heard), *_overhead(heard, results), *_words(heard, truth, results)):
        found[name].append(value / MILLISECOND)
    for final, closed in ((False, early), (True, late)):
        kind = "final" if final else "provisional"
        for at, result in results:
            if result.final == final:
                found[f"window end to {kind}, aware"].append((at - result.t) / MILLISECOND)
                found[f"window end to {kind}, unaware"].append((closed[result.window] - result.t) / MILLISECOND)
        for event in truth.events:
            for name, shown in (("", first_shown(event, results, final)), (" half risen", half_risen(event, results, final))):
                if shown is not None:
                    at, k = shown
                    found[f"face event to {kind}{name}, aware"].append((at - event.onset) / MILLISECOND)
                    found[f"face event to {kind}{name}, unaware"].append((closed.get(k, math.inf) - event.onset) / MILLISECOND)
    return dict(found)


def closings(heard: Heard, hop: int, final: bool) -> dict[int, int]:
    """When each window would close if nothing took time to compute: its number to session time.

    Content counts as complete the moment it has happened: a frame or a hop at its end, words at the end of the sound they were
    made from. A provisional closes 40 ms after its end at the latest (TIME: provisional, final).
    """
    complete: dict[str, list[tuple[int, int]]] = defaultdict(list)  # stream: (happened, complete up to)
    last = 0
    for _, message in heard:
        if isinstance(message, Face):
            complete["face"].append((message.end, message.end))
        elif isinstance(message, Voice):
            end = message.begin + message.rows * message.hop
            complete["voice"].append((end, end))
        elif isinstance(message, Words):
            complete["words"].append((message.heard, message.watermark))
        elif isinstance(message, Affect):
            last = max(last, message.window)
    content_end = max((happened for moments in complete.values() for happened, _ in moments), default=0)
    found = {}
    cursors = {name: 0 for name in complete if final or name != "words"}
    for k in range(1, last + 1):
        t = k * hop
        at = t
        for name, cursor in cursors.items():
            moments = complete[name]
            while cursor < len(moments) and moments[cursor][1] < t:
                cursor += 1
            cursors[name] = cursor
            at = max(at, moments[cursor][0] if cursor < len(moments) else content_end)
        found[k] = at if final else min(at, t + PROVISIONAL_AFTER)
    return found


def first_shown(event: Event, results: Sequence[tuple[int, Affect]], final: bool) -> tuple[float, int] | None:
    """When the first result that names the event's emotion arrived, and its window; (inf, 0) when none did while it lasted.

    None when the results said so before the face began to move: then nothing can be told.
    """
    before: str | None = None
    for at, result in results:
        if result.final != final or result.t > event.end:
            continue
        if result.t <= event.begin:
            before = result.top
        elif before == event.emotion:
            return None
        elif result.top == event.emotion:
            return at, result.window
    return None if before == event.emotion else (math.inf, 0)


LEAST_RISE = 0.1
"""A probability that rises less than this has not answered to the event."""


def half_risen(event: Event, results: Sequence[tuple[int, Affect]], final: bool) -> tuple[float, int]:
    """When the event emotion's probability passed half its way from before the event to its highest during it, and in which window.

    The reading's counterpart of the event's own instant, half its apex: how fast the model answers, whatever it is most sure of.
    (inf, 0) when it did not rise.
    """
    own = [(at, r.window, r.t, r.probabilities.get(event.emotion, 0.0)) for at, r in results if r.final == final and r.t <= event.end]
    before = next((share for _, _, t, share in reversed(own) if t <= event.begin), 0.0)
    during = [(at, k, share) for at, k, t, share in own if t > event.begin]
    peak = max((share for _, _, share in during), default=0.0)
    if peak - before < LEAST_RISE:
        return math.inf, 0
    return next((at, k) for at, k, share in during if share >= (before + peak) / 2)


def _stages(results: Sequence[tuple[int, Affect]], hop: int) -> Iterator[tuple[str, float]]:
    """Of the newest frame and the newest hop of sound in each provisional: each stage by itself, and the age after it."""
    for at, result in results:
        for stream in ("face", "voice"):
            newest = result.newest.get(stream)
            if result.final or newest is None or result.t - newest.end >= hop:
                continue
            before = newest.end
            passed = (newest.grabbed, newest.sent, newest.received, result.closed, result.started, result.computed, result.sent, at)
            for stage, moment in zip(STAGES, passed, strict=True):
                yield f"{stream} stage, {stage}", moment - before
                yield f"{stream} age, {stage}", moment - newest.end
                before = moment


def _features(heard: Heard) -> Iterator[tuple[str, float]]:
    for _, message in heard:
        if isinstance(message, (Face, Voice)):
            yield f"{message.stream} grabbed to features", message.sent - message.grabbed


def _overhead(heard: Heard, results: Sequence[tuple[int, Affect]]) -> Iterator[tuple[str, float]]:
    """What hub and windows add: from the message that completes a provisional's window to the result, computing excluded.

    A window closed by the 40 ms rule is complete when they are over.
    """
    sent: dict[str, list[tuple[int, int]]] = defaultdict(list)  # stream: (watermark, sent)
    for _, message in heard:
        if isinstance(message, Header) and message.stream in ("face", "voice"):
            sent[message.stream].append((message.watermark, message.sent))
    for _, result in results:
        if result.final or not sent:
            continue
        complete = result.t + PROVISIONAL_AFTER
        if result.closed_by == "watermark":
            complete = max(next((at for mark, at in moments if mark >= result.t), 0) for moments in sent.values())
        yield "hub and windows, without the engine", result.sent - complete - (result.computed - result.started)


def _words(heard: Heard, truth: Truth, results: Sequence[tuple[int, Affect]]) -> Iterator[tuple[str, float]]:
    """From the end of each spoken word to its first guess, its commitment, and the results that hold it."""
    messages = [(at, m) for at, m in heard if isinstance(m, Words)]
    for committed_at, message in messages:
        for word in message.committed:
            end = _true_end(word, truth)
            if end is None:
                continue
            guessed_at, guess = next((at, m) for at, m in messages if any(_same(word, w) for w in (*m.tentative, *m.committed)))
            yield "word to tentative, aware", guessed_at - end
            yield "word to tentative, unaware", guess.heard - end
            yield "word to committed, aware", committed_at - end
            yield "word to committed, unaware", message.heard - end
            yield "committed word, recogniser and hub", committed_at - message.heard
            middle = (word.begin + word.end) // 2
            held = (at for at, r in results if not r.final and "words" in r.newest and r.newest["words"].end > middle)
            yield "word to provisional that holds it", next(held, math.inf) - end
            yield "word to final that holds it", next((at for at, r in results if r.final and r.t >= word.end), math.inf) - end


def _true_end(word: Word, truth: Truth) -> int | None:
    """When a recognised word ended, by the clip's timeline where there is one; None for a word that was not said."""
    if not truth.words:
        return word.end
    said = [w for w in truth.words if w.text == word.text and abs(w.begin - word.begin) <= SAME_WORD]
    return min(said, key=lambda w: abs(w.begin - word.begin)).end if said else None


def _same(a: Word, b: Word) -> bool:
    """The same word at the same place, as a recogniser's guesses wander."""
    return a.text == b.text and a.begin < b.end and b.begin < a.end


def rhythm(heard: Heard) -> dict[str, float]:
    """How regularly provisionals arrive: rate (Hz) and standard deviation of the intervals (ms). Empty for fewer than three."""
    arrivals = [at for at, m in heard if isinstance(m, Affect) and not m.final]
    intervals = [(b - a) / MILLISECOND for a, b in itertools.pairwise(arrivals)]
    if len(intervals) < 2:
        return {}
    return {"rate_hz": round(1000 / statistics.fmean(intervals), 3), "jitter_ms": round(statistics.pstdev(intervals), 3)}


def closed_by(heard: Heard) -> dict[str, Any]:
    """How many provisionals were closed because their streams had passed (`watermark`) and because 40 ms were over (`time`), and
    how many windows were heard of by their final alone (`skipped`: the engine leaves out a provisional it is too late for)."""
    results = [m for _, m in heard if isinstance(m, Affect)]
    kinds = [m.closed_by for m in results if not m.final]
    skipped = {m.window for m in results if m.final} - {m.window for m in results if not m.final}
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))} | {"skipped": len(skipped)}

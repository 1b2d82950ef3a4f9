"""How many sessions one engine holds: windows due at 10 Hz, answered in time, on a clock that runs with the thread's own work.

Computing is real and measured in processor time; waiting is not waited for. So the figure says what a core of its own would hold, whatever
else the machine does meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from models.engine import Engine
from models.runtime.batching import Batcher
from models.window import Window

HOP, LIMIT, SHARE = 0.1, 0.1, 0.99
"""Seconds between a session's windows, seconds to answer in, share to be answered so."""


class Held(NamedTuple):
    sessions: int
    met: float
    """Share of windows answered within the limit."""
    p50_ms: float
    p99_ms: float
    """Due to answered."""
    busy: float
    """Share of the time that the engine computes."""


def hold(
    sessions: int, engines: Mapping[int, Engine], windows: Sequence[Window], patience: float = 0.0, seconds: float = 3.0, seed: int = 0,
    clock: Callable[[], float] = time.thread_time,
) -> Held:
    """So many sessions for so long; they send `windows` (B = 1) in turn. `clock` tells what computing takes."""
    draw = np.random.default_rng(seed)
    phases = draw.random(sessions) * HOP
    due = sorted((k * HOP + phase, n) for n, phase in enumerate(phases) for k in range(int(seconds / HOP)))
    batcher, now, busy, came, ages = Batcher(engines, patience), 0.0, 0.0, 0, []
    while came < len(due) or len(batcher):
        while came < len(due) and due[came][0] <= now:
            batcher.add(due[came], windows[came % len(windows)], due[came][0])
            came += 1
        wait = batcher.wait(now)
        if wait != 0:
            now = min(now + wait if wait is not None else np.inf, due[came][0] if came < len(due) else np.inf)
            continue
        started = clock()
        answers = batcher.run(now)
        took = clock() - started
        now, busy = now + took, busy + took
        ages += [now - at for (at, _), _ in answers]
    p50, p99 = np.quantile(ages, (0.5, 0.99)) * 1e3
    return Held(sessions, float((np.array(ages) <= LIMIT).mean()), float(p50), float(p99), busy / now)


def capacity(
    engines: Mapping[int, Engine], windows: Sequence[Window], patience: float = 0.0, seconds: float = 3.0, seed: int = 0,
    clock: Callable[[], float] = time.thread_time,
) -> Held:
    """The most sessions of which enough windows are answered in time."""
    best, low, high = hold(1, engines, windows, patience, seconds, seed, clock), 1, 2
    while (held := hold(high, engines, windows, patience, seconds, seed, clock)).met >= SHARE:
        best, low, high = held, high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        held = hold(middle, engines, windows, patience, seconds, seed, clock)
        if held.met >= SHARE:
            best, low = held, middle
        else:
            high = middle
    return best

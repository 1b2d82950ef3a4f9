"""Many sessions through one engine: windows that are due share a batch, and none waits long for company."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping

import numpy as np

from models.engine import Engine, Reading
from models.window import Sequence, Window


class Batcher:
    """Windows in order of arrival, computed as many at a time as there is a program for.

    A window waits for company at most `patience` seconds, and after that only for what came before it. On one processor core batches
    are no faster than windows one by one, and `patience` 0 is right; a GPU computes 8 in little more time than 1. A window's result in
    a batch is equal to the one it has alone up to rounding, so a session whose finals must repeat bit for bit has an engine to itself.
    """

    def __init__(self, engines: Mapping[int, Engine], patience: float = 0.0) -> None:
        """`engines` by how many windows their program takes; 1 must be among them."""
        if 1 not in engines or any(engine.program.batch != size for size, engine in engines.items()):
            raise ValueError(f"engines for {sorted(engines)} windows: one for 1 is needed, each under the size of its program")
        self._engines, self._sizes, self.patience = dict(engines), sorted(engines, reverse=True), patience
        self._waiting: deque[tuple[float, Hashable, Window]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: Hashable, window: Window, now: float) -> None:
        """One window (B = 1) of the session `key`, due at `now` seconds on any clock."""
        self._waiting.append((now, key, window))

    def wait(self, now: float) -> float | None:
        """Seconds until `run` has something to do, 0 for at once; None when no window waits."""
        if not self._waiting:
            return None
        return 0.0 if len(self._waiting) >= self._sizes[0] else max(0.0, self._waiting[0][0] + self.patience - now)

    def run(self, now: float) -> list[tuple[Hashable, Reading]]:
        """Computes one batch if one is due: the readings by session, oldest window first. Call again until `wait` is not 0."""
        if self.wait(now) != 0:
            return []
        size = next(size for size in self._sizes if size <= len(self._waiting))
        taken = [self._waiting.popleft() for _ in range(size)]
        windows = [window for _, _, window in taken]
        joined = Window(*(Sequence(*map(np.concatenate, zip(*sequences, strict=True))) for sequences in zip(*windows, strict=True)))
        reading = self._engines[size](joined)
        return [(key, Reading(*(part[k:k + 1] for part in reading))) for k, (_, key, _) in enumerate(taken)]

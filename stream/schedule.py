"""When the windows of a session are due, and in which order (TIME: provisional, final)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from stream.inlet import Inlet
from stream.protocol import FOREVER, MILLISECOND, SECOND, Session

PROVISIONAL_AFTER = 40 * MILLISECOND
STALE = 10
"""A live provisional this many hops late is left out, and counted: the newest is wanted."""
PATIENCE = SECOND
"""How long past its latest moment a final waits for provisionals to be computed."""
TO_ONE = 3
"""Overdue finals to one provisional."""

Closing = Literal["watermark", "lateness", "time"]


class Due(NamedTuple):
    """Window k, ending at k * hop, is to be computed now."""

    k: int
    final: bool
    closed_by: Closing


class Schedule:
    """Names each window of the grid once as a provisional and once as a final, by what its streams have told.

    `now` is session time, None in a session without a clock; `real` is real time in ns, for signs of life only.
    """

    def __init__(self, inlets: Mapping[str, Inlet], declared: Sequence[str], session: Session) -> None:
        self._inlets, self._declared = inlets, declared
        self.hop, self.lossless = session.hop, session.lossless
        self.next_final = self.next_provisional = session.last_final // session.hop + 1
        self._in_a_row = 0
        """Finals since the last provisional."""
        self.skipped = 0
        """Live provisionals left out because the engine was too late for them."""

    @property
    def closed(self) -> int:
        """Session time up to which every final is out."""
        return (self.next_final - 1) * self.hop

    def start_at(self, now: int) -> None:
        """Joined a running session: windows whose finals are long past are not made up for."""
        first = max(self.next_final, (now - max(inlet.lateness for inlet in self._waited())) // self.hop + 1)
        self.next_final = self.next_provisional = first

    def due(self, now: int | None, real: int, most: int = 1) -> list[Due]:
        """Windows to compute now, at most `most`. Each is named once; those of a kind come in order."""
        for inlet in self._inlets.values():
            inlet.expire(now)
        found: list[Due] = []
        while len(found) < most and (one := self._next(now, real)):
            found.append(one)
        return found

    def _next(self, now: int | None, real: int) -> Due | None:
        """Provisionals go first, being what is live. Where the engine is too slow for both kinds, finals that are overdue go before
        them, three to one: else they would wait until their rows are forgotten."""
        closing = self._prompt(now)
        if closing and not (self._in_a_row < TO_ONE and self._overdue(now)):
            self._in_a_row = 0
            self.next_provisional += 1
            return Due(self.next_provisional - 1, False, closing)
        if self.next_final < self.next_provisional and (closing := self._final(now, real)):
            self._in_a_row += 1
            self.next_final += 1
            return Due(self.next_final - 1, True, closing)
        return None

    def _prompt(self, now: int | None) -> Closing | None:
        """What closes the next provisional, those that are too late for anybody left out."""
        while self.next_provisional <= self._last_window() and (closing := self._provisional(now)):
            if now is None or self.lossless or (now - self.next_provisional * self.hop) // self.hop <= STALE:
                return closing
            self.skipped += 1
            self.next_provisional += 1
        return None

    def _overdue(self, now: int | None) -> bool:
        """Whether the next final could have been computed a while ago, whatever its streams did."""
        if now is None or self.lossless or self.next_final >= self.next_provisional:
            return False
        return now > self.next_final * self.hop + max(self._inlets[name].lateness for name in self._declared) + PATIENCE

    def next_time(self) -> int:
        """Session time at which the next window falls due if nothing else comes."""
        return self.next_provisional * self.hop + PROVISIONAL_AFTER

    @property
    def finished(self) -> bool:
        """Every declared stream has ended and the last final is out."""
        return self._last_window() < self.next_final and all(self._inlets[name].ended_at is not None for name in self._declared)

    def _last_window(self) -> int:
        """Number of windows there will be: floor(duration / hop) once every declared stream has ended, else no limit."""
        ends = [self._inlets[name].ended_at for name in self._declared]
        known = [end for end in ends if end is not None]
        return max(known) // self.hop if len(known) == len(ends) and known else FOREVER

    def _provisional(self, now: int | None) -> Closing | None:
        t = self.next_provisional * self.hop
        prompt = [self._inlets[name] for name in self._declared if name != "words"] or self._waited()
        if all(inlet.ended_at is not None and inlet.ended_at < t for inlet in prompt):
            return None
        if all(inlet.watermark >= t for inlet in prompt):
            return "watermark"
        # A file may end before this window does: there, somebody must have shown that its content goes on so far.
        goes_on = not self.lossless or any(inlet.watermark >= t and inlet.ended_at is None for inlet in prompt)
        return "time" if now is not None and now >= t + PROVISIONAL_AFTER and goes_on else None

    def _final(self, now: int | None, real: int) -> Closing | None:
        t = self.next_final * self.hop
        closing: Closing = "watermark"
        for inlet in self._waited():
            if inlet.watermark >= t:
                continue
            expired = now is not None and not self.lossless and now > t + inlet.lateness
            if not expired and not (inlet.dead(real) and (now is None or now > t)):
                return None
            closing = "lateness"
        return closing

    def _waited(self) -> list[Inlet]:
        return [self._inlets[name] for name in self._declared]

"""Changes of emotion that an app can act on: steady events made of ten flickering results a second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stream.protocol import SECOND


@dataclass(frozen=True)
class Change:
    """The emotion that stands has changed."""

    t: int
    """Session time (ns) at which the change was sure: the end of the window that completed the hold."""
    emotion: str | None
    """What stands from now on; None: nobody is there, nothing is usable, or no emotion stands out."""
    previous: str | None
    probability: float
    """Of `emotion` at `t`; 0 where it is None."""
    since: int
    """Session time (ns) of the first of the results that asked for it without a break."""


class Debouncer:
    """Turns results into changes, by hysteresis and a minimum hold.

    What stands falls when its probability drops below `leave`, or when another emotion reaches `enter`; what follows is the
    most probable emotion if that reaches `enter`, else None. Nothing changes before the results have asked for the same
    emotion for `hold` seconds of session time, so whatever stands, stands at least that long. A break in the results (a pause,
    a hub that was restarted) starts the hold anew.

    Raises ValueError unless 0 < leave <= enter <= 1 and hold >= 0.
    """

    BREAK = SECOND
    """Results further apart than this (ns) do not support each other."""

    def __init__(self, hold: float = 0.6, enter: float = 0.5, leave: float = 0.35) -> None:
        if not 0 < leave <= enter <= 1 or hold < 0:
            raise ValueError(f"expected 0 < leave <= enter <= 1 and hold >= 0, got leave={leave}, enter={enter}, hold={hold}")
        self.hold = round(hold * SECOND)
        self.enter = enter
        self.leave = leave
        self.current: str | None = None
        """What stands now."""
        self._wanted: str | None = None
        self._since = 0
        self._last: int | None = None

    def update(self, t: int, top: str | None, probabilities: Mapping[str, float]) -> Change | None:
        """Takes the result of the window that ends at `t` (ns); returns the change it completes, if any.

        `top` None means that nothing usable was in the window; `probabilities` are then ignored.
        """
        wanted = self._want(top, probabilities)
        unbroken = self._last is not None and 0 <= t - self._last <= self.BREAK
        if not unbroken or wanted != self._wanted:
            self._wanted, self._since = wanted, t
        self._last = t
        if wanted == self.current or t - self._since < self.hold:
            return None
        previous, self.current = self.current, wanted
        return Change(t, wanted, previous, probabilities.get(wanted, 0.0) if wanted else 0.0, self._since)

    def _want(self, top: str | None, probabilities: Mapping[str, float]) -> str | None:
        if top is None:
            return None
        if probabilities.get(top, 0.0) >= self.enter:
            return top
        if self.current is not None and probabilities.get(self.current, 0.0) >= self.leave:
            return self.current
        return None

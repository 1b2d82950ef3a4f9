"""Session time: integer nanoseconds since the session's epoch on the hub host's monotonic clock."""

from __future__ import annotations

import os
import platform
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from stream.protocol import SECOND


def monotonic() -> int:
    """This host's monotonic clock (ns). The same clock for every process of a host."""
    return time.monotonic_ns()


def host_identity() -> str:
    """Names this host's monotonic clock: equal in two processes exactly when they share that clock."""
    if given := os.environ.get("AFFECT_HOST_IDENTITY"):
        return given
    boot = Path("/proc/sys/kernel/random/boot_id")
    if boot.exists():
        space = Path("/proc/self/ns/time")
        return f"{boot.read_text().strip()}/{os.readlink(space) if space.exists() else ''}"
    return f"{platform.node()}/{platform.system()}"


@dataclass(frozen=True)
class Probe:
    """One round trip to the hub's clock service: sent and received on our clock, answered on the hub's (ns)."""

    sent: int
    answered: int
    received: int

    @property
    def round_trip(self) -> int:
        return self.received - self.sent

    @property
    def offset(self) -> int:
        """Hub clock minus ours, if both ways took equally long."""
        return self.answered - (self.sent + self.received) // 2


class HostOffset:
    """Offset of the hub's clock from ours, from repeated probes: the smallest recent round trip wins.

    Its error is at most half that round trip, plus what two free-running clocks can drift apart since then.
    """

    MAX_DRIFT_PPM = 100
    RECENT = 40

    def __init__(self) -> None:
        self._probes: deque[Probe] = deque(maxlen=self.RECENT)

    def add(self, probe: Probe) -> None:
        if probe.round_trip >= 0:
            self._probes.append(probe)

    def __len__(self) -> int:
        return len(self._probes)

    def best(self, now: int) -> Probe:
        """The probe with the smallest uncertainty at `now` (our clock). Raises ValueError without probes."""
        return min(self._probes, key=lambda probe: self._uncertainty(probe, now))

    def offset(self, now: int) -> int:
        return self.best(now).offset

    def uncertainty(self, now: int) -> int:
        return self._uncertainty(self.best(now), now)

    def _uncertainty(self, probe: Probe, now: int) -> int:
        return probe.round_trip // 2 + max(0, now - probe.received) * self.MAX_DRIFT_PPM // 1_000_000


class SessionClock:
    """Converts this host's monotonic clock to session time. Never goes back.

    `epoch` is the hub's monotonic clock at session time 0. `speed` scales file sessions (2.0: twice as fast as life);
    None is a session without a clock (`--speed max`), whose time is what its streams' stamps say: `now()` is then None.
    """

    def __init__(self, epoch: int, speed: float | None = 1.0, offset: HostOffset | None = None) -> None:
        self.epoch = epoch
        self.speed = speed
        self._offset = offset
        self._last = -(2**62)

    def at(self, stamp: int) -> int:
        """Session time of `stamp` on this host's monotonic clock. In a session without a clock: real nanoseconds since the epoch."""
        hub = stamp + (self._offset.offset(stamp) if self._offset else 0)
        elapsed = hub - self.epoch
        return elapsed if self.speed in (1.0, None) else int(elapsed * (self.speed or 1.0))

    def now(self) -> int | None:
        """Session time now, never less than before (an offset that was refined may not turn time back); None without a clock."""
        if self.speed is None:
            return None
        self._last = max(self._last, self.at(monotonic()))
        return self._last

    def stamp(self) -> int:
        """Like `now`, but real elapsed time where the session has no clock: for stamps that only measure stages."""
        self._last = max(self._last, self.at(monotonic()))
        return self._last

    def uncertainty(self) -> int:
        """Of the conversion alone (ns): 0 on the hub's own host."""
        return self._offset.uncertainty(monotonic()) if self._offset else 0

    def until(self, session_time: int) -> float:
        """Real seconds from now until `session_time`; 0 when it has passed or there is no clock."""
        if self.speed is None:
            return 0.0
        return max(0, session_time - self.at(monotonic())) / SECOND / self.speed


class SampleClock:
    """Session time of audio samples by their count, fitted to the clock.

    The device counts samples exactly but its crystal is off by some ppm, and an observation (samples so far, stamp) comes late by
    what the machine had else to do, never early. So the line through those of the last minute is the highest that lies under all of
    them (Moon, Skelly, Towsley 1999, "Estimation and removal of clock skew from network delay measurements"). Stamps handed out
    follow it, slewed so that they never go back and never jump. After an overflow the count no longer tells the time: `restart`
    anchors anew.
    """

    SPAN = 60 * SECOND
    SLEW, SETTLING = 500e-6, 0.04
    """Largest correction: 0.5 ms a second; 40 while the first two seconds show how late the anchor was."""
    KNOWN = 20
    """Observations (a tenth of a second apart) from which a slope is fitted."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._observed: deque[tuple[int, int]] = deque(maxlen=600)
        self._line: tuple[float, float] | None = None
        self._last: tuple[int, int] | None = None

    def restart(self) -> None:
        """Forget the anchor: samples were lost, or the device was opened again."""
        self._observed.clear()
        self._line = self._last = None

    def observe(self, count: int, stamp: int) -> None:
        """Sample number `count` was converted at session time `stamp` (ns)."""
        if self._observed and (count - self._observed[-1][0]) < self.rate // 10:
            return
        self._observed.append((count, stamp))
        while self._observed[-1][1] - self._observed[0][1] > self.SPAN:
            self._observed.popleft()
        self._line = None

    def _fit(self) -> tuple[float, float]:
        """Ns from the first observed stamp to the line at the first observed count, and ns a sample."""
        if self._line is None:
            count0, stamp0 = self._observed[0]
            points = [(count - count0, stamp - stamp0) for count, stamp in self._observed]
            slope = _slope_below(points) if len(points) >= self.KNOWN else SECOND / self.rate
            self._line = min(y - slope * x for x, y in points), slope
        return self._line

    @property
    def drift_ppm(self) -> float:
        """How much slower (+) or faster (-) the device's samples come than their nominal rate says, in parts a million; 0 until known."""
        if len(self._observed) < self.KNOWN:
            return 0.0
        return (self._fit()[1] * self.rate / SECOND - 1) * 1e6

    @property
    def jitter(self) -> int:
        """RMS distance of the observations from the fitted line (ns)."""
        if len(self._observed) < 2:
            return 0
        start, slope = self._fit()
        count0, stamp0 = self._observed[0]
        squares = [(stamp - stamp0 - start - (count - count0) * slope) ** 2 for count, stamp in self._observed]
        return int((sum(squares) / len(squares)) ** 0.5)

    def stamp(self, count: int) -> int:
        """Session time (ns) of sample number `count`, which never decreases from call to call. Raises ValueError before any observation."""
        if not self._observed:
            raise ValueError("a sample clock has no time before its first observation")
        start, slope = self._fit()
        count0, stamp0 = self._observed[0]
        fitted = stamp0 + int(start + (count - count0) * slope)
        if self._last is not None:
            last_count, last_stamp = self._last
            nominal = last_stamp + (count - last_count) * SECOND // self.rate
            slew = self.SLEW if len(self._observed) >= self.KNOWN else self.SETTLING
            allowed = int(abs(count - last_count) * SECOND / self.rate * slew) + 1
            fitted = max(last_stamp, min(nominal + allowed, max(nominal - allowed, fitted)))
        self._last = (count, fitted)
        return fitted


def _slope_below(points: list[tuple[int, int]]) -> float:
    """Slope of the line under all points, ordered by x, that comes closest to them: their lower hull's edge over the mean x."""
    hull: list[tuple[int, int]] = []
    for x, y in points:
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (x - hull[-1][0]) >= (y - hull[-1][1]) * (hull[-1][0] - hull[-2][0]):
            hull.pop()
        hull.append((x, y))
    mean = sum(x for x, _ in points) / len(points)
    right = next(k for k, (x, _) in enumerate(hull) if x >= mean)
    (x0, y0), (x1, y1) = hull[right - 1], hull[right]
    return (y1 - y0) / (x1 - x0)


class SuspendWatch:
    """Notices that the machine slept: the boot clock runs on while the monotonic clock stands still."""

    LIMIT = SECOND

    def __init__(self) -> None:
        self._gap = self._measure()

    @staticmethod
    def _measure() -> int:
        if not hasattr(time, "CLOCK_BOOTTIME"):
            return 0
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()

    def slept(self) -> int:
        """Nanoseconds slept since the last call, 0 if the machine did not sleep. A producer then begins a new segment."""
        gap = self._measure()
        slept, self._gap = gap - self._gap, gap
        return slept if slept > self.LIMIT else 0

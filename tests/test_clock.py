"""Clocks without sockets: session time, other hosts, sound by its sample count, a machine that sleeps."""

from __future__ import annotations

import random

import numpy as np
import pytest

from stream.clock import HostOffset, Probe, SampleClock, SessionClock, SuspendWatch, host_identity, monotonic
from stream.protocol import MILLISECOND, SECOND

RATE, HOP = 16000, 320


def heard(clock: SampleClock, seconds: float, late: list[int], ppm: float = 0.0, begin: int = 0) -> np.ndarray:  # type: ignore[type-arg]
    """Feeds hops observed `late` ns after they were due (in turn); returns by how much (ns) each stamp is off, per hop."""
    errors = []
    for k in range(begin, begin + int(seconds * 50)):
        truth = int(k * HOP * SECOND / RATE * (1 + ppm * 1e-6))
        clock.observe(k * HOP, truth + late[k % len(late)])
        errors.append(clock.stamp(k * HOP) - truth)
    return np.array(errors)


def test_sound_is_stamped_by_the_promptest_observations_not_by_the_mean() -> None:
    dice = random.Random(0)
    late = [dice.choice((0, 1, 1, 2, 60)) * MILLISECOND for _ in range(997)]  # a busy machine: one block in five is late
    errors = heard(SampleClock(RATE), 30, late)
    assert np.abs(errors[100:]).max() < 4 * MILLISECOND
    assert (np.diff(errors) + 20 * MILLISECOND > 0).all(), "stamps never go back"


def test_a_late_anchor_is_mended_within_two_seconds_without_a_jump() -> None:
    clock = SampleClock(RATE)
    errors = heard(clock, 4, [70 * MILLISECOND] + [0] * 10_000)
    assert errors[0] == 70 * MILLISECOND and np.abs(errors[100:]).max() < MILLISECOND
    assert np.abs(np.diff(errors)).max() <= 0.04 * 20 * MILLISECOND + 2


def test_a_crystal_is_followed_and_measured() -> None:
    clock = SampleClock(RATE)
    errors = heard(clock, 60, [0, MILLISECOND], ppm=150)
    assert clock.drift_ppm == pytest.approx(150, abs=10) and np.abs(errors[-500:]).max() < 3 * MILLISECOND
    assert SampleClock(RATE).drift_ppm == 0


def test_after_an_overflow_the_count_begins_anew() -> None:
    clock = SampleClock(RATE)
    heard(clock, 3, [0])
    clock.restart()
    with pytest.raises(ValueError, match="first observation"):
        clock.stamp(0)
    clock.observe(0, 7 * SECOND)
    assert clock.stamp(0) == 7 * SECOND and clock.stamp(RATE) == 8 * SECOND


def test_the_smallest_round_trip_tells_the_other_hosts_clock() -> None:
    offset, truth = HostOffset(), 5 * SECOND
    for there, back in ((40, 10), (1, 1), (30, 90)):  # milliseconds each way
        sent = monotonic()
        offset.add(Probe(sent, sent + there * MILLISECOND + truth, sent + (there + back) * MILLISECOND))
    now = monotonic()
    assert abs(offset.offset(now) - truth) <= offset.uncertainty(now) < 2 * MILLISECOND
    assert offset.uncertainty(now + 100 * SECOND) > offset.uncertainty(now), "free-running clocks drift apart"


def test_session_time_never_goes_back_when_an_offset_is_refined() -> None:
    offset, now = HostOffset(), monotonic()
    offset.add(Probe(now, now + 80 * MILLISECOND, now + 100 * MILLISECOND))
    clock = SessionClock(now, 1.0, offset)
    first = clock.stamp()
    offset.add(Probe(now, now - 400 * MILLISECOND, now + MILLISECOND))
    assert first <= clock.stamp() and clock.now() is not None


@pytest.mark.parametrize(("speed", "expected"), [(1.0, 2 * SECOND), (2.0, 4 * SECOND), (None, 2 * SECOND)])
def test_speed_scales_session_time(speed: float | None, expected: int) -> None:
    clock = SessionClock(monotonic(), speed)
    assert clock.at(clock.epoch + 2 * SECOND) == expected
    assert (clock.now() is None) == (speed is None)
    assert clock.until(10**15) == 0 if speed is None else clock.until(10**15) > 0


def test_sleep_is_noticed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asleep = 0
    monkeypatch.setattr(SuspendWatch, "_measure", staticmethod(lambda: asleep))
    watch = SuspendWatch()
    assert watch.slept() == 0
    asleep = 60 * SECOND
    assert watch.slept() == 60 * SECOND and watch.slept() == 0


def test_a_host_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert host_identity() == host_identity()
    monkeypatch.setenv("AFFECT_HOST_IDENTITY", "robot")
    assert host_identity() == "robot"

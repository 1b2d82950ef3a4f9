"""Windows of several sessions in shared batches: order, the bound on waiting, results as alone."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from models.engine import Reading
from models.runtime.batching import Batcher
from models.window import WindowSpec, empty

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import engine_sessions

SPEC, DIMS = WindowSpec(text=1, voice=1, face=1), {"text": 1, "voice": 1, "face": 1}


class Recorder:
    """An engine that answers with what it was given."""

    def __init__(self, batch: int, calls: list[int]) -> None:
        self.program, self._calls = SimpleNamespace(batch=batch), calls

    def __call__(self, window: Any) -> Reading:
        self._calls.append(len(window.text.x))
        return Reading(*(sequence.x[:, :, 0] for sequence in window))


def window(value: float) -> Any:
    made = empty(SPEC, DIMS)
    for k, sequence in enumerate(made):
        sequence.x[...] = value + k / 10
    return made


def batcher(patience: float, *sizes: int) -> tuple[Batcher, list[int]]:
    calls: list[int] = []
    return Batcher({size: Recorder(size, calls) for size in sizes}, patience), calls  # type: ignore[misc]


def test_each_session_gets_its_own_reading_oldest_first() -> None:
    made, calls = batcher(0.0, 1, 4)
    for k in range(6):
        made.add(k, window(k), 0.0)
    answers = []
    while made.wait(0.0) == 0:
        answers += made.run(0.0)
    assert calls == [4, 1, 1] and [key for key, _ in answers] == list(range(6)) and len(made) == 0
    for key, reading in answers:
        np.testing.assert_allclose([part.item() for part in reading], np.float32([key, key + 0.1, key + 0.2]), rtol=1e-6)


def test_no_window_waits_longer_for_company_than_the_bound() -> None:
    made, calls = batcher(0.01, 1, 4)
    assert made.wait(0.0) is None and made.run(0.0) == []
    made.add("a", window(1), 5.0)
    assert made.wait(5.0) == pytest.approx(0.01) and made.run(5.0) == []
    made.add("b", window(2), 5.009)
    assert made.wait(5.009) == pytest.approx(0.001)
    assert made.wait(5.02) == 0 and [key for key, _ in made.run(5.02)] == ["a"]
    assert made.wait(5.018) == pytest.approx(0.001), "the younger one has its own bound"
    for k in range(3):
        made.add(k, window(k), 5.018)
    assert made.wait(5.018) == 0, "a full batch goes at once"
    assert [key for key, _ in made.run(5.018)] == ["b", 0, 1, 2] and calls == [1, 4]


def test_engines_must_fit() -> None:
    with pytest.raises(ValueError, match="one for 1 is needed"):
        batcher(0.0, 4)
    with pytest.raises(ValueError, match="size of its program"):
        Batcher({1: Recorder(2, [])})  # type: ignore[dict-item]


class Slow(Recorder):
    """An engine that takes 20 ms a window, on a clock of its own."""

    time = 0.0

    def __call__(self, window: Any) -> Reading:
        self.time += 0.02 * len(window.text.x)
        return super().__call__(window)


def test_a_core_that_takes_20_ms_a_window_holds_five_sessions() -> None:
    slow = Slow(1, [])
    held = engine_sessions.capacity({1: slow}, [window(0)], clock=lambda: slow.time)
    assert held.sessions == 5 and held.met >= 0.99 and 20 <= held.p50_ms <= held.p99_ms <= 100 and held.busy == pytest.approx(1, abs=0.05)
    six = engine_sessions.hold(6, {1: slow}, [window(0)], clock=lambda: slow.time)
    assert six.met < 0.99 and six.p99_ms > 100
    one = engine_sessions.hold(1, {1: slow}, [window(0)], clock=lambda: slow.time)
    assert one.met == 1 and one.p99_ms == pytest.approx(20) and one.busy == pytest.approx(0.2, abs=0.05)

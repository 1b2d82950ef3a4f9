"""How fast a model follows a turn: what is counted of models that know, know late and never know."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from toy_material import toy_material

from models.emotions import EMOTIONS
from models.live import reaction
from models.live.composed import Composer
from models.window import Window, WindowSpec


class Newest:
    """Reads the face shown `behind` seconds before the newest frame, in the mean of 0.2 s."""

    spec = WindowSpec()

    def __init__(self, behind: float = 0.0) -> None:
        self.behind = behind

    def __call__(self, window: Window) -> Any:
        face = window.face
        upto = face.t.max(1, keepdims=True, where=face.mask > 0, initial=-9) - self.behind
        weight = face.mask * (face.t <= upto) * (face.t > upto - 0.2)
        return SimpleNamespace(probabilities=(face.x[..., 32:] * weight[..., None]).sum(1))


class Mute(Newest):
    def __call__(self, window: Window) -> Any:
        return SimpleNamespace(probabilities=np.eye(len(EMOTIONS))[np.zeros(len(window.face.x), int)])


def measured(engine: Any) -> dict[str, Any]:
    return reaction.measure(engine, toy_material(), (0, 0, 1), turns=40)


def test_the_later_a_model_looks_the_later_it_is() -> None:
    now, late, never = measured(Newest()), measured(Newest(0.3)), measured(Mute())
    assert now["p50_ms"] is not None and -100 <= now["p50_ms"] <= 350
    assert late["p50_ms"] - now["p50_ms"] == pytest.approx(300, abs=100)
    assert now["within_300_ms"] > late["within_300_ms"] and now["shown"] > 0.6
    assert never["p50_ms"] is None and never["shown"] == never["flips_per_second"] == 0


def test_windows_see_what_had_come_by_their_end() -> None:
    spec = WindowSpec()
    composer = Composer(toy_material(), WindowSpec(seconds=6.5, text=39, voice=325, face=195))
    window, _ = composer.turn(np.random.default_rng(0), (1, 1, 1), 1.5)
    seen = reaction.seen(window, spec, np.array([-2.0, -0.5], np.float32))
    for late, long, short in zip(reaction.LATE_S, window, seen, strict=True):
        for k, end in enumerate((-2.0, -0.5)):
            times, there = short.t[k], short.mask[k] > 0
            assert (times[there] <= 1e-6 - late).all() and (times >= -spec.seconds).all() and not short.x[k][~there].any()
            whole = long.t[0][(long.mask[0] > 0) & (long.t[0] <= end - late) & (long.t[0] > end - spec.seconds)]
            np.testing.assert_allclose(times[there], whole[-len(times):] - end, atol=1e-6)

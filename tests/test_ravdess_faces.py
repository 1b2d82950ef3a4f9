"""RAVDESS with faces: actors keep to one side, segments and times are right, on the real data where it is."""

from __future__ import annotations

import numpy as np
import pytest

from models.datasets import DataMissing, data_root, ravdess_encoded, ravdess_faces
from models.datasets.examples import Examples, nothing
from models.datasets.ravdess_faces import EMOTIONS, MARGIN, UNITS, five_actors, frames, rows_end, segments, six_folds, spoken, vectors
from models.perception.voice import DIM, SPEECH
from models.research.tasks import build
from models.window import Sequence, Window


@pytest.mark.parametrize("fold", range(6))
def test_no_actor_is_on_two_sides(fold: int) -> None:
    for sides in (six_folds(fold), *([five_actors(fold, seed) for seed in range(5)] if fold < 5 else [])):
        together = [actor for side in sides for actor in side]
        assert sorted(together) == [f"{actor:02d}" for actor in range(1, 25)] and all(sides)


def test_every_actor_is_tested_once_and_unknown_folds_are_told() -> None:
    assert sorted(actor for fold in range(6) for actor in six_folds(fold)[2]) == [f"{actor:02d}" for actor in range(1, 25)]
    assert [five_actors(fold, 0)[2] for fold in range(5)] == [[f"{actor:02d}"] for actor in range(1, 6)]
    for wrong in (lambda: six_folds(6), lambda: five_actors(5, 0), lambda: ravdess_faces.load("pictures")):
        with pytest.raises(ValueError, match="there are"):
            wrong()


def test_segments_count_from_the_end() -> None:
    rows = np.arange(10, dtype=np.float32)[:, None]
    means, at = segments(rows, rows_end(rows), 4, True)
    assert means[:, 0].tolist() == [3.5, 7.5] and np.allclose(means[:, 1], rows[:4].std()) and np.allclose(at, [-0.11, -0.03])
    empty, none = segments(rows[:3], rows_end(rows[:3]), 4, False)
    assert empty.shape == (0, 1) and len(none) == 0


def test_the_voice_is_kept_where_somebody_speaks() -> None:
    rows = np.zeros((60, DIM), np.float32)
    rows[20:40, SPEECH] = 0.9
    rows[:, 0] = np.arange(60)
    kept, at = spoken(rows, rows_end(rows))
    assert kept[:, 0].tolist() == list(range(20 - MARGIN, 40 + MARGIN)) and at[-1] == pytest.approx(-0.02 * (60 - 40 - MARGIN))
    rows[:, SPEECH] = 0
    assert len(spoken(rows, rows_end(rows))[0]) == 60  # nobody is heard: nothing is thrown away


def test_what_is_neutral_for_an_actor_is_taken_away() -> None:
    names = [f"03-01-{emotion}-01-01-{take}-{actor}" for actor in ("01", "02") for emotion in ("01", "05") for take in ("01", "02")]
    value = np.array([1, 2, 5, 6, 11, 12, 25, 26], np.float32)
    face = Sequence(value[:, None, None], np.zeros((8, 1), np.float32), np.ones((8, 1), np.float32))
    actors = np.array([name[-2:] for name in names])
    whole = Examples.of_classes(Window(nothing(8), nothing(8), face), np.zeros(8, int), 8, actors, np.array(names))
    left = ravdess_faces.calibrated(whole)
    assert left.window.face.x.ravel().tolist() == [1, 4, 5, 1, 14, 15] and len(left) == 6
    assert whole.window.face.x[0, 0, 0] == 1  # the loaded clips stay as they are


def test_real_action_units() -> None:
    try:
        data_root()
    except DataMissing as missing:
        pytest.skip(str(missing))
    seen, (whole, same) = frames(), vectors()
    assert len(seen) == 300 and len(whole) == 1440 and same.sum() == 14
    assert all(units.shape == (len(times), UNITS) and (np.diff(times) > 0).all() for units, times in seen.values())
    # The columns said to be comparable are.
    far = max(np.abs(units.mean(0) - whole[name])[same].max() for name, (units, _) in seen.items())
    assert far < 1e-4 and len(EMOTIONS) == 8


def test_training_draws_every_rendering_of_a_voice(monkeypatch: pytest.MonkeyPatch) -> None:
    actors = np.array([f"{actor:02d}" for actor in range(1, 25)] * 4)
    n = len(actors)

    def voice(value: float) -> Sequence:
        return Sequence(np.full((n, 2, 3), value, np.float32), np.zeros((n, 2), np.float32), np.ones((n, 2), np.float32))

    whole = Examples.of_classes(Window(nothing(n), voice(0), nothing(n)), np.zeros(n, int), 8, actors, np.arange(n))
    monkeypatch.setattr(ravdess_encoded, "encoded", lambda: (whole, [voice(k + 1) for k in range(4)]))
    drawn = next(build("ravdess-24-encoded").batches(0, 0, n)).inputs[3]
    assert set(drawn[..., 0].unique().tolist()) == {0, 1, 2, 3, 4}

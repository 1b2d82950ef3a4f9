"""The trade-off of the live MEA's size: what is drawn, and what is timed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import ablations
import ablations_size


def row(mflop: float, *accuracies: float, **more: Any) -> dict[str, Any]:
    seeds = {str(k): {"accuracy": a, "cross_entropy": 2 - a, "valence_ccc": 0.5} for k, a in enumerate(accuracies)}
    return {"parameters": 1000, "mflop": mflop, "seeds": seeds, **more}


@pytest.fixture()
def kept() -> dict[str, Any]:
    return {"steps": 400, "rows": {
        "whole": row(40.0, 0.6, 0.62), "strides 1, 4, 4": row(70.0, 0.63), "strides 1, 16, 16": row(25.0, 0.5),
        "without PSA": row(30.0, 0.4)}}


def test_sizes_are_rows() -> None:
    assert set(ablations_size.SIZES) <= set(ablations.ROWS) and ablations.ROWS[ablations_size.KNEE] == ({}, {})


def test_points_are_means_over_seeds_cheapest_first(kept: dict[str, Any]) -> None:
    small, whole, large = ablations_size.points(kept, "mflop", "accuracy", 100)
    assert (small, large) == (("strides 1, 16, 16", 25.0, 50.0, 0.0), ("strides 1, 4, 4", 70.0, 63.0, 0.0))
    assert whole == ("whole", 40.0, pytest.approx(61), pytest.approx(2 ** 0.5))
    assert ablations_size.points(kept, "onnx_ms", "accuracy") == []


def test_the_picture_has_a_column_a_cost(kept: dict[str, Any], tmp_path: Path) -> None:
    plt = pytest.importorskip("matplotlib.pyplot")
    assert ablations_size.picture(kept, tmp_path / "a.png")
    for name, took in (("whole", 2.3), ("strides 1, 4, 4", 3.1)):
        kept["rows"][name]["onnx_ms"] = took
    assert ablations_size.picture(kept, tmp_path / "b.png")
    one, two = (plt.imread(tmp_path / f"{name}.png").shape for name in "ab")
    assert two[1] > 1.8 * one[1] and two[0] == one[0]
    assert not ablations_size.picture({"steps": 400, "rows": {"whole": row(40.0, 0.6)}}, tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()


def test_other_sizes_take_other_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFFECT_CACHE", str(tmp_path))
    found = ablations_size.times({"whole": {}, "none": {"psa_layers": 0, "hca_layers": 0}}, backend="eager", rounds=2)
    assert list(found) == ["whole", "none"] and all(took > 0 for took in found.values())


def test_times_join_what_was_trained(
    kept: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(ablations, "RESULTS", tmp_path / "ablations.json")
    assert ablations.main(["--time"]) == 2 and "train them first" in capsys.readouterr().err
    ablations.RESULTS.write_text(json.dumps(kept))
    monkeypatch.setattr(ablations_size, "times", lambda changes: {name: float(k) for k, name in enumerate(changes, 1)})
    monkeypatch.setattr(ablations, "mflop", lambda changes: 50.0 + len(changes))
    assert ablations.main(["--time"]) == 0
    rows = json.loads(ablations.RESULTS.read_text())["rows"]
    assert {name: kept.get("onnx_ms") for name, kept in rows.items()} == {
        "whole": 1.0, "strides 1, 4, 4": 2.0, "strides 1, 16, 16": 3.0, "without PSA": None}
    assert "| whole | 1,000 | 50.0 | 1.00 |" in capsys.readouterr().out and ablations.RESULTS.with_suffix(".png").exists()

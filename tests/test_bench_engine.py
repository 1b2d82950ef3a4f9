"""The engine benchmark: what it calls how often, which figures it tells, that they can be shown. Speed itself is never tested."""

from __future__ import annotations

import io
import random
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import engines
import engines_card
import engines_show


def test_large_batches_take_part_in_every_tenth_round() -> None:
    called: list[int] = []
    cases = [engines.Case("m", "onnx", batch, lambda batch=batch: called.append(batch)) for batch in (1, 8, 64)]
    times, rates = engines.measure(cases, rounds=20, share=0.0, order=random.Random(0))
    assert [len(timed.walls) for timed in times] == [20, 20, 2] and len(rates) == 20
    assert all(len(timed.walls) == len(timed.own) == len(timed.again) for timed in times), "a share of no length is two calls"
    assert [called.count(batch) for batch in (1, 8, 64)] == [5 + 40, 5 + 40, 1 + 4]
    assert called[11::2] == called[12::2], "each case once, then again"


def test_quantiles_of_few_calls_are_not_told() -> None:
    few = engines.Times([0.002] * 19, [0.003], [0.001] * 19).figures()
    assert (few["calls"], few["p50_ms"], few["again_p50_ms"], few["thread_p50_ms"]) == pytest.approx((19, 2, 3, 1))
    assert few["p5_ms"] is few["p95_ms"] is few["p99_ms"] is few["tail"] is None
    many = engines.Times([0.002] * 98 + [0.008] * 2, [0.003], [0.001]).figures()
    assert many["p95_ms"] == pytest.approx(2) and many["p99_ms"] == pytest.approx(8, rel=0.01)
    assert many["tail"] == pytest.approx(4, rel=0.01)


def test_plain_products_hold_as_many_weights() -> None:
    passes, call = engines.plain(3 * engines.SIDE ** 2 + 5, lambda: None)
    assert passes == 1 and call() is None


@pytest.mark.parametrize("kind", engines_card.KINDS)
def test_the_network_on_a_card_computes_what_eager_does(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFFECT_CACHE", str(tmp_path))
    if kind != "cuda" and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")  # PyTorch's own kernels run on the processor, too
    given = engines.untrained("late")
    made = engines_card.OnCard(given, 4, kind, "fp32", "cuda" if torch.cuda.is_available() else "cpu")
    eager = engines.program.Eager(given, 4)
    for seed in (1, 2):
        asked = engines.program.probe(given, 4, seed)
        assert engines.program.difference(eager(asked), made(asked)) < 1e-3


def test_rows_of_a_card_are_left_out_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFFECT_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no backend that was asked for can run here"):
        engines.main(["--model", "late", "--backend", "inductor", "--json", str(tmp_path / "a.json")])


def test_one_case_measured_shown_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("AFFECT_CACHE", str(tmp_path))
    asked = ["--model", "late", "--backend", "eager", "--batch", "1", "--batch", "2", "--rounds", "2", "--json", str(tmp_path / "a.json")]
    assert engines.main(asked) == 0
    figures = engines.json.loads((tmp_path / "a.json").read_text())
    assert [(row["batch"], row["backend"]) for row in figures["rows"]] == [(1, "eager"), (2, "eager")]
    assert all(row["parity"] < 1e-5 and row["windows_per_s"] > 0 for row in figures["rows"])
    assert figures["machine_itself"]["like"] == "late, eager" and (tmp_path / "a.png").stat().st_size > 10_000
    out = io.StringIO()
    engines_show.table(figures, Console(file=out, width=200))
    assert "the machine itself, plain products as long as late, eager" in out.getvalue() and "–" in out.getvalue()

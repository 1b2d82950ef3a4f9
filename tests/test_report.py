"""The page of results says what was measured, and what was not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from models.research.report import TITLES, write
from models.research.task import Answers, averaged


def run(fold: int, seed: int, accuracy: float, surprise: float) -> dict[str, object]:
    noise = {"voice": {"accuracy": 0.02, "cross_entropy": -surprise}}
    return {
        "fold": fold, "seed": seed, "seconds": 1.0, "valid": {"accuracy": accuracy + 0.1}, "test": {"accuracy": accuracy}, "noise": noise,
    }  # fmt: skip


def test_the_page_gives_mean_spread_and_what_is_missing(tmp_path: Path) -> None:
    chosen = {"setting": 0, "is": {"rate": 0.002, "set": ["dropout=0.3"]}, "tried": [0.5], "by": "cross_entropy"}
    late = {"chosen": chosen, "parameters": 12345, "latency_ms": 1.5, "runs": [run(0, 0, 0.5, 0.05), run(1, 0, 0.7, 0.07)]}
    curve = {
        "figure": "accuracy", "whole": 0.6, "missing": {"voice": 0.4}, "noise": {"voice": [[0.5, 0.55]]}, "drop": {"voice": [[0.5, 0.52]]},
        "delay": {"voice": [[1.0, 0.31]]},
    }  # fmt: skip
    study = {"data": "ravdess-av", "figure": "accuracy", "seeds": [0], "folds": [0, 1, 2], "models": {
        "late": {**late, "robustness": [curve]}, "mea": {"chosen": chosen, "runs": [], "robustness": [curve]}}}  # fmt: skip
    results = json.loads(json.dumps({"ravdess-av": study}))
    write(results, tmp_path / "RESULTS.md")
    page = (tmp_path / "RESULTS.md").read_text()
    assert "| late | 60.0 ± 14.1 | 50.0 to 70.0 | 70.0 ± 14.1 | 2 of 3 | 12,345 | 1.5 | rate 0.002, set dropout=0.3 |" in page
    assert "| mea | not measured yet | | | 0 of 3 |" in page and "Missing: msaf, ucrn, iaca, mult." in page
    assert "| late | 50.0 | 70.0 |  |" in page  # by fold
    assert "| late | 60.0 | 40.0 | 55.0 | 52.0 | 31.0 |" in page  # disturbed
    assert "goal: under 0.5" not in page  # what noise costs: not all are measured
    assert page.count("Not measured yet.") == len(TITLES) - 1 and "| seeds together |" not in page
    results["ravdess-av"]["models"]["late"]["together"] = {"0": 0.6, "1": 0.7}
    write(results, tmp_path / "RESULTS.md")
    page = (tmp_path / "RESULTS.md").read_text()
    assert "| late | 60.0 ± 14.1 | 65.0 ± 7.1 | 50.0 to 70.0 |" in page and "| mea | not measured yet | | | | 0 of 3 |" in page


def test_the_page_compares_what_noise_costs_where_that_is_known(tmp_path: Path) -> None:
    chosen = {"setting": 0, "is": {"rate": 0.002}, "tried": [0.5], "by": "cross_entropy"}
    curve = {"figure": "accuracy", "whole": 0.6, "missing": {"voice": 0.4}, "noise": {"voice": [[0.5, 0.55]]}, "drop": {}, "delay": {}}

    def page(late: tuple[float, float], mea: tuple[float, float]) -> str:
        models = {
            name: {"chosen": chosen, "parameters": 1, "latency_ms": 1.0, "runs": [run(k, 0, 0.5, cost) for k, cost in enumerate(costs)],
                   "robustness": [curve]}
            for name, costs in (("late", late), ("mea", mea))
        }  # fmt: skip
        study = {"data": "ravdess-av", "figure": "accuracy", "seeds": [0], "folds": [0, 1], "models": models}
        write({"ravdess-av": study}, tmp_path / "RESULTS.md")
        return (tmp_path / "RESULTS.md").read_text()

    known = page((0.05, 0.07), (0.01, 0.03))
    assert "| late | 6.0 ± 1.0, 2.0 (1.00) |" in known and "| mea | 2.0 ± 1.0, 2.0 (0.33) |" in known
    assert "| mea | 2.0 ± 1.0, 2.0 |" in page((-0.01, 0.03), (0.01, 0.03))  # late fusion's own loss is in doubt: no share of it


def test_models_together_say_the_mean_of_their_probabilities() -> None:
    draw = np.random.default_rng(0)
    said = [Answers(*(draw.normal(size=(5, n)) for n in (3, 1, 3))) for _ in range(4)]
    both = averaged(said)
    np.testing.assert_allclose(both.probabilities, np.mean([one.probabilities for one in said], axis=0), rtol=1e-6)
    np.testing.assert_allclose(both.values, np.mean([one.values for one in said], axis=0))

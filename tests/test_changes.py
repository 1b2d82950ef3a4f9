"""The debouncer on literal sequences: one letter a result, ten results a second."""

from __future__ import annotations

from itertools import pairwise

import pytest

from stream.changes import Change, Debouncer
from stream.protocol import MILLISECOND

HOP = 100 * MILLISECOND
LETTERS: dict[str, tuple[str | None, dict[str, float]]] = {
    "n": ("neutral", {"neutral": 0.9, "happy": 0.1}),
    "H": ("happy", {"neutral": 0.1, "happy": 0.9}),
    "h": ("happy", {"neutral": 0.36, "happy": 0.4, "sad": 0.24}),  # on top, but below `enter`; neutral still above `leave`
    "m": ("sad", {"neutral": 0.3, "happy": 0.3, "sad": 0.4}),  # nothing stands out
    "-": (None, {}),
}


def play(letters: str, debouncer: Debouncer | None = None, start: int = 0) -> list[Change]:
    debouncer = debouncer or Debouncer()
    found = []
    for index, letter in enumerate(letters):
        if letter != " " and (change := debouncer.update(start + index * HOP, *LETTERS[letter])):
            found.append(change)
    return found


def emotions(letters: str) -> list[str | None]:
    return [change.emotion for change in play(letters)]


def test_the_first_emotion_is_announced_after_the_hold() -> None:
    assert play("nnnnnn") == []
    assert play("nnnnnnn") == [Change(6 * HOP, "neutral", None, 0.9, 0)]


def test_a_flicker_shorter_than_the_hold_changes_nothing() -> None:
    assert emotions("nnnnnnnn" + "HHHHHH" + "n" + "HHHHHH" + "nn") == ["neutral"]


def test_a_change_says_since_when() -> None:
    change = play("nnnnnnnn" + "HHHHHHH")[1]
    assert (change.t, change.since, change.emotion, change.previous, change.probability) == (14 * HOP, 8 * HOP, "happy", "neutral", 0.9)


def test_a_weak_lead_does_not_displace_what_stands() -> None:
    assert emotions("nnnnnnn" + "h" * 20) == ["neutral"]


def test_below_leave_with_nothing_clear_is_none() -> None:
    assert emotions("nnnnnnn" + "m" * 10) == ["neutral", None]


def test_a_weak_lead_is_not_enough_to_begin() -> None:
    assert emotions("h" * 20 + "m" * 20) == []


def test_nobody_there_is_none_after_the_hold_and_a_blink_is_not() -> None:
    assert emotions("nnnnnnn" + "---" + "nnn" + "-" * 7 + "H" * 7) == ["neutral", None, "happy"]


def test_a_break_in_the_results_starts_the_hold_anew() -> None:
    assert emotions("nnnn" + " " * 20 + "nnnnnn") == []
    assert emotions("nnnn" + " " * 20 + "nnnnnnn") == ["neutral"]


def test_time_starting_again_starts_the_hold_anew_and_keeps_what_stands() -> None:
    debouncer = Debouncer()
    play("nnnnnnn" + "HHHHHH", debouncer, start=10**12)
    assert play("HHHHHH", debouncer) == []
    assert [change.previous for change in play("HHHHHHH", debouncer, start=20 * 10**9)] == ["neutral"]


def test_no_two_changes_are_closer_than_the_hold() -> None:
    changes = play("nnnnnnnHHHHHHH-------HHHHHHHmmmmmmmnnnnnnn")
    assert len(changes) == 6
    assert all(later.t - earlier.t >= Debouncer().hold for earlier, later in pairwise(changes))


def test_without_a_hold_every_clear_result_counts() -> None:
    assert [change.emotion for change in play("nHn", Debouncer(hold=0))] == ["neutral", "happy", "neutral"]


@pytest.mark.parametrize("bad", [{"enter": 0.3}, {"leave": 0.0}, {"enter": 1.2}, {"hold": -1.0}])
def test_thresholds_that_make_no_sense_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="leave <= enter"):
        Debouncer(**bad)

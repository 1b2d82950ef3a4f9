"""From sound to committed words: agreement, gate and transcript on literal time lines; recognisers with their models played."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from capturing import SCRIPT, say, word_errors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from models.perception.voice import SPEECH, VoicePerception
from models.perception.words import PAUSE, WordPerception
from stream.capture import CaptureError, recognisers
from stream.capture.agreement import RATE, Agreement, Heard, Policy
from stream.capture.gate import Gate, Gating, Turn
from stream.capture.transcript import HOP, Timeline, Transcript
from stream.protocol import MILLISECOND, SECOND


def words(text: str, begin: float = 0.0, length: float = 0.3) -> list[Heard]:
    """Words of equal length, one after the other; times in seconds."""
    starts = [begin + k * length for k in range(len(text.split()))]
    return [Heard(word, round(start * RATE), round((start + length) * RATE)) for word, start in zip(text.split(), starts, strict=True)]


def text(heard: list[Heard]) -> str:
    return " ".join(word.text for word in heard)


def s(seconds: float) -> int:
    return round(seconds * RATE)


# Agreement

def test_two_hypotheses_must_agree() -> None:
    agreement = Agreement(Policy(guard=0.1))
    assert agreement.update(words("i am soap"), s(1.0)) == [] and text(agreement.tentative) == "i am soap"
    assert text(agreement.update(words("i am so happy"), s(1.3))) == "i am"
    assert text(agreement.tentative) == "so happy"
    assert text(agreement.update(words("i am so happy to"), s(1.6))) == "so happy"
    assert text(agreement.finish(words("i am so happy to see"))) == "to see" and agreement.tentative == []


def test_the_last_word_of_a_growing_hypothesis_waits() -> None:
    agreement = Agreement(Policy(guard=0.1))
    for now in (1.0, 1.3, 1.6, 1.9):
        assert agreement.update(words("happy", 0.5), s(now)) == []


def test_words_at_the_edge_wait() -> None:
    agreement = Agreement(Policy(guard=0.5))
    agreement.update(words("i am so happy"), s(1.3))
    assert text(agreement.update(words("i am so happy"), s(1.3))) == "i am"  # "so" ends 0.4 s before the edge
    assert text(agreement.update(words("i am so happy"), s(1.5))) == "so"


def test_committed_words_never_change() -> None:
    agreement = Agreement(Policy(guard=0.1))
    agreement.update(words("today is a normal"), s(2))
    assert text(agreement.update(words("today is a normal"), s(2))) == "today is a"
    assert text(agreement.update(words("two days a normal day"), s(2.3))) == "normal"
    assert text(agreement.finish(words("two days are normal day"))) == "day"


def test_age_forces_a_commit_and_shuts_the_door() -> None:
    agreement = Agreement(Policy(age=3.5))
    assert agreement.update(words("one two three", 0.0), s(1.0)) == []
    assert text(agreement.update(words("won too tree", 0.0), s(4.15))) == "won too"
    assert agreement.floor == s(4.15) - s(3.5)
    # What is heard of the time before is too late.
    assert text(agreement.finish([Heard("late", s(0.1), s(0.5)), Heard("new", s(2.0), s(2.4))])) == "new"


def test_a_word_heard_across_the_seam_is_one_word() -> None:
    agreement = Agreement(Policy(guard=0.1))
    hypothesis = [Heard("so", 0, s(0.3)), Heard("happy", s(0.3), s(0.8))]
    agreement.update(hypothesis, s(2))
    agreement.update(hypothesis, s(2))
    assert text(agreement.finish([Heard("so", s(0.1), s(0.55)), Heard("happy", s(0.55), s(0.9))])) == "happy"


def test_a_loop_is_cut() -> None:
    agreement = Agreement(Policy(repeats=3))
    assert text(agreement.finish(words("thank you " * 30))) == "thank you " * 2 + "thank you thank"
    assert text(Agreement().finish(words("no no no please"))) == "no no no please"


GUESS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 90), st.integers(1, 9)), max_size=8)


@given(st.lists(st.tuples(GUESS, st.integers(1, 9)), max_size=15))
@settings(max_examples=200, deadline=None)
def test_any_hypotheses_give_words_in_order(steps: list[tuple[list[tuple[str, int, int]], int]]) -> None:
    """Whatever a recogniser says: times rise, words do not overlap, nothing is committed below the floor of the time before."""
    agreement, now, committed = Agreement(), 0, []
    for guess, passed in steps:
        now += passed * RATE // 2
        floor = agreement.floor
        new = agreement.update([Heard(t, b * RATE // 10, (b + n) * RATE // 10) for t, b, n in guess], now)
        assert all(word.end > floor and word.begin >= floor for word in new)
        committed += new
        assert all(word.end > agreement.floor for word in agreement.tentative)
    for before, after in itertools.pairwise(committed):
        assert before.begin < before.end <= after.begin < after.end


# Gate

def turns(probabilities: list[float], gating: Gating) -> list[tuple[int, Turn]]:
    gate = Gate(gating)
    return [(k, turn) for k, p in enumerate(probabilities) if (turn := gate.hop(p)) is not Turn.NONE]


def test_gate_opens_after_onset_and_closes_after_hang() -> None:
    gating = Gating(onset=60, hang=100)
    assert turns([0, .9, .9, 0, .9, .9, .9, .4, .4, 0, 0, 0, 0, 0, 0], gating) == [(6, Turn.OPEN), (13, Turn.CLOSE)]


def test_gate_takes_a_lead_in_but_never_twice() -> None:
    gate = Gate(Gating(onset=60, before=300, hang=100))
    for p in [0.0] * 20 + [0.9] * 3:
        gate.hop(p)
    assert gate.open and gate.begin == 20 - 15
    for _ in range(5):
        gate.hop(0.0)
    assert not gate.open and gate.earliest == 28
    for _ in range(3):
        gate.hop(0.9)
    assert gate.open and gate.begin == 28


def test_gate_never_stays_open() -> None:
    assert [k for k, _ in turns([0.9] * 80, Gating(onset=60, longest=1000, before=0))] == [2, 49, 52]


def test_a_short_breath_ends_a_long_utterance() -> None:
    gating = Gating(onset=60, hang=500, patience=1000, breath=60, before=0)
    assert turns([0.9] * 30 + [0] * 4 + [0.9] * 40 + [0] * 4, gating)[:2] == [(2, Turn.OPEN), (76, Turn.CLOSE)]


# Transcript

class Speller:
    """A recogniser that hears one word every half second, and knows it once it is over."""

    name, interval = "speller", RATE * 3 // 10

    def __init__(self) -> None:
        self.fed = 0
        self.calls: list[str] = []

    def begin(self) -> None:
        self.fed = 0
        self.calls.append("begin")

    def feed(self, pcm: Any) -> None:
        self.fed += len(pcm)

    def hypothesis(self) -> list[Heard]:
        return words(" ".join(f"w{k}" for k in range(self.fed // s(0.5))), 0, 0.5)

    def settle(self, through: int) -> None:
        assert through <= self.fed

    def finish(self) -> list[Heard]:
        self.calls.append("finish")
        return self.hypothesis()

    def reset(self) -> None:
        self.calls.append("reset")


@pytest.fixture
def perception(tmp_path: Path) -> WordPerception:
    path = tmp_path / "words.safetensors"
    save_file({"table": np.random.default_rng(0).normal(size=(64, 64)).astype(np.float16)}, path)
    return WordPerception(path)


def feed(transcript: Transcript, speech: list[float], begin: int = 0, block: int = 5) -> list[Any]:
    """Hops of silence in blocks, with the speech probabilities given; returns what was committed."""
    taken = []
    for k in range(0, len(speech), block):
        part = speech[k : k + block]
        start = begin + k * 20 * MILLISECOND
        transcript.feed(np.zeros(HOP * len(part), np.int16), part, start, start + len(part) * 20 * MILLISECOND)
        taken += transcript.take()
    return taken


def test_words_get_session_times(perception: WordPerception) -> None:
    transcript = Transcript(Speller(), perception)
    taken = feed(transcript, [0.0] * 50 + [0.9] * 100 + [0.0] * 50, begin=7 * SECOND)
    # Speech begins at hop 50 and takes 0.3 s of lead-in: the utterance begins at 7.7 s and lasts till 10.5 s.
    assert [(t.word.text, t.word.begin / SECOND, t.word.end / SECOND) for t in taken] == [
        (f"w{k}", 7.7 + k / 2, 8.2 + k / 2) for k in range(5)
    ]
    assert np.expm1(taken[0].row[PAUSE]) == pytest.approx(4) and np.expm1(taken[1].row[PAUSE]) == pytest.approx(0)
    assert transcript.watermark == 11 * SECOND - 300 * MILLISECOND and transcript.tentative == []


def test_watermark_waits_for_an_open_utterance(perception: WordPerception) -> None:
    transcript = Transcript(Speller(), perception)
    feed(transcript, [0.0] * 50)
    assert transcript.watermark == 700 * MILLISECOND
    feed(transcript, [0.9] * 10, SECOND)
    assert transcript.watermark == 700 * MILLISECOND
    committed = feed(transcript, [0.9] * 80, 1200 * MILLISECOND)
    assert committed and transcript.watermark == committed[-1].word.end
    assert transcript.tentative[0].word.begin >= committed[-1].word.end


def test_noise_that_never_becomes_words_does_not_hold_finals(perception: WordPerception) -> None:
    class Deaf(Speller):
        def hypothesis(self) -> list[Heard]:
            return []

    transcript = Transcript(Deaf(), perception)
    feed(transcript, [0.9] * 500)
    assert 10 * SECOND - transcript.watermark <= 3800 * MILLISECOND


@pytest.mark.parametrize("block", [1, 3, 5, 50])
def test_blocks_do_not_matter(perception: WordPerception, block: int) -> None:
    speech = ([0.0] * 20 + [0.9] * 77 + [0.0] * 40) * 2
    reference = feed(Transcript(Speller(), perception), speech)
    taken = feed(Transcript(Speller(), perception), speech, block=block)
    assert len(reference) > 4 and [t.word for t in taken] == [t.word for t in reference]
    assert all(np.array_equal(a.row, b.row) for a, b in zip(taken, reference, strict=True))


def test_a_break_commits_and_forgets(perception: WordPerception) -> None:
    speller = Speller()
    transcript = Transcript(speller, perception)
    feed(transcript, [0.9] * 60)
    transcript.finish(at=5 * SECOND)
    assert [t.word.text for t in transcript.take()] == ["w1"] and transcript.watermark == 5 * SECOND
    assert speller.calls == ["reset", "begin", "finish", "reset"]
    assert feed(transcript, [0.9] * 60 + [0.0] * 30, 5 * SECOND)[0].row[PAUSE] == pytest.approx(np.log1p(4))
    with pytest.raises(ValueError, match="do not go with"):
        transcript.feed(np.zeros(100, np.int16), [0.0], 0, 1)


def test_timeline_follows_the_blocks() -> None:
    timeline = Timeline()
    assert timeline.at(5) == 0
    timeline.add(0, 100, 1000, 2000)
    timeline.add(100, 100, 2010, 3010)
    assert [timeline.at(n) for n in (-5, 0, 50, 99, 100, 150, 200, 999)] == [1000, 1000, 1500, 1990, 2010, 2510, 3010, 3010]


# Recognisers

def test_pocketsphinx_hears_a_script(perception: WordPerception) -> None:
    """Voices other than the sample clip's, in one stream; the figure over all sentences is what counts."""
    sentences = (SCRIPT[1], SCRIPT[3])
    pause = np.zeros(16000, np.int16)
    sound = np.concatenate([pause, say(sentences[0], "awb"), pause, say(sentences[1], "awb"), pause])
    sound = sound[: len(sound) // HOP * HOP]
    speech = [float(p) for p in VoicePerception().feed(sound)[:, SPEECH]]
    transcript = Transcript(recognisers.PocketSphinx(), perception)
    transcript.feed(sound, speech, 0, len(sound) * SECOND // RATE)
    transcript.finish()
    heard = [spoken.word for spoken in transcript.take()]
    assert word_errors(" ".join(sentences).split(), [word.text for word in heard]) <= 0.25
    assert heard[0].begin == pytest.approx(1.1 * SECOND, abs=0.25 * SECOND)


def test_pocketsphinx_survives_breaks() -> None:
    sphinx = recognisers.PocketSphinx()
    sphinx.begin()
    assert sphinx.finish() == []
    for fed in (1600, 32000):
        sphinx.begin()
        sphinx.feed(np.zeros(fed, np.int16))
        sphinx.hypothesis()
        sphinx.reset()
    assert sphinx.finish() == []


class FakeWhisper:
    """Answers like faster_whisper.WhisperModel: one word a second of sound."""

    def __init__(self) -> None:
        self.lengths: list[float] = []
        self.asked: dict[str, Any] = {}

    def transcribe(self, sound: Any, **options: Any) -> Any:
        self.asked = options
        self.lengths.append(len(sound) / RATE)
        found = [SimpleNamespace(word=f" w{k}", start=k + 0.25, end=k + 0.75, probability=0.5) for k in range(int(len(sound) / RATE))]
        return [SimpleNamespace(words=found), SimpleNamespace(words=None)], None


def test_whisper_works_on_a_bounded_buffer() -> None:
    model = FakeWhisper()
    whisper = recognisers.Whisper(model, "whisper", "en")
    whisper.begin()
    for _ in range(10):
        whisper.feed(np.zeros(RATE, np.int16))
    whisper.settle(s(5.5))
    heard = whisper.hypothesis()
    assert model.lengths == [4.5] and heard[0] == Heard("w0", s(5.75), s(6.25), 0.5)
    assert model.asked["condition_on_previous_text"] is False and model.asked["hallucination_silence_threshold"]
    whisper.settle(s(6.25))
    assert whisper.hypothesis()[0].begin == s(5.75)  # short enough: kept for its context
    whisper.finish()
    assert whisper.hypothesis() == []


def test_whisper_through_the_transcript(perception: WordPerception) -> None:
    model = FakeWhisper()
    transcript = Transcript(recognisers.Whisper(model, "whisper", "en"), perception)
    taken = feed(transcript, [0.9] * 1000 + [0.0] * 30)
    times = [t.word.end for t in taken]
    assert len(taken) > 10 and times == sorted(times) and max(model.lengths) < 14


def test_models_are_looked_for_on_this_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    loaded = []
    monkeypatch.setattr(recognisers, "_whisper", lambda *asked: loaded.append(asked) or Speller())
    assert recognisers.load("auto").name == "pocketsphinx en-us" and not loaded
    folder = tmp_path / "hub" / "models--Systran--faster-whisper-small" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "model.bin").touch()
    assert recognisers.load("auto").name == "pocketsphinx en-us" and not loaded  # no tokenizer: it would go to the network
    (folder / "tokenizer.json").touch()
    recognisers.load("auto", "de")
    recognisers.load("small")
    assert [asked[:3] for asked in loaded] == [(str(folder), "whisper small", language) for language in ("de", "en")]


def test_half_a_whisper_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    with pytest.raises(CaptureError, match=r"tokenizer\.json missing"):
        recognisers.load(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CaptureError, match="cannot be loaded"):
        recognisers.load(str(tmp_path))

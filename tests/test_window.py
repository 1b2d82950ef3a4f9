"""TIME's rules on little literal timelines: identity, watermarks, provisionals, finals, not knowing. Times in ms."""

from __future__ import annotations

import numpy as np
import pytest

from models.perception.voice import SPEECH
from models.window import WindowSpec
from stream.inlet import Inlet
from stream.protocol import FOREVER, Control, End, Face, FaceInfo, Received, Session, Voice, Word, Words
from stream.schedule import Due
from stream.window import WindowError, Windows

MS = 1_000_000
DIMS = {"text": 67, "voice": 44, "face": 39}


def session(streams: tuple[str, ...] = ("face", "voice", "words"), lossless: bool = False, last_final: int = 0) -> Session:
    lateness = {"face": 300 * MS, "voice": 300 * MS, "words": 4000 * MS}
    return Session(session="s", epoch=0, host="h", window=4000 * MS, hop=100 * MS, lossless=lossless, last_final=last_final,
                   lateness={name: lateness[name] for name in streams}, speed=1.0)


class Play:
    """Feeds messages made from milliseconds."""

    def __init__(self, *streams: str, lossless: bool = False, spec: WindowSpec | None = None) -> None:
        self.windows = Windows(session(streams or ("face", "voice", "words"), lossless), spec or WindowSpec(), DIMS)
        self.seq: dict[tuple[str, str], int] = {}

    def header(self, stream: str, watermark: int, instance: str = "a", skip: int = 0, segment: int = 0) -> dict[str, object]:
        seq = self.seq.get((stream, instance), 0) + skip
        self.seq[stream, instance] = seq + 1
        ended = watermark == FOREVER
        return {"session": "s", "stream": stream, "instance": instance, "seq": seq, "segment": segment,
                "watermark": FOREVER if ended else watermark * MS, "sent": 0 if ended else watermark * MS}

    def put(self, message: object, rows: np.ndarray, now: int | None) -> None:
        received = Received("t", message, memoryview(np.ascontiguousarray(rows, "<f4").tobytes()))  # type: ignore[arg-type]
        self.windows.add(received, None if now is None else now * MS, (now or 0) * MS, (now or 0) * MS)

    def face(self, at: int, now: int | None = None, seen: bool = True, track: int = 1, **head: object) -> None:
        info = FaceInfo(track=track, quality=1.0, box=(0, 0, 1, 1)) if seen else None
        message = Face(**self.header("face", at, **head), begin=at * MS, end=at * MS,  # type: ignore[arg-type]
                       uncertainty=0, grabbed=at * MS, features="f", face=info)
        self.put(message, np.full((1 if seen else 0, 39), at / 1000), at if now is None else now)

    def voice(self, begin: int, rows: int, now: int | None = None, speech: float = 1.0) -> None:
        x = np.zeros((rows, 44))
        x[:, SPEECH] = speech
        end = begin + 20 * rows
        message = Voice(**self.header("voice", end), begin=begin * MS, hop=20 * MS, rows=rows, uncertainty=0, grabbed=end * MS,  # type: ignore[arg-type]
                        features="v", level=-20.0)
        self.put(message, x, end if now is None else now)

    def words(
        self, watermark: int, committed: tuple[int, ...] = (), tentative: tuple[int, ...] = (), now: int | None = None, revision: int = 0,
    ) -> None:
        spoken = [[Word(text=f"w{end}", begin=(end - 200) * MS, end=end * MS, probability=1.0) for end in ends]
                  for ends in (committed, tentative)]
        message = Words(**self.header("words", watermark), committed=spoken[0], tentative=spoken[1], revision=revision, features="w")  # type: ignore[arg-type]
        self.put(message, np.ones((len(committed) + len(tentative), 67)), watermark if now is None else now)

    def end(self, stream: str, at: int, now: int | None = 0) -> None:
        self.put(End(**self.header(stream, FOREVER), end=at * MS), np.zeros((0, 1)), now)  # type: ignore[arg-type]

    def due(self, now: int | None, real: int | None = None, most: int = 1000) -> list[Due]:
        return self.windows.schedule.due(None if now is None else now * MS, (real if real is not None else now or 0) * MS, most)


def test_provisional_when_face_and_voice_have_passed_and_final_when_words_have() -> None:
    play = Play()
    play.face(100)
    assert play.due(101) == []
    play.voice(0, 5)
    assert play.due(102) == [Due(1, False, "watermark")]
    play.words(100)
    assert play.due(103) == [Due(1, True, "watermark")]
    assert play.due(104) == []


def test_provisional_by_time_after_40_ms() -> None:
    play = Play()
    assert play.due(139) == []
    assert play.due(140) == [Due(1, False, "time")]


def test_delayed_words_hold_finals_but_not_provisionals() -> None:
    play = Play()
    for k in range(1, 21):
        play.face(k * 100)
        play.voice((k - 1) * 100, 5)
        assert play.due(k * 100) == [Due(k, False, "watermark")]
    play.words(500, now=2000)
    assert play.due(2000) == [Due(k, True, "watermark") for k in range(1, 6)]


def test_lateness_closes_a_final() -> None:
    play = Play("face", "voice")
    play.face(100)
    assert play.due(400) == [Due(k, False, "time") for k in (1, 2, 3)]
    assert play.due(401) == [Due(1, True, "lateness")]


def test_lossless_session_never_closes_by_lateness() -> None:
    play = Play("face", lossless=True)
    play.face(100)
    assert play.due(5000, real=100) == [Due(1, False, "watermark"), Due(1, True, "watermark")]


def test_a_dead_stream_holds_nothing() -> None:
    play = Play("face", "voice", lossless=True)
    play.face(100)
    play.face(200)
    play.windows.inlets["face"].heard = 4000 * MS
    assert play.due(5000, real=4000)[-1].closed_by == "lateness"


def test_undeclared_stream_is_not_waited_for() -> None:
    play = Play("face")
    play.voice(0, 1)
    play.face(100)
    assert Due(1, True, "watermark") in play.due(101)


def test_end_of_stream_flushes_floor_of_duration() -> None:
    play = Play("face", "voice", lossless=True)
    play.face(220, now=250)
    play.end("face", 250)
    play.end("voice", 190)
    assert play.due(None) == [Due(1, False, "watermark"), Due(2, False, "watermark"), Due(1, True, "watermark"), Due(2, True, "watermark")]
    assert play.windows.schedule.finished


def test_no_provisional_beyond_the_end_of_a_file() -> None:
    play = Play("face", "voice", "words", lossless=True)
    play.face(280)
    play.voice(0, 15)
    play.end("face", 300)
    play.end("voice", 300)
    assert [due.k for due in play.due(900)] == [1, 2, 3]


def test_far_future_stamp_is_refused() -> None:
    play = Play("face")
    play.face(99_999, now=100)
    assert play.windows.inlets["face"].counts.refused == 1
    assert play.windows.inlets["face"].watermark == 0


def test_duplicates_are_dropped_and_losses_counted() -> None:
    play = Play("face")
    play.face(100)
    play.seq["face", "a"] = 0
    play.face(100)
    counts = play.windows.inlets["face"].counts
    assert (counts.messages, counts.duplicates) == (1, 1)
    play.face(200, skip=2)
    assert counts.lost == 2


def test_watermark_stops_at_a_hole_until_the_lateness_limit() -> None:
    play = Play("face", "voice", "words")
    play.face(100)
    play.face(200, skip=1)
    inlet = play.windows.inlets["face"]
    assert inlet.watermark == 100 * MS
    play.due(499)
    assert inlet.watermark == 100 * MS
    play.due(501)
    assert inlet.watermark == 200 * MS
    assert inlet.gaps[-1][2] == "lost messages"


def test_a_late_message_fills_its_hole() -> None:
    play = Play("face")
    play.face(100)
    play.face(300, skip=1)
    play.seq["face", "a"] = 1
    play.face(200, now=301)
    inlet = play.windows.inlets["face"]
    assert (inlet.counts.lost, inlet.watermark) == (0, 300 * MS)
    tensors, _ = play.windows.assemble(Due(3, False, "time"))
    assert tensors.face.t[0, :3].tolist() == pytest.approx([-0.2, -0.1, 0.0], abs=1e-6)


def test_a_restarted_producer_replaces_the_old_one() -> None:
    play = Play("face")
    play.face(100, instance="old")
    play.face(200, instance="new")
    play.face(300, instance="old")
    inlet = play.windows.inlets["face"]
    assert inlet.counts.refused == 1
    assert inlet.gaps
    tensors, _ = play.windows.assemble(Due(4, False, "time"))
    assert tensors.face.mask.sum() == 1  # rows of two instances never share a window


def test_windows_do_not_cross_segments_nor_people() -> None:
    play = Play("face")
    play.face(100)
    play.face(200, segment=1)
    assert play.windows.assemble(Due(2, False, "time"))[1].samples["face"] == 1
    play.face(300, segment=1, track=7)
    assert play.windows.assemble(Due(3, False, "time"))[1].samples["face"] == 1


def test_a_row_belongs_by_its_end() -> None:
    play = Play("face", "words", lossless=True)
    play.words(4000, committed=(50, 100, 4100), now=4100)
    facts = play.windows.assemble(Due(41, True, "watermark"))[1]
    assert facts.samples["words"] == 1  # (100, 4100]: the word ending at 100 is out, the one ending at 4100 in
    facts = play.windows.assemble(Due(40, True, "watermark"))[1]
    assert facts.samples["words"] == 2


def test_tentative_words_enter_provisionals_only_and_a_late_word_is_noticed() -> None:
    play = Play()
    play.words(500, committed=(400,), tentative=(900,), now=1000, revision=3)
    facts = play.windows.assemble(Due(10, False, "time"))[1]
    assert (facts.samples["words"], facts.tentative) == (2, 1)
    facts = play.windows.assemble(Due(10, True, "watermark"))[1]
    assert (facts.samples["words"], facts.tentative, facts.changed) == (1, 0, True)


def test_nothing_usable_is_not_neutral() -> None:
    play = Play()
    play.face(100, seen=False)
    tensors, facts = play.windows.assemble(Due(1, False, "time"))
    assert facts.present == []
    assert all(part.mask.sum() == 0 for part in tensors)


def test_less_than_half_a_second_voiced_is_absent() -> None:
    play = Play("voice")
    play.voice(0, 24)
    assert play.windows.assemble(Due(5, False, "time"))[1].present == []
    play.voice(480, 1)
    assert play.windows.assemble(Due(5, False, "time"))[1].present == ["voice"]


def test_a_face_that_left_is_absent_after_a_second_and_comes_back() -> None:
    play = Play("face")
    play.face(100)
    play.face(1000, seen=False)
    assert play.windows.assemble(Due(11, False, "time"))[1].present == ["face"]
    assert play.windows.assemble(Due(12, False, "time"))[1].present == []
    play.face(1300)
    assert play.windows.assemble(Due(13, False, "time"))[1].present == ["face"]


def test_capacity_keeps_the_newest_and_says_so() -> None:
    play = Play("face", spec=WindowSpec(face=3))
    for at in range(10, 60, 10):
        play.face(at)
    tensors, facts = play.windows.assemble(Due(1, False, "time"))
    assert facts.truncated == {"face": 2}
    assert tensors.face.x[0, :, 0].tolist() == pytest.approx([0.03, 0.04, 0.05])


def test_busy_interval_masks_rows() -> None:
    play = Play("voice")
    play.voice(0, 50)
    play.windows.busy([Control(action="busy", target="voice", begin=0, end=600 * MS)])
    assert play.windows.assemble(Due(10, False, "time"))[1].samples["voice"] == 20


def test_memory_is_bounded_and_recent_rows_survive() -> None:
    play = Play("face")
    for at in range(10, 60_000, 10):
        play.face(at)
    assert len(play.windows._buffers["face"]) == 60 * 34
    assert play.windows.assemble(Due(600, False, "time"))[1].samples["face"] == 120


def test_stale_live_provisionals_are_left_out_and_counted() -> None:
    play = Play("face", "voice", "words")
    provisionals = [due.k for due in play.due(5000) if not due.final]
    assert provisionals[0] == 40 and play.windows.schedule.skipped == 39


@pytest.mark.parametrize(("cost", "provisionals"), [(20, 600), (65, 120), (70, 60)])
def test_an_engine_too_slow_for_both_kinds_loses_no_final(cost: int, provisionals: int) -> None:
    play, now, sampled = Play("face", "words"), 0, 0
    made: dict[bool, list[int]] = {False: [], True: []}
    late: list[int] = []
    while now < 60_000:
        while sampled + 100 <= now:
            sampled += 100
            play.face(sampled, now)
        for due in play.windows.schedule.due(now * MS, now * MS):
            now += cost
            made[due.final].append(due.k)
            late += [now - 100 * due.k] if due.final else []
        now += 1
    assert made[True] == list(range(1, len(made[True]) + 1))
    assert max(late) < 4000 + 1000 + 1500, "a final waits for its words, a second more, and for those before it"
    assert len(made[False]) >= provisionals * 0.9


def test_late_joiner_starts_after_the_last_final() -> None:
    windows = Windows(session(last_final=1000 * MS), WindowSpec(), DIMS)
    windows.schedule.start_at(20_000 * MS)
    assert windows.schedule.next_final * 100 > 20_000 - 4000


def test_heartbeat_shows_tail_loss() -> None:
    from stream.protocol import Progress

    inlet = Inlet("face", 300 * MS)
    inlet.counts.messages, inlet.instance, inlet._next_seq = 1, "a", 1
    inlet.progress("a", Progress(next_seq=3, watermark=500 * MS), 500 * MS, 0)
    assert (inlet.counts.lost, inlet.watermark) == (2, 0)
    inlet.expire(900 * MS)
    assert inlet.watermark == 500 * MS


def test_windows_of_another_length_than_learned_are_refused() -> None:
    with pytest.raises(WindowError, match=r"2 s.*--window-s 2"):
        Windows(session(), WindowSpec(seconds=2.0), DIMS)

"""Corpora: exact layouts on tiny files, the known traps, and the real data where it is."""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile  # type: ignore[import-untyped]

from models.datasets import DataMissing, cache_root, data_root, emobank, emodb, goemotions, meld, ravdess, speech, table
from models.datasets.acoustics import Acoustics, add_noise, band_limit, noise, reverberate
from models.datasets.spoken import Hearing, Recogniser, spoken
from models.datasets.voicerows import voice_rows
from models.perception.voice import VoicePerception

RATE = 16_000


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder and an empty cache of this test's own."""
    monkeypatch.setenv("AFFECT_DATA", str(tmp_path))
    monkeypatch.setenv("AFFECT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "data" / "text").mkdir(parents=True)
    return tmp_path / "data"


@pytest.fixture(scope="module")
def real() -> dict[str, list[speech.Clip]]:
    try:
        data_root()
    except DataMissing as missing:
        pytest.skip(str(missing))
    return {"ravdess": ravdess.load(), "emodb": emodb.load()}


def write(path: Path, rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def burst(seconds: float, silence: float) -> np.ndarray:
    sound = 0.3 * np.sin(2 * np.pi * 200 * np.arange(int(seconds * RATE)) / RATE)
    pad = np.zeros(int(silence * RATE))
    return np.concatenate((pad, sound, pad)).astype(np.float32)


def test_missing_data_names_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFFECT_DATA", str(tmp_path))
    with pytest.raises(DataMissing, match="AFFECT_DATA"):
        data_root()
    (tmp_path / "data").mkdir()
    with pytest.raises(DataMissing, match=r"goemotions\.csv\.gz is missing"):
        goemotions.load()


def test_goemotions_layout_and_repeated_texts(data: Path) -> None:
    head = ["id", "split", "text", "labels", "label7_set", "label7", "label7_name"]
    write(data / goemotions.FILE, [
        head,
        ["a", "train", "Same words", "joy", "1", "1", "happy"],
        ["b", "dev", "Same words", "joy", "1", "1", "happy"],
        ["c", "test", "Same words", "anger", "3", "3", "angry"],
        ["d", "train", "Own, \"quoted\"\nwords", "joy|anger", "1|3", "-1", ""],
    ])  # fmt: skip
    rows = goemotions.load()
    assert [(row.id, row.split, row.label7) for row in rows] == [("c", "test", 3), ("d", "train", -1)]
    assert rows[1].labels == ("joy", "anger") and rows[1].text == 'Own, "quoted"\nwords'


def test_emobank_layout_and_scale(data: Path) -> None:
    head = ["id", "split", "V", "A", "D", "text"]
    write(data / emobank.FILE, [head, ["x", "dev", "3.4", "2.0", "3.1", "Hm"], ["y", "test", "5", "1", "3", "!"]])
    first, second = emobank.load()
    assert first.split == "valid" and first.affect == pytest.approx((0.3, -0.75)) and first.dominance == 3.1
    assert second.affect == (1.0, -1.0)


def test_meld_layout(data: Path) -> None:
    write(data / meld.FILE, [
        ["utterance_id", "split", "dialogue", "turn", "speaker", "emotion", "sentiment", "label7", "label7_name", "season", "episode",
         "start_s", "end_s", "utterance"],
        ["dev_d0_u1", "val", 0, 1, "Ross", "fear", "negative", 4, "fearful", 1, 1, 0.1, 0.9, "No!"],
    ])  # fmt: skip
    (row,) = meld.load()
    assert (row.id, row.split, row.speaker, row.text, row.label7) == ("dev_d0_u1", "valid", "Ross", "No!", 4)


def test_damaged_tables_are_named(data: Path) -> None:
    write(data / emobank.FILE, [["id", "split", "V", "text"], ["x", "dev", "3.4", "Hm"]])
    with pytest.raises(table.TableError, match="lacks the columns A, D"):
        emobank.load()
    write(data / emobank.FILE, [["id", "split", "V", "A", "D", "text"], ["x", "dev", "3.4"]])
    with pytest.raises(table.TableError, match="record 2"):
        emobank.load()
    write(data / emobank.FILE, [["id", "split", "V", "A", "D", "text"], ["x", "half", "3", "3", "3", "Hm"]])
    with pytest.raises(table.TableError, match="unknown split"):
        emobank.load()
    (data / emobank.FILE).write_bytes((data / emobank.FILE).read_bytes()[:40])
    with pytest.raises(table.TableError, match="cannot be read"):
        emobank.load()


def test_ravdess_layout_and_silence(data: Path) -> None:
    head = ["clip_id", "file", "start_sample", "n_samples", "actor", "gender", "emotion_code", "emotion", "label7"]
    sound = burst(1.0, 1.0)
    folder = data / ravdess.FOLDER
    write(folder / "index.csv", [
        head,
        ["03-01-02-01-01-01-01", "actor_01.flac", 0, len(sound), 1, "male", 2, "calm", 0],
        ["03-01-05-01-01-01-24", "actor_24.flac", 100, len(sound), 24, "female", 5, "angry", 3],
    ])  # fmt: skip
    soundfile.write(folder / "actor_01.flac", sound, RATE)
    soundfile.write(folder / "actor_24.flac", np.concatenate((np.full(100, 0.5, np.float32), sound)), RATE)
    first, second = ravdess.load()
    assert (first.split, first.label7, first.speaker, second.split, second.label7) == ("train", 0, "ravdess01", "test", 3)
    assert first.pcm.dtype == np.float32 and 1.2 * RATE < len(first.pcm) < 1.4 * RATE
    assert len(ravdess.load(trimmed=False)[1].pcm) == len(sound)
    soundfile.write(folder / "actor_24.flac", sound, RATE)
    with pytest.raises(table.TableError, match="index and sound differ"):
        ravdess.load()


def test_emodb_gives_two_seconds_at_most(data: Path) -> None:
    folder = data / emodb.FOLDER
    write(folder / "index.csv", [
        ["clip_id", "file", "start_sample", "n_samples", "speaker", "gender", "emotion", "label7"],
        ["15a", "speaker_15.flac", 0, 48_000, "15", "male", "sadness", 2],
        ["15b", "speaker_15.flac", 48_000, 16_000, "15", "male", "boredom", -1],
    ])  # fmt: skip
    soundfile.write(folder / "speaker_15.flac", burst(4.0, 0.0), RATE)
    (clip,) = emodb.load()
    assert len(clip.pcm) == 32_000 and clip.split == "test" and clip.label7 == 2
    assert [len(c.pcm) for c in emodb.load(labelled=False)] == [32_000, 16_000]


def test_splits_share_no_speaker_and_balance_gender(real: dict[str, list[speech.Clip]]) -> None:
    for clips in real.values():
        speakers = {(clip.speaker, clip.gender, clip.split) for clip in clips}
        assert len(speakers) == len({clip.speaker for clip in clips})
        counts = Counter((gender, split) for _, gender, split in speakers)
        assert all(counts["male", split] == counts["female", split] for split in ("train", "valid", "test"))


def test_real_corpora(real: dict[str, list[speech.Clip]]) -> None:
    comments = goemotions.load()
    assert Counter(row.split for row in comments)["test"] == 5427
    held = {row.text for row in comments if row.split != "train"}
    assert not any(row.text in held for row in comments if row.split == "train")
    assert len(emobank.load()) == 10_062 and len(meld.load()) == 13_708
    assert Counter(clip.label7 for clip in real["ravdess"]) == {0: 288, **dict.fromkeys(range(1, 7), 192)}
    assert max(len(clip.pcm) for clip in real["emodb"]) == 32_000


def test_trim_keeps_all_of_silence() -> None:
    silent = np.zeros(RATE, np.float32)
    assert len(speech.trim(silent)) == RATE and len(speech.trim(silent[:100])) == 100


def test_voice_rows_are_the_live_rows_and_are_kept(data: Path) -> None:
    clips = [speech.Clip("made", str(i), "s", "male", "train", i, "x", burst(0.4, 0.1)) for i in range(2)]
    seen: list[int] = []
    rows = voice_rows(clips, progress=lambda done, total: seen.append(done))
    live = VoicePerception()
    assert seen == [1, 2] and np.array_equal(rows[0], live.feed(clips[0].pcm)) and len(rows[1]) == len(clips[1].pcm) // 320
    again = voice_rows(clips, progress=lambda done, total: seen.append(done))
    assert seen == [1, 2] and all(np.array_equal(a, b) for a, b in zip(rows, again, strict=True))
    copy = voice_rows(clips, copy=1)
    assert not np.array_equal(copy[0], rows[0]) and not np.array_equal(copy[0], voice_rows(clips, copy=2)[0])
    for file in cache_root().glob("*.npz"):
        file.write_bytes(b"damaged")
    assert np.array_equal(voice_rows(clips, copy=1)[0], copy[0])


def test_acoustics_do_what_they_say() -> None:
    rng = np.random.default_rng(0)
    sine = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    added = np.mean((add_noise(sine, 10, 0.5, rng) - sine) ** 2)
    assert 10 * np.log10(added) == pytest.approx(-10 + 10 * np.log10(0.5 + 1 / np.pi), abs=0.3)  # a sine's loud half
    white, pink = (np.abs(np.fft.rfft(noise(RATE, slope, rng))) ** 2 for slope in (0.0, 1.0))
    assert white[100:1000].mean() / white[4000:8000].mean() == pytest.approx(1, abs=0.2)
    assert pink[100:1000].mean() / pink[4000:8000].mean() > 5
    click = np.zeros(RATE)
    click[100] = 1
    wet = reverberate(click, 0.3, 6, rng)
    assert wet[100] == pytest.approx(1, abs=1e-9) and not wet[:100].round(9).any()
    assert np.sum(wet[101:] ** 2) == pytest.approx(10**-0.6, rel=1e-3)
    narrow = band_limit(np.sin(2 * np.pi * 50 * np.arange(RATE) / RATE) + sine, 200, 4000)
    assert np.mean((narrow - sine)[2000:-2000] ** 2) < 1e-3
    changed = Acoustics()(sine.astype(np.float32), rng)
    assert changed.dtype == np.float32 and changed.shape == sine.shape and np.abs(changed).max() <= 1
    assert len(Acoustics()(np.zeros(0, np.float32), rng)) == 0


def test_spoken_words() -> None:
    text = "My [NAME]'s so-called “friend” didn\u2019t come... LOL!!! 😂 see r/foo https://x.y/z"
    assert spoken(text) == ["my", "so", "called", "friend", "didn't", "come", "lol", "see"]
    assert spoken("You're—what?no way") == ["you're", "what", "no", "way"] and spoken("?! 😂") == []


def test_recogniser_mishears_as_often_as_told() -> None:
    words = [f"{a}{b}{c}" for a in "abcd" for b in "aeiou" for c in "rst"] * 2
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    said = list(range(20))
    rng = np.random.default_rng(0)
    faithful = Recogniser([words], vocabulary, Hearing(share=0.0, crop=0.0))
    assert faithful.hear(said, rng) == said
    deaf = Recogniser([words], vocabulary, Hearing(share=1.0, errors=(0.2, 0.2), crop=0.0))
    heard = [deaf.hear(said, rng) for _ in range(500)]
    assert 20 - np.mean([len(row) for row in heard]) == pytest.approx(20 * 0.2 * 0.4, abs=0.2)
    short = Recogniser([words], vocabulary, Hearing(share=0.0, crop=1.0))
    lengths = {len(short.hear(said, rng)) for _ in range(300)}
    assert lengths == set(range(3, 13))
    dropped = Recogniser([words], vocabulary, Hearing(share=1.0, errors=(1.0, 1.0), dropped=1.0))
    assert len(dropped.hear(said[:2], rng)) == 1

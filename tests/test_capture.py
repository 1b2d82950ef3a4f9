"""The capture workers as real processes against a real hub: files in, messages out."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from capturing import SCRIPT, Stage, clip, ffmpeg, free_address, spoken, word_errors
from safetensors.numpy import save_file

from models.perception.voice import DIM as VOICE_DIM
from models.perception.voice import VoicePerception
from stream.bus import Connection
from stream.capture import CaptureError, camera, microphone, recognisers, transcriber
from stream.capture.camera import CameraOptions
from stream.capture.microphone import MicrophoneOptions
from stream.capture.sound import FileSound
from stream.capture.transcriber import TranscriberOptions, language_line
from stream.capture.video import FileVideo
from stream.protocol import FOREVER, MILLISECOND, SECOND, Audio, Control, Credit, End, Face, Gap, Session, Status, Voice, Words

HOP = 20 * MILLISECOND


@pytest.fixture(scope="session")
def face_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained expression network: what it says is nonsense, but always the same."""
    torch = pytest.importorskip("torch")
    from models.encoders.face import ExpressionNet, save

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("face") / "random.safetensors"
    save(ExpressionNet().eval(), path, {}, np.random.default_rng(0).integers(0, 256, (20, 48, 48), np.uint8))
    return str(path)


@pytest.fixture(scope="session")
def word_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("words") / "random.safetensors"
    save_file({"table": np.random.default_rng(0).normal(size=(512, 64)).astype(np.float16)}, path)
    return str(path)


@pytest.fixture(scope="session")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sentences of the sample's script, as a file."""
    path = tmp_path_factory.mktemp("sound") / "script.wav"
    soundfile.write(path, spoken(SCRIPT[:3]), 16000)
    return path


def play(source: Path, face: str, words: str) -> dict[str, Any]:
    name = f"file:{source}"
    return {
        "camera": (camera.run, CameraOptions(source=name, weights=face)),
        "microphone": (microphone.run, MicrophoneOptions(source=name)),
        "transcriber": (transcriber.run, TranscriberOptions(model="pocketsphinx", weights=words)),
    }


def test_a_clip_gives_the_same_at_every_speed(face_weights: str, word_weights: str) -> None:
    source = clip("talking_head_aoc.mp4")
    contents = []
    for speed in (8.0, None):
        with Stage(play(source, face_weights, word_weights), speed=speed) as stage:
            stage.wait_ended("face", "voice", "audio", "words")
            contents.append(stage.content())
            if speed:  # nothing comes before its time
                assert all(m.sent >= m.end for m in stage.messages(Face)) and all(m.sent >= m.begin + m.hop for m in stage.messages(Voice))
                assert all(m.grabbed >= m.end for m in stage.messages(Face))
    for name, content in contents[0].items():
        assert content == contents[1][name], name
    faces, voices = contents[0]["face"], contents[0]["voice"]
    assert [end for _, end, *_ in faces] == [k * SECOND // 25 for k in range(200)]
    assert all(face is not None and len(payload) == 4 * 39 for *_, face, payload in faces)
    assert [begin for begin, *_ in voices] == [k * HOP for k in range(len(voices))] and len(voices) == pytest.approx(400, abs=5)
    ends = dict(contents[0]["end"])
    assert ends["face"] == 8 * SECOND and ends["voice"] == ends["audio"] == ends["words"]
    assert abs(ends["voice"] - 8 * SECOND) < 100 * MILLISECOND
    words = [word for committed, *_ in contents[0]["words"] for word in committed]
    assert len(words) > 8 and all(a.end <= b.begin for a, b in itertools.pairwise(words))


def test_voice_rows_are_those_of_the_file(script: Path) -> None:
    with Stage({"microphone": (microphone.run, MicrophoneOptions(source=f"file:{script}"))}, speed=None) as stage:
        stage.wait_ended("voice", "audio")
        voices, audio = stage.all(Voice), stage.all(Audio)
    sound, _ = soundfile.read(script, dtype="int16")
    rows = np.frombuffer(b"".join(h.payload for h in voices), "<f4").reshape(-1, VOICE_DIM)
    assert np.array_equal(rows, VoicePerception().feed(sound))
    heard = np.frombuffer(b"".join(h.payload for h in audio), "<i2")
    assert np.array_equal(heard, sound[: len(heard)]) and len(sound) - len(heard) < 320
    assert [p for h in audio for p in h.message.speech] == [float(p) for p in rows[:, -1]]
    assert [h.message.sample for h in audio] == [k * 1600 for k in range(len(audio))]


def test_words_never_break_their_watermark(script: Path, word_weights: str) -> None:
    workers = {k: v for k, v in play(script, "", word_weights).items() if k != "camera"}
    with Stage(workers, speed=None) as stage:
        stage.wait_ended("words")
        messages = stage.all(Words)
        end = next(m for m in stage.messages(End) if m.stream == "words")
    reached = 0
    for h in messages:
        message: Words = h.message
        assert all(word.end > reached for word in (*message.committed, *message.tentative))
        assert message.watermark >= reached
        assert len(h.payload) == 4 * 67 * (len(message.committed) + len(message.tentative))
        reached = message.watermark
    assert end.watermark == FOREVER
    text = [word.text for h in messages for word in h.message.committed]
    assert word_errors(" ".join(SCRIPT[:3]).split(), text) <= 0.15
    audio = stage.messages(Audio)
    # Finals wait for it: while nobody speaks it follows the sound closely, and it never stands still for long.
    lags = [audio[k].end - h.message.watermark for k, h in enumerate(messages[: len(audio)])]
    assert max(lags) <= 4 * SECOND and sorted(lags)[len(lags) // 4] <= 400 * MILLISECOND


class Slow(recognisers.Recogniser):
    """Takes longer over its first hypothesis than a worker may be silent, and hears nothing."""

    name, interval, seconds = "slow", 16000, 4.0

    def hypothesis(self) -> list[Any]:
        time.sleep(self.seconds)
        self.seconds = 0.0
        return []

    def finish(self) -> list[Any]:
        return []


def run_slow(options: TranscriberOptions, connection: Connection) -> int:
    recognisers.load = lambda *_: Slow()
    return transcriber.run(options, connection)


def test_a_transcriber_that_decodes_for_long_is_not_taken_for_dead(script: Path, word_weights: str) -> None:
    workers = {"microphone": (microphone.run, MicrophoneOptions(source=f"file:{script}")),
               "transcriber": (run_slow, TranscriberOptions(weights=word_weights))}
    with Stage(workers, speed=None) as stage:
        stage.wait_ended("words")
        states = {message.workers.get("transcriber") for message in stage.messages(Session)}
        beats = [h.message.sent for h in stage.all(Status) if h.message.worker == "transcriber"]
    assert "failed" not in states
    assert beats[-1] - beats[0] > 4 * SECOND and max(b - a for a, b in itertools.pairwise(beats)) < 3 * SECOND


def test_no_face_is_said_frame_by_frame(face_weights: str) -> None:
    source = clip("noface_face.mp4")
    with Stage({"camera": (camera.run, CameraOptions(source=f"file:{source}", weights=face_weights))}, speed=None) as stage:
        stage.wait_ended("face")
        faces = stage.all(Face)
    assert len(faces) == 191 and [h.message.seq for h in faces] == list(range(191))
    seen = [h.message.face is not None for h in faces]
    assert sum(a != (118 <= k <= 189) for k, a in enumerate(seen)) <= 2
    assert all((len(h.payload) == 0) == (h.message.face is None) for h in faces)
    assert all(h.message.watermark == h.message.end for h in faces)
    box = next(h.message.face.box for h in faces if h.message.face)
    assert 0 <= box[0] < box[2] <= 1.2 and 0 <= box[1] < box[3] <= 1.2


def test_a_file_waits_for_credit(tmp_path: Path) -> None:
    source = tmp_path / "long.wav"
    soundfile.write(source, np.zeros(16000 * 15, np.int16), 16000)
    with Stage({"microphone": (microphone.run, MicrophoneOptions(source=f"file:{source}"))}, speed=None) as stage:
        stage.wait(lambda: any(m.begin >= 12 * SECOND for m in stage.messages(Voice)))
        beats = len(stage.messages(Status))
        stage.wait(lambda: len(stage.messages(Status)) >= beats + 2)  # it waits, and beats meanwhile
        assert max(m.begin for m in stage.messages(Voice)) == 12 * SECOND
        session = stage.messages(Voice)[0].session
        stage.order(Credit(session=session, through=4 * SECOND))
        stage.wait_ended("voice")
        assert len(stage.messages(Voice)) == 750


def test_pause_is_a_gap_and_a_new_segment(script: Path, word_weights: str) -> None:
    workers = {k: v for k, v in play(script, "", word_weights).items() if k != "camera"}
    with Stage(workers, speed=1.0) as stage:
        stage.wait(lambda: len(stage.messages(Voice)) > 60)
        stage.order(Control(action="pause", target="microphone"))
        stage.wait(lambda: any(m.state == "paused" for m in stage.messages(Status)))
        stage.wait(lambda: any(m.state == "paused" and m.streams["voice"].watermark > m.sent - SECOND // 2
                               for m in stage.messages(Status) if m.worker == "microphone"))
        silent = len(stage.messages(Voice))
        # Finals are not held up: words follow the paused microphone.
        now = max(m.sent for m in stage.messages(Status))
        stage.wait(lambda: any(m.watermark > now for m in stage.messages(Words)))
        assert len(stage.messages(Voice)) == silent
        stage.order(Control(action="resume", target="microphone"))
        stage.wait(lambda: len(stage.messages(Voice)) > silent + 20)
        gaps, voices = stage.messages(Gap, "voice"), stage.messages(Voice)
    assert len(gaps) == 1 and gaps[0].reason == "paused" and gaps[0].end - gaps[0].begin > SECOND // 5
    before, after = voices[silent - 1], voices[silent]
    assert gaps[0].begin == before.begin + before.hop and gaps[0].end == after.begin
    assert (before.segment, after.segment) == (0, 1)


def test_own_sound_is_silence_to_the_transcriber(script: Path) -> None:
    with Stage({"microphone": (microphone.run, MicrophoneOptions(source=f"file:{script}"))}, speed=1.0) as stage:
        stage.wait(lambda: len(stage.messages(Voice)) > 5)
        stage.order(Control(action="busy", target="voice", begin=SECOND, end=2 * SECOND))
        stage.wait(lambda: any(m.end > 5 * SECOND // 2 for m in stage.messages(Audio)))
        audio = stage.all(Audio)
    for h in audio:
        inside = h.message.begin >= SECOND and h.message.end <= 2 * SECOND
        assert not inside or (max(h.message.speech) == 0 and not any(h.payload))
    assert any(max(h.message.speech) > 0.5 for h in audio if h.message.end > 2 * SECOND)


# Sources alone

def test_picture_and_sound_share_the_media_clock(tmp_path: Path) -> None:
    """A container that begins at 10 s, its sound half a second after its picture: times count from the container's start."""
    source = tmp_path / "late.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x48:rate=10:duration=1", "-itsoffset", "0.5", "-f", "lavfi", "-i",
           "sine=frequency=440:sample_rate=48000:duration=1", "-c:v", "ffv1", "-c:a", "pcm_s16le", "-output_ts_offset", "10", str(source))
    video = FileVideo(f"file:{source}")
    assert [shot.stamp for shot in video] == [k * SECOND // 10 for k in range(10)] and video.end == SECOND
    sound = FileSound(f"file:{source}")
    pieces = list(sound)
    assert pieces[0].begin == SECOND // 2 and [p.begin for p in pieces[:-1]] == [SECOND // 2 + k * HOP for k in range(len(pieces) - 1)]
    assert sound.end == pytest.approx(1.5 * SECOND, abs=2 * MILLISECOND)
    assert all(p.joined for p in pieces[1:])


def test_variable_rate_keeps_its_own_times(tmp_path: Path) -> None:
    source = tmp_path / "vfr.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x48:rate=10:duration=1", "-vf", "select='not(between(n,3,6))'",
           "-fps_mode", "passthrough", "-c:v", "ffv1", str(source))
    assert [shot.stamp // MILLISECOND for shot in FileVideo(f"file:{source}")] == [0, 100, 200, 700, 800, 900]


@pytest.mark.parametrize("kind", [FileVideo, FileSound])
def test_files_that_cannot_be_played(kind: Any, tmp_path: Path, script: Path) -> None:
    with pytest.raises(CaptureError, match="no such file"):
        kind(f"file:{tmp_path / 'none.mp4'}")
    (tmp_path / "text.mp4").write_text("not a film")
    with pytest.raises(CaptureError, match="cannot be read as a media file"):
        kind(f"file:{tmp_path / 'text.mp4'}")
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x48:rate=10:duration=1", "-pix_fmt", "yuv420p", str(tmp_path / "mute.mp4"))
    with pytest.raises(CaptureError, match="has no"):
        kind(f"file:{script if kind is FileVideo else tmp_path / 'mute.mp4'}")
    whole = (tmp_path / "mute.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CaptureError, match=r"cut\.mp4"):
        list(kind(f"file:{tmp_path / 'cut.mp4'}"))


def test_damage_within_a_file_is_passed_over(tmp_path: Path) -> None:
    source = tmp_path / "hurt.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=320x240:rate=10:duration=3", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p", str(source))
    data = bytearray(source.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    source.write_bytes(data)
    video = FileVideo(f"file:{source}")
    assert 20 <= len(list(video)) <= 30 and video.end == 3 * SECOND


@pytest.mark.parametrize(("entry", "options", "line"), [
    (camera.run, CameraOptions(source="film.mp4"), "neither an index"),
    (camera.run, CameraOptions(source="/dev/video77"), "no such device"),
    (camera.run, CameraOptions(source="file:/none.mp4"), "no such file"),
    (camera.run, CameraOptions(source="none"), "nothing to do"),
    (microphone.run, MicrophoneOptions(source="file:/none.wav"), "no such file"),
    (microphone.run, MicrophoneOptions(source="none"), "nothing to do"),
    (transcriber.run, TranscriberOptions(model="/none"), "no such folder"),
    (transcriber.run, TranscriberOptions(model="small", offline=True), "--offline"),
    (transcriber.run, TranscriberOptions(model="pocketsphinx", weights="/none.safetensors"), "no weights"),
])  # fmt: skip
def test_what_cannot_start_says_so_in_one_line(
    entry: Any, options: Any, line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CaptureError, match=line) as raised:
        entry(options, Connection(free_address()))
    assert "\n" not in str(raised.value)


def test_a_file_without_its_prefix_is_named(script: Path) -> None:
    with pytest.raises(CaptureError, match="--camera file:"):
        camera.run(CameraOptions(source=str(script)), Connection(free_address()))


def test_language_lines() -> None:
    assert language_line("pocketsphinx en-us", "en-GB") == ""
    assert "pocketsphinx's built-in model and the built-in words are English" in language_line("pocketsphinx en-us", "de")
    assert "built-in words are English" in language_line("whisper base", "de")

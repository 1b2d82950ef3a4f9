"""The transcriber worker: `audio` in, `words` out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.perception.words import DIM, WordPerception, feature_set
from models.weights import WeightsError
from stream.bus import Connection
from stream.capture import CaptureError, pace, recognisers
from stream.capture.agreement import RATE
from stream.capture.transcript import Spoken, Transcript
from stream.clock import monotonic
from stream.node import Node
from stream.protocol import FOREVER, SECOND, Audio, End, Gap, Header, Received, Status, StreamInfo, Words

BEHIND = 5 * SECOND
"""A live transcriber that lags further than this leaves out what it cannot catch up with, and says so."""
SILENCE = 2 * SECOND
"""Real time without sound after which what is being said is taken to be over."""


@dataclass
class TranscriberOptions:
    """Write down what is said into the microphone of the session, word by word."""

    model: str = "auto"
    """`auto` (faster-whisper if its model is on this disk, else pocketsphinx), `pocketsphinx`, a Whisper model's folder, or its size."""
    language: str = "en"
    """Language spoken. The built-in words are English."""
    offline: bool = False
    """Never ask a model hub for anything."""
    device: str = "cpu"
    """Where Whisper runs: `cpu` or `cuda`."""
    weights: str = "words"
    """Word weights: a shipped name or a .safetensors file."""


class Transcriber:
    """A transcript in one session: follows the microphone's numbering, publishes words and their watermark."""

    def __init__(self, node: Node, transcript: Transcript, features: str, language: str) -> None:
        self.node, self.transcript = node, transcript
        self.outlet = node.outlets["words"]
        self._features, self._language = features, language
        self._instance, self._next, self._segment = "", 0, 0
        self._end = 0
        self._revision = 0
        self._told: list[Spoken] = []
        self._heard_at = monotonic()
        self._broken_from: int | None = None
        self._why = ""
        self._dropped = 0.0

    def take(self, received: Received) -> None:
        """One message of the `audio` stream, or a heartbeat of whoever sends it."""
        message = received.message
        if isinstance(message, Status):
            self._follow(message)
        elif isinstance(message, Header) and message.stream == "audio" and not self.outlet.ended and self._number(message):
            if isinstance(message, Audio):
                self._hear(message, received.payload)
            elif isinstance(message, Gap):
                self._break(message.reason, message.end)
                self.publish()
            elif isinstance(message, End):
                self._break("", message.end)
                self.publish()
                self.outlet.end(message.end)
                self.node.state("ended", "the sound is over")

    def idle(self) -> None:
        """Nothing came for a while: in a live session what was being said is over."""
        if not self.node.session.lossless and not self.outlet.ended and monotonic() - self._heard_at > SILENCE:
            self._heard_at = monotonic()
            if self._broken_from is None and self._end:
                self._break("no sound arrives", self._end)
                self.publish()

    def _number(self, message: Header) -> bool:
        """Whether a message is new; a hole or a new producer ends what was being said."""
        if message.instance != self._instance:
            if self._instance:
                self._break("the microphone restarted", self._end)
            self._instance, self._next, self._segment = message.instance, message.seq, message.segment
        if message.seq < self._next:
            return False
        if message.seq > self._next:
            self.node.metrics["lost"] = self.node.metrics.get("lost", 0) + message.seq - self._next
            self._break("sound was lost", self._end)
        elif message.segment != self._segment and not isinstance(message, Gap):
            self._break("the sound jumped", self._end)
        self._next, self._segment = message.seq + 1, message.segment
        self._heard_at = monotonic()
        return True

    def _follow(self, status: Status) -> None:
        """The microphone's heartbeat carries its watermark while it is paused or lost; so does ours then."""
        progress = status.streams.get("audio")
        if progress is None or status.instance != self._instance or progress.next_seq != self._next or progress.watermark >= FOREVER:
            return
        self._heard_at = monotonic()
        if progress.watermark > self._end and status.state in ("paused", "reconnecting"):
            self._break(status.state, progress.watermark)
            self.publish()

    def _hear(self, audio: Audio, payload: memoryview) -> None:
        if audio.rate != RATE or len(payload) != 2 * RATE // 50 * len(audio.speech):
            self.node.metrics["refused"] = self.node.metrics.get("refused", 0) + 1
            return
        self._end = audio.end
        now = self.node.clock.now()
        if pace.off(self.node):
            self._leave_out("paused", audio)
            self.node.state("paused")
        elif now is not None and not self.node.session.lossless and now - audio.end > BEHIND:
            self._leave_out("the transcriber cannot keep up", audio)
            self._dropped += (audio.end - audio.begin) / SECOND
            self.node.metrics["dropped_s"] = self._dropped
        else:
            if self._broken_from is not None:
                self.outlet.gap(self._broken_from, max(self._broken_from, audio.begin), self._why)
                self._broken_from = None
            self.node.state("running", self.node.detail["recogniser"])
            pcm = np.frombuffer(payload, "<i2").astype(np.int16)
            # A pass of Whisper takes seconds on a slow processor; the session must not take us for dead.
            self.node.during(self.transcript.feed, pcm, audio.speech, audio.begin, audio.end)
        self.publish()

    def _leave_out(self, why: str, audio: Audio) -> None:
        if self._broken_from is None:
            self._break(why, audio.begin)
        self.transcript.watermark = max(self.transcript.watermark, audio.end)

    def _break(self, why: str, at: int) -> None:
        """Ends what is being said; nothing follows before `at`."""
        if self._broken_from is None and why:
            self._broken_from, self._why = max(self._end, self.outlet.watermark), why
        self.node.during(self.transcript.finish, at)

    def publish(self) -> None:
        """New words, the present guess, and how far all is told."""
        committed = self._own(self.transcript.take())
        tentative = self._own(self.transcript.tentative)
        self._revision += bool(committed) or [s.word for s in tentative] != [s.word for s in self._told]
        self._told = tentative
        rows = [spoken.row for spoken in (*committed, *tentative)]
        self.outlet.send(
            Words(
                **self.outlet.header(self.transcript.watermark), committed=[s.word for s in committed],
                tentative=[s.word for s in tentative], revision=self._revision, features=self._features, language=self._language,
                heard=self._end,
            ),
            np.ascontiguousarray(np.stack(rows), "<f4").tobytes() if rows else b"",
        )

    def _own(self, words: Sequence[Spoken]) -> list[Spoken]:
        """Without what a robot said itself."""
        busy = [order for order in self.node.busy if order.target in pace.OWN_SOUND]
        return [spoken for spoken in words if not any(o.begin < spoken.word.end and spoken.word.begin < o.end for o in busy)]


def language_line(recogniser: str, language: str) -> str:
    """What a person who does not speak English must know, or ""."""
    if language.lower().split("-")[0] == "en":
        return ""
    if recogniser.startswith("pocketsphinx"):
        return f"language {language}: pocketsphinx's built-in model and the built-in words are English; other speech gives nonsense"
    return f"language {language}: the built-in words are English; words of other languages carry no affect"


def run(options: TranscriberOptions, connection: Connection) -> int:
    """The worker's process: loads the recogniser, joins, writes down until told to stop. Raises CaptureError."""
    recogniser = recognisers.load(options.model, options.language, options.offline, options.device)
    try:
        words = WordPerception(options.weights)
    except WeightsError as error:
        raise CaptureError(str(error)) from error
    features = feature_set(options.weights).hash
    detail = {"recogniser": recogniser.name, "language": options.language}
    if line := language_line(recogniser.name, options.language):
        detail["note"] = line
        print(line, file=sys.stderr)
    info = StreamInfo(name="words", features=features, dim=DIM, source=recogniser.name)
    node = Node(connection.open(), "transcriber", [info], listen=("audio", "status"), detail=detail)
    with pace.membership(node):
        node.state("running", recogniser.name)
        transcriber = Transcriber(node, Transcript(recogniser, words), features, options.language)
        while not node.stopping:
            for received in node.receive(50):
                transcriber.take(received)
                if node.stopping:
                    break
            transcriber.idle()
    return 0

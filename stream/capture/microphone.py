"""The microphone worker: sound in, `voice` rows and `audio` for the transcriber out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.perception.vad import VadMissing
from models.perception.voice import SPEECH, VOICE, VoicePerception
from stream.bus import Address, Connection
from stream.capture import CaptureError, pace
from stream.capture.browser import BrowserSound
from stream.capture.files import is_file
from stream.capture.media import BROWSER
from stream.capture.sound import HOP, LATE, RATE, DeviceSound, FileSound, Pcm, drain, level, resampler
from stream.clock import SampleClock, monotonic
from stream.node import Node
from stream.protocol import SECOND, Audio, StreamInfo, Voice

HOP_NS = HOP * SECOND // RATE
AUDIO_HOPS = 5
"""Hops in one audio message: 100 ms."""
RETRY = (1.0, 2.0, 3.0, 5.0)
"""Seconds between attempts to get a lost device back."""


@dataclass
class MicrophoneOptions:
    """Listen to a microphone and publish what the voice sounds like, and the sound itself to the transcriber beside it."""

    source: str = "default"
    """`default`, device name or index, `file:PATH`, `browser` (whoever gives theirs on the page), or `none`."""


class Microphone:
    """Perception and outlets of one microphone; used by files and devices alike."""

    def __init__(self, node: Node, perception: VoicePerception) -> None:
        self.node = node
        self.voice, self.audio = node.outlets["voice"], node.outlets["audio"]
        self._perception = perception
        self._block: list[Pcm] = []
        self._speech: list[float] = []
        self._begin = self._end = 0
        self._sample = 0
        self._gap_from: int | None = None

    def hear(self, pcm: Pcm, begin: int, end: int, grabbed: int, uncertainty: int) -> None:
        """One hop (320,) int16 that sounded in [begin, end] of session time (ns), through perception to the bus."""
        if self._gap_from is not None:
            self._resume(begin)
        rows = self._perception.feed(pcm)
        loud = level(pcm)
        self.node.metrics["level_db"] = loud
        self.voice.send(
            Voice(
                **self.voice.header(end), begin=begin, hop=end - begin, rows=len(rows), uncertainty=uncertainty, grabbed=grabbed,
                features=VOICE.hash, level=loud,
            ),
            np.ascontiguousarray(rows, "<f4").tobytes(),
        )
        silent = any(order.target in pace.OWN_SOUND and order.begin < end and begin < order.end for order in self.node.busy)
        if not self._block:
            self._begin = begin
        self._end = end
        self._block.append(np.zeros_like(pcm) if silent else pcm)
        self._speech.append(0.0 if silent else float(rows[-1, SPEECH]))
        if len(self._block) == AUDIO_HOPS:
            self.flush()

    def flush(self) -> None:
        """Sends the sound heard so far to the transcriber."""
        if not self._block:
            return
        pcm = np.concatenate(self._block)
        self.audio.send(
            Audio(**self.audio.header(self._end), begin=self._begin, end=self._end, sample=self._sample, rate=RATE, speech=self._speech),
            pcm.astype("<i2").tobytes(),
        )
        self._sample += len(pcm)
        self._block, self._speech = [], []

    def deaf(self, until: int, reason: str) -> None:
        """Nothing is heard up to `until`: the watermarks move on, and gaps are written once sound comes again."""
        if self._gap_from is None:
            self.flush()
            self._gap_from, self._reason = self.voice.watermark, reason
        for outlet in (self.voice, self.audio):
            outlet.watermark = max(outlet.watermark, until)

    @property
    def broken(self) -> bool:
        """Whether the next sound begins a new segment."""
        return self._gap_from is not None

    def _resume(self, at: int) -> None:
        assert self._gap_from is not None
        for outlet in (self.voice, self.audio):
            outlet.gap(self._gap_from, max(at, self._gap_from), self._reason)
        self._perception.reset()
        self._sample = 0
        self._gap_from = None

    def end(self, at: int) -> None:
        if self._gap_from is not None:
            self._resume(at)
        self.flush()
        self.voice.end(at)
        self.audio.end(at)


def run(options: MicrophoneOptions, connection: Connection) -> int:
    """The worker's process: opens the source, loads the models, joins, listens until told to stop. Raises CaptureError."""
    if options.source == "none":
        raise CaptureError("--source none leaves the microphone nothing to do; give a device or file:PATH")
    sound: FileSound | DeviceSound | BrowserSound
    if is_file(options.source):
        sound = FileSound(options.source)
    elif options.source == BROWSER:
        sound = BrowserSound(Address.parse(connection.hub))
    else:
        sound = DeviceSound(options.source)
    try:
        perception = VoicePerception()
    except VadMissing as error:
        raise CaptureError(str(error)) from error
    perception.feed(np.zeros(RATE // 10, np.int16))  # warm: the first call builds tables
    perception.reset()
    if isinstance(sound, DeviceSound):
        sound.open()
    elif isinstance(sound, BrowserSound):
        sound.start()
    name = options.source if not isinstance(sound, DeviceSound) else f"microphone {sound.name}"
    infos = [
        StreamInfo(name="voice", features=VOICE.hash, dim=VOICE.dim, rate=VOICE.rate_hz, source=name),
        StreamInfo(name="audio", rate=RATE, source=name),
    ]
    node = Node(connection.open(), "microphone", infos, detail={"source": name})
    with pace.membership(node):
        microphone = Microphone(node, perception)
        if isinstance(sound, FileSound):
            _play(microphone, sound)
        else:
            _listen(microphone, sound)
    sound.close()
    return 0


def _play(microphone: Microphone, sound: FileSound) -> None:
    """A file: no sound before its time, none lost; its media time is session time."""
    node = microphone.node
    for piece in sound:
        end = piece.begin + len(piece.pcm) * SECOND // RATE
        if not pace.wait(node, piece.begin, end):
            return
        while pace.off(node) and node.clock.speed is None and not node.stopping:
            node.service(pace.STEP_MS)
        if pace.off(node):
            microphone.deaf(end, "paused")
            node.state("paused")
            continue
        node.state("running")
        if not piece.joined and piece.begin > microphone.voice.watermark > 0:
            microphone.deaf(piece.begin, "the file has no sound here")
        if len(piece.pcm) == HOP:
            microphone.hear(piece.pcm, piece.begin, end, max(end, node.clock.stamp()), 0)
    node.metrics["undecodable"] = sound.undecodable
    microphone.end(sound.end)
    node.state("ended", f"{sound.source} is over" + (f"; {sound.undecodable} damaged packets passed over" if sound.undecodable else ""))
    pace.rest(node)


class _Ear:
    """Turns a device's blocks into hops of 16 kHz with session times: resampling where needed, one sample clock."""

    def __init__(self, sound: DeviceSound | BrowserSound, node: Node) -> None:
        self.clock = SampleClock(sound.rate)
        self._sound, self._node = sound, node
        self.restart()

    def restart(self) -> None:
        """Samples were lost: anchor anew."""
        self.clock.restart()
        self._count = self._given = 0
        self._rest: Pcm = np.zeros(0, np.int16)
        self._late = 0
        self._expected: int | None = None
        self._resampler = None if self._sound.rate == RATE else resampler()

    def astray(self, stamp: int) -> bool:
        """Whether the device's stamps have left its sample count for good: it lost sound and did not say so."""
        if self._expected is None:
            return False
        self._late = self._late + 1 if abs(stamp - self._expected) > LATE else 0
        return self._late >= 10

    def feed(self, pcm: Pcm, stamp: int) -> list[tuple[Pcm, int, int]]:
        """Hops completed by a block whose first sample was converted at `stamp` (session ns): (pcm, begin, end)."""
        self.clock.observe(self._count, stamp)
        self._count += len(pcm)
        for part in self._convert(pcm):
            self._rest = np.concatenate((self._rest, part))
        hops = []
        while len(self._rest) >= HOP:
            begin = self.clock.stamp(self._given * self._sound.rate // RATE)
            hops.append((self._rest[:HOP], begin, begin + HOP_NS))
            self._rest = self._rest[HOP:]
            self._given += HOP
        if hops:
            self._expected = hops[-1][2] + len(self._rest) * SECOND // RATE
        return hops

    def _convert(self, pcm: Pcm) -> list[Pcm]:
        if self._resampler is None:
            return [pcm]
        import av

        frame = av.AudioFrame.from_ndarray(pcm.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = self._sound.rate
        return drain(self._resampler, frame)


def _listen(microphone: Microphone, sound: DeviceSound | BrowserSound) -> None:
    """A device: sample-count clock; pauses, overflows and losses become gaps and new segments."""
    node, clock = microphone.node, microphone.node.clock
    ear = _Ear(sound, node)
    attempt, retry_at, overflows = 0, 0, 0
    node.metrics["overflows"] = 0
    measured = 0
    while not node.stopping:
        node.service(0)
        now = clock.stamp()
        if pace.off(node):
            if sound.ready or not sound.lost:
                sound.close()
                sound.lost = "paused"
            microphone.deaf(now, "paused")
            node.state("paused")
            node.service(50)
            attempt, retry_at = 0, monotonic()
            continue
        if node.slept():
            microphone.deaf(now, "the machine slept")
            ear.restart()
        if retry_at:
            microphone.deaf(now, "microphone lost")
            node.service(50)
            if monotonic() >= retry_at:
                sound.start()
                ear, retry_at = _Ear(sound, node), 0
            continue
        blocks = sound.take(0.05)
        if not blocks:
            if sound.lost:
                microphone.deaf(now, "microphone lost")
                node.state("reconnecting", f"{sound.name}: {sound.lost}; trying again")
                sound.close()
                retry_at = monotonic() + int(RETRY[min(attempt, len(RETRY) - 1)] * SECOND)
                attempt += 1
            elif not sound.ready:
                if not microphone.broken:
                    ear.restart()
                microphone.deaf(now, "microphone lost")
                if isinstance(sound, BrowserSound):
                    node.state("reconnecting", sound.hint)
            continue
        if ear.clock.rate != sound.rate:
            ear = _Ear(sound, node)
        attempt = 0
        node.state("running", f"hears {sound.name}")
        for block in blocks:
            stamp = clock.at(block.stamp)
            if block.lost or ear.astray(stamp):
                overflows += 1
                node.metrics["overflows"] = overflows
                microphone.deaf(microphone.voice.watermark, "overflow")
                ear.restart()
            grabbed = clock.stamp()
            for pcm, begin, end in ear.feed(block.pcm, stamp):
                if begin < max(0, microphone.voice.watermark if microphone.broken else 0):
                    continue  # before the epoch, or before the gap ended
                # Host APIs know the delay before their callback to about a block at best.
                microphone.hear(pcm, begin, end, grabbed, HOP_NS + ear.clock.jitter + clock.uncertainty() + sound.uncertainty)
        if monotonic() - measured > SECOND:
            measured = monotonic()
            node.metrics["drift_ppm"] = ear.clock.drift_ppm or node.metrics.get("drift_ppm", 0.0)  # a crystal's error outlives a restart

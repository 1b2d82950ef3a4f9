"""The wire schema: every message that travels, its topic and its payload.

A message is ZeroMQ multipart: `topic` (UTF-8) | `header` (msgpack map of one struct below, tagged by "type") | `payload` (raw array
bytes, little endian; empty where a message has none). All times are integer nanoseconds of session time (see TIME in the README):
counted from the session's epoch on the hub host's monotonic clock. Never pickle. A stamp, once published, is never revised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Union

import msgspec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SCHEMA = 1
"""Schema version, `v` in every message. A receiver refuses other major versions."""

MAX_HEADER = 256 * 1024
MAX_PAYLOAD = 8 * 1024 * 1024
"""Bytes. Larger messages are refused by every receiver, and by the hub's sockets."""

SECOND = 1_000_000_000
MILLISECOND = 1_000_000
FOREVER = 2**62
"""Watermark of a stream that has ended."""
SHORTEST_HOP, LONGEST_HOP = 20 * MILLISECOND, 500 * MILLISECOND
"""Of a session's windows: voice rows come every 20 ms, and listeners take results that are a second apart for a break."""


class ProtocolError(ValueError):
    """A message that does not follow the schema: too large, not msgpack, unknown type or version, payload of another size."""


class Header(msgspec.Struct, kw_only=True, tag_field="type"):
    """What every stream message carries. Identity is (session, stream, instance, seq)."""

    v: int = SCHEMA
    session: str
    stream: str
    instance: str
    """New at each start of a producer."""
    seq: int
    """Counts from 0 within an instance; a missing number is a lost message."""
    segment: int = 0
    """Grows when the source jumped (suspend, loop, seek, pause): windows do not cross segments."""
    watermark: int
    """You have everything of this stream up to here (ns)."""
    sent: int
    """Session time of publication (ns)."""


class FaceInfo(msgspec.Struct, kw_only=True):
    """What is known of the face in a frame beside the feature row."""

    track: int
    """Changes when the tracker follows another face."""
    quality: float
    """0 to 1: size, blur and tracking confidence."""
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 as shares of the frame's width and height."""
    geometry: dict[str, float] = {}
    """Pose-normalised measures (brows, lids, gaze, mouth, head pose and motion)."""


class Face(Header, kw_only=True, tag="face"):
    """One camera frame. Payload: one float32 row (dim of the face feature set), or empty when no face was seen."""

    begin: int
    end: int
    """Exposure as well as it is known; a frame belongs to a window by its end."""
    uncertainty: int
    grabbed: int
    """Session time at which the frame was in the worker's memory."""
    features: str
    """Hash of the feature set."""
    face: FaceInfo | None = None
    skipped: int = 0
    """Frames the grabber has skipped since the start, because a newer one was there."""


class Voice(Header, kw_only=True, tag="voice"):
    """`rows` consecutive voice rows. Payload: float32 (rows, dim). Row i covers [begin + i*hop, begin + (i+1)*hop]."""

    begin: int
    hop: int
    rows: int
    uncertainty: int
    grabbed: int
    features: str
    level: float
    """RMS of the samples, dB relative to full scale."""


class Audio(Header, kw_only=True, tag="audio"):
    """Sound for the transcriber; stays on loopback. Payload: int16 mono samples at `rate`.

    The payload covers [begin, end]; `sample` is the number of its first sample since the segment began.
    """

    begin: int
    end: int
    sample: int
    rate: int
    speech: list[float]
    """Voice-activity probability, one value a 20 ms hop of the payload."""


class Word(msgspec.Struct, kw_only=True):
    text: str
    begin: int
    end: int
    probability: float
    """The recogniser's, 0..1; 1 where it says none (pocketsphinx)."""


class Words(Header, kw_only=True, tag="words"):
    """Words heard. Payload: float32 rows, first those of `committed`, then those of `tentative`.

    `committed` words are new with this message and never change. `tentative` is the whole present guess of what follows them;
    it replaces the guess of the message before.
    """

    committed: list[Word]
    tentative: list[Word]
    revision: int
    """Grows with each message that changes anything."""
    features: str
    language: str = "en"
    heard: int = 0
    """End of the sound (ns) that this was made from: what came later than that is the recogniser's computing, not its policy."""


class Gap(Header, kw_only=True, tag="gap"):
    """Nothing is known of this stream in [begin, end]: overflow, pause, mute, lost device, restart. Not silence."""

    begin: int
    end: int
    reason: str


class End(Header, kw_only=True, tag="end"):
    """The stream is over; its watermark is infinite. `end` is where its content stopped."""

    end: int


class StreamInfo(msgspec.Struct, kw_only=True):
    """What a producer says of a stream when it joins."""

    name: str
    features: str = ""
    dim: int = 0
    rate: float = 0.0
    source: str = ""
    """What it is made from, for people: "camera 0", "file:clip.mp4"."""


class Hello(msgspec.Struct, kw_only=True, tag_field="type", tag="hello"):
    """A worker is ready: its sockets are connected and its models loaded. Repeated until the session answers with its name."""

    v: int = SCHEMA
    worker: str
    instance: str
    streams: list[StreamInfo] = []
    detail: dict[str, str] = {}
    """Facts for people: model, backend, recogniser."""


class Progress(msgspec.Struct, kw_only=True):
    next_seq: int
    watermark: int
    segment: int = 0


WorkerState = Literal["starting", "running", "paused", "reconnecting", "ended", "failed"]


class Status(msgspec.Struct, kw_only=True, tag_field="type", tag="status"):
    """A worker's heartbeat, twice a second and at every change of state. Carries the watermark of its streams."""

    v: int = SCHEMA
    session: str
    worker: str
    instance: str
    state: WorkerState
    text: str = ""
    """One line for people."""
    sent: int
    streams: dict[str, Progress] = {}
    metrics: dict[str, float] = {}
    """Numbers by name: skipped, drift_ppm, level, cpu_percent, memory_mb, …"""


class Session(msgspec.Struct, kw_only=True, tag_field="type", tag="session"):
    """The hub's beacon, once a second and after every hello: all that a late joiner needs."""

    v: int = SCHEMA
    session: str
    epoch: int | None
    """Hub monotonic clock (ns) at session time 0; None until every expected worker has said hello."""
    wall: str = ""
    """Wall-clock time of the epoch, ISO 8601, for people."""
    host: str
    """Identity of the hub's clock: a producer with another one must probe the clock service."""
    speed: float | None = 1.0
    """How fast session time runs against the clock; None: as fast as the slowest stage allows (no clock)."""
    lossless: bool = False
    """Every source is a file: nothing may be lost, finals close by watermarks alone, sources wait for credit."""
    window: int
    hop: int
    lateness: dict[str, int]
    """Declared streams and how long (ns) a final waits for each."""
    streams: dict[str, StreamInfo] = {}
    workers: dict[str, str] = {}
    """Worker name to state."""
    instances: dict[str, str] = {}
    """Worker name to the instance that speaks for it now."""
    detail: dict[str, dict[str, str]] = {}
    last_final: int = 0


class Control(msgspec.Struct, kw_only=True, tag_field="type", tag="control"):
    """An order, from anybody: pause, resume, mute or unmute workers; `busy` masks [begin, end] of a stream (a robot speaking); stop."""

    v: int = SCHEMA
    action: Literal["pause", "resume", "mute", "unmute", "busy", "stop"]
    target: str = "*"
    """A worker ("camera", "microphone", "transcriber"), a stream for `busy` ("voice"), or "*"."""
    begin: int = 0
    end: int = 0


class Credit(msgspec.Struct, kw_only=True, tag_field="type", tag="credit"):
    """Flow control for file sources: finals up to `through` are out."""

    v: int = SCHEMA
    session: str
    through: int


class Newest(msgspec.Struct, kw_only=True):
    """The newest sample of a stream that entered a window, and when it passed each stage (session ns)."""

    end: int
    grabbed: int
    sent: int
    received: int


class Affect(Header, kw_only=True, tag="affect"):
    """One reading: how the person seems to feel at the end `t` of the window (t - W, t]. No payload. Also sent as JSON on `affect.json`."""

    t: int
    window: int
    """k: the window ends at k * hop."""
    final: bool
    closed_by: Literal["watermark", "lateness", "time"]
    """Finals: watermark or lateness. Provisionals: watermark (face and voice had passed) or time (40 ms had)."""
    top: str | None
    """Most probable emotion; null when nothing usable was in the window."""
    probabilities: dict[str, float]
    valence: float | None
    arousal: float | None
    weights: dict[str, float]
    """How much text, voice and face counted."""
    present: list[str]
    """Which of text, voice and face were usable."""
    samples: dict[str, int]
    truncated: dict[str, int] = {}
    """Rows beyond the window's capacity, left out (the oldest)."""
    tentative: int = 0
    """Tentative words in it (provisionals only)."""
    revision: int = 0
    """Highest revision of the words stream that entered."""
    changed: bool = False
    """Finals: a committed word that the provisional did not have changed the input."""
    newest: dict[str, Newest] = {}
    closed: int = 0
    """Session time (ns) at which the window was closed, its computation began, and ended."""
    started: int = 0
    computed: int = 0
    model: str = ""
    backend: str = ""
    features: dict[str, str] = {}


StreamMessage = Union[Face, Voice, Audio, Words, Gap, End, Affect]
Message = Union[Face, Voice, Audio, Words, Gap, End, Affect, Hello, Status, Session, Control, Credit]

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)
_json = msgspec.json.Encoder()


class Received(msgspec.Struct):
    topic: str
    message: Message
    payload: memoryview

    def rows(self, dim: int) -> npt.NDArray[np.float32]:
        """The payload as float32 (n, dim), a read-only view. Raises ProtocolError when its size is no multiple of a row."""
        if len(self.payload) % (4 * dim):
            raise ProtocolError(f"{self.topic}: payload of {len(self.payload)} bytes is not a whole number of rows of {dim} float32")
        import numpy as np  # here, so that an app that reads results alone needs no numpy

        return np.frombuffer(self.payload, np.dtype("<f4")).reshape(-1, dim)


def encode(topic: str, message: Message, payload: bytes | memoryview = b"") -> list[Any]:
    """Frames of one message. Raises ProtocolError when it is larger than any receiver would take."""
    header = _encoder.encode(message)
    if len(header) > MAX_HEADER or len(payload) > MAX_PAYLOAD:
        raise ProtocolError(f"{topic}: header of {len(header)} and payload of {len(payload)} bytes exceed {MAX_HEADER} and {MAX_PAYLOAD}")
    return [topic.encode(), header, payload]


def encode_json(message: Affect) -> list[bytes]:
    """Frames of the JSON twin of a result: `affect.json` | the same fields as UTF-8 JSON."""
    return [b"affect.json", _json.encode(message)]


def decode(frames: list[Any]) -> Received:
    """Checks and parses frames. Raises ProtocolError with the reason; never anything else, whatever the bytes."""
    if len(frames) != 3:
        raise ProtocolError(f"expected 3 frames (topic, header, payload), got {len(frames)}")
    topic_frame, header, payload = (memoryview(frame) for frame in frames)
    if len(header) > MAX_HEADER or len(payload) > MAX_PAYLOAD or len(topic_frame) > 64:
        raise ProtocolError(f"oversized message: topic {len(topic_frame)}, header {len(header)}, payload {len(payload)} bytes")
    try:
        topic = bytes(topic_frame).decode()
        message = _decoder.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"undecodable header: {error}") from error
    if message.v != SCHEMA:
        raise ProtocolError(f"{topic}: schema version {message.v}, this program speaks {SCHEMA}; update the older side")
    return Received(topic, message, payload)

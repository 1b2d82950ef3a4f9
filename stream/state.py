"""What a listener knows of a running session: what the terminal view draws, gathered from the messages that pass."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from stream.protocol import (
    FOREVER,
    MILLISECOND,
    SECOND,
    Affect,
    End,
    Face,
    FaceInfo,
    Gap,
    Received,
    Session,
    Status,
    StreamMessage,
    Voice,
    Word,
    Words,
)

RECENT = 5 * SECOND
"""Rates and latencies are those of the last five seconds."""


class Recent:
    """Measurements of the last `RECENT`: how many a second, and how they are spread. Bounded."""

    def __init__(self) -> None:
        self._entries: deque[tuple[int, int, float]] = deque(maxlen=2000)
        self._first: int | None = None

    def add(self, now: int, value: float, count: int = 1) -> None:
        """`count` things came at `now` (ns); `value` is a measure of the newest."""
        self._first = now if self._first is None else self._first
        self._entries.append((now, count, value))

    def _within(self, now: int) -> list[tuple[int, int, float]]:
        while self._entries and now - self._entries[0][0] >= RECENT:
            self._entries.popleft()
        return list(self._entries)

    def rate(self, now: int) -> float | None:
        """Things a second; None in the first second."""
        if self._first is None or now - self._first < SECOND:
            return None
        return sum(count for _, count, _ in self._within(now)) * SECOND / min(RECENT, now - self._first)

    def quantile(self, now: int, share: float) -> float | None:
        values = sorted(value for _, _, value in self._within(now))
        return values[min(len(values) - 1, int(share * len(values)))] if values else None


@dataclass
class Flow:
    """One stream as it arrives."""

    instance: str = ""
    next_seq: int = 0
    lost: int = 0
    """Messages that were sent and never came."""
    skipped: int = 0
    """Frames its worker skipped because a newer one was there."""
    heard: int = 0
    """When its last message came (ns, the listener's monotonic clock)."""
    end: int = 0
    """Session time (ns) where its newest content ends."""
    uncertainty: int = 0
    """Of its newest stamp (ns)."""
    present: bool | None = None
    """Whether the newest frame had a face."""
    gap: str = ""
    """Why nothing is known at present."""
    ended: bool = False
    recent: Recent = field(default_factory=Recent)
    """Rows a second; the measure is the lag: from the world to being sent (ms)."""

    def count(self, message: StreamMessage) -> None:
        if message.instance != self.instance:
            self.instance, self.next_seq, self.ended = message.instance, message.seq, False
        self.lost += max(0, message.seq - self.next_seq)
        self.next_seq = max(self.next_seq, message.seq + 1)


class State:
    """Feed it with `update`; everything it keeps is bounded. Times `now` are nanoseconds of the listener's monotonic clock."""

    WORDS = 90
    """Committed words kept for display; beyond that a third is forgotten at once, so that lines do not shift with every word."""

    def __init__(self) -> None:
        self.now = 0
        self.session: Session | None = None
        self.beacon = 0
        self.hub = ""
        """The hub's address, for people."""
        self.note = ""
        """A line to show, such as why these sources were chosen."""
        self._forget()

    def _forget(self) -> None:
        self.flows: dict[str, Flow] = {name: Flow() for name in ("face", "voice", "words", "affect")}
        self.workers: dict[str, Status] = {}
        self.provisional: Affect | None = None
        self.final: Affect | None = None
        self.face: FaceInfo | None = None
        """What the newest frame showed."""
        self.committed: list[Word] = []
        self.tentative: list[Word] = []
        self.spoken = 0
        self.provisionals = self.finals = self.changed = 0
        self.latency: dict[str, Recent] = {}

    def tick(self, now: int) -> None:
        """Time passes, whether anything came or not."""
        self.now = max(self.now, now)

    @property
    def connected(self) -> bool:
        """A hub was heard in the last three seconds."""
        return self.session is not None and self.now - self.beacon < 3 * SECOND

    @property
    def clocked(self) -> bool:
        """Session time runs with the clock, so that lags mean something."""
        return self.session is not None and self.session.speed is not None

    @property
    def ended(self) -> bool:
        return self.flows["affect"].ended

    @property
    def current(self) -> Affect | None:
        """The newest result: provisional, or final in a session that sends those alone."""
        return self.provisional or self.final

    def worker_state(self, worker: str) -> tuple[str, str]:
        """State of a worker and its line for people. The hub's word counts where it noticed that a worker fell silent."""
        status = self.workers.get(worker)
        known = self.session.workers.get(worker, "") if self.session else ""
        if status and known == "failed" and status.state not in ("failed", "ended"):
            return "failed", "no sign of life for three seconds"
        return (status.state, status.text) if status else (known or "absent", "")

    def update(self, received: Received, now: int) -> None:
        """Takes one message that came at `now`."""
        self.tick(now)
        message = received.message
        if isinstance(message, Session):
            if self.session and self.session.session != message.session:
                self._forget()
            self.session, self.beacon = message, self.now
        elif isinstance(message, Status):
            self.workers[message.worker] = message
        elif isinstance(message, (Face, Voice, Words, Gap, End, Affect)) and received.topic in self.flows:
            flow = self.flows[received.topic]
            flow.count(message)
            flow.heard = self.now
            self._take(flow, message)

    def _take(self, flow: Flow, message: StreamMessage) -> None:
        if isinstance(message, Gap):
            flow.gap = message.reason
            flow.present = None
            return
        if isinstance(message, End):
            flow.ended = True
            flow.present = None
            return
        flow.gap = ""
        if isinstance(message, (Face, Voice)):
            flow.uncertainty = message.uncertainty
        if isinstance(message, Face):
            flow.end = message.end
            flow.present = message.face is not None
            self.face = message.face
            flow.skipped = message.skipped
            flow.recent.add(self.now, (message.sent - message.end) / MILLISECOND)
        elif isinstance(message, Voice):
            flow.end = end = message.begin + message.rows * message.hop
            flow.recent.add(self.now, (message.sent - end) / MILLISECOND, message.rows)
        elif isinstance(message, Words):
            self._read(flow, message)
        elif isinstance(message, Affect):
            self._feel(flow, message)

    def _read(self, flow: Flow, message: Words) -> None:
        self.committed.extend(message.committed)
        if len(self.committed) > self.WORDS:
            del self.committed[: len(self.committed) - self.WORDS * 2 // 3]
        self.spoken += len(message.committed)
        self.tentative = message.tentative[-self.WORDS:]
        if message.committed:
            flow.end = message.committed[-1].end
            flow.recent.add(self.now, (message.sent - message.committed[-1].end) / MILLISECOND, len(message.committed))

    def _feel(self, flow: Flow, message: Affect) -> None:
        if message.final:
            self.finals += 1
            self.changed += message.changed
            self.final = message
            self._measure("final", message.sent - message.t)
            return
        self.provisionals += 1
        self.provisional = message
        flow.end = message.t
        flow.recent.add(self.now, (message.sent - message.t) / MILLISECOND)
        self._measure("window", message.sent - message.t)
        self._measure("model", message.computed - message.started)
        for stream in ("face", "voice"):
            if stream in message.newest:
                self._measure(stream, message.sent - message.newest[stream].end)

    def _measure(self, stage: str, nanoseconds: int) -> None:
        self.latency.setdefault(stage, Recent()).add(self.now, nanoseconds / MILLISECOND)

    def lag(self, stream: str, share: float = 0.5) -> float | None:
        """World to message sent (ms), the given quantile of the last seconds; None where it means nothing."""
        return self.flows[stream].recent.quantile(self.now, share) if self.clocked else None

    def stage(self, name: str, share: float = 0.5) -> float | None:
        """Of "face" and "voice" (world to result), "window" and "final" (window's end to result) and "model" (computing): ms."""
        recent = self.latency.get(name)
        return recent.quantile(self.now, share) if recent and (self.clocked or name == "model") else None

    def silent(self, stream: str) -> float | None:
        """Seconds since a stream's last message, if that is longer than a second."""
        flow = self.flows[stream]
        silence = (self.now - flow.heard) / SECOND
        return silence if flow.heard and not flow.ended and silence > 1 else None

    @property
    def elapsed(self) -> float | None:
        """Session time of the newest result, in seconds."""
        newest = max((result.t for result in (self.provisional, self.final) if result), default=None)
        return newest / SECOND if newest is not None and newest < FOREVER else None

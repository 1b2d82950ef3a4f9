"""One stream as a receiver sees it: who speaks, what was lost, how far it is complete (TIME: identity, watermark)."""

from __future__ import annotations

from dataclasses import dataclass, field

from stream.protocol import FOREVER, SECOND, Header, Progress

AHEAD_LIMIT = SECOND
"""A stamp further ahead of the session clock is refused: one bad message must not close the future."""
MAX_MISSING = 1000
MAX_GAPS = 1000
DEAD_AFTER = 3 * SECOND
"""Real nanoseconds without message or heartbeat after which nobody waits for a stream."""


@dataclass
class Counts:
    """What became of a stream's messages."""

    messages: int = 0
    lost: int = 0
    duplicates: int = 0
    refused: int = 0
    """Stamps too far ahead, or words of a replaced instance."""
    late: int = 0
    """Rows that came after the final they belonged to."""


@dataclass
class Inlet:
    """Follows the instances, numbers and watermarks of one stream. Times are session ns unless called real."""

    name: str
    lateness: int
    """How long a hole may stay open, and a final may wait."""
    lossless: bool = False
    instance: str = ""
    watermark: int = 0
    """Everything up to here has come or is known to be lost. Never moves back."""
    ended_at: int | None = None
    counts: Counts = field(default_factory=Counts)
    gaps: list[tuple[int, int, str]] = field(default_factory=list)
    """The newest gaps: begin, end, reason."""
    generation: int = 0
    """Grows with every instance and segment: a window holds rows of one generation only."""
    heard: int = 0
    """Real time of the last sign of life."""
    _next_seq: int = 0
    _segment: int = 0
    _claimed: int = 0
    _missing: dict[int, int] = field(default_factory=dict)
    _retired: set[str] = field(default_factory=set)

    def accept(self, header: Header, newest: int, now: int | None, real: int) -> bool:
        """Whether a message counts; `newest` is the latest stamp in its content. Updates numbers, watermark and generation."""
        if now is not None and newest > now + AHEAD_LIMIT:
            self.counts.refused += 1
            return False
        if not self._known(header.instance):
            return False
        self.heard = real
        if header.seq < self._next_seq and header.seq not in self._missing:
            self.counts.duplicates += 1
            return False
        self._number(header.seq, now)
        self._follow(header.segment)
        self.counts.messages += 1
        self._claim(header.watermark, now)
        return True

    def progress(self, instance: str, progress: Progress, now: int | None, real: int) -> None:
        """A heartbeat: shows life, messages lost at the tail, and the watermark of a quiet stream."""
        if not self._known(instance):
            return
        self.heard = real
        if progress.next_seq > self._next_seq:
            self._open_hole(self._next_seq, progress.next_seq, now)
            self._next_seq = progress.next_seq
        self._claim(progress.watermark, now)

    def end(self, at: int) -> None:
        """The stream is over; nothing after `at` will come."""
        self.ended_at = at
        self.watermark = FOREVER

    def gap(self, begin: int, end: int, reason: str) -> None:
        if end > begin:
            self.gaps = [*self.gaps, (begin, end, reason)][-MAX_GAPS:]

    def expire(self, now: int | None) -> None:
        """Holes older than the lateness limit become gaps, and the watermark moves over them."""
        if self._missing and now is not None and now > min(self._missing.values()) + self.lateness:
            self._missing = {seq: since for seq, since in self._missing.items() if now <= since + self.lateness}
            if not self._missing:
                self.gap(self.watermark, self._claimed, "lost messages")
                self.watermark = max(self.watermark, self._claimed)

    def dead(self, real: int) -> bool:
        """Silent beyond the heartbeat limit, though it had not said that it ended."""
        return self.ended_at is None and real - self.heard > DEAD_AFTER

    def _known(self, instance: str) -> bool:
        if instance == self.instance:
            return True
        if instance in self._retired:
            self.counts.refused += 1
            return False
        if self.instance:
            self._retired.add(self.instance)
            self.generation += 1
            self.gap(self.watermark, self.watermark + 1, f"{self.name} restarted")
            self.ended_at = None
        self.instance, self._next_seq, self._segment = instance, 0, 0
        self._missing.clear()
        return True

    def _number(self, seq: int, now: int | None) -> None:
        if self._missing.pop(seq, None) is not None:
            self.counts.lost -= 1
        elif seq >= self._next_seq:
            if seq > self._next_seq and self.counts.messages:
                self._open_hole(self._next_seq, seq, now)
            self._next_seq = seq + 1

    def _open_hole(self, first: int, after: int, now: int | None) -> None:
        if not self.counts.messages:  # joined late: what was before is not lost
            return
        self.counts.lost += after - first
        # Without a clock no lateness can be measured: the hole is a gap at once (and in a lossless session an error, see `lossless`).
        if now is not None and not self.lossless and after - first + len(self._missing) <= MAX_MISSING:
            self._missing.update(dict.fromkeys(range(first, after), now))
        else:
            self.gap(self.watermark, self.watermark + 1, f"{after - first} lost messages")

    def _follow(self, segment: int) -> None:
        if segment > self._segment:
            self._segment = segment
            self.generation += 1

    def _claim(self, watermark: int, now: int | None) -> None:
        if watermark < FOREVER and now is not None and watermark > now + AHEAD_LIMIT:
            self.counts.refused += 1
            return
        self._claimed = max(self._claimed, watermark)
        if not self._missing:
            self.watermark = max(self.watermark, self._claimed)

"""Sliding windows over unaligned streams: what each holds (TIME: grid, not knowing). When it is due is `stream.schedule`'s matter."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

import models.window
from models.emotions import MODALITIES, STREAM_OF
from models.perception.voice import SPEECH
from models.window import Window, WindowSpec
from stream.buffer import BEGIN, END, GRABBED, RECEIVED, SENT, RowBuffer, Rows, Selection
from stream.inlet import Inlet
from stream.protocol import (
    SECOND,
    Control,
    End,
    Face,
    Gap,
    Newest,
    Received,
    Session,
    Status,
    StreamMessage,
    Voice,
    Words,
)
from stream.schedule import Due, Schedule

HISTORY = 30 * SECOND
"""How far back rows are kept beyond a window: finals wait for words, and file sources run ahead."""
RATES = {"words": 6, "voice": 50, "face": 60}
"""Most rows a second a buffer is made for."""
FACE_FRESH = SECOND
"""A face last seen longer ago than this is absent."""
VOICED_LEAST = SECOND // 2
"""Less voiced sound than this in a window: voice is absent."""
class WindowError(ValueError):
    """The session's windows are not those that the weights were trained on."""


@dataclass
class Facts:
    """What went into one window, beside its tensors."""

    present: list[str]
    samples: dict[str, int]
    truncated: dict[str, int]
    newest: dict[str, Newest]
    tentative: int
    revision: int
    changed: bool


@dataclass
class _Tentative:
    """The present guess of what follows the committed words."""

    rows: Rows
    stamps: list[tuple[int, int]] = field(default_factory=list)
    revision: int = 0
    sent: int = 0
    received: int = 0


class Windows:
    """The heart of the engine, without sockets or clocks of its own: messages in, tensors of due windows (`schedule`) out.

    `now` is session time, None in a session without a clock; `real` is real time in ns, for signs of life only.
    Raises WindowError where the session's windows are not those of `spec`.
    """

    def __init__(self, session: Session, spec: WindowSpec, dims: dict[str, int]) -> None:
        if session.window != round(spec.seconds * SECOND):
            raise WindowError(
                f"the session's windows are {session.window / SECOND:g} s long, and these weights were trained on {spec.seconds:g} s; "
                f"start the hub with --window-s {spec.seconds:g}"
            )
        self.window, self.hop, self.lossless = session.window, session.hop, session.lossless
        self.spec = spec
        self._dims = dims
        self.declared = [name for name in session.lateness if name in RATES]
        self.inlets = {name: Inlet(name, lateness, session.lossless) for name, lateness in session.lateness.items()}
        seconds = (session.window + HISTORY) / SECOND
        self._buffers = {name: RowBuffer(int(RATES[name] * seconds), dims[modality]) for modality, name in STREAM_OF.items()}
        self._tentative = _Tentative(np.zeros((0, dims["text"]), np.float32))
        self._revisions: dict[int, int] = {}
        self._used: dict[int, bytes] = {}
        self._busy: list[Control] = []
        self.schedule = Schedule(self.inlets, self.declared, session)

    def watch(self, real: int) -> None:
        """Counts silence from here: call once when the session begins."""
        for inlet in self.inlets.values():
            inlet.heard = real

    # -- messages in ---------------------------------------------------------------------------------------------------

    def add(self, received: Received, now: int | None, real: int, stamp: int) -> None:
        """Takes any message of the session; `stamp` is when it was received. Streams nobody declared are taken but not waited for.

        Raises ProtocolError when a payload does not fit its header.
        """
        message = received.message
        if isinstance(message, Status):
            for name, progress in message.streams.items():
                if inlet := self.inlets.get(name):
                    inlet.progress(message.instance, progress, now, real)
            return
        if not isinstance(message, (Face, Voice, Words, Gap, End)):
            return
        inlet = self.inlets.setdefault(message.stream, Inlet(message.stream, SECOND, self.lossless))
        if not inlet.accept(message, _newest_stamp(message), now, real):
            return
        if isinstance(message, Gap):
            inlet.gap(message.begin, message.end, message.reason)
        elif isinstance(message, End):
            inlet.end(message.end)
        elif isinstance(message, Words):
            self._add_words(message, received.rows(self._dims["text"]), inlet, stamp)
        else:
            self._add_rows(message, received.rows(self._dims[message.stream]), inlet, stamp)

    def busy(self, orders: list[Control]) -> None:
        """Intervals in which a stream holds the robot's own sound (or sight): their rows enter no window."""
        self._busy = orders

    def _add_rows(self, message: Face | Voice, rows: Rows, inlet: Inlet, stamp: int) -> None:
        if isinstance(message, Face):
            if message.face is not None and len(rows):
                key = inlet.generation << 32 | (message.face.track & 0xFFFFFFFF)
                self._append(inlet, rows[0], message.end, message.begin, key, message.grabbed, message.sent, stamp)
            return
        for i in range(min(message.rows, len(rows))):
            begin = message.begin + i * message.hop
            self._append(inlet, rows[i], begin + message.hop, begin, inlet.generation, message.grabbed, message.sent, stamp)

    def _add_words(self, message: Words, rows: Rows, inlet: Inlet, stamp: int) -> None:
        count = len(message.committed)
        for word, row in zip(message.committed, rows, strict=False):
            self._append(inlet, row, word.end, word.begin, inlet.generation, word.end, message.sent, stamp)
            self._revisions[word.end] = message.revision
        self._revisions = dict(list(self._revisions.items())[-500:])
        self._tentative = _Tentative(
            np.array(rows[count:]), [(word.begin, word.end) for word in message.tentative], message.revision, message.sent, stamp)

    def _append(self, inlet: Inlet, row: Rows, end: int, begin: int, key: int, grabbed: int, sent: int, stamp: int) -> None:
        if end <= self.schedule.closed - self.window:
            inlet.counts.late += 1  # too late for any window to come
            return
        if end <= self.schedule.closed:
            inlet.counts.late += 1
        self._buffers[inlet.name].append(row, end, begin, key, grabbed, sent, stamp)

    # -- windows out ---------------------------------------------------------------------------------------------------

    def assemble(self, due: Due) -> tuple[Window, Facts]:
        """Tensors (batch 1) and facts of a due window."""
        t = due.k * self.hop
        tensors = models.window.empty(self.spec, self._dims)
        facts = Facts([], {}, {}, {}, 0, 0, False)
        for modality, sequence in zip(MODALITIES, tensors, strict=True):
            name = STREAM_OF[modality]
            chosen = self._unmasked(name, self._buffers[name].select(t - self.window, t))
            if name == "words":
                chosen = self._words(chosen, due, facts)
            capacity = self.spec.capacity(modality)
            if len(chosen.x) > capacity:
                facts.truncated[name] = len(chosen.x) - capacity
                chosen = Selection(chosen.x[-capacity:], chosen.stamps[-capacity:])
            count = len(chosen.x)
            facts.samples[name] = count
            if count:
                newest = chosen.stamps[-1]
                facts.newest[name] = Newest(
                    end=int(newest[END]), grabbed=int(newest[GRABBED]), sent=int(newest[SENT]), received=int(newest[RECEIVED]))
            if not _usable(name, chosen, t):
                continue
            facts.present.append(modality)
            sequence.x[0, :count] = chosen.x
            sequence.t[0, :count] = (chosen.stamps[:, END] - t) / SECOND
            sequence.mask[0, :count] = 1
        return tensors, facts

    def _unmasked(self, name: str, chosen: Selection) -> Selection:
        for order in self._busy:
            if order.target in ("*", name):
                free = (chosen.stamps[:, END] <= order.begin) | (chosen.stamps[:, BEGIN] >= order.end)
                chosen = Selection(chosen.x[free], chosen.stamps[free])
        return chosen

    def _words(self, committed: Selection, due: Due, facts: Facts) -> Selection:
        """Adds tentative words to a provisional, and tells whether a final saw other words than its provisional."""
        t = due.k * self.hop
        facts.revision = max((self._revisions.get(int(end), 0) for end in committed.stamps[:, END]), default=0)
        chosen = committed
        if not due.final:
            guess = self._tentative
            inside = [i for i, (begin, end) in enumerate(guess.stamps) if t - self.window < end <= t
                      and not any(o.target in ("*", "words") and end > o.begin and begin < o.end for o in self._busy)]
            if inside:
                stamps = [(guess.stamps[i][1], guess.stamps[i][0], 0, guess.stamps[i][1], guess.sent, guess.received) for i in inside]
                chosen = Selection(
                    np.concatenate([committed.x, guess.rows[inside]]), np.concatenate([committed.stamps, np.array(stamps, np.int64)]))
                facts.tentative, facts.revision = len(inside), max(facts.revision, guess.revision)
        used = chosen.stamps[:, : BEGIN + 1].tobytes() + chosen.x.tobytes()
        if due.final:
            facts.changed = self._used.pop(due.k, used) != used
        else:
            self._used[due.k] = used
            while len(self._used) > 1000:
                self._used.pop(next(iter(self._used)))
        return chosen


def _usable(name: str, chosen: Selection, t: int) -> bool:
    """Not knowing is not neutral: whether a modality says anything about the person at the end of the window."""
    if not len(chosen.x):
        return False
    if name == "face":
        return bool(t - chosen.stamps[-1, END] <= FACE_FRESH)
    if name == "voice":
        voiced = chosen.x[:, SPEECH] > 0.5
        return bool((chosen.stamps[voiced, END] - chosen.stamps[voiced, BEGIN]).sum() >= VOICED_LEAST)
    return True


def _newest_stamp(message: StreamMessage) -> int:
    """The latest instant a message speaks of; the end of a stream may lie anywhere."""
    if isinstance(message, Face):
        return message.end
    if isinstance(message, Voice):
        return message.begin + message.rows * message.hop
    if isinstance(message, Words):
        return max((word.end for word in (*message.committed, *message.tentative)), default=0)
    if isinstance(message, Gap):
        return message.end
    return 0

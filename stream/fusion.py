"""The engine worker: streams in, windows, fusion model, affect out."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import models.window
from models.emotions import EMOTIONS, MODALITIES
from stream.bus import Connection
from stream.clock import monotonic
from stream.node import Node
from stream.protocol import Affect, Credit, Face, ProtocolError, Received, StreamInfo, Voice, Words
from stream.schedule import Due
from stream.window import Windows

if TYPE_CHECKING:
    from models.engine import Engine

IDLE_MS = 50


@dataclass
class FusionOptions:
    """Fuse the streams of a session into affect."""

    model: str = "mea"
    """Shipped weights by name, or a .safetensors file made by `affect train`."""
    backend: str = "auto"
    """What computes: `tensorrt`, `onnx` or `eager`; `auto` takes the first of these that can run here, and says why."""
    precision: Literal["fp16", "bf16", "fp32"] = "fp16"
    """Of TensorRT."""


class Fusion:
    """One engine in one session. Provisionals are computed before finals, each window by itself: a result never depends on its company."""

    def __init__(self, engine: Engine, node: Node) -> None:
        self.engine = engine
        self.node = node
        self.windows = Windows(node.session, engine.spec, {modality: engine.dims[modality] for modality in MODALITIES})
        self.outlet = node.outlets["affect"]
        self._checked: set[tuple[str, str]] = set()
        self._through = 0
        now = node.clock.now()
        self.windows.watch(monotonic())
        if node.session.last_final and now is not None:
            self.windows.schedule.start_at(now)

    def run(self) -> None:
        """Until told to stop; once every declared stream has ended, sends `end` and goes on beating."""
        node = self.node
        busy = False
        while not node.stopping:
            for received in node.receive(0 if busy else self._timeout()):
                self.take(received)
            self.windows.busy(node.busy)
            if node.slept():
                self.outlet.segment += 1
            # One at a time: a sentence that is understood makes ten finals due at once, and the next provisional must not wait for them.
            due = self.windows.schedule.due(node.clock.now(), monotonic())
            busy = bool(due)
            for one in due:
                self.read(one)
            if self.windows.schedule.finished and not self.outlet.ended:
                self.outlet.end(self._through)
                node.state("ended", "every stream has ended")
            self._measure()

    def _timeout(self) -> int:
        """Milliseconds until a window may fall due by time."""
        if self.node.session.speed is None:
            return IDLE_MS
        return min(IDLE_MS, int(self.node.clock.until(self.windows.schedule.next_time()) * 1000))

    def take(self, received: Received) -> None:
        """One message into the windows. Malformed ones are counted; foreign features end the worker with FeatureMismatch."""
        message = received.message
        if isinstance(message, (Face, Voice, Words)) and (message.stream, message.features) not in self._checked:
            self.engine.check({message.stream: message.features})
            self._checked.add((message.stream, message.features))
        try:
            self.windows.add(received, self.node.clock.now(), monotonic(), self.node.clock.stamp())
        except ProtocolError:
            self.node.refused += 1
            self.node.metrics["refused"] = self.node.refused

    def read(self, due: Due) -> None:
        """Computes and publishes one window."""
        node = self.node
        closed = node.clock.stamp()
        tensors, facts = self.windows.assemble(due)
        started = node.clock.stamp()
        reading = self.engine(tensors)
        computed = node.clock.stamp()
        t = due.k * self.windows.hop
        usable = bool(facts.present)
        probabilities = {name: float(p) for name, p in zip(EMOTIONS, reading.probabilities[0], strict=True)}
        if due.final:
            self._through = t
        self.outlet.send(Affect(
            **self.outlet.header(self._through), t=t, window=due.k, final=due.final, closed_by=due.closed_by,
            top=max(probabilities, key=probabilities.__getitem__) if usable else None, probabilities=probabilities,
            valence=float(reading.affect[0, 0]) if usable else None, arousal=float(reading.affect[0, 1]) if usable else None,
            weights={name: float(w) for name, w in zip(MODALITIES, reading.weights[0], strict=True)},
            present=facts.present, samples=facts.samples, truncated=facts.truncated, tentative=facts.tentative, revision=facts.revision,
            changed=facts.changed, newest=facts.newest, closed=closed, started=started, computed=computed,
            model=self.engine.name, backend=self.engine.told, features=self.engine.features,
        ))
        if due.final and node.session.lossless:
            node.publish("credit", Credit(session=node.session.session, through=t))

    def _measure(self) -> None:
        metrics = self.node.metrics
        for name, inlet in self.windows.inlets.items():
            metrics[f"{name}_lost"], metrics[f"{name}_late"] = inlet.counts.lost, inlet.counts.late
            metrics[f"{name}_refused"], metrics[f"{name}_duplicates"] = inlet.counts.refused, inlet.counts.duplicates
        metrics["provisionals_skipped"] = self.windows.schedule.skipped


def prepare(options: FusionOptions) -> None:
    """Compiles the engine where that has not been done yet, and says so: later starts find it ready."""
    from models import engine

    if engine.cold(options.model, options.backend, precision=options.precision):
        print("affect: compiling the engine for these weights, once (about half a minute)", file=sys.stderr, flush=True)
        try:
            engine.compile(options.model, options.backend, precision=options.precision)
        except engine.BuildError:
            if options.backend != "auto":  # Then the next best is taken, and why is said in status.
                raise


def run(options: FusionOptions, connection: Connection) -> int:
    """The worker's process: loads the model, joins, fuses until told to stop."""
    from models import engine

    prepare(options)
    loaded = engine.load(options.model, backend=options.backend, precision=options.precision)
    for _ in range(3):  # warm: the first calls allocate
        loaded(models.window.empty(loaded.spec, loaded.dims))
    info = StreamInfo(name="affect", features=loaded.name, dim=len(EMOTIONS), source="fusion")
    detail = {"model": loaded.name, "backend": loaded.told, **{f"features.{name}": value for name, value in loaded.features.items()}}
    bus = connection.open()
    node = Node(bus, "fusion", [info], listen=("face", "voice", "words", "status"), detail=detail)
    try:
        node.join()
        Fusion(loaded, node).run()
    finally:
        bus.close()
    return 0

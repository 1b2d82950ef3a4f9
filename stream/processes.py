"""The processes of a session on this host: started, watched, started again when they crash, measured, stopped."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import zmq

from stream.bus import Bus, Connection
from stream.protocol import Control, encode

if TYPE_CHECKING:  # every child imports this module first: only what all of them need
    from stream.report import Notes

Entry = tuple[Callable[..., int], Any]
"""What a process runs, and its options; it also gets the Connection."""

YIELD: int = getattr(psutil, "BELOW_NORMAL_PRIORITY_CLASS", 10)  # Windows has classes, the others niceness
RESTARTS = 5
"""A worker that crashes more often than this within a minute stays down."""
STOP_GRACE, KILL_GRACE = 1.0, 0.5
"""Seconds that workers get after the order to stop, and after SIGTERM."""


class StartError(Exception):
    """The session could not begin; the line says which worker failed and why."""


def _enter(entry: Callable[..., int], options: Any, connection: Connection, log: str) -> None:
    """First thing in a worker's process: only the supervisor obeys Ctrl-C, and stderr goes where the view is not disturbed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(log, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 2)
    from stream.cli import guarded

    sys.exit(guarded(entry, options, connection))


def _only_when_idle(process: psutil.Process) -> None:
    """For work in long stretches, which the scheduler lets end before a process that wakes, however nice: a few milliseconds each time.
    Linux knows a policy that is interrupted at once; elsewhere the work yields as other work does."""
    if hasattr(os, "SCHED_IDLE"):
        with suppress(PermissionError):  # a sandbox may forbid it
            for thread in process.threads():
                with suppress(ProcessLookupError):
                    os.sched_setscheduler(thread.id, os.SCHED_IDLE, os.sched_param(0))
            return
    process.nice(YIELD)


class Processes:
    """The hub and the workers of one session on this host, each a process of its own."""

    def __init__(
        self, entries: dict[str, Entry], connection: Connection, notes: Notes, optional: frozenset[str] = frozenset(),
        yielding: frozenset[str] = frozenset(), idle: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        """`optional` names what the session begins without, should it fail; `yielding` what lets the others go first where processors
        are short; `idle` what works only while no other wants the processor."""
        self._entries, self._optional, self._yielding, self._idle = entries, optional, yielding, idle
        self._connection, self._begun = connection, False
        self._context = multiprocessing.get_context("spawn")
        self._logs = tempfile.TemporaryDirectory(prefix="affect-")
        self.processes: dict[str, BaseProcess] = {}
        self._crashes: dict[str, list[float]] = {}
        self._due: dict[str, float] = {}
        self._usage: dict[str, psutil.Process] = {}
        self._first: dict[str, tuple[float, float]] = {}
        self._cpu: dict[str, tuple[float, float]] = {}
        self._notes = notes

    def start(self) -> None:
        for name in self._entries:
            self._start(name)

    def _start(self, name: str) -> None:
        entry, options = self._entries[name]
        log = str(Path(self._logs.name) / name)
        process = self._context.Process(target=_enter, args=(entry, options, self._connection, log), name=f"affect {name}", daemon=True)
        process.start()
        self.processes[name] = process
        with suppress(psutil.NoSuchProcess):
            self._usage[name] = psutil.Process(process.pid)
            if name in self._yielding:
                self._usage[name].nice(YIELD)
            elif name in self._idle and self._begun:
                _only_when_idle(self._usage[name])

    def said(self, name: str) -> str:
        """The last line a worker wrote to stderr, which is kept from the screen: one cause is said once, by the supervisor."""
        file = Path(self._logs.name) / name
        lines = file.read_text(errors="replace").strip().splitlines() if file.exists() else []
        return lines[-1] if lines else ""

    def watch(self, begun: bool) -> None:
        """Looks after the processes. Raises StartError when one fails before the session has begun, or the hub at any time."""
        now = time.monotonic()
        for name, process in list(self.processes.items()):
            if process.is_alive() or name in self._due:
                continue
            code = process.exitcode
            line = self.said(name)
            if name == "hub" or not (begun or name in self._optional):
                raise StartError(line.removeprefix("affect: ") or f"the {name} ended with exit status {code}")
            if code in (0, 2):  # done, or said why it cannot go on
                if line:
                    self._notes.add(f"the {name} gave up: {line.removeprefix('affect: ')}")
                self.processes.pop(name)
                continue
            self._crashes[name] = [at for at in self._crashes.get(name, []) if now - at < 60] + [now]
            if len(self._crashes[name]) > RESTARTS:
                self._notes.add(f"{name} keeps crashing and stays down: {line or f'exit status {code}'}")
                self.processes.pop(name)
                continue
            self._notes.add(f"{name} crashed ({line or f'exit status {code}'}); starting it again")
            self._due[name] = now + 0.5 * 2 ** (len(self._crashes[name]) - 1)
        for name in [name for name, at in self._due.items() if now >= at]:
            del self._due[name]
            self._start(name)

    def measure(self) -> dict[str, tuple[float, float]]:
        """CPU (percent of one core since `begin`) and memory (MB) of each process."""
        for name, process in {**self._usage, "supervisor": psutil.Process()}.items():
            with suppress(psutil.Error):
                with process.oneshot():
                    seconds = sum(process.cpu_times()[:2])
                    memory = process.memory_info().rss / 1e6
                first = self._first.setdefault(name, (seconds, time.monotonic()))
                elapsed = time.monotonic() - first[1]
                if elapsed > 0.5:
                    self._cpu[name] = (100 * (seconds - first[0]) / elapsed, memory)
        return self._cpu

    def begin(self) -> None:
        """Start-up, which waits for everybody, is over: who works only when idle does so from here, and processes are measured."""
        self._begun = True
        for name in self._idle & self._usage.keys():
            with suppress(psutil.NoSuchProcess):
                _only_when_idle(self._usage[name])
        self._first.clear()
        self.measure()

    def stop(self, bus: Bus) -> None:
        """Orders, then terminates, then kills: nothing is left after about two seconds."""
        with suppress(zmq.ZMQError):  # a full queue or a hub that is gone: the signals below end everybody
            bus.speaker.send_multipart(encode("control", Control(action="stop")))
        for grace, act in ((STOP_GRACE, None), (KILL_GRACE, "terminate"), (KILL_GRACE, "kill")):
            if act:
                for process in self._living():
                    getattr(process, act)()
            deadline = time.monotonic() + grace
            while self._living() and time.monotonic() < deadline:
                time.sleep(0.02)
        self._logs.cleanup()

    def _living(self) -> list[BaseProcess]:
        return [process for process in self.processes.values() if process.is_alive()]

"""The processes of a session: who lets whom go first."""

from __future__ import annotations

import os
import time
from typing import Any

import psutil
import pytest
from session import wait

from stream.bus import Connection
from stream.processes import YIELD, Processes
from stream.report import Notes


@pytest.fixture
def processes() -> Any:
    names = ("hub", "page", "transcriber")
    entries = {name: (wait, 60.0) for name in names}
    made = Processes(entries, Connection(), Notes(aloud=False), yielding=frozenset({"page"}), idle=frozenset({"transcriber"}))
    made.start()
    made.begin()
    yield made
    for process in made.processes.values():
        process.kill()


def test_the_start_waits_for_everybody_so_nobody_yields() -> None:
    made = Processes({"transcriber": (wait, 60.0)}, Connection(), Notes(aloud=False), idle=frozenset({"transcriber"}))
    made.start()
    try:
        assert not hasattr(os, "SCHED_IDLE") or os.sched_getscheduler(made.processes["transcriber"].pid) == os.SCHED_OTHER
    finally:
        made.processes["transcriber"].kill()


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="only Linux has a policy for work that is interrupted at once")
def test_the_page_yields_and_the_transcriber_takes_what_is_left(processes: Processes) -> None:
    pid = {name: process.pid for name, process in processes.processes.items()}
    threads = {name: {os.sched_getscheduler(thread.id) for thread in psutil.Process(one).threads()} for name, one in pid.items()}
    assert threads == {"hub": {os.SCHED_OTHER}, "page": {os.SCHED_OTHER}, "transcriber": {os.SCHED_IDLE}}
    own = psutil.Process().nice()
    assert {name: psutil.Process(one).nice() - own for name, one in pid.items()} == {"hub": 0, "page": YIELD - own, "transcriber": 0}


def test_where_a_sandbox_forbids_the_policy_it_yields_as_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbidden, raising=False)
    made = Processes({"transcriber": (wait, 60.0)}, Connection(), Notes(aloud=False), idle=frozenset({"transcriber"}))
    made.start()
    made.begin()
    try:
        assert psutil.Process(made.processes["transcriber"].pid).nice() == YIELD
    finally:
        made.processes["transcriber"].kill()


def test_a_restarted_transcriber_yields_again(processes: Processes) -> None:
    first = processes.processes["transcriber"]
    first.kill()
    first.join()
    deadline = time.monotonic() + 20
    while processes.processes["transcriber"] is first and time.monotonic() < deadline:
        processes.watch(begun=True)
        time.sleep(0.05)
    again = processes.processes["transcriber"]
    assert again is not first
    if hasattr(os, "SCHED_IDLE"):
        assert os.sched_getscheduler(again.pid) == os.SCHED_IDLE

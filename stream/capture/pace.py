"""Keeping time: when a file source may publish, and what a worker does while it waits."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from stream.capture import CaptureError
from stream.node import Node

STEP_MS = 20
OWN_SOUND = ("*", "voice", "audio", "words")
"""Targets of `busy` that silence what the transcriber hears."""


def wait(node: Node, begin: int, end: int) -> bool:
    """Until session time has reached `end` and the engine has kept up with `begin` (ns); False when told to stop.

    Orders are obeyed and heartbeats sent meanwhile. In a session without a clock only the engine is waited for.
    """
    node.service(0)
    while not node.stopping:
        left = node.clock.until(end)
        if left <= 0 and node.may_publish(begin):
            return True
        if 0 < left < 0.002:  # finer than the socket's timer
            time.sleep(left)
            node.service(0)
        else:
            node.service(STEP_MS if left <= 0 else max(1, min(STEP_MS, int(left * 1000) - 1)))
    return False


def rest(node: Node) -> None:
    """The source is over: goes on beating until told to stop."""
    while not node.stopping:
        node.service(100)


def off(node: Node) -> bool:
    """Somebody asked this worker not to look or listen."""
    return node.paused or node.muted


@contextlib.contextmanager
def membership(node: Node) -> Iterator[None]:
    """Joins the session and closes the bus at the end; a CaptureError in between is told to the session before it is raised."""
    try:
        node.join()
        yield
    except CaptureError as error:
        node.state("failed", str(error))
        raise
    finally:
        node.bus.close()

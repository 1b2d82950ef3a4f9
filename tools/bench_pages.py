#!/usr/bin/env python
"""What open pages cost the engine: the built-in clip in sessions with no page, with pages that read, and with pages drawn here.

The kinds take turns within one run, so that what else the machine does falls on all of them alike. For each: readings a
second, how long after its window's end each provisional reading was out, and what the page's server takes of one core.
These count from two seconds after the pages were opened; how late the latest was until then is `opening_max_ms`.
`--browser` adds Chromium tabs on this very machine (playwright), whose drawing takes processor time that a page elsewhere
would not.

With `--give`, instead: how fast a browser that gives its camera and microphone is read (needs Chromium, ffmpeg).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from chromium import Watched, browser, fake_devices, playing, session
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from stream.bus import Bus
from stream.protocol import Affect, decode

CLIP = Path(__file__).parents[1] / "stream/assets/sample.mp4"
PAGES = 3
SETTLED = 2.0
"""Seconds after which a page counts as open."""


class Heard(threading.Thread):
    """Provisional readings of a session: (t, sent) in ns."""

    def __init__(self, hub: str) -> None:
        super().__init__(daemon=True)
        self.bus = Bus(hub)
        self.bus.subscribe("affect")
        self.readings: list[tuple[int, int]] = []
        self.opened = 0
        """Readings that came before every page was open."""
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            if (frames := self.bus.receive(100)) is None:
                continue
            message = decode(frames).message
            if isinstance(message, Affect) and not message.final:
                self.readings.append((message.t, message.sent))
            elif not isinstance(message, Affect):
                self.ended.set()
        self.bus.close(0)

    def figures(self) -> dict[str, float]:
        before, after = self.readings[: self.opened], self.readings[self.opened :]
        late = sorted((sent - t) / 1e6 for t, sent in after)
        return {
            "rate_hz": (len(late) - 1) * 1e9 / (after[-1][1] - after[0][1]),
            "p50_ms": statistics.median(late), "p95_ms": late[int(0.95 * len(late))],
            "opening_max_ms": max(((sent - t) / 1e6 for t, sent in before), default=0.0),
        }  # fmt: skip


def _read(url: str) -> None:
    """A page that reads all it is told, and draws nothing."""
    try:
        with connect(f"{url.replace('http', 'ws', 1)}live", origin=url.rstrip("/"), max_size=None) as page:  # type: ignore[arg-type]
            while True:
                page.recv()
    except (ConnectionClosed, OSError):
        return


@contextmanager
def pages(kind: str, url: str, chromium: Any) -> Iterator[None]:
    """Opens the pages; they go with the session."""
    with ExitStack() as stack:
        for _ in range(PAGES if kind != "none" else 0):
            if kind == "reading":
                threading.Thread(target=_read, args=(url,), daemon=True).start()
            else:
                context = stack.enter_context(chromium.new_context(viewport={"width": 1280, "height": 800}))
                context.new_page().goto(url)
        yield


def one(kind: str, model: str, chromium: Any) -> dict[str, float]:
    """One session on the clip, from beginning to end."""
    with session("--camera", f"file:{CLIP}", "--microphone", f"file:{CLIP}", "--model", model) as running:
        heard = Heard(running.health()["session"]["hub"])
        heard.start()
        server = running.page_server()
        begun, used = time.monotonic(), sum(server.cpu_times()[:2])
        seconds = elapsed = 0.0
        with pages(kind, running.url, chromium):
            heard.ended.wait(SETTLED)
            heard.opened = len(heard.readings)
            while not heard.ended.wait(0.5) and elapsed < 240:
                with suppress(psutil.NoSuchProcess):
                    elapsed, seconds = time.monotonic() - begun, sum(server.cpu_times()[:2]) - used
    return {**heard.figures(), "server_cpu_percent": 100 * seconds / elapsed}


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Sessions of every kind in turns; medians, and their ratios to those without a page."""
    kinds = ["none", "reading", *(["drawn"] if options.browser else [])]
    runs: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    with ExitStack() as stack:
        chromium = stack.enter_context(browser(stack.enter_context(playing()))) if options.browser else None
        for number in range(options.rounds):
            for kind in kinds if number % 2 == 0 else kinds[::-1]:
                runs[kind].append(one(kind, options.model, chromium))
                print(f"{kind:<8}", {name: round(value, 2) for name, value in runs[kind][-1].items()}, flush=True)
    medians = {kind: {name: round(statistics.median(run[name] for run in done), 3) for name in done[0]} for kind, done in runs.items()}
    ratios = {kind: {name: round(medians[kind][name] / value, 3) for name, value in medians["none"].items()} for kind in kinds[1:]}
    return {"pages": PAGES, "rounds": options.rounds, "medians": medians, "ratio_to_none": ratios, "runs": runs}


def give(options: argparse.Namespace) -> dict[str, Any]:
    """A browser gives its devices, which play the clip: seconds from consent to what the page shows first, and how pictures arrive."""
    found: dict[str, Any] = {}
    folder = Path(options.out).parent / "devices"
    folder.mkdir(parents=True, exist_ok=True)
    with playing() as playwright, browser(playwright, *fake_devices(folder)) as chromium:
        with session("--camera", "browser", "--microphone", "browser", "--model", options.model) as running:
            watched = Watched(chromium.new_page(), running.url)
            watched.page.wait_for_selector("#give:visible")
            watched.page.click("#give")
            consent = time.monotonic()
            first = {"face": "#outline:visible", "emotion": "#feelings .number:has-text('%')", "words": "#words .word, #words .tentative"}
            for name, shown in first.items():
                watched.page.wait_for_selector(shown)
                found[f"{name}_after_s"] = round(time.monotonic() - consent, 2)
            rates, lags, ages = [], [], []
            for _ in range(30):
                watched.page.wait_for_timeout(500)
                face = running.health()["streams"]["face"]
                rates.append(face["rate"] or 0.0)
                lags.append(face["lag"] or 0.0)
                said = watched.page.inner_text("#giving")
                if " ms old" in said:
                    ages.append(float(said.split(" ms old")[0].split()[-1]))
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    arrived = {"age_on_arrival_ms": statistics.median(ages), "age_when_read_ms": statistics.median(lags)}
    return {**found, "face_rate_hz": statistics.median(rates), **arrived}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="mea")
    parser.add_argument("--browser", action="store_true")
    parser.add_argument("--give", action="store_true")
    parser.add_argument("--out", default="pages.json")
    options = parser.parse_args()
    done = give(options) if options.give else compare(options)
    done["machine"] = {"processors": os.cpu_count(), "load_1min_at_end": round(os.getloadavg()[0], 1)}
    Path(options.out).write_text(json.dumps(done, indent=1) + "\n")
    print(json.dumps({key: value for key, value in done.items() if key != "runs"}, indent=1))


if __name__ == "__main__":
    main()

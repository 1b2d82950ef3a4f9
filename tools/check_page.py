#!/usr/bin/env python
"""Checks the live page in Chromium while the built-in clip plays: axe-core (from npm), weight, requests, the console.

Dark and light, phone and wide, with *Under the hood* closed and open. Writes JSON; ends with 1 when anything is wrong and
with 2 when axe-core cannot be had (npm, a network). The page's Content-Security-Policy holds: axe-core comes in from outside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from axe import AxeMissing, axe_core, serious
from chromium import CLIP, Watched, browser, playing, session

RESULTS = Path(__file__).parent / "results/page.json"
SIZES = {"phone": (390, 844), "wide": (1920, 1080)}
HEAVIEST = 300_000
"""Bytes of the page and everything it loads."""


def look(chromium: Any, url: str, script: str, size: str, theme: str, bare: bool) -> dict[str, Any]:
    """One visit: what axe-core finds with the hood closed and open, and what the page loaded and complained of."""
    width, height = SIZES[size]
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
    weights: list[int] = []
    page = context.new_page()
    page.on("requestfinished", lambda request: weights.append(request.sizes()["responseHeadersSize"] + request.sizes()["responseBodySize"]))
    watched = Watched(page, url)
    page.wait_for_selector("#feelings .number:has-text('%')")
    found = {}
    for hood in ("closed", "open"):
        page.evaluate(f"document.getElementById('hood').open = {json.dumps(hood == 'open')}")
        page.wait_for_timeout(1000)  # what it holds is told twice a second
        found[hood] = [] if bare else serious(page, script)
    narrow = page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()
    own = url.removeprefix("http://")
    foreign = [asked for asked in watched.asked if not asked.startswith((f"http://{own}", f"ws://{own}", "blob:"))]
    return {
        "size": size, "theme": theme, "violations": found, "bytes": sum(weights), "requests": len(watched.asked),
        "to_other_hosts": foreign, "console": watched.complaints, "fits_its_width": narrow,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without-axe", action="store_true", help="weight, requests and console alone: needs no network")
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"where the figures go ({RESULTS.name} of tools/results)")
    options = parser.parse_args()
    try:
        script = "" if options.without_axe else axe_core()
    except AxeMissing as error:
        print(f"{error}; --without-axe checks the rest", file=sys.stderr)
        return 2
    visits = []
    with playing() as playwright, browser(playwright) as chromium:
        for theme in ("dark", "light"):
            with session("--camera", f"file:{CLIP}", "--microphone", f"file:{CLIP}", "--speed", "0.5") as running:
                visits += [look(chromium, running.url, script, size, theme, options.without_axe) for size in SIZES]
    options.out.write_text(json.dumps({"axe_core": not options.without_axe, "heaviest_bytes": HEAVIEST, "visits": visits}, indent=1) + "\n")
    wrong = 0
    for one in visits:
        violations = [finding for hood in one["violations"].values() for finding in hood]
        bad = bool(violations or one["to_other_hosts"] or one["console"] or one["bytes"] > HEAVIEST or not one["fits_its_width"])
        wrong += bad
        loaded = f"{one['bytes'] / 1000:.0f} kB in {one['requests']} requests, {len(one['to_other_hosts'])} to other hosts"
        print(f"{one['size']:<6} {one['theme']:<6} {'WRONG' if bad else 'well':<6} {len(violations)} serious, {loaded}, "
              f"{len(one['console'])} complaints")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
"""Takes the pictures of the live page: phone, laptop and wide screen, dark and light, and a sheet of all six.

A session whose camera and microphone are a Chromium's (playwright), which plays the built-in clip over and over; after a whole
minute of it each picture waits for something to see. A busy machine reads late and in pieces, and its pictures show that.
Needs Chromium and ffmpeg. Full pages go to `--folder`, for the eye of
whoever changes the page; what the README shows goes to `--assets`.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from chromium import Watched, browser, fake_devices, playing, session

ROOT = Path(__file__).parents[1]
SIZES = {"phone": (390, 844), "laptop": (1280, 800), "wide": (1920, 1080)}
THEMES = ("dark", "light")
FULL_OF_LIFE = """() => {
    const led = document.getElementById('standing').textContent;
    return document.querySelectorAll('#words .word').length >= 6 && document.getElementById('outline').checkVisibility()
        && document.getElementById('state').dataset.state === 'live' && !['waiting', 'unclear', 'nobody to read', 'neutral'].includes(led)
        && document.body.innerText.includes('quite sure') && /[0-9] ms old/.test(document.body.innerText);
}"""
HEIGHT, GAP = 620, 24
"""Pixels of a row of the sheet, and between its pictures."""


def shoot(page: Watched, folder: Path) -> dict[tuple[str, str], Image.Image]:
    """What each screen shows, by size and theme; the whole pages go to `folder`."""
    taken = {}
    for size, (width, height) in SIZES.items():
        page.page.set_viewport_size({"width": width, "height": height})
        page.page.reload()  # a wide page opens more; it goes on giving by itself
        for theme in THEMES:
            page.page.emulate_media(color_scheme=theme)
            page.until(f"({FULL_OF_LIFE})()")
            taken[size, theme] = Image.open(io.BytesIO(page.page.screenshot())).convert("RGB")
            page.page.screenshot(path=folder / f"{size}-{theme}.png", full_page=True)
    return taken


def sheet(taken: dict[tuple[str, str], Image.Image]) -> Image.Image:
    """A row for each theme: wide, laptop, phone."""
    rows = []
    for theme in THEMES:
        row = [taken[size, theme] for size in reversed(SIZES)]
        rows.append([one.resize((round(one.width * HEIGHT / one.height), HEIGHT), Image.Resampling.LANCZOS) for one in row])
    width = max(sum(one.width for one in row) + GAP * (len(row) + 1) for row in rows)
    made = Image.new("RGB", (width, len(rows) * (HEIGHT + GAP) + GAP), (112, 120, 130))
    for number, row in enumerate(rows):
        left = GAP
        for one in row:
            made.paste(one, (left, GAP + number * (HEIGHT + GAP)))
            left += one.width + GAP
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=62, help="of readings before the first picture")
    parser.add_argument("--folder", type=Path, default=ROOT / "build/page", help="for the full pages, as PNG")
    parser.add_argument("--assets", type=Path, default=ROOT / "stream/assets", help="for page-dark and page-sizes (.webp)")
    options = parser.parse_args()
    for folder in (options.folder, options.assets):
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as devices, playing() as playwright, browser(playwright, *fake_devices(Path(devices))) as chromium:
        with session("--camera", "browser", "--microphone", "browser") as running:
            page = Watched(chromium.new_context().new_page(), running.url)
            page.page.click("#give")
            page.page.wait_for_selector("#outline:visible")
            time.sleep(options.seconds)
            taken = shoot(page, options.folder)
    pictures = {"page-dark": taken["laptop", "dark"], "page-sizes": sheet(taken)}
    for name, picture in pictures.items():
        file = options.assets / f"{name}.webp"
        picture.save(file, quality=80, method=6)
        print(f"{file}: {picture.width} × {picture.height}, {file.stat().st_size / 1000:.0f} kB")
    print(f"full pages: {options.folder}")


if __name__ == "__main__":
    main()

"""axe-core, which finds what keeps people out of a page: taken from npm into the cache, never part of this repository."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

from models.datasets import cache_root


class AxeMissing(Exception):
    """axe-core cannot be had; the text says why."""


def axe_core() -> str:
    """Its script. Raises AxeMissing."""
    folder = cache_root() / "axe-core"
    script = folder / "node_modules/axe-core/axe.min.js"
    if not script.is_file():
        npm = shutil.which("npm")
        if npm is None:
            raise AxeMissing("npm is not installed (Debian: apt-get install npm): axe-core cannot be had")
        folder.mkdir(exist_ok=True)
        command = [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), "axe-core@4"]
        try:
            subprocess.run(command, capture_output=True, timeout=60, check=False)
        except subprocess.TimeoutExpired:
            raise AxeMissing("npm does not answer: axe-core cannot be had without a network") from None
        if not script.is_file():
            raise AxeMissing("npm could not fetch axe-core: is there a network?")
    return script.read_text()


def serious(page: Any, script: str) -> list[dict[str, Any]]:
    """Serious and critical violations in what `page` (playwright) shows now: rule, impact, and the elements."""
    page.evaluate(script)
    found = page.evaluate("axe.run(document)")["violations"]
    return [{"rule": one["id"], "impact": one["impact"], "elements": [node["html"] for node in one["nodes"]]}
            for one in found if one["impact"] in ("serious", "critical")]

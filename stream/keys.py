"""`affect keys`: makes the keys that a hub on another machine demands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from stream.bus import Keys


@dataclass
class KeysOptions:
    """Make keys, so that a hub can be reached from other machines by those who hold them and nobody else."""

    folder: tyro.conf.Positional[Path] = Path("keys")
    """Where to put them. Copy the folder to each machine that takes part, by a safe way."""


def run(options: KeysOptions) -> int:
    """Writes two key pairs. Raises BusError when the folder already holds keys."""
    keys = Keys.make(options.folder)
    print(f"keys are in {keys.folder}: start the hub with --keys {keys.folder}, and so everything that connects to it")
    print("hub.key_secret stays on the hub's machine; clients need hub.key, client.key and client.key_secret")
    return 0

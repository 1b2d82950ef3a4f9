#!/usr/bin/env python3
"""A robot that answers how a person seems to feel. Start `affect run` (or `affect demo`) first, then this beside it.

Replace `gesture` by calls to your robot. While it speaks or moves noisily, `client.busy("voice", begin, end)` keeps the
recogniser from taking its voice for the person's.
"""

from __future__ import annotations

import argparse
import sys

from stream.client import Change, Client, ClientError

GESTURES = {
    "neutral": "nods and waits",
    "happy": "smiles and raises both arms",
    "sad": "tilts its head and comes a little closer",
    "angry": "steps back and lowers its arms",
    "fearful": "stops moving and speaks softly",
    "disgusted": "turns its palms up",
    "surprised": "raises its brows and looks where you look",
    None: "looks around for somebody",
}


def gesture(change: Change) -> str:
    """What the robot does about a change."""
    return GESTURES[change.emotion]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--hub", default="tcp://127.0.0.1:5560", help="address of the hub (default: %(default)s)")
    options = parser.parse_args()
    try:
        with Client(options.hub, timeout=30) as client:
            for change in client.changes(hold=0.8):
                reading = f"{change.emotion or 'nothing clear':<14} {change.probability:4.0%}"
                print(f"{change.t / 1e9:7.1f} s  {reading}  the robot {gesture(change)}", flush=True)
    except ClientError as error:
        print(f"robot: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The `affect` command. Loads only what the chosen subcommand needs, so that `affect --help` answers at once."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.metadata
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Command:
    summary: str
    module: str
    options: str
    connects: bool = False
    """Takes --hub and --keys; its `run` gets a Connection."""
    group: str = ""

    @property
    def title(self) -> str:
        return self.module.rpartition(".")[2]


COMMANDS = {
    "demo": Command("see it work: your camera and microphone, or the built-in clip", "stream.demo", "DemoOptions", group="try"),
    "run": Command("a whole session: everything below in one", "stream.supervisor", "RunOptions", group="try"),
    "watch": Command("the live view of a session that runs", "stream.watch", "WatchOptions", True, "try"),
    "devices": Command("which cameras and microphones are here", "stream.devices", "DevicesOptions", group="look"),
    "doctor": Command("what works here, what is missing, and what mends it", "stream.doctor", "DoctorOptions", True, "look"),
    "compile": Command("the engine made ready for this machine, ahead of time", "stream.compile", "CompileOptions", group="look"),
    "hub": Command("one address for everybody", "stream.hub", "HubOptions", True, "parts"),
    "camera": Command("camera or video file to faces", "stream.capture.camera", "CameraOptions", True, "parts"),
    "microphone": Command("microphone or sound file to voice", "stream.capture.microphone", "MicrophoneOptions", True, "parts"),
    "transcriber": Command("sound to words", "stream.capture.transcriber", "TranscriberOptions", True, "parts"),
    "fusion": Command("faces, voice and words to affect", "stream.fusion", "FusionOptions", True, "parts"),
    "dashboard": Command("the live page of a session, in a browser", "stream.dashboard.server", "DashboardOptions", True, "try"),
    "keys": Command("keys for a hub that other machines reach", "stream.keys", "KeysOptions", group="parts"),
    "train": Command("--model M --data D: face, words, sentences or a fusion model", "models.research.training", "Training", group="learn"),
    "evaluate": Command("figures of trained weights on held-out data", "models.research.scoring", "Evaluation", group="learn"),
}
GROUPS = {
    "try": "Sessions", "look": "This machine", "parts": "Each part alone, also on another machine", "learn": "Learning (needs the corpora)",
}  # fmt: skip
FOREIGN_BUT_PLAIN = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


def overview() -> str:
    """What `affect --help` prints."""
    lines = ["affect: says how a person seems to feel, from a face, a voice and words, while it happens."]
    lines += ["", "usage: affect COMMAND [options]"]
    for group, title in GROUPS.items():
        lines += ["", title]
        lines += [f"  {name:<13} {command.summary}" for name, command in COMMANDS.items() if command.group == group]
    lines += [
        "",
        "`affect COMMAND --help` shows a command's options. Every command takes --config FILE.toml: its values are the defaults,",
        "options on the command line win. AFFECT_DEBUG=1 shows tracebacks.",
        "It reads expressions, not minds.",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of the `affect` command; returns the exit status: 0 well, 2 asked for what cannot be had, 1 anything else."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(_version())
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        return _unknown(name)
    signal.signal(signal.SIGTERM, _terminate)
    return guarded(_start, name, COMMANDS[name], rest)


def guarded(entry: Callable[..., int], *arguments: Any) -> int:
    """Runs `entry` and turns what goes wrong into one line on stderr and an exit status: 2 where people can mend it, 1 for bugs."""
    try:
        return entry(*arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of a pipe has gone: nothing to say to it
        return 0
    except Exception as error:
        if os.environ.get("AFFECT_DEBUG"):
            raise
        line = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, FOREIGN_BUT_PLAIN) or type(error).__module__.partition(".")[0] in ("stream", "models"):
            print(f"affect: {line}", file=sys.stderr)
            return 2
        if isinstance(error, ImportError):
            print(f"affect: {line}; `affect doctor` says what is missing and the command that mends it", file=sys.stderr)
            return 2
        at = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(at.filename).name}:{at.lineno}"
        print(f"affect: unexpected {type(error).__name__} at {where}: {line} (AFFECT_DEBUG=1 shows all of it)", file=sys.stderr)
        return 1


def _start(name: str, command: Command, arguments: list[str]) -> int:
    """Parses the rest of the command line and runs the command."""
    import tyro

    from stream import config
    from stream.bus import Connection

    arguments, file = config.take(arguments)
    lead, table = "", config.read(file) if file else {}
    if name == "train":
        from stream import learn

        choice = learn.choose(arguments, table)
        command = dataclasses.replace(command, module=choice.module, options=choice.options)
        arguments, lead = choice.rest, f"{learn.explained()}\n\n"
        table = {key: value for key, value in table.items() if key not in choice.settled}
    module = importlib.import_module(command.module)
    kind = getattr(module, command.options)
    default = _training_defaults(kind) if name == "train" else kind()
    parts: list[Any] = [default, Connection()] if command.connects else [default]
    if file is not None:
        parts = _configured(parts, table, file)
    description = f"{lead}{(kind.__doc__ or command.summary).strip()}\n\nAlso takes --config FILE.toml, whose values become the defaults."
    markers = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    if command.connects:
        # One flat list of flags out of two dataclasses: people need not know which is whose.
        joined = dataclasses.make_dataclass("Joined", [(command.title, kind), ("connection", Connection)])
        parsed = tyro.cli(joined, prog=f"affect {name}", args=arguments, description=description, default=joined(*parts), config=markers)
        chosen = [getattr(parsed, field.name) for field in dataclasses.fields(parsed)]
    else:
        chosen = [tyro.cli(kind, prog=f"affect {name}", args=arguments, description=description, default=parts[0], config=markers)]
    if name in ("train", "evaluate"):
        return _learn(module, chosen[0])
    return int(module.run(*chosen))


def _configured(parts: list[Any], table: dict[str, Any], file: Path) -> list[Any]:
    """The parts with the file's values. A key goes to the part that knows it; unknown ones are the first part's to refuse."""
    from stream import config

    names = {field.name for part in parts[1:] for field in dataclasses.fields(part)}
    others = {key: value for key, value in table.items() if key.replace("-", "_") in names}
    own = {key: value for key, value in table.items() if key not in others}
    return [config.apply(parts[0], own, file), *(config.apply(part, others, file) for part in parts[1:])]


def _training_defaults(kind: type[Any]) -> Any:
    """Options of a training, with the data where they are found and a run folder under `runs/`, where it asks for these."""
    from models.datasets import DataMissing, data_root

    needed: dict[str, Any] = {}
    none = dataclasses.MISSING
    asked = {field.name for field in dataclasses.fields(kind) if field.default is none and field.default_factory is none}
    if "data" in asked:
        try:
            needed["data"] = data_root()
        except DataMissing:
            needed["data"] = Path("data")
    if "out" in asked:
        needed["out"] = Path("runs") / kind.__name__.removesuffix("Training").lower()
    return kind(**needed)


def _learn(module: Any, options: Any) -> int:
    figures = options.run() if hasattr(options, "run") else module.run(options)
    if figures is not None:
        print(json.dumps(figures, indent=2, default=str))
    return 0


def _terminate(*_: object) -> None:
    raise KeyboardInterrupt  # SIGTERM ends like Ctrl-C, so that what must be closed is closed


def _unknown(name: str) -> int:
    near = difflib.get_close_matches(name, COMMANDS, 1)
    line = f"no command {name!r}; " + (f"did you mean `affect {near[0]}`?" if near else "`affect --help` lists them")
    print(f"affect: {line}", file=sys.stderr)
    return 2


def _version() -> str:
    try:
        return f"affect {importlib.metadata.version('affect')}"
    except importlib.metadata.PackageNotFoundError:
        return "affect, not installed as a package"


if __name__ == "__main__":
    sys.exit(main())

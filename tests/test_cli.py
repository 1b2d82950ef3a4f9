"""The `affect` command: help, configuration files, errors in one line."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stream import cli, config, learn
from stream.bus import BusError, Connection
from stream.cli import COMMANDS, Command
from stream.supervisor import RunOptions, plan

ROOT = Path(__file__).parents[1]


@dataclass
class Camera:
    source: str = "0"
    latency_ms: float = 0.0


@dataclass
class Options:
    """Do something."""

    camera: Camera = field(default_factory=Camera)
    """Where pictures come from."""
    seconds: float = 1.0
    """How long."""
    no_view: bool = False


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A command `try` that notes what it was called with."""
    calls: list[Any] = []
    module = SimpleNamespace(Options=Options, run=lambda *given: calls.append(given) or 0)
    monkeypatch.setitem(sys.modules, "made_up", module)  # type: ignore[arg-type]
    monkeypatch.setitem(COMMANDS, "try", Command("try it", "made_up", "Options", True))
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    return calls


def affect(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stream.cli", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(Path.home()), **environment},
    )  # fmt: skip


def test_the_overview_lists_every_command_and_loads_nothing_heavy() -> None:
    heavy = {"tyro", "zmq", "numpy", "torch", "cv2"}
    code = f"import sys; from stream.cli import main; main(['--help']); print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert done.stdout.splitlines()[-1] == "[]"
    assert max(map(len, done.stdout.splitlines())) <= 125
    assert affect().stdout == affect("--help").stdout


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_is_there_and_helps(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0 and f"affect {name}" in out and "--config" in out
    assert ("--hub" in out) == (COMMANDS[name].connects or name in ("run", "demo"))


@pytest.mark.parametrize(("asked", "options"), [
    (["--model", "face", "--data", "x"], "FaceTraining"), (["--model=words"], "TextTraining"), ([], "LiveTraining"),
    (["--model=sentences"], "SentenceTraining"),
    (["--model", "mea", "--data", "live"], "LiveTraining"), (["--data=mosi", "--model", "iaca", "--epochs", "3"], "Training"),
])  # fmt: skip
def test_model_and_data_choose_the_training(asked: list[str], options: str) -> None:
    pytest.importorskip("torch")
    choice = learn.choose(asked, {})
    module = importlib.import_module(choice.module)
    made = cli._training_defaults(getattr(module, choice.options))
    assert choice.options == options and (hasattr(made, "run") or hasattr(module, "run"))
    if options == "Training":
        assert choice.rest == ["--model", "iaca", "--data", "mosi", "--epochs", "3"]
    if options == "FaceTraining":
        assert choice.rest == ["--data", "x"]


def test_a_file_may_choose_the_training_and_flags_win() -> None:
    file = {"model": "iaca", "data": "mosi", "epochs": 2}
    assert learn.choose([], file).rest == ["--model", "iaca", "--data", "mosi"]
    assert learn.choose(["--data", "live"], file).options == "LiveTraining"
    assert learn.choose([], {"model": "face", "data": "here"}).settled == ("model",)


def test_the_names_of_models_and_data_are_those_there_are() -> None:
    pytest.importorskip("torchmetrics")
    from models.registry import MODELS
    from models.research.tasks import TASKS

    assert set(learn.FUSION) == set(MODELS) and set(learn.CORPORA) == set(TASKS)


def test_flags_win_over_the_file_and_the_file_over_the_defaults(ran: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "affect.toml"
    file.write_text('seconds = 3\nhub = "tcp://127.0.0.1:7000"\n[camera]\nsource = "2"\nlatency-ms = 4.5\n')
    assert cli.main(["try", "--config", str(file)]) == 0
    assert cli.main(["try", f"--config={file}", "--seconds", "9", "--no-view"]) == 0
    camera = Camera("2", 4.5)
    assert ran == [
        (Options(camera, 3.0, False), Connection("tcp://127.0.0.1:7000")),
        (Options(camera, 9.0, True), Connection("tcp://127.0.0.1:7000")),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("secnds = 3", "secnds is no option of this command; did you mean seconds?"),
        ("[camera]\nzzz = 1", "camera.zzz is no option of this command; known here: latency_ms, source"),
        ('seconds = "long"', "seconds = 'long' does not fit"),
        ("seconds = ", "is not valid TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_in_one_line(
    ran: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    file = tmp_path / "affect.toml"
    file.write_text(text)
    assert cli.main(["try", "--config", str(file)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not ran


def test_a_missing_file_or_name_is_said(ran: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["try", "--config", "/no/such.toml"]) == 2
    assert cli.main(["try", "--config"]) == 2
    error = capsys.readouterr().err
    assert "cannot read /no/such.toml: No such file" in error and "--config needs a file" in error


@dataclass
class Places:
    out: Path | None = None
    here: Path = Path()


def test_a_file_may_name_paths(tmp_path: Path) -> None:
    kept = config.apply(Places(), {"out": "runs/a", "here": "b"}, tmp_path)
    assert kept == Places(Path("runs/a"), Path("b"))


def test_names_may_be_written_with_either_dash(tmp_path: Path) -> None:
    assert config.apply(Options(), {"no-view": True}, tmp_path).no_view
    assert config.apply(Options(), {"no_view": True}, tmp_path).no_view


def test_errors_for_people_are_one_line_and_status_two(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AFFECT_DEBUG", raising=False)

    def fail(error: BaseException) -> int:
        raise error

    assert cli.guarded(fail, BusError("the port is taken\nby another")) == 2
    assert cli.guarded(fail, FileNotFoundError(2, "No such file", "clip.mp4")) == 2
    assert cli.guarded(fail, ModuleNotFoundError("No module named 'mediapipe'")) == 2
    assert cli.guarded(fail, ZeroDivisionError("division by zero")) == 1
    assert cli.guarded(fail, KeyboardInterrupt()) == 130
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "affect: the port is taken by another"
    assert "clip.mp4" in lines[1] and "affect doctor" in lines[2]
    assert lines[3].startswith("affect: unexpected ZeroDivisionError at test_cli.py:") and len(lines) == 4
    monkeypatch.setenv("AFFECT_DEBUG", "1")
    with pytest.raises(BusError):
        cli.guarded(fail, BusError("x"))


def test_a_mistyped_command_gets_a_hint() -> None:
    done = affect("wach")
    assert (done.returncode, done.stderr) == (2, "affect: no command 'wach'; did you mean `affect watch`?\n")
    assert "no model 'voice' to train; there are face, words, sentences, mea" in affect("train", "--model", "voice").stderr
    assert "no data 'nowhere' to train on; there are live, mosi-utterance" in affect("train", "--data", "nowhere").stderr


def test_a_bad_address_is_one_line_from_a_real_process() -> None:
    done = affect("watch", "--hub", "http://nowhere")
    assert done.returncode == 2 and done.stderr.startswith("affect: 'http://nowhere' is not a hub address") and done.stderr.count("\n") == 1


def test_keys_are_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    done = affect("keys", str(folder))
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in folder.iterdir()) == ["client.key", "client.key_secret", "hub.key", "hub.key_secret"]
    assert (folder / "hub.key_secret").stat().st_mode & 0o077 == 0
    again = affect("keys", str(folder))
    assert again.returncode == 2 and "already holds keys" in again.stderr


def test_what_a_run_is_told_reaches_its_parts() -> None:
    parts = plan(RunOptions(model="ucrn", backend="tensorrt", precision="bf16", hop_ms=50, lateness={"words": 2.0}))
    engine, session = parts["fusion"][1], parts["hub"][1].session()
    assert (engine.model, engine.backend, engine.precision) == ("ucrn", "tensorrt", "bf16")
    assert session.hop == 50_000_000 and session.lateness == {"face": 300_000_000, "voice": 300_000_000, "words": 2_000_000_000}

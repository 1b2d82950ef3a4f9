"""The backends: ONNX Runtime computes what eager computes, programs are cached and never stale, who computes is said and why."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from fusing import ROWS, config
from onnx import load_model_from_string

from models import engine
from models.calibration import Calibration
from models.registry import MODELS
from models.runtime import build, cache, onnx, program, tensorrt, trained
from models.weights import WeightsError
from models.window import Sequence, Window, WindowSpec
from stream import compile

SPEC = WindowSpec(text=ROWS[0], voice=ROWS[1], face=ROWS[2])
SHALLOW = {"ucrn": {"urm_layers": 1, "crm_layers": 1}, "mult": {"layers": 1}}
FEATURES = {"face": "f" * 16}
no_gpu = pytest.mark.skipif(bool(tensorrt.gpu()), reason="there is a GPU here")


def saved(folder: Path, name: str) -> Path:
    torch.manual_seed(0)
    made = MODELS[name].build(config(name, "live", **SHALLOW.get(name, {})))
    engine.save(folder / f"{name}.safetensors", name, made, SPEC, FEATURES, Calibration.none(), {})
    return folder / f"{name}.safetensors"


def windows(arrays: list[np.ndarray]) -> Window:
    return Window(*(Sequence(*arrays[3 * m: 3 * m + 3]) for m in range(3)))


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("weights"), "late")


@pytest.fixture(scope="module")
def entry(late: Path) -> cache.Entry:
    return onnx.build(trained.read(late), 1, "fp32")


@pytest.fixture()
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AFFECT_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture()
def builds(entry: cache.Entry, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Builds of `late` are done already; each is noted here."""
    made: list[str] = []

    def at_once(given: trained.Trained, backend: str, batch: int, precision: str) -> cache.Entry:
        made.append(backend)
        cache.put(onnx.key(given, batch, precision), entry)
        return entry

    monkeypatch.setattr(build, "build", at_once)
    return made


@pytest.mark.parametrize("name", MODELS)
def test_onnx_computes_what_eager_computes(name: str, tmp_path: Path) -> None:
    given = trained.read(saved(tmp_path, name))
    made = onnx.build(given, 1, "fp32")
    assert made.facts["parity"] <= onnx.PARITY and made.facts["agreement"] == 1
    compiled, eager, draw = onnx.Onnx(made.data, 1), program.Eager(given), program.probe(given, 24, seed=7)
    for k in range(24):
        one = [array[k:k + 1] for array in draw]
        assert program.difference(eager(one), compiled(one)) <= onnx.PARITY
    kinds = {node.op_type for node in load_model_from_string(made.data).graph.node}
    assert ("Attention" in kinds) == (name not in ("msaf", "late"))  # These two ask nothing of the usual kind.


def test_denormal_numbers_count_as_zero() -> None:
    """They take many times as long on some processors. In a process of its own: what is tested outlives the program."""
    code = """
import numpy as np, onnx
from onnx import helper
from models.runtime.onnx import Onnx
values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "twice", values[:1], values[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
print(Onnx(model, 1)([np.array([1e-39, 1e-30], np.float32)])[0].tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout) == [0.0, pytest.approx(2e-30)]


def test_windows_in_a_batch_are_as_they_are_alone(late: Path) -> None:
    given = trained.read(late)
    several = onnx.Onnx(onnx.build(given, 4, "fp32").data, 4)
    by_four = engine.Engine(given, engine.Choice(several, "onnx", "", {}))
    eager = engine.load(late, backend="eager")
    asked = windows(program.probe(given, 6, seed=3))
    for a, b in zip(eager(asked), by_four(asked), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_build_lasts(late: Path, own_cache: Path) -> None:
    assert engine.cold(late, "onnx")
    first = engine.load(late, backend="onnx")
    assert first.facts["cached"] is False and first.facts["build_s"] > 0 and not engine.cold(late, "onnx")
    asked = windows(program.probe(trained.read(late), 4))
    code = (
        "import sys, numpy as np; from models import engine, window\n"
        f"read = engine.load({str(late)!r}, backend='onnx'); read(window.empty(read.spec, read.dims))\n"
        "print(read.facts['cached'], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True", "False"], done.stderr
    for whole, alone in zip(first(asked), engine.load(late, backend="onnx")(asked), strict=True):
        assert np.array_equal(whole, alone)


@pytest.mark.parametrize("damage", ["bytes", "sidecar", "half", "gone"])
def test_a_damaged_entry_is_built_again(late: Path, builds: list[str], own_cache: Path, damage: str) -> None:
    engine.load(late, backend="onnx")
    data, sidecar = next((own_cache / "engines").glob("*.bin")), next((own_cache / "engines").glob("*.json"))
    if damage == "bytes":
        data.write_bytes(data.read_bytes()[:-1] + b"?")
    elif damage == "sidecar":
        sidecar.write_text(sidecar.read_text().replace("onnxruntime", "otherruntime"))
    elif damage == "half":
        sidecar.write_text(sidecar.read_text()[:40])
    else:
        data.unlink()
    again = engine.load(late, backend="onnx")
    assert builds == ["onnx", "onnx"] and again.facts["cached"] is False
    assert engine.load(late, backend="onnx").facts["cached"] is True


def test_a_whole_entry_that_cannot_be_opened_is_built_again(
    late: Path, builds: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    cache.put(onnx.key(trained.read(late), 1, "fp32"), cache.Entry(b"no program", {}))
    assert engine.load(late, backend="onnx").facts["cached"] is False and builds == ["onnx"]
    assert re.search(r"cached onnx program of late cannot be opened and is compiled anew \(\w+: ", caplog.text)


@no_gpu
def test_a_failed_build_is_not_tried_at_every_start(
    late: Path, entry: cache.Entry, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    whole = subprocess.Popen

    def failing(command: list[str], **options: Any) -> Any:
        tried.append(command[4])
        return whole([sys.executable, "-c", "import sys; sys.exit('BuildError: no such operator')"], **options)

    monkeypatch.setattr(build.subprocess, "Popen", failing)
    reasons = {engine.load(late).told for _ in range(3)}
    assert tried == ["onnx"] and len(reasons) == 2
    assert all("eager (auto: no NVIDIA GPU here; onnx: no such operator" in reason for reason in reasons)
    assert not engine.cold(late) and engine.failed(late) == "no such operator"
    with pytest.raises(engine.BackendError, match=r"no such operator \(as it was last compiled; `affect compile` tries again\)"):
        engine.load(late, backend="onnx")
    with pytest.raises(engine.BuildError, match="no such operator"):
        engine.compile(late)
    assert tried == ["onnx", "onnx"]
    cache.put(onnx.key(trained.read(late), 1, "fp32"), entry)
    assert engine.load(late).backend == "onnx" and not engine.failed(late)
    with pytest.raises(engine.BuildError):
        engine.compile(late)
    assert engine.load(late).backend == "onnx"  # A build that fails takes nothing away.


def test_a_build_that_was_killed_is_tried_again(late: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = subprocess.Popen
    code = "import os; os.kill(os.getpid(), 9)"
    monkeypatch.setattr(build.subprocess, "Popen", lambda command, **options: whole([sys.executable, "-c", code], **options))
    with pytest.raises(engine.BuildError, match="ended with status -9"):
        engine.compile(late, "onnx")
    assert engine.cold(late, "onnx") and not engine.failed(late, "onnx")


def test_weights_saved_again_are_the_same_weights(late: Path, builds: list[str], tmp_path: Path) -> None:
    engine.load(late, backend="onnx")
    assert len({trained.read(saved(tmp_path, "late")).digest for _ in range(6)} | {trained.read(late).digest}) == 1
    assert not engine.cold(saved(tmp_path, "late"), "onnx")


@pytest.mark.parametrize("what", ["weights", "version", "source", "batch"])
def test_a_stale_entry_is_never_used(late: Path, builds: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    engine.load(late, backend="onnx")
    assert not engine.cold(late, "onnx")
    if what == "weights":
        torch.manual_seed(1)
        model = MODELS["late"].build(config("late", "live"))
        late = tmp_path / "other.safetensors"
        engine.save(late, "late", model, SPEC, FEATURES, Calibration.none(), {})
    elif what == "version":
        monkeypatch.setattr(cache, "version", lambda _: "another")
    elif what == "source":
        monkeypatch.setattr(cache, "source", lambda: "another")
    assert engine.cold(late, "onnx", batch=2 if what == "batch" else 1)


def test_the_cache_forgets_what_was_used_longest_ago(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "KEEP", 2)
    for k in range(3):
        cache.put({"k": k}, cache.Entry(b"x", {}))
        time.sleep(0.02)
        assert cache.get({"k": 0}) is not None
        time.sleep(0.02)
    assert cache.get({"k": 1}) is None and cache.get({"k": 2}) is not None and len(list((own_cache / "engines").iterdir())) == 4


def test_the_key_covers_all_code_that_makes_the_network() -> None:
    before = cache.source.__wrapped__()
    assert before == cache.source() and len(before) == 16
    seen = {file.name for file in cache.files()}
    assert {"program.py", "registry.py", "mea.py", "layers.py", "facefront.py", "voice.py", "onnx.py"} <= seen


def test_compile_says_what_it_made(late: Path, builds: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert compile.run(compile.CompileOptions(model=str(late), backend="onnx", batch=(1, 1))) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2 and builds == ["onnx", "onnx"] and not engine.cold(late, "onnx")
    assert re.search(r"late\.safetensors on onnx in fp32, batch 1: \d+\.\d MB, built in .* 100% of the network in \d+ operators", said[0])


@no_gpu
def test_auto_says_why(late: Path, builds: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine.load(late).told == "onnx (auto: no NVIDIA GPU here)"
    assert engine.load(late, backend="onnx").told == "onnx"
    monkeypatch.setattr(onnx, "missing", lambda: "onnxscript not installed (pip install onnxscript)")
    assert engine.load(late).told == "eager (auto: no NVIDIA GPU here; onnx: onnxscript not installed (pip install onnxscript))"
    assert not engine.cold(late)


def test_a_named_backend_that_cannot_run_is_an_error(late: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "missing", lambda: "no NVIDIA GPU here")
    with pytest.raises(engine.BackendError, match="tensorrt backend cannot run here: no NVIDIA GPU"):
        engine.load(late, backend="tensorrt")
    with pytest.raises(engine.BackendError, match="tensorrt backend cannot run here: no NVIDIA GPU"):
        engine.cold(late, backend="tensorrt")
    with pytest.raises(engine.BackendError, match="there are auto, tensorrt, onnx, eager"):
        engine.load(late, backend="onxx")
    with pytest.raises(engine.BackendError, match="nothing to compile"):
        engine.compile(late, backend="eager")


def test_weights_that_do_not_fit_are_named_whatever_computes(late: Path, own_cache: Path) -> None:
    arrays = trained.read(late)
    broken = own_cache / "broken.safetensors"
    model = MODELS["late"].build(config("late", "live"))
    engine.save(broken, "mea", model, SPEC, FEATURES, arrays.calibration, {})
    with pytest.raises(WeightsError, match=r"broken\.safetensors does not fit mea"):
        engine.load(broken)


def test_a_program_unlike_eager_is_refused(late: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "compare", lambda *_: program.Compared(2e-5, 1.0))
    with pytest.raises(build.BuildError, match=r"differs from eager by 2\.0e-05"):
        onnx.build(trained.read(late), 1, "fp32")


@pytest.mark.parametrize(("found", "line"), [
    (program.Compared(0.02, 1.0), r"2\.0e-02 from eager"), (program.Compared(0.001, 0.99), r"emotion in 99\.0% of windows"),
])
def test_an_engine_unlike_eager_is_refused(late: Path, monkeypatch: pytest.MonkeyPatch, found: program.Compared, line: str) -> None:
    monkeypatch.setattr(tensorrt, "convert", lambda *_: (b"engine", {}))
    monkeypatch.setattr(tensorrt, "open", lambda *_: None)
    monkeypatch.setattr(program, "compare", lambda *_, **__: found)
    with pytest.raises(build.BuildError, match=line):
        tensorrt.build(trained.read(late), 1, "fp16")


def test_comparing_counts_windows_that_get_another_emotion(late: Path) -> None:
    given = trained.read(late)
    eager = program.Eager(given, 8)
    calls = iter(range(100))

    class Turned:
        batch = 8

        def __call__(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
            logits, *rest = (part.copy() for part in eager(arrays))
            if next(calls) == 0:
                logits[2] = -logits[2]
            return [logits, *rest]

    found = program.compare(given, Turned(), least=16)
    assert found.agreement == 15 / 16 and found.difference > 1e-3


def test_a_build_ends_with_the_process_that_asked(late: Path, own_cache: Path) -> None:
    code = f"from models import engine; engine.compile({str(late)!r}, 'onnx')"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as asking:
        children: list[psutil.Process] = []
        for _ in range(400):
            if children := psutil.Process(asking.pid).children():
                break
            time.sleep(0.02)
        asking.kill()
    assert children
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert gone and not alive


def test_options_that_torch_tensorrt_would_swallow_are_refused() -> None:
    def lax(a: int, *, known: int = 0, **rest: int) -> int:
        return a + known

    assert tensorrt.checked(lax)(1, known=2) == 3
    with pytest.raises(TypeError, match="lax of this torch-tensorrt has no enabled_precisions"):
        tensorrt.checked(lax)(1, enabled_precisions=2)

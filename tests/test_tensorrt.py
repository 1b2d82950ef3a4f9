"""Every fusion model becomes one TensorRT engine in every precision; no GPU needed. `tools/test --tensorrt` runs it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from fusing import DIMS, ROWS, config
from gpuless import torch_tensorrt

from models import engine
from models.calibration import Calibration
from models.registry import MODELS
from models.runtime import build, cache, program, tensorrt, trained
from models.window import WindowSpec

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch_tensorrt") is None, reason="no torch-tensorrt in this environment: tools/test --tensorrt has its own")
SPEC = WindowSpec(text=ROWS[0], voice=ROWS[1], face=ROWS[2])
SHALLOW = {"ucrn": {"urm_layers": 1, "crm_layers": 1}, "mult": {"layers": 1}}
TOLERANCE = {"fp32": 1e-5, "fp16": 2e-2, "bf16": 2e-1}


@pytest.fixture(scope="module", autouse=True)
def importable() -> None:
    torch_tensorrt()


def saved(folder: Path, name: str) -> trained.Trained:
    torch.manual_seed(0)
    made = MODELS[name].build(config(name, "live", **SHALLOW.get(name, {})))
    engine.save(folder / f"{name}.safetensors", name, made, SPEC, {}, Calibration.none(), {})
    return trained.read(folder / f"{name}.safetensors")


@pytest.mark.parametrize("precision", program.PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_one_engine_holds_the_whole_network(name: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = saved(tmp_path, name)
    found = tensorrt.partition(given, 1, precision)
    eager = program.Eager(given)
    for seed in range(4):
        asked = program.probe(given, 1, seed)
        with torch.inference_mode():
            lowered = [part.float().numpy() for part in found[1](*(torch.from_numpy(array) for array in asked))]
        assert program.difference(eager(asked), lowered) <= TOLERANCE[precision]
    monkeypatch.setattr(tensorrt, "partition", lambda *_: found)
    data, facts = tensorrt.convert(given, 1, precision)
    assert len(data) > 10_000 and facts["coverage"] == 1 and facts["operators"] > 50


def test_engines_are_cached_as_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFFECT_CACHE", str(tmp_path))
    given = saved(tmp_path, "late")
    data, facts = tensorrt.convert(given, 1, "fp16")
    cache.put(tensorrt.key(given, 1, "fp16"), cache.Entry(data, facts))
    kept = build.cached(given, "tensorrt", 1, "fp16")
    assert kept is not None and kept.data == data and kept.facts == facts
    assert build.cached(given, "tensorrt", 1, "bf16") is None
    monkeypatch.setattr(tensorrt, "gpu", lambda: "another GPU")
    assert build.cached(given, "tensorrt", 1, "fp16") is None


def test_the_engine_takes_and_gives_what_the_runtime_binds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_tensorrt.dynamo.conversion import _TRTInterpreter

    seen: list[tuple[list[str], list[str]]] = []
    run = _TRTInterpreter.TRTInterpreter.run

    def watched(self: object, *given: object, **options: object) -> object:
        result = run(self, *given, **options)
        seen.append((list(result.input_names), list(result.output_names)))
        return result

    monkeypatch.setattr(_TRTInterpreter.TRTInterpreter, "run", watched)
    tensorrt.convert(saved(tmp_path, "late"), 1, "fp32")
    [(inputs, outputs)] = seen
    assert set(inputs) <= set(program.NAMES) and len(outputs) == len(program.OUTPUTS) and len(DIMS) == 3


def test_unknown_precisions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(build.BuildError, match="no precision 'fp8'; there are fp32, fp16, bf16"):
        tensorrt.convert(saved(tmp_path, "late"), 1, "fp8")

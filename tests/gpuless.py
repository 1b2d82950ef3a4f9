"""torch_tensorrt (its RTX build) where there is no GPU: conversion, partition and engine build work, deserialising and running do not.

It answers the questions that are put to CUDA at import and build, and leans on private names: the versions are pinned in
`tools/constraints-tensorrt.txt`.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

CAPABILITY = (9, 0)
MEMORY = 140 << 30


def torch_tensorrt() -> ModuleType:
    """The module, made importable."""
    if torch.cuda.is_available():
        return importlib.import_module("torch_tensorrt")
    card = SimpleNamespace(name="none", major=CAPABILITY[0], minor=CAPABILITY[1], total_memory=MEMORY, multi_processor_count=132)
    answers: dict[str, Any] = {
        "get_device_capability": CAPABILITY, "current_device": 0, "get_device_name": card.name, "get_device_properties": card,
        "mem_get_info": (MEMORY, MEMORY), "empty_cache": None, "synchronize": None,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    if not hasattr(torch._C, "_CudaDeviceProperties"):
        torch._C._CudaDeviceProperties = object  # type: ignore[attr-defined]  # A name that builds without CUDA lack.
    is_file = os.path.isfile
    os.path.isfile = lambda path: "libtorchtrt" not in str(path) and is_file(path)  # Its C++ runtime needs a torch with CUDA.
    try:
        module = importlib.import_module("torch_tensorrt")
    finally:
        os.path.isfile = is_file
    module.Device.to = lambda self, kind: torch.device("cpu") if kind is torch.device else self
    interpreter = importlib.import_module("torch_tensorrt.dynamo.conversion._TRTInterpreter")
    interpreter.trt = _Bindings(interpreter.trt)
    return module


class _Bindings:
    """TensorRT's bindings, but engines stay the bytes they were serialised to."""

    def __init__(self, real: ModuleType) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return (lambda logger: SimpleNamespace(deserialize_cuda_engine=_Engine)) if name == "Runtime" else getattr(self._real, name)


class _Engine:
    def __init__(self, data: Any) -> None:
        self._data = bytes(data)

    def serialize(self) -> bytes:
        return self._data

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None

"""Pickles of public corpora, opened without running anything that is in them.

A pickle is a program. This reader lets it build plain containers and numpy arrays, and nothing else. numpy's own unpickling hooks are
not called either (a made-up dtype state can corrupt memory): stand-ins note what they would get, and arrays are built from that.
"""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np


class PickleRefused(ValueError):
    """The file is no pickle, is damaged, or asks for something other than numpy arrays and plain containers."""


class _Dtype:
    """What `numpy.dtype(spec, align, copy)` and its state say."""

    def __init__(self, spec: object, *_: object) -> None:
        if not isinstance(spec, str):
            raise PickleRefused(f"an array of the odd dtype {spec!r}")
        self.spec, self.order = spec, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, subarray, names, fields, *_ = state
        if subarray is not None or names is not None or fields is not None:
            raise PickleRefused("an array with fields of its own")
        self.order = {"<": "<", ">": ">"}.get(order, "=")

    def real(self) -> np.dtype[Any]:
        """The numpy type; objects are told apart by the caller."""
        made = np.dtype(self.spec)
        if made.kind not in "biufcSUO":
            raise PickleRefused(f"an array of {made}")
        return made.newbyteorder(self.order)  # type: ignore[arg-type]


class _Kind:
    """`numpy.ndarray`, which is only ever named, never called."""


class _Array:
    """What an array's state says; `real` builds it."""

    def __init__(self, *_: object) -> None:
        self.state: tuple[Any, ...] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def real(self) -> Any:
        if self.state is None:
            raise PickleRefused("an array without content")
        _, shape, dtype, fortran, content = self.state
        return _build(content, dtype, shape, "F" if fortran else "C")


def _scalar(dtype: _Dtype, content: object = b"") -> Any:
    return _build(content, dtype, (), "C")[()]


def _from_buffer(content: object, dtype: _Dtype, shape: tuple[int, ...], order: str, *_: object) -> Any:
    return _build(content, dtype, shape, order)


def _build(content: Any, dtype: _Dtype, shape: tuple[int, ...], order: Any) -> Any:
    kind = dtype.real()
    if kind.kind == "O":
        if not isinstance(content, list):
            raise PickleRefused("an array of objects without a list of them")
        cells = np.empty(len(content), object)
        for k, one in enumerate(content):
            cells[k] = _plain(one)
        return cells.reshape(shape, order=order)
    if isinstance(content, str):  # Python 2 wrote bytes as text
        content = content.encode("latin1")
    return np.frombuffer(content, kind).reshape(shape, order=order).copy()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """`_codecs.encode`, by which protocols before 3 write bytes."""
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise PickleRefused(f"text in the odd encoding {encoding!r}")
    return text.encode(encoding)


def _no_bytes() -> bytes:
    """`bytes()`, by which the same protocols write none; a length, which could be any, is not taken."""
    return b""


_NUMPY: dict[str, Any] = {"_reconstruct": _Array, "scalar": _scalar, "_frombuffer": _from_buffer}
_PLAIN: dict[str, Any] = {
    "list": list, "dict": dict, "tuple": tuple, "set": set, "frozenset": frozenset, "complex": complex,
    "bytes": _no_bytes,
}  # fmt: skip
_ALLOWED: dict[tuple[str, str], Any] = {
    **{(f"{core}.{module}", name): kind for core in ("numpy.core", "numpy._core") for module in ("multiarray", "numeric")
       for name, kind in _NUMPY.items()},
    **{(module, name): kind for module in ("builtins", "__builtin__") for name, kind in _PLAIN.items()},
    ("numpy", "ndarray"): _Kind, ("numpy", "dtype"): _Dtype, ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): collections.OrderedDict,
}  # fmt: skip


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        try:
            found: Callable[..., Any] = _ALLOWED[module, name]
        except KeyError:
            raise PickleRefused(f"it asks for {module}.{name}") from None
        return found

    def persistent_load(self, key: object) -> Any:
        raise PickleRefused("it asks for objects kept outside the file")


def load(path: Path) -> Any:
    """What the pickle at `path` holds: dicts, lists, tuples, sets, strings, numbers and numpy arrays.

    Text that Python 2 wrote becomes str by latin-1. Raises PickleRefused with the reason for anything else, OSError where the file
    cannot be read.
    """
    with path.open("rb") as file:
        return read(file, str(path))


def loads(content: bytes, name: str = "the pickle") -> Any:
    """As `load`, from bytes."""
    return read(io.BytesIO(content), name)


def read(file: BinaryIO, name: str) -> Any:
    """As `load`, from an open file that is called `name` in errors."""
    try:
        return _plain(_Reader(file, encoding="latin1").load())
    except PickleRefused as refused:
        raise PickleRefused(f"{name} is refused: {refused}. Only numpy arrays and plain containers are read from pickles.") from None
    except RecursionError:
        raise PickleRefused(f"{name} is refused: it is nested too deeply, or within itself.") from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise PickleRefused(f"{name} cannot be read as a pickle: {error or type(error).__name__}. Fetch the file again.") from error


def _plain(value: Any) -> Any:
    """`value` with arrays in the place of their stand-ins."""
    if isinstance(value, _Array):
        return value.real()
    if isinstance(value, dict):
        return {_plain(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value)(_plain(one) for one in value)
    if isinstance(value, (_Dtype, _Kind, type)):
        raise PickleRefused("a type where a value should be")
    return value

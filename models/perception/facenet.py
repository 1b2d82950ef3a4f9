"""The expression network as it runs live: ONNX Runtime over a graph built here from plain arrays, without torch, in whole numbers.

Weights are folded convolutions (see `models.encoders.face`, which trains and writes them). Metadata `layers` lists them as
[name, stride, name of the layer whose output is added before the rectifier, or null].
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper, numpy_helper

from models import weights as shipped
from models.emotions import EMOTIONS
from models.features import FeatureSet
from models.perception import facegeometry

EMBEDDING = 32
DIM = EMBEDDING + len(EMOTIONS)
NAME = "face"
FORMAT = "face-expression-1"
"""What the metadata of fitting weights says under `format`."""

Arrays = dict[str, npt.NDArray[Any]]
Layers = Sequence[Sequence[Any]]

WEIGHT_LEVELS = 63
"""Whole weights lie between this and its negative. Seven bits: processors without VNNI add two products in 16 bits, which eight would
overflow, and a row would then depend on the processor."""

CONTRAST_FLOOR = 8.0
"""Added to a crop's standard deviation (grey levels) when it is normalised, so that flat crops do not become noise."""


def features(weights: str | os.PathLike[str] = "face") -> FeatureSet:
    """The face feature set as made with these weights: 32 embedding values in (-1, 1), then 7 log-probabilities (order of EMOTIONS).

    Without the weights file its recipe says so, and matches no trained model.
    """
    try:
        digest = shipped.sha256(weights)
    except shipped.WeightsError:
        digest = "absent"
    columns = [f"e{k}" for k in range(EMBEDDING)] + [f"log_p_{emotion}" for emotion in EMOTIONS]
    landmarks = "MediaPipe Face Mesh, 478 points, one face"
    recipe = {
        "weights": digest, "crop": facegeometry.RECIPE, "columns": columns, "landmarks": landmarks, "mirror": "embeddings averaged",
        "weight_levels": WEIGHT_LEVELS,
    }
    return FeatureSet(name=NAME, version=2, dim=DIM, rate_hz=30.0, recipe=recipe)


class _Graph:
    """The nodes and constants of the network. With the ranges of its values among the arrays it computes in whole numbers: values are
    bytes, weights by output channel, sums 32 bits (Jacob et al. 2018, CVPR), which ONNX Runtime makes of what is written here."""

    def __init__(self, arrays: Arrays) -> None:
        self._given = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
        self._nodes: list[NodeProto] = []
        self._constants: Arrays = {}

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, name: str, value: Any, kind: Any = np.float32) -> str:
        self._constants[name] = np.asarray(value, kind)
        return name

    def array(self, name: str) -> str:
        return self.constant(name, self._given[name])

    def level(self, name: str) -> str:
        """The value `name` on the levels that bytes have in its range, one of them zero; as it is where its range is not known."""
        if f"{name}.range" not in self._given:
            return name
        step = self._step(name)
        zero = np.rint(-self._given[f"{name}.range"][0] / step)
        how = [self.constant(f"{name}.step", step), self.constant(f"{name}.zero", zero, np.uint8)]
        return self.add("DequantizeLinear", [self.add("QuantizeLinear", [name, *how], f"{name}.byte"), *how], f"{name}.level")

    def _step(self, name: str) -> float:
        low, high = self._given[f"{name}.range"]
        return max(float(high - low), 1e-6) / 255

    def convolve(self, name: str, value: str, output: str, **attributes: Any) -> str:
        """A convolution of the level of `value`, with the weights `name`."""
        weight, bias = self._given[f"{name}.weight"], self._given[f"{name}.bias"]
        if f"{value}.range" not in self._given:
            return self.add("Conv", [value, self.array(f"{name}.weight"), self.array(f"{name}.bias")], output, **attributes)
        steps = np.maximum(np.abs(weight).max((1, 2, 3)), 1e-6) / WEIGHT_LEVELS
        own, both = self.constant(f"{name}.steps", steps), self.constant(f"{name}.bias.steps", steps * self._step(value))
        whole = self.constant(f"{name}.weight.whole", np.rint(weight / steps[:, None, None, None]), np.int8)
        added = self.constant(f"{name}.bias.whole", np.rint(bias / (steps * self._step(value))), np.int32)
        weights = self.add("DequantizeLinear", [whole, own], f"{name}.weights", axis=0)
        biases = self.add("DequantizeLinear", [added, both], f"{name}.biases", axis=0)
        return self.add("Conv", [f"{value}.level", weights, biases], output, **attributes)

    def parted(self, name: str) -> dict[str, Any]:
        """Makes of the weights `name`, for one channel and a stride of 2, those for the four pictures of every second pixel and a stride
        of 1, and tells their shape. The sums are the same; gathering four bytes at a time for them, not one, takes half as long."""
        weight = self._given[f"{name}.weight"]
        side = weight.shape[-1]
        before, after = (side // 2 + 1) // 2, side // 2 // 2
        parted = np.zeros((len(weight), 4, before + 1 + after, before + 1 + after), np.float32)
        for y, x in np.ndindex(side, side):
            (row, down), (column, across) = divmod(y - side // 2, 2), divmod(x - side // 2, 2)
            parted[:, 2 * down + across, before + row, before + column] = weight[:, 0, y, x]
        self._given[f"{name}.weight"] = parted
        return {"kernel_shape": parted.shape[2:], "strides": [1, 1], "pads": [before, before, after, after]}

    def model(self, outputs: list[str]) -> bytes:
        side = facegeometry.CROP
        inputs = [helper.make_tensor_value_info("crops", TensorProto.FLOAT, ["n", 1, side, side])]
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        constants = [numpy_helper.from_array(array, name) for name, array in self._constants.items()]
        made = helper.make_graph(self._nodes, NAME, inputs, results, constants)
        return bytes(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString())


def graph(arrays: Arrays, layers: Layers, outputs: Sequence[str] = ("rows",)) -> bytes:
    """ONNX model (serialised) of the network: crops (N, 1, 48, 48) float32 grey levels -> rows (N, 39) float32; `outputs` names other
    values of it to be given.

    The embedding is the mean of the crop's and its mirror image's, so that left and right read alike and half of the noise is gone.
    With the arrays of `ranges` it computes in whole numbers. Raises KeyError when an array named in `layers` is missing, ValueError when
    the first layer's stride is not 2.
    """
    made = _Graph(arrays)
    if layers[0][1] != 2:
        raise ValueError(f"the first layer, {layers[0][0]}, has a stride of {layers[0][1]}; it must have one of 2")

    def numbers(name: str, *values: int) -> str:
        return made.constant(name, values, np.int64)

    across = [numbers("from_the_right", -1), numbers("to_the_left", -facegeometry.CROP - 1), numbers("across", 3), numbers("backward", -1)]
    made.add("Slice", ["crops", *across], "mirrored")
    made.add("Concat", ["crops", "mirrored"], "both", axis=0)
    made.add("ReduceMean", ["both", numbers("axes", 1, 2, 3)], "mean", keepdims=1)
    made.add("Sub", ["both", "mean"], "flat")
    made.add("Mul", ["flat", "flat"], "square")
    made.add("ReduceMean", ["square", "axes"], "variance", keepdims=1)
    made.add("Sqrt", ["variance"], "deviation")
    made.add("Add", ["deviation", made.constant("contrast_floor", [CONTRAST_FLOOR])], "spread")
    made.add("Div", ["flat", "spread"], "normal")
    last = made.add("SpaceToDepth", ["normal"], "input", blocksize=2)
    levels = {last: made.level(last)}
    for name, stride, skip in layers:
        kernel = arrays[f"{name}.weight"].shape[-1]
        shape = made.parted(name) if last == "input" else {
            "kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4,
        }
        total = made.convolve(name, last, f"{name}.sum", **shape)
        if skip is not None:
            total = made.add("Add", [made.level(total), levels[skip]], f"{name}.added")
        last = made.add("Relu", [total], name)
        levels[last] = made.level(last)
    channels, _, side, _ = arrays["pool.weight"].shape
    made.convolve("pool", last, "pooled", kernel_shape=[side, side], group=channels)
    made.add("Flatten", [made.level("pooled")], "vectors")
    made.add("Gemm", ["vectors", made.array("embed.weight"), made.array("embed.bias")], "bounded", transB=1)
    made.add("Tanh", ["bounded"], "embeddings")
    made.add("Reshape", ["embeddings", numbers("two", 2, -1, EMBEDDING)], "pairs")
    made.add("ReduceMean", ["pairs", numbers("first", 0)], "embedding", keepdims=0)
    made.add("Gemm", ["embedding", made.array("head.weight"), made.array("head.bias")], "logits", transB=1)
    made.add("LogSoftmax", ["logits"], "posteriors", axis=1)
    made.add("Concat", ["embedding", "posteriors"], "rows", axis=1)
    return made.model(list(outputs))


def ranges(arrays: Arrays, layers: Layers, crops: npt.NDArray[np.uint8]) -> Arrays:
    """Between which numbers (2,) the values of the network lie for crops (N, 48, 48), zero among them, by name of the value and `.range`:
    with these among its arrays `graph` computes in whole numbers. Ranges among the arrays given are not looked at."""
    names = ["input", *(name for name, _, _ in layers), *(f"{name}.sum" for name, _, skip in layers if skip is not None), "pooled"]
    session = _session(graph({name: array for name, array in arrays.items() if not name.endswith(".range")}, layers, names))
    bounds = np.zeros((len(names), 2), np.float32)
    for crop in crops.astype(np.float32):
        for bound, value in zip(bounds, session.run(names, {"crops": crop[None, None]}), strict=True):
            bound[:] = min(bound[0], value.min()), max(bound[1], value.max())
    return {f"{name}.range": bound for name, bound in zip(names, bounds, strict=True)}


def _session(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class FaceEncoder:
    """Aligned crops -> face feature rows.

    weights: a shipped name or a `.safetensors` path. Raises `models.weights.WeightsError` when they are missing, damaged or of
    another kind. `features` is the feature set its rows belong to.
    """

    def __init__(self, weights: str | os.PathLike[str] = "face") -> None:
        arrays, metadata = shipped.load(weights)
        if metadata.get("format") != FORMAT:
            raise shipped.WeightsError(
                f"{shipped.path(weights)} holds {metadata.get('format', 'weights of no stated format')}, not {FORMAT}. "
                "Give weights made by `affect train --model face`."
            )
        try:
            self._session = _session(graph(arrays, json.loads(metadata["layers"])))
        except Exception as error:
            raise shipped.WeightsError(
                f"{shipped.path(weights)} does not make an expression network: {error}. Train it again with `affect train --model face`."
            ) from error
        self.features = features(weights)

    def __call__(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Rows (N, 39) of crops (N, 48, 48) uint8, each by itself: a row never depends on the crops beside it.

        Raises ValueError for another shape or dtype.
        """
        side = facegeometry.CROP
        if crops.ndim != 3 or crops.shape[1:] != (side, side) or crops.dtype != np.uint8:
            raise ValueError(f"crops must be (N, {side}, {side}) uint8, not {crops.shape} {crops.dtype}: make them with FaceTracker")
        rows = np.empty((len(crops), DIM), np.float32)
        for k, crop in enumerate(crops.astype(np.float32)):
            rows[k] = self._session.run(["rows"], {"crops": crop[None, None]})[0][0]
        return rows

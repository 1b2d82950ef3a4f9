"""The expression network as it runs live: ONNX Runtime over a graph built here from plain arrays, without torch.

Weights are folded convolutions (see `models.encoders.face`, which trains and writes them). Metadata `layers` lists them as
[name, stride, name of the layer whose output is added before the rectifier, or null].
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from models import weights as shipped
from models.emotions import EMOTIONS
from models.features import FeatureSet
from models.perception import facegeometry

EMBEDDING = 32
DIM = EMBEDDING + len(EMOTIONS)
NAME = "face"
FORMAT = "face-expression-1"
"""What the metadata of fitting weights says under `format`."""

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
    }
    return FeatureSet(name=NAME, version=2, dim=DIM, rate_hz=30.0, recipe=recipe)


def graph(arrays: dict[str, npt.NDArray[Any]], layers: list[list[Any]]) -> bytes:
    """ONNX model (serialised) of the network: crops (N, 1, 48, 48) float32 grey levels -> rows (N, 39) float32.

    The embedding is the mean of the crop's and its mirror image's, so that left and right read alike and half of the noise is gone.

    Raises KeyError when an array named in `layers` is missing.
    """
    constants = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    constants["contrast_floor"] = np.array([CONTRAST_FLOOR], np.float32)
    numbers = {
        "axes": [1, 2, 3], "first": [0], "two": [2, -1, EMBEDDING],
        "from_the_right": [-1], "to_the_left": [-facegeometry.CROP - 1], "across": [3], "backward": [-1],
    }
    nodes = [
        helper.make_node("Slice", ["crops", "from_the_right", "to_the_left", "across", "backward"], ["mirrored"]),
        helper.make_node("Concat", ["crops", "mirrored"], ["both"], axis=0),
        helper.make_node("ReduceMean", ["both", "axes"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["both", "mean"], ["level"]),
        helper.make_node("Mul", ["level", "level"], ["square"]),
        helper.make_node("ReduceMean", ["square", "axes"], ["variance"], keepdims=1),
        helper.make_node("Sqrt", ["variance"], ["deviation"]),
        helper.make_node("Add", ["deviation", "contrast_floor"], ["spread"]),
        helper.make_node("Div", ["level", "spread"], ["input"]),
    ]
    last = "input"
    for name, stride, skip in layers:
        kernel = constants[f"{name}.weight"].shape[-1]
        pad = [kernel // 2] * 4
        nodes.append(helper.make_node(
            "Conv", [last, f"{name}.weight", f"{name}.bias"], [f"{name}.sum"], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pad
        ))
        total = f"{name}.sum"
        if skip is not None:
            total = f"{name}.added"
            nodes.append(helper.make_node("Add", [f"{name}.sum", skip], [total]))
        nodes.append(helper.make_node("Relu", [total], [name]))
        last = name
    channels, _, side, _ = constants["pool.weight"].shape
    nodes += [
        helper.make_node("Conv", [last, "pool.weight", "pool.bias"], ["pooled"], kernel_shape=[side, side], group=channels),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "embed.weight", "embed.bias"], ["bounded"], transB=1),
        helper.make_node("Tanh", ["bounded"], ["embeddings"]),
        helper.make_node("Reshape", ["embeddings", "two"], ["pairs"]),
        helper.make_node("ReduceMean", ["pairs", "first"], ["embedding"], keepdims=0),
        helper.make_node("Gemm", ["embedding", "head.weight", "head.bias"], ["logits"], transB=1),
        helper.make_node("LogSoftmax", ["logits"], ["posteriors"], axis=1),
        helper.make_node("Concat", ["embedding", "posteriors"], ["rows"], axis=1),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            NAME,
            [helper.make_tensor_value_info("crops", TensorProto.FLOAT, ["n", 1, facegeometry.CROP, facegeometry.CROP])],
            [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["n", DIM])],
            [numpy_helper.from_array(array, name) for name, array in constants.items()]
            + [numpy_helper.from_array(np.array(values, np.int64), name) for name, values in numbers.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    return bytes(model.SerializeToString())


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
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            model = graph(arrays, json.loads(metadata["layers"]))
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
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

"""The page's colours, computed from its stylesheet: contrast by WCAG 2, and seven emotions that colour-blind eyes tell apart."""

from __future__ import annotations

import itertools
import re

import numpy as np
import numpy.typing as npt
import pytest

from models.emotions import EMOTIONS
from stream.dashboard.app import PAGE

Rgb = npt.NDArray[np.float64]
# Machado, Oliveira, Fernandes 2009, "A physiologically-based model for simulation of color vision deficiency", severity 1.0; linear RGB.
EYES = {
    "usual": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    "tritanopia": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
}


def theme(name: str) -> dict[str, Rgb]:
    """The linear RGB of every colour variable of a theme."""
    style = (PAGE / "style.css").read_text()
    selector = r':root\[data-theme="dark"\]' if name == "dark" else r":root"
    block = re.search(selector + r" \{(.*?)\}", style, re.S)
    assert block
    found = re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block[1])
    return {key: linear(value) for key, value in found}


def linear(colour: str) -> Rgb:
    channels = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(a: Rgb, b: Rgb) -> float:
    low, high = sorted(float(colour @ [0.2126, 0.7152, 0.0722]) for colour in (a, b))
    return (high + 0.05) / (low + 0.05)


def lab(colour: Rgb) -> Rgb:
    """CIELAB under D65."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(colour, 0, 1)
    f = xyz / np.array([0.95047, 1, 1.08883])
    f = np.where(f > 0.008856, np.cbrt(f), 7.787 * f + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("name", ["dark", "light"])
def test_what_is_written_can_be_read(name: str) -> None:
    colours = theme(name)
    for ink, ground in itertools.product(("ink", "quiet", "accent", "warn"), ("card", "ground")):
        assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
    for ground in ("well",):
        assert contrast(colours["quiet"], colours[ground]) >= 4.5
    assert contrast(colours["on-accent"], colours["accent"]) >= 4.5


@pytest.mark.parametrize("name", ["dark", "light"])
def test_the_emotions_stand_out_from_the_card(name: str) -> None:
    colours = theme(name)
    assert all(contrast(colours[emotion], colours["card"]) >= 3 for emotion in EMOTIONS)


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize("name", ["dark", "light"])
def test_any_eyes_tell_the_emotions_apart(name: str, eyes: str) -> None:
    """Ten times the just noticeable difference of about 2.3 between any two of them."""
    colours = theme(name)
    seen = {emotion: lab(EYES[eyes] @ colours[emotion]) for emotion in EMOTIONS}
    for a, b in itertools.combinations(EMOTIONS, 2):
        assert np.linalg.norm(seen[a] - seen[b]) >= 23, (a, b)

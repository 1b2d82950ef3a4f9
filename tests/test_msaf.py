"""What is MSAF's own: the split attention of its module, the published sizes, time segments."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fusing import config, model, windows
from torch import Tensor

from models.layers import segment_of
from models.msaf import MSAF, MSAFConfig, SegmentedAttention, SplitAttention


def blocks(module: SplitAttention, channels: tuple[int, ...], rows: tuple[int, ...] = (5, 9, 7), batch: int = 4) -> list[Tensor]:
    torch.manual_seed(0)
    return [module.split(torch.randn(batch, n, c), m) for m, (n, c) in enumerate(zip(rows, channels, strict=False))]


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_sizes() -> None:
    mosei = MSAFConfig.paper()
    assert count(SegmentedAttention(mosei)) == 10_840
    assert count(SplitAttention((1024, 32), block=16, reduction=4)) == 5_356
    assert count(SplitAttention((2048, 64), block=32, reduction=4)) == 19_288
    # Two LSTM layers a modality, the module between them, a linear head over 32 + 64 + 128.
    lstm = sum(4 * w * (d + w + 2) + 4 * w * (2 * w + 2) for d, w in zip(mosei.dims, mosei.widths, strict=True))
    assert count(MSAF(mosei)) == lstm + 10_840 + 225


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("channels", [(32, 64, 128), (30, 20), (9, 40, 17, 64)])
def test_attention_sums_to_one_over_all_blocks(norm: str, channels: tuple[int, ...]) -> None:
    module = SplitAttention(channels, norm=norm).eval()
    rows = (5, 9, 7, 3)
    parts = blocks(module, channels, rows)
    masks = [torch.ones(4, n) for n in rows[:len(channels)]]
    masks[0][2] = 0
    attention, mass = module(parts, masks)
    assert torch.allclose(torch.cat(attention, 1).sum(1), torch.ones(4, module.block), atol=1e-5)
    assert torch.allclose(mass.sum(1), torch.ones(4), atol=1e-5)
    assert attention[0][2].abs().max() == 0 and mass[2, 0] == 0
    lowest = SplitAttention(channels, norm=norm, lowest=0.3).eval()
    lowest.load_state_dict(module.state_dict())
    for raised, plain in zip(lowest(parts, masks)[0], attention, strict=True):
        assert torch.allclose(raised, 0.3 + 0.7 * plain, atol=1e-6)


def attended(c: MSAFConfig, training: bool = False, seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    """Features before and after a segmented module."""
    torch.manual_seed(seed)
    module = SegmentedAttention(c).train(training)
    xs = [torch.randn(6, n, w) for n, w in zip((6, 21, 13), c.widths, strict=True)]
    ts = [torch.linspace(-4, 0, x.shape[1]).expand(6, -1) for x in xs]
    return xs, module(xs, ts, [torch.ones(x.shape[:2]) for x in xs])[0]


def test_channels_that_blocks_do_not_divide_come_back_whole() -> None:
    xs, out = attended(replace(config("msaf", "paper"), widths=(20, 9, 33), block=16, lowest=1.0))
    assert all(torch.allclose(a, b) for a, b in zip(xs, out, strict=True))
    xs, out = attended(replace(config("msaf", "paper"), widths=(20, 9, 33), block=16))
    assert all((b / a).min() > 0 and (b / a).max() < 1 for a, b in zip(xs, out, strict=True))


@pytest.mark.parametrize(("twice", "gain"), [(False, 2.0), (True, 4.0)])
def test_block_dropout_drops_blocks(twice: bool, gain: float) -> None:
    c = replace(config("msaf", "paper"), widths=(32, 64, 16), block=16, block_dropout=0.5, dropout_twice=twice, lowest=1.0)
    xs, out = attended(c, training=True)
    kept = 0
    for a, b in zip(xs, out, strict=True):
        scale = (b / a).unflatten(-1, (-1, 16)).flatten(3).permute(0, 2, 1, 3).flatten(2)
        assert torch.allclose(scale, scale[..., :1].expand_as(scale), atol=1e-4)  # A block goes as a whole, over all its time.
        assert set(scale[..., 0].round(decimals=3).flatten().tolist()) <= {0.0, gain}
        kept += int((scale[..., 0] > 0).sum())
    assert 0 < kept < 6 * 7


@pytest.mark.parametrize("lowest", [0.0, 0.2])
def test_rescaled_attention_keeps_the_size_of_features(lowest: float) -> None:
    def gain(rescale: str, here: tuple[int, ...]) -> float:
        c = replace(config("msaf", "live"), widths=(16, 16, 8), block=8, lowest=lowest, rescale=rescale)
        torch.manual_seed(0)
        xs, ts = [torch.rand(6, 8, w) + 1 for w in c.widths], [torch.linspace(-3.9, 0, 8).expand(6, -1)] * 3
        out = SegmentedAttention(c).eval()(xs, ts, [torch.full((6, 8), float(m in here)) for m in range(3)])[0]
        gains = torch.cat([(out[m] / xs[m]).flatten(-1).unflatten(-1, (-1, 8)) for m in here], -2)
        return float(gains.mean())

    assert gain("none", (0, 1, 2)) == pytest.approx(lowest + (1 - lowest) / 5, abs=1e-4)
    for here in ((0, 1, 2), (1,), (0, 2)):
        assert gain("present", here) == pytest.approx(1, abs=1e-4)
    assert gain("all", (1,)) == pytest.approx(5 * lowest + (1 - lowest) * 5 / 2, abs=1e-4)
    assert MSAFConfig.from_dict({"rescale": True}) == MSAFConfig(rescale="all")


def test_segments() -> None:
    mask = torch.ones(2, 11)
    mask[1, 7:] = 0
    place = segment_of(torch.zeros(2, 11), mask, 3)
    assert place[0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2]  # The last takes the remainder.
    assert place[1, :7].tolist() == [0, 0, 1, 1, 2, 2, 2]
    times = torch.tensor([[-4.0, -3.1, -2.9, -0.1, 0.0]])
    assert segment_of(times, torch.ones(1, 5), 4, 4.0).tolist() == [[0, 0, 1, 3, 3]]


def test_a_segment_attends_to_itself() -> None:
    c = replace(config("msaf", "live"), segments=2)
    torch.manual_seed(0)
    module = SegmentedAttention(c).eval()
    xs = [torch.randn(2, 8, w) for w in c.widths]
    ts, masks = [torch.linspace(-4, -0.1, 8).expand(2, -1)] * 3, [torch.ones(2, 8)] * 3
    before = module(xs, ts, masks)[0]
    moved = [x.clone() for x in xs]
    moved[1][:, :4] += 1
    after = module(moved, ts, masks)[0]
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a[:, 4:], b[:, 4:])
    assert not torch.allclose(before[0][:, :4], after[0][:, :4])


def test_impossible_settings_are_named() -> None:
    with pytest.raises(ValueError, match="insertions"):
        MSAFConfig(insertions=(3,))
    with pytest.raises(ValueError, match="widths"):
        model("msaf", "live", front="none")
    with pytest.raises(ValueError, match="reduction"):
        MSAFConfig(block=4, reduction=8)


def test_weights_are_the_attention() -> None:
    net, inputs = model("msaf", "live", insertions=(1,)), windows()
    attention = net.attention["1"]  # type: ignore[index]
    seen = []
    attention.register_forward_hook(lambda _, __, out: seen.append(out[1]))
    weights = net(*inputs).weights
    assert torch.equal(weights, seen[0])

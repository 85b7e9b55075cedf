"""BiFPN is effdet's: the same outputs, gradients and running statistics from the same weights."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from ziggurat.errors import UserError
from ziggurat.models.bifpn import NORM_EPS, NORM_MOMENTUM, BiFpn, Fusion
from ziggurat.models.levels import Level, parse_levels

with warnings.catch_warnings():
    # effdet compiles a loss when it is imported; nothing that is used here
    warnings.filterwarnings("ignore", message="`torch.jit.script", category=FutureWarning)
    from effdet.config.model_config import default_detection_model_configs
    from effdet.efficientdet import BiFpn as EffdetBiFpn

CHANNELS = 8
INPUTS = {"p2": Level(4, 4), "p3": Level(5, 8), "p4": Level(CHANNELS, 16), "p5": Level(7, 32)}
SIZE = (100, 172)
MAPS = {"p2": (25, 43), "p3": (13, 22), "p4": (7, 11), "p5": (4, 6)}  # odd sizes


def inputs_from(first: str) -> dict[str, Level]:
    return {name: level for name, level in INPUTS.items() if name >= first}


def random_maps(first: str, images: int = 2) -> dict[str, Tensor]:
    return {n: torch.randn(images, INPUTS[n].channels, *s).double() for n, s in MAPS.items() if n >= first}


def make_effdet(names: list[str], depth: int) -> nn.Module:
    config = default_detection_model_configs()
    first, last = int(names[0][1]), int(names[-1][1])
    config.update(
        {
            "image_size": SIZE, "min_level": first, "max_level": last, "num_levels": len(names),
            "fpn_channels": CHANNELS, "fpn_cell_repeats": depth, "fpn_name": "bifpn_fa", "pad_type": "",
            "redundant_bias": False, "norm_kwargs": {"eps": NORM_EPS, "momentum": NORM_MOMENTUM},
        }
    )  # fmt: skip
    channels = [{"num_chs": level.channels} for level in inputs_from(names[0]).values()]
    theirs = EffdetBiFpn(config, channels).double()
    with torch.no_grad():
        for parameter in theirs.parameters():  # a new one has equal fusion weights and trivial norms
            parameter.add_(0.5 * torch.randn_like(parameter))
        for name, buffer in theirs.named_buffers():
            if "running" in name:
                buffer.add_(0.5 * torch.rand_like(buffer))
    return theirs


def our_name(name: str, names: list[str], theirs: nn.Module) -> str:
    """``cell.REPEAT.fnode.NODE.combine...``: nodes are numbered down to the finest level, and up again."""
    parts = name.split(".")
    if parts[0] == "resample":
        return f"extra.{names[int(parts[1])]}.{'0' if parts[3] == 'conv' else '1'}.{parts[-1]}"
    repeat, node, last = int(parts[1]), int(parts[3]), len(names) - 1
    prefix = f"top_down.{names[last - 1 - node]}" if node < last else f"bottom_up.{names[node - last + 1]}"
    prefix = f"repeats.{repeat}.{prefix}"
    if parts[4] == "after_combine":
        layer = {"conv_dw": "depthwise", "conv_pw": "pointwise", "bn": "norm"}[parts[6]]
        return f"{prefix}.{layer}.{parts[-1]}"
    if parts[5] == "edge_weights":
        return f"{prefix}.weight"
    inputs = theirs.cell[repeat].fnode[node].combine.inputs_offsets
    place = inputs.index(int(parts[6]))
    return f"{prefix}.project.{place}.{'0' if parts[8] == 'conv' else '1'}.{parts[-1]}"


def make_twins(levels: str, depth: int) -> tuple[nn.Module, BiFpn, dict[str, str]]:
    """Return effdet's, ours with the same weights, and from effdet's names to ours."""
    names = parse_levels(levels)
    theirs = make_effdet(names, depth)
    ours = BiFpn(inputs_from(names[0]), names, CHANNELS, depth).double()
    mapping = {name: our_name(name, names, theirs) for name in theirs.state_dict()}
    ours.load_state_dict({mapping[name]: tensor for name, tensor in theirs.state_dict().items()})  # strict
    return theirs, ours, mapping


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("levels", "depth"), [("p3-p7", 3), ("p2-p7", 2), ("p3-p5", 2), ("p4-p6", 1)])
def test_outputs_gradients_and_statistics_are_effdets(levels: str, depth: int, training: bool) -> None:
    theirs, ours, mapping = make_twins(levels, depth)
    theirs.train(training), ours.train(training)
    maps = random_maps(levels[:2])
    for one in maps.values():
        one.requires_grad_()
    expected = theirs(list(maps.values()))
    found = ours(maps)
    assert list(found) == parse_levels(levels)
    for one, other in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)

    factors = [torch.randn_like(one) for one in expected]
    inputs = list(maps.values())
    leaves = dict(theirs.named_parameters())
    reference = torch.autograd.grad(expected, [*inputs, *leaves.values()], factors)
    parameters = dict(ours.named_parameters())
    assert len(parameters) == len(leaves)
    wanted = [*inputs, *(parameters[mapping[name]] for name in leaves)]
    for one, other in zip(torch.autograd.grad(list(found.values()), wanted, factors), reference, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)

    state = ours.state_dict()
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(state[mapping[name]], tensor, rtol=1e-12, atol=1e-12)


def test_the_default_has_effdets_parameters_and_fusion_weights() -> None:
    names = parse_levels("p3-p7")
    theirs, ours = make_effdet(names, 3), BiFpn(inputs_from("p3"), names, CHANNELS)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    fusions = {name: m for name, m in ours.named_modules() if isinstance(m, Fusion)}
    assert len(fusions) == 3 * 8  # four levels down, four up
    for name, fusion in fusions.items():
        inputs = 3 if "bottom_up" in name and "p7" not in name else 2
        assert fusion.weight.tolist() == [1.0] * inputs
    assert ours.levels == {name: Level(CHANNELS, 2 ** int(name[1])) for name in names}


def test_a_hand_worked_fusion() -> None:
    """Weights 3, 1 and -2 count as 3/4, 1/4 and 0 (but for the small constant); 4/4.0001 of the sum."""
    fusion = Fusion([1, 1, 1], 1).double().eval()
    with torch.no_grad():
        fusion.weight.copy_(torch.tensor([3.0, 1.0, -2.0]))
        fusion.depthwise.weight.zero_()[:, :, 1, 1] = 1.0
        fusion.pointwise.weight.fill_(1.0)
    own, fine, coarse = (
        torch.full((1, 1, 2, 2), 4.0),
        torch.arange(16.0).view(1, 1, 4, 4),
        torch.ones(1, 1, 1, 1),
    )
    total = (
        3 * 4.0 + torch.tensor([[5.0, 7.0], [13.0, 15.0]])
    ) / 4.0001  # the largest of 3 x 3 about 0 and 2
    expected = total * total.sigmoid() / (1 + NORM_EPS) ** 0.5  # swish, and a new norm
    found = fusion([own.double(), fine.double(), coarse.double()])[0, 0]
    torch.testing.assert_close(found.float(), expected, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("norm", ["group", "frozen"])
def test_other_norms_know_one_image_only(norm: str) -> None:
    neck = BiFpn(inputs_from("p3"), parse_levels("p3-p7"), CHANNELS, 2, norm).double()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in neck.modules())
    maps = random_maps("p3")
    together = neck(maps)
    alone = neck({name: one[:1] for name, one in maps.items()})
    for name, one in alone.items():
        torch.testing.assert_close(together[name][:1], one, rtol=1e-10, atol=1e-12)
    sum((one * torch.randn_like(one)).sum() for one in together.values()).backward()
    for name, parameter in neck.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_one_value_has_no_batch_statistics() -> None:
    names = parse_levels("p3-p7")
    maps = {n: one[:1, :, : 4 >> i, : 4 >> i] for i, (n, one) in enumerate(random_maps("p3").items())}
    neck = BiFpn(inputs_from("p3"), names, CHANNELS).double()
    with pytest.raises(UserError, match=r"more than one value of each channel: p7 .* use model.norm=group"):
        neck(maps)
    assert neck.eval()(maps)["p7"].shape == (1, CHANNELS, 1, 1)
    grouped = BiFpn(inputs_from("p3"), names, CHANNELS, norm="group").double()
    assert grouped(maps)["p7"].abs().sum() > 0


def test_one_level_has_nothing_to_fuse() -> None:
    with pytest.raises(UserError, match="must name two or more, got p5"):
        BiFpn({"p5": INPUTS["p5"]}, ["p5"], CHANNELS)


def test_it_keeps_channels_last_and_bf16() -> None:
    neck = BiFpn(inputs_from("p3"), parse_levels("p3-p7"), CHANNELS).to(memory_format=torch.channels_last)
    maps = {n: m.float().contiguous(memory_format=torch.channels_last) for n, m in random_maps("p3").items()}
    with torch.autocast("cpu", torch.bfloat16):
        pyramid = neck({name: one.bfloat16() for name, one in maps.items()})
    for one in pyramid.values():
        assert one.dtype is torch.bfloat16
        assert one.is_contiguous(memory_format=torch.channels_last)

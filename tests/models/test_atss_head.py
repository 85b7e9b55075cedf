from __future__ import annotations

import torch

from ziggurat.models.atss import AtssHead
from ziggurat.models.fcos import FcosHead

SIZES = {"p3": (8, 12), "p4": (4, 6), "p5": (2, 3)}


def make_pyramid() -> dict[str, torch.Tensor]:
    return {name: torch.randn(2, 16, *size) for name, size in SIZES.items()}


def test_terms_are_those_of_fcos_before_its_relu_times_the_factor_of_the_level() -> None:
    head, fcos = AtssHead(16, 3, 2, list(SIZES)), FcosHead(16, 3, 2)
    missing, unexpected = fcos.load_state_dict(head.state_dict(), strict=False)
    assert (missing, unexpected) == ([], [f"scales.{name}" for name in SIZES])
    factors = {"p3": 1.0, "p4": 0.5, "p5": -2.0}
    with torch.no_grad():
        for name, factor in factors.items():
            assert head.scales[name].item() == 1.0
            head.scales[name].fill_(factor)
    pyramid = make_pyramid()
    terms, expected = head(pyramid), fcos(pyramid)
    for name, size in SIZES.items():
        assert terms[name]["boxes"].shape == (2, 4, *size)
        for term in ("classes", "centerness"):
            torch.testing.assert_close(terms[name][term], expected[name][term])
        found = (terms[name]["boxes"] / factors[name]).relu()
        torch.testing.assert_close(found, expected[name]["boxes"])
        assert (terms[name]["boxes"] < 0).any()


def test_gradients_reach_every_parameter() -> None:
    head = AtssHead(16, 3, 1, list(SIZES))
    terms = head(make_pyramid())
    sum((one * torch.randn_like(one)).sum() for level in terms.values() for one in level.values()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_under_autocast_terms_stay_narrow() -> None:
    head = AtssHead(16, 3, 1, list(SIZES))
    with torch.autocast("cpu", torch.bfloat16):
        terms = head(make_pyramid())
    assert {one.dtype for level in terms.values() for one in level.values()} == {torch.bfloat16}

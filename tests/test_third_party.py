"""A short form of the sweep of other packages (all of it: ``make zoo``): two or three small networks of each that is installed."""

from __future__ import annotations

import math

import pytest
import torch

from sweep.alone import take_reference
from sweep.cases import Case, third_party_cases
from sweep.main import is_known, joined
from sweep.run import NetworkResult, run_network
from sweep.table import THIRD_PARTY, format_page
from sweep.third_party import ROOM, TABLES, find_entry, is_installed, third_party_networks
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.verification.networks import check_name
from ziggurat.verification.step import Trial

SHORT = {
    "transformers": (
        "transformers_classifiers:swin",
        "transformers_detectors:detr",
        "transformers_dense:segformer",
    ),
    "MONAI": ("monai_networks:basic_unet_2d", "monai_networks:vit_2d"),
    "nnU-Net": ("nnunet_networks:plain_unet_2d", "nnunet_networks:residual_unet_2d"),
    "pytorchcv": ("pytorchcv_networks:nin_cifar10", "pytorchcv_networks:enet_cityscapes"),
    "spandrel": ("spandrel_networks:compact", "spandrel_networks:swinir"),
    "kornia": ("kornia_networks:tfeat", "kornia_networks:vit"),
    "vit-pytorch": ("vit_pytorch_networks:simple_vit", "vit_pytorch_networks:max_vit"),
    "effdet": ("effdet_networks:efficientdet_mobilenet",),
}


@pytest.mark.filterwarnings("ignore")  # of the packages, as they are imported
@pytest.mark.parametrize(("package", "name"), [(key, name) for key, names in SHORT.items() for name in names])
def test_exact(package: str, name: str) -> None:
    if not is_installed(package):
        pytest.skip(f"{TABLES[package][0]} is not installed: see python tests/sweep/main.py --help")
    outcome = run_network(package, f"{ROOM}.{name}", [Case("sp=2")])
    assert outcome.verdict == "exact", outcome.why


def test_the_tables() -> None:
    """Are read without their packages; every name is one that ``ziggurat verify`` takes, and there are enough of them."""
    names = [name for _, name in third_party_networks()]
    assert len(names) == len(set(names)) >= 500
    assert set(SHORT) == set(TABLES)
    for name in names:
        check_name(name)
        entry = find_entry(name)
        assert entry is not None
        assert len(entry.shape) in (4, 5)
    assert find_entry("timm:resnet18") is None
    assert len(third_party_networks(["effdet"])) < 20


def test_a_third_is_run_under_further_plans() -> None:
    plans = [[case.plan for case in third_party_cases(number)] for number in range(6)]
    assert plans[0] == plans[3] == ["sp=2", "sp=2x2", "pp=2"]
    assert plans[1] == plans[2] == ["sp=2"]
    name = f"{ROOM}.monai_networks:unet_2d"
    assert Case("sp=2").shape(None, "MONAI", name) == (3, 1, 64, 64)
    assert Case("pp=2", microbatches=2).shape(None, "MONAI", name) == (6, 1, 64, 64)


def test_a_sweep_goes_on_with_the_plans_that_are_missing() -> None:
    first = NetworkResult(
        "f", "n", "exact", error=1e-13, cases={"sp=2 3x1x64x64": {"verdict": "exact"}}, seconds=1
    )
    assert is_known(Case("sp=2"), first)
    assert not is_known(Case("sp=2x2"), first)
    assert not is_known(Case("sp=2"), None)
    second = NetworkResult(
        "f", "n", "raised", "why", cases={"pp=2 in 2 6x1x64x64": {"verdict": "raised"}}, seconds=2
    )
    both = joined(first, second)
    assert (both.verdict, both.why, both.error, both.seconds) == ("raised", "why", 1e-13, 3)
    assert list(both.cases) == ["sp=2 3x1x64x64", "pp=2 in 2 6x1x64x64"]
    assert "Networks of other packages" in format_page([both], 0, THIRD_PARTY)
    assert is_known(Case("pp=2"), NetworkResult("f", "n", "not built"))  # it is not tried again and again


def test_a_network_that_is_not_the_same_twice_is_named() -> None:
    outcome = run_network("f", "support.verify_networks:unrepeatable", [Case("sp=2")])
    assert outcome.verdict == "nondeterministic"
    assert outcome.why.startswith("two equal steps on one worker differ in output 0")


@pytest.mark.parametrize("factor", [0.0, math.nan])
def test_a_network_without_a_gradient_proves_nothing(factor: float) -> None:
    model = torch.nn.Conv2d(3, 2, 1).double()
    model.register_forward_hook(lambda module, given, output: output * factor)
    with pytest.raises(ArithmeticError, match="the gradient's norm is"):
        take_reference(Workers(), model, Trial(torch.randn(1, 3, 8, 8, dtype=torch.float64)))

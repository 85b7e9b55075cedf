"""A short form of the sweep (all of it: ``make sweep``), and that one bad network ends nothing else."""

from __future__ import annotations

import pytest

from sweep.networks import SHORT, all_networks
from sweep.run import STAGE_CASES, run_network
from sweep.table import STAGES, format_page
from ziggurat.verify.networks import check_name


@pytest.mark.parametrize("name", SHORT)
def test_exact(name: str) -> None:
    outcome = run_network("short", name, cases=(("sp=2", "prime"),))
    assert outcome.verdict == "exact", outcome.why


@pytest.mark.parametrize("name", [*SHORT[:4], "smp:pspnet/resnet18"])  # its last blocks are not called
def test_stages_are_exact(name: str) -> None:
    outcome = run_network("short", name, cases=STAGE_CASES)
    assert outcome.verdict == "exact", outcome.why
    assert list(outcome.cases) == ["pp=3 1f1b 7x3x64x64", "pp=2 interleaved 7x3x64x64"]
    assert "# Networks in stages" in format_page([outcome], kind=STAGES)


def test_every_name_is_known() -> None:
    names = [name for _, name in all_networks()]
    assert len(names) == len(set(names))
    assert sum(name.startswith("timm:") for name in names) >= 150
    for name in names:
        check_name(name)


def test_what_is_not_exact_says_why() -> None:
    cases = (("sp=2", "square"),)
    outcomes = [
        run_network("short", "verify_networks:custom", cases),
        run_network("short", "verify_networks:cheat", cases),
        run_network("short", "verify_networks:broken", cases),
        run_network("short", "verify_networks:endless", cases, limit=2),
    ]
    assert [outcome.verdict for outcome in outcomes] == ["raised", "wrong", "not built", "failed"]
    assert "custom autograd function" in outcomes[0].why
    assert "no answer in 2 s" in outcomes[3].why
    page = format_page(outcomes)
    assert "0 of 3 networks that were run (0.0%) are exact" in page
    assert "`verify_networks:broken`: " in page

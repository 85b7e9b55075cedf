"""A short form of the sweep (all of it: ``make sweep``), and that one bad network ends nothing else."""

from __future__ import annotations

import pytest

from sweep.networks import SHORT, all_networks
from sweep.run import run_network
from sweep.table import format_page
from ziggurat.verify.networks import check_name


@pytest.mark.parametrize("name", SHORT)
def test_exact(name: str) -> None:
    outcome = run_network("short", name, cases=(("2", "prime"),))
    assert outcome.verdict == "exact", outcome.why


def test_every_name_is_known() -> None:
    names = [name for _, name in all_networks()]
    assert len(names) == len(set(names))
    assert sum(name.startswith("timm:") for name in names) >= 150
    for name in names:
        check_name(name)


def test_what_is_not_exact_says_why() -> None:
    cases = (("2", "square"),)
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

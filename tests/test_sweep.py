"""A short form of the sweep (all of it: ``make sweep``), and that one bad network ends nothing else."""

from __future__ import annotations

import itertools
import os

import pytest

from sweep.cases import Case, stage_cases
from sweep.networks import SHORT, all_networks, of_each_axis
from sweep.run import run_network
from sweep.table import STAGES, format_page
from ziggurat.models.segmenter import DECODERS
from ziggurat.verification.networks import check_name


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", SHORT)
def test_exact(name: str) -> None:
    outcome = run_network("short", name, cases=[Case("sp=2", "prime")])
    assert outcome.verdict == "exact", outcome.why


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", [*SHORT[:4], "smp:pspnet/resnet18"])  # its last blocks are not called
def test_stages_are_exact(name: str) -> None:
    cases = [Case("pp=3", "small", "1f1b", 2), Case("pp=2", "small", "interleaved", 2)]
    outcome = run_network("short", name, cases)
    assert outcome.verdict == "exact", outcome.why
    assert list(outcome.cases) == ["pp=3 1f1b in 2 7x3x64x64", "pp=2 interleaved in 2 7x3x64x64"]
    assert "# Networks in stages" in format_page([outcome], kind=STAGES)


def test_stages_go_through_every_combination() -> None:
    """With 1 to 8 microbatches under every plan and schedule, whatever part of the list is run."""
    found = {case.title for number in range(72) for case in stage_cases(number)}
    every = itertools.product(("pp=2", "pp=3", "pp=4"), ("gpipe", "1f1b", "interleaved"), range(1, 9))
    assert found >= {f"{plan} {schedule} in {count}" for plan, schedule, count in every}
    decoders = [name for family, name in of_each_axis() if family != "ours"]
    assert "smp:unet/resnet18" in decoders
    assert len(decoders) == len(DECODERS)


def test_every_name_is_known() -> None:
    names = [name for _, name in all_networks()]
    assert len(names) == len(set(names))
    assert sum(name.startswith("timm:") for name in names) >= 150
    for name in names:
        check_name(name)


def test_a_network_that_is_ended_is_not_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether time ran out or the kernel killed it: what was exact until then does not count."""

    def die_at_the_second(self: Case, *_: object) -> tuple[int, ...]:
        if self.plan == "sp=3":
            os._exit(1)
        return (3, 3, 96, 96)

    monkeypatch.setattr(Case, "shape", die_at_the_second)
    outcome = run_network("short", SHORT[0], [Case("sp=2"), Case("sp=3")])
    assert [case["verdict"] for case in outcome.cases.values()] == ["exact"]
    assert outcome.verdict == "failed"
    assert "after 1 of 2 plans" in outcome.why


def test_what_is_not_exact_says_why() -> None:
    cases = [Case("sp=2")]
    outcomes = [
        run_network("short", "support.verify_networks:custom", cases),
        run_network("short", "support.verify_networks:cheat", cases),
        run_network("short", "support.verify_networks:broken", cases),
        run_network("short", "support.verify_networks:endless", cases, limit=2),
    ]
    assert [outcome.verdict for outcome in outcomes] == ["raised", "wrong", "not built", "failed"]
    assert "custom autograd function" in outcomes[0].why
    assert "no answer in 2 s" in outcomes[3].why
    page = format_page(outcomes)
    assert "0 of 3 networks that were run (0.0%) are exact" in page
    assert "`support.verify_networks:broken`: " in page

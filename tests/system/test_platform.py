from __future__ import annotations

import os
from pathlib import Path

import pytest

from ziggurat.errors import UserError
from ziggurat.system.platform import processor_facts, processor_name, require_linux


def test_linux_is_right() -> None:
    require_linux("Linux")


@pytest.mark.parametrize("system", ["Darwin", "Windows", "FreeBSD"])
def test_others_get_one_message_with_the_remedy(system: str) -> None:
    with pytest.raises(UserError) as raised:
        require_linux(system)
    (fault,) = raised.value.faults
    assert system in fault
    assert "WSL 2" in fault
    assert "container" in fault


def test_the_processor_is_named_in_one_place() -> None:
    """As Linux has it, with all cores; benchmarks write it beside their results."""
    assert processor_facts()["processor"] == "0"
    name, _, cores = processor_name().rpartition(" x ")
    assert name == processor_facts().get("model name", name) != ""
    assert int(cores) == os.cpu_count()
    root = Path(__file__).parents[2]
    files = [file for folder in ("src", "benchmarks", "examples") for file in (root / folder).rglob("*.py")]
    assert len(files) > 300
    found = [file.relative_to(root) for file in files if "/proc/cpuinfo" in file.read_text(encoding="utf-8")]
    assert found == [Path("src/ziggurat/system/platform.py")]

"""In float64 nothing of a network is computed in float32, and PyTorch is given what it reads right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ziggurat.verification.precision import KeepFloat64

MASKS: dict[str, Callable[[int], Tensor]] = {
    "of each head": lambda n: torch.randn(2, 2, n, n),
    "of all heads": lambda n: torch.randn(2, 1, n, n).expand(2, 2, n, n),
    "of all queries": lambda n: torch.randn(1, 1, 1, n),
    "of booleans": lambda n: torch.rand(2, 2, n, n) > 0.3,
    "of booleans, added": lambda n: (torch.rand(n, n) > 0.3).float().mul(-1e9),
    "in float64": lambda n: torch.randn(n, n, dtype=torch.float64),
}


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("num_keys", [5, 16, 69])
@pytest.mark.parametrize("kind", MASKS)
def test_attention_reads_masks_of_every_type(kind: str, num_keys: int, named: bool) -> None:
    query, key, value = torch.randn(3, 2, 2, num_keys, 8, dtype=torch.float64)
    mask = MASKS[kind](num_keys)
    scores = query @ key.transpose(2, 3) / 8**0.5
    scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    with KeepFloat64():
        found = (
            scaled_dot_product_attention(query, key, value, attn_mask=mask)
            if named
            else scaled_dot_product_attention(query, key, value, mask)
        )
    torch.testing.assert_close(found, scores.softmax(-1) @ value, rtol=0, atol=1e-12)


def test_the_script_that_is_to_be_sent_upstream_shows_the_fault(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parents[2] / "docs" / "upstream" / "attention_mask_cpu.md"
    script = page.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    exec(compile(script, page.name, "exec"), {})
    assert float(capsys.readouterr().out) > 0.1
    with KeepFloat64():
        exec(compile(script, page.name, "exec"), {})
    assert float(capsys.readouterr().out) < 1e-12

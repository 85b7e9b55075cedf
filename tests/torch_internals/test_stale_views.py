"""Hooks on views that were changed through their base: PyTorch's own way ends the process, ours gives the gradient."""

from __future__ import annotations

import faulthandler
import multiprocessing
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ziggurat.torch_internals.hooks import register_unseen, seeing_hooks

PAGE = Path(__file__).parents[2] / "docs" / "upstream" / "register_hook_of_a_view.md"

CHANGES: dict[str, Callable[[Tensor], object]] = {
    "rows of the base are filled": lambda base: base.as_strided((1, 3), (3, 1)).fill_(0.25),
    "the base is multiplied": lambda base: base.mul_(2),
    "an element is set": lambda base: base.__setitem__((0, 1), 3.0),
    "another view is changed twice": lambda base: base.view(6)[1:4].mul_(2).add_(1),
}


def run_script() -> None:
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    script = PAGE.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    exec(compile(script, PAGE.name, "exec"), {})


def run_seen() -> None:
    with seeing_hooks(lambda name, tensor: None):
        run_script()


@pytest.mark.parametrize(("run", "status"), [(run_script, -signal.SIGSEGV), (run_seen, 0)])
def test_the_script_that_is_to_be_sent_upstream_shows_the_fault(run: Callable[[], None], status: int) -> None:
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(60)
    assert process.exitcode == status


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("is_seen", [True, False])
def test_hooks_of_such_views_give_the_gradient(change: Callable[[Tensor], object], is_seen: bool) -> None:
    x = torch.ones(2, 3, requires_grad=True)
    base = x * 1
    view = base.as_strided((2, 3), (3, 1))
    change(base)
    found: list[Tensor] = []
    if is_seen:
        with seeing_hooks(lambda name, tensor: None):
            view.register_hook(found.append)
    else:
        register_unseen(view, found.append)
    (view * torch.arange(6.0).view(2, 3)).sum().backward()
    assert torch.equal(found[0], torch.arange(6.0).view(2, 3))

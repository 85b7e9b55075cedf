"""The examples do what they say."""

import contextlib
import importlib.util
import io
import runpy
from pathlib import Path

import pytest
import torch

import ziggurat
from support.ranks import run_ranks
from ziggurat.config import load_config, range_faults

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_a_loop_of_ones_own_has_the_same_bits_on_any_number_of_workers():
    spec = importlib.util.spec_from_file_location("own_loop", EXAMPLES / "own_loop.py")
    own_loop = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(own_loop)
    assert len({digest for world in (1, 2, 3) for digest in run_ranks(own_loop.train, world)}) == 1


def test_the_recipes_are_configs():
    recipes = list(EXAMPLES.glob("*.yaml"))
    assert recipes
    assert all(range_faults(load_config(path)) == [] for path in recipes)


def printed(workers, script: str) -> str:
    """Run an example in this process, with these workers for those that torchrun would have made."""
    torch.set_num_threads(1)
    text = io.StringIO()
    ziggurat.join_world = lambda: contextlib.nullcontext(workers)
    with contextlib.redirect_stdout(text):
        runpy.run_path(str(EXAMPLES / script))
    return text.getvalue()


def test_one_loop_for_one_worker_and_for_several():
    (alone,) = run_ranks(printed, 1, ("single.py",))
    together, _ = run_ranks(printed, 2, ("parallel.py",))
    losses = [[float(line.split()[-1]) for line in text.splitlines()] for text in (alone, together)]
    assert len(losses[0]) == 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)

"""The examples do what they say."""

import importlib.util
from pathlib import Path

from ranks import run_ranks
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

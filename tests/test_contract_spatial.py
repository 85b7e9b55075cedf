"""Every model of ours on bands: its outputs are those of one worker, in training and evaluation.

In float64, at sizes that are no multiples; the gradients of whole steps are compared in tests/verification.
"""

import warnings

import pytest
import torch

from support import ranks
from support.every_model import FEW, LISTED, REST, build, leaves
from support.ranks import run_ranks
from ziggurat.data.extents import cut_out
from ziggurat.parallel.spatial import whole_tensor
from ziggurat.strategies.mesh import make_mesh


def errors(workers, names):
    """Return how far the outputs of each model are from those of one worker, relative to the largest."""
    mesh = make_mesh(workers, "sp=2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # third-party advice
        return {name: _error(build(name).double(), mesh) for name in names}


def _error(model, mesh):
    mesh.name_layers(model)
    side = max(96, model.size_multiple)
    images = torch.rand(2, 3, side + 5, side - 3, dtype=torch.float64)
    part, worst = mesh.part(*images.shape[-2:]), 0.0
    for training in (False, True):
        model.train(training)
        with torch.no_grad():
            torch.manual_seed(1)  # dropout
            expected = leaves(model(images))
            torch.manual_seed(1)
            outputs = leaves(model(mesh.spread(cut_out(images, part.tile), part)))
        for output, true in zip(outputs, expected, strict=True):
            assert output.shape == true.shape
            apart = (whole_tensor(output) - true).abs().max() / true.abs().max()
            worst = max(worst, float(apart))
    return worst


def check(names):
    for found in run_ranks(errors, 2, (names,)):
        assert {name: error for name, error in found.items() if not error < 1e-10} == {}


def test_a_few_models_on_bands():
    check(FEW)


@pytest.mark.slow
def test_every_model_on_bands(monkeypatch):
    monkeypatch.setattr(ranks, "TIMEOUT_SECONDS", 900)
    check(REST + LISTED)

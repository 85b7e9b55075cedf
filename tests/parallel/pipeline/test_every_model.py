"""Every model of ours in stages: cut in two and in three, outputs and gradients are those of the whole.

The stages run one after the other in one process, in float64; the messages between workers are tested with the pipeline.
"""

import warnings

import pytest
import torch

from support.every_model import FEW, LISTED, REST, build
from support.local_stages import compare_with_whole
from ziggurat.parallel.graph.trace import Tracer, spec_of


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "name", [*FEW, *(pytest.param(name, marks=pytest.mark.slow) for name in REST + LISTED)]
)
def test_a_model_in_stages_is_the_whole(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # third-party advice
        model = build(name).double().train()
        side = max(64, model.size_multiple)
        images = torch.rand(2, 3, side + 5, side - 3, dtype=torch.float64)
        graph = Tracer(model).trace(spec_of(images))
        names = list({place: name for name, place in graph.places().items()}.values())
        for stages in (2, 3):
            model.zero_grad(set_to_none=True)
            compare_with_whole(
                model, images, [names[part * len(names) // stages] for part in range(1, stages)]
            )

"""Every model against every promise.

Ours are built small; the list of timm's backbones has the smallest network of each family. What is only a question of
more of the same (every promise for every timm backbone) is part of `make sweep`.
"""

import copy
import hashlib

import pytest
import torch
from safetensors.torch import load, save

from support.every_model import (
    CLASSES,
    CLASSIFIERS,
    DETECTORS,
    OURS,
    SEGMENTERS,
    TIMM,
    build,
    leaves,
    side_of,
    tiny,
)
from support.ranks import run_ranks
from ziggurat.config import LossConfig, RunConfig
from ziggurat.data.batch import Microbatch, SampleId
from ziggurat.errors import UserError
from ziggurat.strategies.data_parallel import DataParallel
from ziggurat.tasks.classification.targets import LabelTargets
from ziggurat.tasks.detection.targets import ObjectTargets
from ziggurat.tasks.registry import make_task
from ziggurat.tasks.segmentation.targets import MaskTargets

# What has no maps of several scales for images of any size says so.
CANNOT_SERVE = [
    "efficientformerv2_s0",
    "vit_tiny_patch16_224",
    "levit_128s",
    "crossvit_tiny_240",
    "mixer_s32_224",
]


@pytest.fixture(scope="module")
def original(request) -> torch.nn.Module:
    """A network, built once for all tests of it."""
    return build(request.param)


@pytest.fixture
def model(original) -> torch.nn.Module:
    return copy.deepcopy(original)


ours = pytest.mark.parametrize("original", OURS, indirect=True)


@pytest.mark.sampled(21)
@ours
def test_shapes_at_odd_sizes(model):
    model.eval()
    with torch.no_grad():
        outputs = model(torch.rand(2, 3, 67, 93))
    if model.task == "detect":
        for level, size in model.level_sizes(67, 93).items():
            assert outputs[level]["classes"].shape == (2, CLASSES * model.num_anchors, *size)
            assert outputs[level]["boxes"].shape == (2, 4 * model.num_anchors, *size)
            assert model.levels[level].stride == 2 ** int(level[1:])
    elif model.task == "classify":
        assert all(leaf.shape == (2, CLASSES) for leaf in leaves(outputs))
    else:
        assert outputs["logits"].shape == (2, CLASSES, 67, 93)
    assert all(leaf.isfinite().all() for leaf in leaves(outputs))


@pytest.mark.sampled(25)
@ours
def test_gradients_reach_every_parameter(model):
    check_gradients(model)


def check_gradients(model):
    side = side_of(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # scales that begin at zero would hide what lies behind them
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    images = torch.rand(2, 3, side, side, generator=generator)
    without = names_without_gradient(model.train(), images, generator)
    if without:
        check_norms_take_away(model, without, images)
        assert without & names_without_gradient(model.eval(), images, generator) == set()


def check_norms_take_away(model, names, images):
    """A batch norm takes a bias before it away: its gradient is zero or rounding noise, which depends on the processor.

    So in training the outputs do not depend on it. In evaluation the norm is an affine map, and the gradient comes through.
    """
    assert all(name.endswith(".bias") for name in names), names
    parameters, found = dict(model.named_parameters()), []
    for shift in (0.0, 0.5):
        with torch.no_grad():
            for name in names:
                parameters[name].add_(shift)
            torch.manual_seed(0)  # dropout
            found.append(leaves(model(images)))
    for before, after in zip(*found, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3 * float(before.abs().max()))


def names_without_gradient(model, images, generator):
    model.zero_grad()
    outputs = leaves(model(images))
    sum((leaf * torch.randn(leaf.shape, generator=generator)).sum() for leaf in outputs).backward()
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    }


@ours
def test_neighbours_in_a_batch_change_nothing(model):
    check_independence(model)


def check_independence(model):
    model = model.double().eval()
    side = side_of(model)
    images = torch.rand(3, 3, side, side, dtype=torch.float64)
    with torch.no_grad():
        together, alone = leaves(model(images)), leaves(model(images[1:2]))
    for many, one in zip(together, alone, strict=True):
        torch.testing.assert_close(many[1:2], one, rtol=1e-9, atol=1e-9)


@ours
def test_weights_come_back_from_a_file(model):
    check_file(model)


def check_file(model):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for value in other.state_dict().values():
            value.add_(1)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    other.load_state_dict(load(save(state)))
    images = torch.rand(1, 3, side_of(model), side_of(model))
    with torch.no_grad():
        pairs = zip(leaves(model.eval()(images)), leaves(other.eval()(images)), strict=True)
        assert all(torch.equal(one, again) for one, again in pairs)


def make_batch(model, index: int) -> Microbatch:
    generator = torch.Generator().manual_seed(index)
    side = side_of(model)
    images = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=generator)
    boxes = torch.tensor([[2.0, 3, 40, 50], [20, 10, 60, 30]])
    targets = {
        "detect": ObjectTargets(boxes, torch.tensor([0, 3]), (index % 2, 2 - index % 2)),
        "classify": LabelTargets(torch.randint(0, CLASSES, (2,), generator=generator)),
        "segment": MaskTargets(
            torch.randint(0, CLASSES, (2, side, side), generator=generator).to(torch.uint8)
        ),
    }
    return Microbatch(index, (SampleId(0, index),) * 2, images, ((side, side),) * 2, targets[model.task])


def step_digests(workers, models) -> dict[str, str]:
    """Take one step of each model's own loss, and return a hash of gradients and buffers."""
    return {name: step_digest(workers, name, model.train()) for name, model in models.items()}


def step_digest(workers, name: str, model, num_leaves: int = 3) -> str:
    task = make_task(model, RunConfig(model=tiny(name), loss=LossConfig(segmentation="ce+dice")))
    parallel = DataParallel(model, workers)
    parallel.start(num_leaves)
    batches = [make_batch(model, index) for index in parallel.mine]
    assignments = [task.assign(batch) for batch in batches]
    totals = parallel.sum([task.normalizers(a) for a in assignments], len(task.normalizer_names))
    if task.output_sum_names:
        with torch.no_grad(), parallel.aside():
            sums = [
                task.output_sums(forward(model, batch), a)
                for batch, a in zip(batches, assignments, strict=True)
            ]
        totals = torch.cat([totals, parallel.sum(sums, len(task.output_sum_names))])
    for batch, assignment in zip(batches, assignments, strict=True):
        with parallel.leaf(batch.index):
            sum(task.loss_shares(forward(model, batch), assignment, totals).values()).backward()
    parallel.finish_gradients()
    parallel.finish_statistics()
    parallel.close()
    digest = hashlib.sha256()
    for parameter in model.parameters():
        if parameter.grad is not None:
            digest.update(parameter.grad.contiguous().numpy().tobytes())
    for buffer in model.buffers():
        digest.update(buffer.contiguous().numpy().tobytes())
    return digest.hexdigest()


def forward(model, batch: Microbatch):
    torch.manual_seed(batch.index)  # dropout is keyed by the samples
    return model(batch.images_BCHW / 255)


def check_bits(names):
    models = {name: build(name) for name in names}  # each forked worker has its own copy
    alone, *others = [run_ranks(step_digests, world, (models,)) for world in (1, 2, 3)]
    for on_ranks in others:
        assert all(digests == alone[0] for digests in on_ranks)


@pytest.mark.parametrize("names", [DETECTORS, CLASSIFIERS, SEGMENTERS], ids=["detect", "classify", "segment"])
def test_the_same_bits_on_1_2_and_3_workers(names):
    check_bits(names)


@pytest.mark.sampled(13)
@pytest.mark.parametrize("backbone", TIMM)
def test_levels_of_timms_backbones(backbone):
    with torch.device("meta"):
        model = build(f"fcos-{backbone}-fpn").eval()
        outputs = model(torch.zeros(2, 3, 91, 155))
    for level, (rows, columns) in model.level_sizes(91, 155).items():
        assert outputs[level]["classes"].shape == (2, CLASSES, rows, columns)
        assert (rows, columns) == tuple(
            -(-extent // model.levels[level].stride) for extent in model.padded_size(91, 155)
        )


@pytest.mark.parametrize("backbone", CANNOT_SERVE)
def test_backbones_that_cannot_serve_say_why(backbone):
    with pytest.raises(UserError, match=backbone):
        build(f"fcos-{backbone}-fpn")


@pytest.mark.slow
@pytest.mark.parametrize("backbone", TIMM)
def test_every_promise_for_timms_backbones(backbone):
    name = f"fcos-{backbone}-fpn"
    model = build(name)
    for check in (check_gradients, check_independence, check_file):
        check(copy.deepcopy(model))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", TIMM)
def test_the_same_bits_with_timms_backbones(backbone):
    check_bits([f"fcos-{backbone}-fpn"])

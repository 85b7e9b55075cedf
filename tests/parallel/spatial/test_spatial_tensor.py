"""What a model sees of a spread tensor, what is refused, and how precision and memory formats are kept."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own habit
from torch.utils.checkpoint import checkpoint

from support.ranks import run_ranks
from ziggurat.parallel.spatial import (
    SpatialTensor,
    UnsupportedOperation,
    cut,
    gather,
    spatial_mesh,
    whole_tensor,
)
from ziggurat.parallel.spatial.layout import cuts
from ziggurat.parallel.spatial.table import TABLE


def spread(workers, shape=(2, 4, 13, 8), degrees=None, **named):
    mesh = spatial_mesh(workers, degrees or (workers.size,), **named)
    whole = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return whole, cut(whole, mesh), mesh


def facts(workers):
    whole, bands, _ = spread(workers)
    assert bands.shape == whole.shape
    assert bands.size(2) == 13
    assert (bands.dim(), len(bands), bands.numel()) == (4, 2, whole.numel())
    assert bands.dtype == torch.float32
    assert bands.is_floating_point()
    assert not bands.requires_grad
    assert torch.equal(whole_tensor(bands), whole)
    assert float(bands.sum()) == pytest.approx(float(whole.sum()), abs=1e-4)
    with pytest.raises(UnsupportedOperation, match="no worker has all of its values"):
        bands.tolist()
    return bands.local.shape[2]


def test_its_shape_is_the_wholes():
    assert run_ranks(facts, 3) == [4, 4, 5]


def refused_data(workers):
    _, bands, _ = spread(workers)
    with torch.inference_mode():
        torch.zeros(2).data = bands.mean((2, 3))


def test_data_set_to_it_in_inference_mode_is_refused_with_a_remedy():
    with pytest.raises(RuntimeError, match=r"Tensor\.data .* use `buffer\.copy_\(x\)`"):
        run_ranks(refused_data)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


class Bessel(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


def refusals(workers):
    _, bands, mesh = spread(workers)
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), Bessel())
    mesh.names = {id(module): name for name, module in model.named_modules()}
    with pytest.raises(
        UnsupportedOperation, match=r"special_bessel_j0 in the layer '1'.*no declared kind.*without sp"
    ):
        model(bands)
    features = model[0](bands)
    with pytest.raises(UnsupportedOperation, match=r"SquareBackward.*custom autograd function"):
        Square.apply(features) + 1
    with pytest.raises(RuntimeError, match="failed in the TorchScript interpreter"):
        torch.jit.script(_scripted)(bands)
    with pytest.raises(UnsupportedOperation, match="backward starts from one number"):
        features.backward()
    return True


def _scripted(x: torch.Tensor) -> torch.Tensor:
    return x.cumsum(2)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch.jit.script is deprecated, and still in use
def test_what_has_no_declared_kind_raises_with_operation_layer_and_remedy():
    assert all(run_ranks(refusals, 2))


def gathers(workers):
    _, bands, mesh = spread(workers)
    tokens = bands.flatten(2).transpose(1, 2)
    F.scaled_dot_product_attention(tokens, tokens, tokens)
    pooled = F.max_pool2d(spread(workers, (1, 4, 12, 8), min_rows=2)[1], 2)
    small = F.max_pool2d(pooled, 3)
    return dict(mesh.gathers), dict(small.mesh.apex), cuts(pooled.dims), cuts(small.dims)


def test_what_is_gathered_is_counted():
    (gathered, apex, cut_before, cut_after), _ = run_ranks(gathers, 2)
    tokens = 7 * 8  # rows of the other worker, times columns
    assert gathered == {("?", "scaled_dot_product_attention"): 2 * 2 * tokens * 4 * 4}
    assert list(apex) == [("?", "apex")]
    assert cut_before == {0: (2, 0)}
    assert cut_after == {}


def precision(workers):
    whole, bands, _ = spread(workers, (2, 16, 24, 20))
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(True), nn.MaxPool2d(3, 2, 1),
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(16, 8, 3, 2, 1), nn.GroupNorm(2, 8),
    ).to(memory_format=torch.channels_last)  # fmt: skip
    whole = whole.contiguous(memory_format=torch.channels_last)
    bands.local = bands.local.contiguous(memory_format=torch.channels_last)
    results = []
    for images in (whole, bands):
        with torch.autocast("cpu", torch.bfloat16):
            features = images
            for layer in model:
                features = layer(features)
                local = features.local if isinstance(features, SpatialTensor) else features
                assert local.is_contiguous(memory_format=torch.channels_last), layer
        results.append(features)
    alone, together = results
    assert together.dtype == alone.dtype
    difference = (
        whole_tensor(together).float() - alone.float()
    ).detach().abs().max() / alone.detach().abs().max()
    return float(difference)


def test_autocast_and_channels_last_are_kept():
    assert max(run_ranks(precision, 2)) < 0.02  # a unit of bf16 in the last place is 0.008


def halved(workers):
    """Norms whose own parameters are bf16."""
    worst = 0.0
    for norm in (nn.BatchNorm2d(4), nn.GroupNorm(2, 4)):
        whole, bands, mesh = spread(workers)
        norm.to(torch.bfloat16)
        mesh.parameters = list(norm.parameters())
        gradients = []
        for images in (whole.bfloat16(), bands.bfloat16()):
            norm.zero_grad()
            (norm(images) * 1.5).square().mean().backward()
            assert norm.weight.grad.dtype == torch.bfloat16
            gradients.append(norm.weight.grad.float())
        worst = max(worst, float((gradients[1] - gradients[0]).abs().max() / gradients[0].abs().max()))
    return worst


def test_norms_in_half_precision():
    assert max(run_ranks(halved, 2)) < 0.02


def checkpointed(workers):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 3))
        _, bands, mesh = spread(workers)
        mesh.parameters = list(model.parameters())
        bands.local.requires_grad_()
        features = checkpoint(model, bands, use_reentrant=False) if checkpointing else model(bands)
        features.square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    return all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_activation_checkpointing_gives_the_same_gradients():
    assert all(run_ranks(checkpointed, 2))


def dropped(workers):
    whole, bands, _ = spread(workers)
    results = []
    for images in (whole, bands):
        torch.manual_seed(3)
        once = F.dropout(images, 0.5)
        features = F.dropout2d(once, 0.3)
        features = features * torch.ones_like(features[:, :1]).bernoulli_(0.5)
        results.append(features + images.new_empty((2, 1, 1, 1)).bernoulli_(0.5))
    return torch.equal(whole_tensor(results[1]), results[0])


def test_dropout_draws_what_one_worker_draws():
    assert all(run_ranks(dropped, 3))


def dropped_in_one_order(workers):
    """The format of a band may differ between workers, by chance of the extents: the mask must not."""
    mesh = spatial_mesh(workers, (2,))
    whole = torch.rand((2, 4, 8, 6)).contiguous(memory_format=torch.channels_last)
    bands = cut(whole, mesh)
    if workers.rank == 1:
        bands.local = bands.local.contiguous()
    torch.manual_seed(3)
    together = whole_tensor(F.dropout(bands, 0.5))
    torch.manual_seed(3)
    return torch.equal(together, F.dropout(whole, 0.5))


def test_dropout_is_drawn_in_one_order_whatever_the_format_of_a_band():
    assert all(run_ranks(dropped_in_one_order, 2))


def accumulated(workers):
    torch.manual_seed(0)
    model = nn.Conv2d(4, 2, 3)
    whole, bands, mesh = spread(workers)
    mesh.parameters = list(model.parameters())
    for _ in range(2):
        model(bands).square().mean().backward()
    together = model.weight.grad.clone()
    model.zero_grad()
    for _ in range(2):
        model(whole).square().mean().backward()
    torch.testing.assert_close(together, model.weight.grad)
    return True


def test_gradients_accumulate():
    assert all(run_ranks(accumulated, 2))


def regathered(workers):
    whole, bands, mesh = spread(workers, degrees=(2, 2))
    everything = gather(bands, "test")
    assert torch.equal(everything.local, whole)
    return mesh.gathers["?", "test"], mesh.num_workers


def test_tiles_are_gathered_axis_by_axis():
    for received, count in run_ranks(regathered, 4):
        assert count == 4
        assert received > 0


def test_every_operation_has_one_kind():
    kinds = {entry.kind for entry in TABLE.values()}
    assert kinds == {"pointwise", "window", "resample", "moments", "layout", "gather", "question"}

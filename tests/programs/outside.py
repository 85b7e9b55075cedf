"""State outside of PyTorch's generator: other generators, hooks, buffers, attributes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from programs.networks import Between, Returned, last

SIZES = dict.fromkeys(
    [
        "running_mean_assigned", "running_mean_in_place", "running_mean_by_data", "calls_counted_in_a_buffer",
        "calls_counted_in_an_attribute", "spectral_norm", "codebook_of_moving_averages", "largest_seen_kept",
        "teacher_follows",
    ],
    "4x3x24x20",
)  # fmt: skip
PLANS = {
    "factor_of_numpy": "sp=2 sp=2x2 pp=2",
    "factor_of_python": "sp=2 sp=2x2 pp=2",
    "branch_of_python": "sp=2 sp=3 pp=2",
    "own_generator": "sp=2 pp=2",
    "gradient_of_a_weight_clamped": "sp=2 sp=2x2 pp=2 dp=2",
    "gradient_of_a_weight_masked": "sp=2 pp=2",
    "gradient_of_a_bias_normalised": "sp=2 pp=2",
    "after_accumulation": "sp=2 pp=2",
    "gradient_of_a_map_doubled": "sp=2 sp=2x2 pp=2",
    "gradient_of_a_map_clipped_by_its_norm": "sp=2 pp=2",
    "gradient_kept": "sp=2 pp=2",
    "hook_after_a_layer": "sp=2 pp=2",
    "hook_before_a_layer": "sp=2 pp=2",
    "hook_on_backward_of_a_layer": "sp=2 pp=2",
    "running_mean_assigned": "sp=2 pp=2 dp=2",
    "running_mean_in_place": "sp=2 pp=2",
    "running_mean_by_data": "sp=2 pp=2 dp=2",
    "calls_counted_in_a_buffer": "sp=2 pp=2",
    "calls_counted_in_an_attribute": "sp=2 pp=2 dp=2",
    "spectral_norm": "sp=2 pp=2",
    "weight_norm": "sp=2 pp=2",
    "checkpointed": "sp=2 pp=2",
    "codebook_of_moving_averages": "sp=2 pp=2",
    "largest_seen_kept": "sp=2 pp=2",
    "teacher_follows": "sp=2 pp=2 dp=2",
    "seed_set_inside": "sp=2 pp=2",
    "gradient_of_a_map_shifted_by_its_mean": "sp=2 sp=2x2 pp=2",
    "gradient_reversed": "sp=2 pp=2",
    "checkpointed_reentrantly": "sp=2 pp=2",
    "drawn_beside": "sp=2 pp=2",
    "map_kept_for_later": "sp=2 pp=2",
    "table_kept_by_size": "sp=2 pp=2",
    "numbers_from_an_iterator": "sp=2 pp=2",
}


def factor_of_numpy() -> nn.Module:
    """A factor from NumPy's generator."""
    return Between(lambda x: x * float(np.random.uniform(0.5, 1.5)))


def noise_of_numpy() -> nn.Module:
    """Noise of the size of the map from NumPy's generator."""
    return Between(lambda x: x + torch.from_numpy(np.random.normal(size=tuple(x.shape))).to(x.dtype))


def mixed_by_numpy() -> nn.Module:
    """Images are mixed with others by a share from NumPy's generator (mixup of features)."""

    def mix(x: Tensor) -> Tensor:
        share, order = float(np.random.beta(1.0, 1.0)), torch.from_numpy(np.random.permutation(len(x)))
        return x * share + x[order] * (1 - share)

    return Between(mix)


def channels_chosen_by_numpy() -> nn.Module:
    """Channels in an order of NumPy's generator."""
    return Between(lambda x: x[:, torch.from_numpy(np.random.permutation(8))])


def factor_of_python() -> nn.Module:
    """A factor from Python's generator."""
    return Between(lambda x: x * random.uniform(0.5, 1.5))


class _Branches(nn.Module):
    """One of three layers, chosen by Python's generator."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(8, 8, size, padding=size // 2) for size in (1, 3, 5)])

    def forward(self, x: Tensor) -> Tensor:
        return random.choice(list(self.layers))(x)


def branch_of_python() -> nn.Module:
    """A layer is chosen by Python's generator: halos of other widths, or a worker without an answer, if workers differ."""
    return Between(_Branches())


def depth_of_python() -> nn.Module:
    """Layers are left out by Python's generator (layer drop)."""
    layers = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1) for _ in range(4)])

    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = x + layer(x).tanh() if random.random() < 0.6 else x
            return x

    return Between(Dropped())


def rows_cut_by_python() -> nn.Module:
    """A crop at a place from Python's generator."""
    return Between(lambda x: last(top := random.randint(0, 8), x[:, :, top : top + 16]))


def own_generator() -> nn.Module:
    """A generator of the network's own, which it seeds itself."""
    return Between(
        lambda x: x + torch.rand(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)
    )


def seed_set_inside() -> nn.Module:
    """The network seeds PyTorch's generator, and draws."""
    return Between(lambda x: last(torch.manual_seed(11), functional.dropout(x, 0.3)))


def drawn_beside() -> nn.Module:
    """Numbers are drawn in a state that is put back: the dropout after them does not see it."""

    def draw(x: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            noise = torch.randn(1, 8, 1, 1, dtype=x.dtype)
        return functional.dropout(x + noise, 0.3)

    return Between(draw)


class _Hooked(nn.Module):
    """Two convolutions; a hook is registered on the first one's weight or bias."""

    def __init__(self, register: Callable[[nn.Conv2d], Any]) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        register(self.before)

    def forward(self, images: Tensor) -> Tensor:
        return self.after(self.before(images).tanh())


def gradient_of_a_weight_clamped() -> nn.Module:
    """The gradient of a weight is clamped by a hook: it must see the sum of all parts."""
    return _Hooked(lambda layer: layer.weight.register_hook(lambda gradient: gradient.clamp(-0.01, 0.01)))


def gradient_of_a_weight_masked() -> nn.Module:
    """The gradient of a part of a weight is set to zero by a hook."""
    keep = (torch.arange(8) % 2).double().view(8, 1, 1, 1)
    return _Hooked(lambda layer: layer.weight.register_hook(lambda gradient: gradient * keep))


def gradient_of_a_bias_normalised() -> nn.Module:
    """The gradient of a bias is divided by its norm by a hook."""
    return _Hooked(lambda layer: layer.bias.register_hook(lambda gradient: gradient / gradient.norm()))


def after_accumulation() -> nn.Module:
    """A hook after a gradient was accumulated takes its sign."""

    def register(layer: nn.Conv2d) -> None:
        layer.weight.register_post_accumulate_grad_hook(lambda weight: last(weight.grad.sign_(), None))

    return _Hooked(register)


def gradient_of_a_map_doubled() -> nn.Module:
    """The gradient of a map is doubled by a hook on the tensor."""
    return Between(lambda x: last(y := x.tanh(), y.register_hook(lambda gradient: gradient * 2), y * y))


def gradient_of_a_map_clipped_by_its_norm() -> nn.Module:
    """The gradient of a map is divided by its norm, which is that of the whole map."""
    return Between(
        lambda x: last(y := x.tanh(), y.register_hook(lambda gradient: gradient / gradient.norm()), y * y)
    )


def gradient_of_a_map_shifted_by_its_mean() -> nn.Module:
    """The mean of a map's gradient is subtracted (gradient centralisation)."""
    return Between(
        lambda x: last(
            y := x.tanh(),
            y.register_hook(lambda gradient: gradient - gradient.mean((2, 3), keepdim=True)),
            y * y,
        )
    )


def gradient_kept() -> nn.Module:
    """A map's gradient is kept, and nothing else."""
    return Between(lambda x: last(y := x.tanh(), y.retain_grad() if y.requires_grad else None, y * y))


def _with_hook(register: Callable[[nn.Module], Any]) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1))
    register(model[1])
    return model


def hook_after_a_layer() -> nn.Module:
    """A hook replaces what a layer returns: the map over its mean."""
    return _with_hook(
        lambda layer: layer.register_forward_hook(lambda _, given, out: out / (out.abs().mean() + 1))
    )


def hook_before_a_layer() -> nn.Module:
    """A hook replaces what a layer is given: the map of which the mean is subtracted."""
    return _with_hook(
        lambda layer: layer.register_forward_pre_hook(lambda _, given: (given[0] - given[0].mean(),))
    )


def hook_on_backward_of_a_layer() -> nn.Module:
    """A hook doubles the gradient that a layer hands on."""
    return _with_hook(
        lambda layer: layer.register_full_backward_hook(
            lambda _, inputs, outputs: tuple(g if g is None else g * 2 for g in inputs)
        )
    )


class _Running(nn.Module):
    """Keeps a moving average of the channels' means."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.before, self.after, self.how = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1), how
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, images: Tensor) -> Tensor:
        x = self.before(images)
        found = x.detach().mean((0, 2, 3))
        if self.how == "assigned":
            self.mean = 0.9 * self.mean + 0.1 * found
        elif self.how == "in place":
            self.mean.mul_(0.9).add_(found, alpha=0.1)
        else:
            self.mean.data = self.mean.data.lerp(found, 0.1)
        return self.after(torch.tanh(x - self.mean[:, None, None]))


def running_mean_assigned() -> nn.Module:
    """A moving average is assigned to a buffer."""
    return _Running("assigned")


def running_mean_in_place() -> nn.Module:
    """A moving average is changed in place."""
    return _Running("in place")


def running_mean_by_data() -> nn.Module:
    """A moving average is written to ``buffer.data``."""
    return _Running("by data")


def largest_seen_kept() -> nn.Module:
    """The largest value that was ever seen is kept in a buffer (observers of quantization), by ``copy_``."""

    class Observed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("most", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.most.copy_(torch.maximum(self.most, x.detach().abs().amax()))
            return x / self.most

    return Between(Observed())


def calls_counted_in_a_buffer() -> nn.Module:
    """Calls are counted in a buffer of integers, and weigh the map."""

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros((), dtype=torch.long))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x / self.calls

    return Between(Counted())


def calls_counted_in_an_attribute() -> nn.Module:
    """Calls are counted in a Python number, and weigh the map (warm-up inside of a network)."""

    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x / self.calls

    return Between(Counted())


def numbers_from_an_iterator() -> nn.Module:
    """The next of a list of factors is taken at each call."""
    factors = itertools.cycle([0.5, 1.5, 2.5])

    class Cycled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factors = factors

        def forward(self, x: Tensor) -> Tensor:
            return x * next(self.factors)

    return Between(Cycled())


def table_kept_by_size() -> nn.Module:
    """A table of positions is made at the first call and kept, by the size of the map."""

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kept: dict[tuple[int, ...], Tensor] = {}

        def forward(self, x: Tensor) -> Tensor:
            size = tuple(x.shape[2:])
            if size not in self.kept:
                self.kept[size] = torch.linspace(0, 1, size[0] * size[1], dtype=x.dtype).view(size)
            return x + self.kept[size]

    return Between(Table())


def map_kept_for_later() -> nn.Module:
    """A layer keeps its map in an attribute; the network returns it."""

    class Kept(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Between(self.keep)

        def keep(self, x: Tensor) -> Tensor:
            self.seen = x.sigmoid()
            return x

        def forward(self, images: Tensor) -> list[Tensor]:
            return [self.layer(images), self.seen]

    return Kept()


def spectral_norm() -> nn.Module:
    """A weight over its largest singular value, whose vectors are buffers that each call improves."""
    return nn.Sequential(
        parametrizations.spectral_norm(nn.Conv2d(3, 8, 3, padding=1)),
        nn.Tanh(),
        nn.Conv2d(8, 4, 3, padding=1),
    )


def weight_norm() -> nn.Module:
    """A weight of a direction and a length."""
    return nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(3, 8, 3, padding=1)), nn.Tanh(), nn.Conv2d(8, 4, 3, padding=1)
    )


def weight_standardised() -> nn.Module:
    """A weight of which mean and deviation are taken away at each call."""

    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            deviation, mean = torch.std_mean(self.weight, (1, 2, 3), keepdim=True)
            return functional.conv2d(x, (self.weight - mean) / deviation, self.bias, padding=1)

    return Between(Standardised(8, 8, 3))


def checkpointed() -> nn.Module:
    """A part is computed again in backward, dropout with it."""
    layers = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Dropout(0.3), nn.Tanh())

    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.layers, x, use_reentrant=False)

    return Between(Again())


def checkpointed_reentrantly() -> nn.Module:
    """A part is computed again in backward, by the older way."""
    layers = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Tanh())

    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.layers, x, use_reentrant=True)

    return Between(Again())


class _Reversed(torch.autograd.Function):
    """The identity, whose gradient is reversed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return -gradients[0]


def gradient_reversed() -> nn.Module:
    """A gradient is reversed by an autograd function of the network's own (domain adaptation)."""
    return Between(lambda x: x + _Reversed.apply(x.tanh()))


def straight_through() -> nn.Module:
    """Rounded forwards, not rounded backwards: ``x + (x.round() - x).detach()``."""
    return Between(lambda x: x + (x.round() - x).detach())


def codebook_of_moving_averages() -> nn.Module:
    """A codebook whose entries follow the means of what is assigned to them (vector quantization)."""

    class Codebook(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("entries", torch.randn(5, 8))

        def forward(self, x: Tensor) -> Tensor:
            flat = x.permute(0, 2, 3, 1).reshape(-1, 8)
            nearest = torch.cdist(flat.detach(), self.entries).argmin(1)
            chosen = functional.one_hot(nearest, 5).to(flat.dtype)
            means = (chosen.T @ flat.detach()) / chosen.sum(0)[:, None].clamp(min=1)
            found = self.entries[nearest]
            self.entries.mul_(0.9).add_(means, alpha=0.1)
            quantised = flat + (found - flat).detach()
            return quantised.view(len(x), *x.shape[2:], 8).permute(0, 3, 1, 2)

    return Between(Codebook())


def teacher_follows() -> nn.Module:
    """A copy of a layer without gradient follows it by a moving average at each call (BYOL, DINO)."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student, self.teacher = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.teacher.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                for old, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                    old.lerp_(new, 0.1)
            return self.student(x) - self.teacher(x)

    return Between(Pair())


def values_decide() -> nn.Module:
    """The mean of the map decides which way is taken: every worker must see that of the whole."""
    return Between(lambda x: x * 2 if float(x.detach().mean()) > 0 else x.tanh())


def values_as_a_list() -> nn.Module:
    """Means of channels as Python numbers, returned as a tensor again."""
    return Returned(lambda x: (x, torch.tensor(x.detach().mean((0, 2, 3)).tolist(), dtype=x.dtype)))


def numpy_and_back() -> nn.Module:
    """A map goes to NumPy and comes back, without a gradient (random walks, morphology)."""
    return Between(lambda x: x * torch.from_numpy(np.sort(x.detach().cpu().numpy(), axis=2)))

"""The reference itself: what one worker computes is not always what it should be compared by."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from programs.networks import Between, OnTokens, Returned, last, tokens

SIZES = {
    "norm_then_tokens_one_image": "1x3x24x20",
    "norm_then_activated_tokens_one_image": "1x3x24x20",
    "norm_then_positions_first_one_image": "1x3x24x20",
    "norm_then_channels_last_one_image": "1x3x24x20",
    "norm_then_transposed_one_image": "1x3x16x16",
    "norm_of_a_sequence_one_image": "1x3x12x10",
    "norm_of_a_volume_one_image": "1x3x8x6x10",
    "norm_then_linear_over_positions_one_image": "1x3x8x10",
    "norm_after_pooling_to_one": "4x3x24x20",
    "norm_in_float32": "2x3x24x20",
}
PLANS = {
    "norm_then_tokens_one_image": "sp=2 sp=2x2",
    "ties_in_max_pooling": "sp=2 sp=3 sp=2x2",
    "ties_in_global_maximum": "sp=2 sp=2x2",
    "cast_to_float32_inside": "sp=2 pp=2",
    "parameters_that_are_not_used": "sp=2 pp=2",
    "no_parameters": "sp=2",
    "images_returned": "sp=2 pp=2",
    "frozen_layer": "sp=2 pp=2",
    "results_without_gradient": "sp=2 pp=2",
    "results_in_a_record": "sp=2 pp=2",
    "one_number": "sp=2 pp=2",
}


class _Normed(nn.Module):
    """A convolution, batch norm, and what makes the gradient of the norm lie in another order than the map."""

    def __init__(self, change: nn.Module) -> None:
        super().__init__()
        self.before, self.norm, self.change = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), change

    def forward(self, images: Tensor) -> Tensor:
        return self.change(self.norm(self.before(images)))


class _Apply(nn.Module):
    def __init__(self, function: object, *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.function(x))  # type: ignore[operator]


def norm_then_tokens_one_image() -> nn.Module:
    """Batch norm of one image, returned as tokens: PyTorch's gradient is wrong on the CPU."""
    return _Normed(_Apply(tokens))


def norm_then_activated_tokens_one_image() -> nn.Module:
    """Batch norm of one image, then tokens in memory of their own, an activation and a linear layer."""
    return _Normed(_Apply(lambda x: tokens(x).contiguous().tanh(), nn.Linear(8, 4)))


def norm_then_positions_first_one_image() -> nn.Module:
    """Batch norm of one image, then positions before the batch, a layer norm and a linear layer (DETR)."""
    return _Normed(_Apply(lambda x: x.flatten(2).permute(2, 0, 1), nn.LayerNorm(8), nn.Linear(8, 4)))


def norm_then_channels_last_one_image() -> nn.Module:
    """Batch norm of one image, then a linear layer over channels, as ConvNeXt has it."""
    return _Normed(_Apply(lambda x: x.permute(0, 2, 3, 1), nn.Linear(8, 4)))


def norm_then_transposed_one_image() -> nn.Module:
    """Batch norm of one image, then a linear layer over rows."""
    return _Normed(_Apply(lambda x: x.transpose(2, 3), nn.Linear(16, 4)))


def norm_then_linear_over_positions_one_image() -> nn.Module:
    """Batch norm of one image, then tokens, which a second norm takes as they lie."""
    return _Normed(_Apply(tokens, nn.LayerNorm(8), nn.Linear(8, 4)))


def norm_of_a_sequence_one_image() -> nn.Module:
    """Batch norm of one sequence, transposed after it."""

    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x.transpose(1, 2)).transpose(1, 2)

    return OnTokens(Sequence())


def norm_of_a_volume_one_image() -> nn.Module:
    """Batch norm of one volume, returned as tokens."""

    class Volume(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.norm = nn.Conv3d(3, 4, 3, padding=1), nn.BatchNorm3d(4)

        def forward(self, x: Tensor) -> Tensor:
            return tokens(self.norm(self.before(x)))

    return Volume()


def norm_then_channels_last_two_images() -> nn.Module:
    """The same of two images, where PyTorch is right."""
    return _Normed(_Apply(lambda x: x.permute(0, 2, 3, 1), nn.Linear(8, 4)))


def norm_after_pooling_to_one() -> nn.Module:
    """Batch norm over four values: rounding is amplified, and a fault must not hide in it."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8),
        nn.Sigmoid(), nn.Conv2d(8, 4, 1),
    )  # fmt: skip


def norm_in_float32() -> nn.Module:
    """A norm in float32 in the midst: float64 stays."""
    return Between(lambda x: functional.group_norm(x.float(), 2).type_as(x))


def cast_to_float32_inside() -> nn.Module:
    """A softmax in float32, cast back."""
    return Between(lambda x: x * functional.softmax(x, dim=1, dtype=torch.float32).to(x.dtype))


def autocast_off_inside() -> nn.Module:
    """A part without mixed precision."""

    def plain(x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return (x.float() * 2).to(x.dtype)

    return Between(plain)


def ties_in_max_pooling() -> nn.Module:
    """Max pooling after a ReLU: equal numbers at neighbouring positions, of which the first takes the gradient."""
    return Between(lambda x: functional.max_pool2d(functional.relu(x - 0.3), 3, 2, 1))


def ties_in_global_maximum() -> nn.Module:
    """The maximum of values that are equal on both workers: `amax` gives each of them a part of the gradient."""
    return Between(lambda x: x * x.clamp(max=0.2).amax((2, 3), keepdim=True))


def ties_in_maximum_of_rows() -> nn.Module:
    """The maximum of a dim with its index, of values that are equal: one of them takes the gradient."""
    return Between(lambda x: x * x.clamp(max=0.2).max(3, keepdim=True).values)


def ties_in_adaptive_pooling() -> nn.Module:
    """Adaptive max pooling to one position of values that are equal."""
    return Between(lambda x: x * functional.adaptive_max_pool2d(x.clamp(-0.1, 0.1), 1))


def ties_of_two_maps() -> nn.Module:
    """The larger of a map and itself."""
    return Between(lambda x: torch.maximum(x, x.relu()) + torch.minimum(x, x.clamp(min=-0.2)))


def ties_in_sorting() -> nn.Module:
    """The three largest channels at each position among equal ones."""
    return Between(lambda x: x.relu().sort(dim=1, descending=True, stable=True).values)


def root_near_zero() -> nn.Module:
    """A root whose slope is steep at zero."""
    return Between(lambda x: (x.square() + 1e-6).sqrt())


def far_from_zero() -> nn.Module:
    """A variance of values that are far from zero: sums of squares would lose their digits."""
    return Between(lambda x: functional.instance_norm(x + 20.0))


def parameters_that_are_not_used() -> nn.Module:
    """A layer that is never called, and one that is called twice."""

    class Some(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused, self.used = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(self.used(x).tanh())

    return Between(Some())


def no_parameters() -> nn.Module:
    """A network without weights: a blur, and the difference from it."""
    return _Apply(lambda x: x - functional.avg_pool2d(x, 3, 1, 1))


def images_returned() -> nn.Module:
    """The images are returned beside a map, as they are."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 4, 1))

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return images, self.layers(images)

    return Both()


def frozen_layer() -> nn.Module:
    """A layer whose weights have no gradient, in the midst."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
    )
    model[2].requires_grad_(False)
    return model


def results_without_gradient() -> nn.Module:
    """Beside a map its largest channel as integers, a mask, and the map detached."""
    return Returned(lambda x: [x.tanh(), x.argmax(1), x > 0, x.detach()])


def results_in_a_record() -> nn.Module:
    """Results in a dict with lists, with None, with a number, and the same tensor twice."""
    return Returned(lambda x: last(y := x.tanh(), {"maps": [y, y], "none": None, "number": 3, "x": (x,)}))


def one_number() -> nn.Module:
    """The network returns a loss of its own."""
    return Returned(lambda x: x.tanh().square().mean())


def losses_of_positions() -> nn.Module:
    """The network returns losses of its own, with weights, sums and means over positions."""
    return Returned(
        lambda x: {
            "smooth": functional.smooth_l1_loss(x, x.detach().flip(1), beta=0.5),
            "cross": functional.cross_entropy(x, x.detach().flip(3).argmax(1)),
            "dice": 1 - (2 * x.sigmoid() * (x.detach() > 0)).sum((2, 3)) / x.sigmoid().sum((2, 3)),
        }
    )


def zero_results() -> nn.Module:
    """A result that is zero everywhere beside one that is not."""
    return Returned(lambda x: [x * 0, x - x, x.tanh()])

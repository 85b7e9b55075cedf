"""Sampling at computed places in bands, as cases: grids, offsets, and what unfolding and unpooling put back."""

import torch
import torchvision
from torch import nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own habit

from support.operation_cases import layer
from support.whole_and_bands import Case


def warp(x, **named):
    """Move each position by what a convolution finds there."""
    h, w = x.shape[2:]
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    flow = 0.3 * torch.tanh(x[:, :2]).permute(0, 2, 3, 1)
    grid = torch.stack([columns, rows], -1).to(x.dtype) + flow
    return F.grid_sample(x, grid, align_corners=False, **named)


class Aligned(nn.Module):
    """A spatial transformer: an affine map that is found from the whole image."""

    def __init__(self, size=(2, 4, 13, 11), align_corners=False):
        super().__init__()
        self.size, self.align_corners, self.localize = size, align_corners, nn.Linear(4, 6)

    def forward(self, x):
        theta = self.localize(x.mean((2, 3))).view(-1, 2, 3)
        grid = F.affine_grid(theta, self.size, align_corners=self.align_corners)
        return F.grid_sample(x, grid, align_corners=self.align_corners)


class Deformable(nn.Module):
    def __init__(
        self, kernel=3, stride=1, padding=1, dilation=1, groups=1, offset_groups=1, masked=True, scale=1.5
    ):
        super().__init__()
        self.settings = {"stride": stride, "padding": padding, "dilation": dilation}
        count = offset_groups * kernel * kernel
        self.find = nn.Conv2d(4, 3 * count if masked else 2 * count, kernel, **self.settings)
        self.weight = nn.Parameter(torch.randn(6, 4 // groups, kernel, kernel))
        self.bias = nn.Parameter(torch.randn(6))
        self.count, self.masked, self.scale = 2 * count, masked, scale

    def forward(self, x):
        found = self.find(x)
        mask = found[:, self.count :].sigmoid() if self.masked else None
        offset = found[:, : self.count] * self.scale
        return torchvision.ops.deform_conv2d(x, offset, self.weight, self.bias, mask=mask, **self.settings)


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention, as it is written in PyTorch: two levels, of which tokens are sampled."""

    def __init__(self, heads=2, points=3):
        super().__init__()
        self.heads, self.points = heads, points
        self.offsets, self.weights = nn.Linear(4, heads * 2 * points * 2), nn.Linear(4, heads * 2 * points)
        self.values = nn.Linear(4, 4)

    def forward(self, x):
        b, c = x.shape[:2]
        maps = [x, F.max_pool2d(x, 2)]
        shapes = [tuple(m.shape[2:]) for m in maps]
        tokens = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
        offsets = torch.tanh(self.offsets(tokens)).view(b, -1, self.heads, 2, self.points, 2)
        weights = self.weights(tokens).view(b, -1, self.heads, 2 * self.points).softmax(-1)
        values = self.values(tokens).view(b, -1, self.heads, c // self.heads)
        sampled = []
        for level, value in enumerate(values.split([h * w for h, w in shapes], dim=1)):
            value = value.flatten(2).transpose(1, 2).reshape(b * self.heads, c // self.heads, *shapes[level])
            grid = offsets[:, :, :, level].transpose(1, 2).flatten(0, 1)
            sampled.append(F.grid_sample(value, grid, padding_mode="zeros", align_corners=False))
        weights = weights.transpose(1, 2).reshape(b * self.heads, 1, -1, 2 * self.points)
        mixed = (torch.stack(sampled, dim=-2).flatten(-2) * weights).sum(-1).view(b, c, -1)
        return mixed.transpose(1, 2).contiguous()


def plain_grid(x):
    grid = torch.rand(2, 17, 9, 2, generator=torch.Generator().manual_seed(3)).to(x.dtype) * 2 - 1
    return F.grid_sample(x, grid, align_corners=True)


def volume(x):
    grid = torch.tanh(x[:, :3].permute(0, 2, 3, 4, 1))
    return F.grid_sample(x, grid, align_corners=False)


def template(x):
    """A plain picture that is sampled at places of the image."""
    picture = torch.linspace(0, 1, 3 * 5 * 7, dtype=x.dtype).view(1, 3, 5, 7).expand(2, -1, -1, -1)
    return F.grid_sample(picture, torch.tanh(x[:, :2]).permute(0, 2, 3, 1), align_corners=False)


SAMPLES = {
    "warp": Case(warp),
    "warp, border": Case(lambda x: warp(x, padding_mode="border")),
    "warp, reflection": Case(lambda x: warp(x, padding_mode="reflection")),
    "warp, nearest": Case(lambda x: warp(x, mode="nearest")),
    "warp, bicubic": Case(lambda x: warp(x, mode="bicubic")),
    "warp of one row a worker": Case(warp, (1, 3, 4, 4)),
    "plain grid": Case(plain_grid),
    "points": Case(lambda x: F.grid_sample(x, torch.tanh(x.mean(2)[:, :, :2])[:, :, None], align_corners=False)),
    "a plain picture": Case(template),
    "volume": Case(volume, (1, 3, 7, 5, 6)),
    "affine": Case(Aligned),
    "affine to another size, corners": Case(layer(lambda: Aligned((2, 4, 17, 20), True))),
    "deformable convolution": Case(Deformable),
    "deformable convolution, without mask": Case(layer(lambda: Deformable(masked=False))),
    "deformable convolution s2": Case(layer(lambda: Deformable(stride=2))),
    "deformable convolution d2": Case(layer(lambda: Deformable(padding=2, dilation=2))),
    "deformable convolution without padding": Case(layer(lambda: Deformable(padding=0))),
    "deformable convolution 1x1": Case(layer(lambda: Deformable(kernel=1, padding=0))),
    "deformable convolution in groups": Case(layer(lambda: Deformable(groups=2, offset_groups=2))),
    "deformable convolution, far": Case(layer(lambda: Deformable(scale=12.0))),
    "deformable convolution, not at all": Case(layer(lambda: Deformable(scale=0.0))),
    "deformable convolution of many rows": Case(Deformable, (1, 4, 31, 6)),
    "deformable convolution of few rows": Case(Deformable, (1, 4, 4, 5)),
    "deformable attention": Case(DeformableAttention),
    "boxes": Case(
        lambda x: torchvision.ops.roi_align(x, torch.tensor([[0, 1, 2, 9, 8], [1, 0, 0, 5, 12.0]], dtype=x.dtype), 3)
    ),
}  # fmt: skip


def folded(size, kernel, **named):
    """Windows laid side by side, each weighted differently, and added up again."""

    def fold(x):
        windows = F.unfold(x, kernel, **named)
        weights = torch.linspace(0.5, 1.5, windows.shape[1], dtype=x.dtype)[:, None]
        return F.fold(windows * weights, size, kernel, **named)

    return Case(fold, (2, 3, *size))


def pooled_and_back(n, *arguments, shape=(2, 4, 13, 11), **named):
    """Pooling with indices, something in between, and unpooling to the size of before (SegNet)."""

    def unpool(x):
        small, index = getattr(F, f"max_pool{n}d")(x, *arguments, return_indices=True, **named)
        kernel, stride, padding = (*arguments, None, 0)[:3]
        return getattr(F, f"max_unpool{n}d")(
            small.sin(), index, kernel, stride, padding, output_size=x.shape[2:]
        )

    return Case(unpool, shape)


def where_from(x):
    """The values at the indices that a pooling has returned."""
    small, index = F.max_pool2d(x, 3, 2, 1, return_indices=True)
    return x.flatten(2).gather(2, index.flatten(2)) * small.flatten(2)


def adaptive_with_indices(x):
    values, index = F.adaptive_max_pool2d(x, (5, 3), return_indices=True)
    return values * (index + 1)


FOLDS = {
    "fold 3/1/1": folded((13, 11), 3, padding=1),
    "fold 3/2/1": folded((13, 11), 3, padding=1, stride=2),
    "fold 2/2": folded((12, 10), 2, stride=2),
    "fold 2/2 with a rest": folded((13, 11), 2, stride=2),
    "fold 2/3 that leaves gaps": folded((14, 11), 2, stride=3),
    "fold 7/4/3": folded((16, 20), 7, stride=4, padding=3),
    "fold dilated": folded((13, 11), 3, padding=2, dilation=2, stride=2),
    "fold of columns": folded((5, 16), (1, 4), stride=(1, 2)),
    "fold of a large window": folded((13, 11), (9, 7), padding=(2, 0)),
    "fold of few windows": folded((7, 8), 4, stride=2),
    "fold of an image": Case(lambda x: F.fold(F.unfold(x, 3)[0] * 2, (13, 11), 3)),
    "fold of the whole's": Case(lambda x: F.fold(x.mean((2, 3))[:, :, None].expand(-1, -1, 30) * x.mean(), (12, 10), 2, stride=2)),
    "pooling with indices": Case(where_from),
    "pooling of -inf with indices": Case(lambda x: F.max_pool2d(x * 0 - torch.inf, 3, 2, 1, return_indices=True)[1] * x.mean()),
    "unpooling 2/2": pooled_and_back(2, 2),
    "unpooling 3/2/1": pooled_and_back(2, 3, 2, 1),
    "unpooling 2/2, ceil": pooled_and_back(2, 2, ceil_mode=True),
    "unpooling 3/3 dilated": Case(lambda x: F.max_pool2d(x, 2, 2, 0, 2, return_indices=True)[1] * x.mean()),
    "unpooling 1d": pooled_and_back(1, 3, shape=(2, 4, 37)),
    "unpooling 3d": pooled_and_back(3, 2, shape=(1, 2, 13, 9, 8)),
    "unpooling layer": Case(layer(lambda: _Unpooled()), (2, 4, 14, 10)),
    "adaptive pooling with indices": Case(adaptive_with_indices),
    "adaptive pooling to many bins with indices": Case(lambda x: F.adaptive_max_pool2d(x, 11, return_indices=True)[0]),
}  # fmt: skip
GROUPS = {"sampled": SAMPLES, "folded": FOLDS}


class _Unpooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool, self.unpool = nn.MaxPool2d(2, 2, return_indices=True), nn.MaxUnpool2d(2, 2)

    def forward(self, x):
        values, index = self.pool(x)
        return self.unpool(values.tanh(), index)

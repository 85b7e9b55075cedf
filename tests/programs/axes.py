"""Who owns an axis: two dims of one tensor come from one axis of the mesh, or trade places."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from programs.networks import Between, OnTokens, Returned, tokens

SIZES = {
    "sum_with_transposed": "2x3x24x24",
    "sum_with_transposed_odd": "2x3x23x23",
    "convolved_across_and_back": "2x3x23x21",
    "turned_and_added": "2x3x24x24",
    "stacked_with_transposed": "2x3x24x24",
    "coordinate_attention_odd": "2x3x23x21",
    "coordinate_attention_square": "2x3x24x24",
    "strip_pooling": "2x3x23x20",
    "cross_scan": "2x3x12x10",
    "similarities_of_positions": "2x3x12x10",
    "symmetric_affinities": "2x3x10x12",
    "correlation_volume": "2x3x8x12",
    "axial_attention": "2x3x12x15",
    "criss_cross_attention": "2x3x12x15",
    "positions_mixed": "2x3x8x10",
    "planes_of_a_volume": "1x3x8x8x10",
    "square_weighted_by_transposed": "2x3x16x16",
}
PLANS = {
    "sum_with_transposed": "sp=2 sp=3 sp=2x2",
    "sum_with_transposed_odd": "sp=2 sp=2x2",
    "rows_times_rows": "sp=2 sp=3 sp=2x2",
    "columns_times_columns": "sp=2 sp=2x2",
    "convolved_across_and_back": "sp=2 sp=2x2",
    "coordinate_attention_odd": "sp=2 sp=3 sp=2x2",
    "axial_attention": "sp=2 sp=2x2",
    "triplet_attention": "sp=2 sp=2x2",
    "returned_transposed": "sp=2 sp=2x2",
    "cross_scan": "sp=2 sp=2x2",
    "planes_of_a_volume": "sp=2 sp=2x2",
}


def sum_with_transposed() -> nn.Module:
    """A square map plus its transpose."""
    return Between(lambda x: x + x.transpose(2, 3))


def sum_with_transposed_odd() -> nn.Module:
    """A square map of odd size minus half of its transpose."""
    return Between(lambda x: torch.sub(x, x.mT, alpha=0.5))


def square_weighted_by_transposed() -> nn.Module:
    """A square map times the softmax of its transpose."""
    return Between(lambda x: x * x.transpose(-1, -2).softmax(-1))


def rows_times_rows() -> nn.Module:
    """Products of all pairs of rows, ``x @ x^T``, and a window over them."""
    return Between(lambda x: x @ x.transpose(2, 3) / 20)


def columns_times_columns() -> nn.Module:
    """Products of all pairs of columns, ``x^T @ x``, and a window over them."""
    return Between(lambda x: torch.matmul(x.transpose(2, 3), x) / 24)


def rows_in_einsum() -> nn.Module:
    """Products of all pairs of rows in Einstein's notation."""
    return Between(lambda x: torch.einsum("bchw,bcvw->bchv", x, x) / 20)


def rows_times_rows_lower_half() -> nn.Module:
    """Of the products of all pairs of rows the lower triangle."""
    return Between(lambda x: (x @ x.mT).tril() / 20)


def means_of_rows_and_columns() -> nn.Module:
    """The outer product of the means of rows and of columns."""
    return Between(lambda x: x * (x.mean(3)[..., None] * x.mean(2)[:, :, None]))


def row_means_against_each_other() -> nn.Module:
    """Differences of the means of all pairs of rows."""
    return Between(lambda x: x.mean(3)[..., None] - x.mean(3)[:, :, None])


def strip_pooling() -> nn.Module:
    """Strip pooling: means of rows and of columns, each convolved along its own dim, and added."""

    class Strips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows, self.columns = (
                nn.Conv2d(8, 8, (3, 1), padding=(1, 0)),
                nn.Conv2d(8, 8, (1, 3), padding=(0, 1)),
            )

        def forward(self, x: Tensor) -> Tensor:
            rows = self.rows(functional.adaptive_avg_pool2d(x, (None, 1))).expand(-1, -1, *x.shape[2:])
            columns = self.columns(functional.adaptive_avg_pool2d(x, (1, None))).expand_as(rows)
            return x * (rows + columns).sigmoid()

    return Between(Strips())


class _Coordinates(nn.Module):
    """Coordinate attention: rows and columns in one sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.norm = nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)
        self.rows, self.columns = nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        by_row, by_column = x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)
        both = functional.hardswish(self.norm(self.shared(torch.cat([by_row, by_column], 2))))
        rows, columns = both.split([x.shape[2], x.shape[3]], 2)
        return x * self.rows(rows).sigmoid() * self.columns(columns.transpose(2, 3)).sigmoid()


def coordinate_attention_odd() -> nn.Module:
    """Coordinate attention at odd sizes."""
    return Between(_Coordinates())


def coordinate_attention_square() -> nn.Module:
    """Coordinate attention of a square map, twice."""
    return Between(nn.Sequential(_Coordinates(), _Coordinates()))


class _Axial(nn.Module):
    """Attention along the last dim of positions, with the others in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 24)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        query, key, value = self.project(x_BHWC).chunk(3, -1)
        return (query @ key.transpose(-1, -2) / 3).softmax(-1) @ value


def axial_attention() -> nn.Module:
    """Attention along rows, then along columns, with one set of weights."""
    layer = _Axial()

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            along_rows = self.layer(x.permute(0, 2, 3, 1))
            return self.layer(along_rows.transpose(1, 2)).permute(0, 3, 2, 1)

    return Between(Both())


class _CrissCross(nn.Module):
    """Criss-cross attention: one softmax over the positions of a row and of a column."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query(x), self.key(x), self.value(x)
        by_column = torch.einsum("bchw,bcvw->bhwv", query, key)
        by_row = torch.einsum("bchw,bchv->bhwv", query, key)
        weights = torch.cat([by_column, by_row], 3).softmax(3)
        rows = x.shape[2]
        out = torch.einsum("bhwv,bcvw->bchw", weights[..., :rows], value)
        return x + out + torch.einsum("bhwv,bchv->bchw", weights[..., rows:], value)


def criss_cross_attention() -> nn.Module:
    """Criss-cross attention, whose scores have rows twice."""
    return Between(_CrissCross())


def turned_and_added() -> nn.Module:
    """A square map, turned by a right angle, added."""
    return Between(lambda x: x + torch.rot90(x, 1, (2, 3)))


def stacked_with_transposed() -> nn.Module:
    """A square map and its transpose, stacked, and the larger of both."""
    return Between(lambda x: torch.stack([x, x.transpose(2, 3)]).amax(0))


def convolved_across_and_back() -> nn.Module:
    """A convolution of the transposed map, transposed back."""
    layer = nn.Conv2d(8, 8, (1, 5), padding=(0, 2))

    class Across(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return x + self.layer(x.transpose(2, 3)).transpose(2, 3)

    return Between(Across())


def returned_transposed() -> nn.Module:
    """The network returns a map, its transpose, and its rows as a batch."""
    return Returned(lambda x: [x, x.transpose(2, 3), x.transpose(1, 2).flatten(0, 1)])


def cross_scan() -> nn.Module:
    """Positions in four orders, by rows and by columns, forwards and backwards (state space models), cumulated, and added."""

    def scan(x: Tensor) -> Tensor:
        by_rows, by_columns = x.flatten(2), x.transpose(2, 3).flatten(2)
        four = torch.stack([by_rows, by_columns, by_rows.flip(2), by_columns.flip(2)], 1).cumsum(3) / 50
        by_rows, by_columns = four[:, 0] + four[:, 2].flip(2), four[:, 1] + four[:, 3].flip(2)
        across = by_columns.unflatten(2, (x.shape[3], x.shape[2])).transpose(2, 3)
        return by_rows.unflatten(2, x.shape[2:]) + across

    return Between(scan)


def positions_mixed() -> nn.Module:
    """A linear layer over positions (MLP-Mixer)."""
    mixing = nn.Linear(80, 80)

    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixing = mixing

        def forward(self, x: Tensor) -> Tensor:
            return x + self.mixing(x.transpose(1, 2)).transpose(1, 2)

    return OnTokens(Mixer())


def triplet_attention() -> nn.Module:
    """Triplet attention: rows and columns take the place of channels, and go back."""

    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(2, 1, 5, padding=2)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.layer(torch.stack([x.amax(1), x.mean(1)], 1)).sigmoid()

    class Triplet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gates = nn.ModuleList([Gate() for _ in range(3)])

        def forward(self, x: Tensor) -> Tensor:
            rows = self.gates[0](x.permute(0, 2, 1, 3).contiguous()).permute(0, 2, 1, 3)
            columns = self.gates[1](x.permute(0, 3, 2, 1).contiguous()).permute(0, 3, 2, 1)
            return (rows + columns + self.gates[2](x)) / 3

    return Between(Triplet())


def similarities_of_positions() -> nn.Module:
    """A non-local block: all pairs of positions, softmax, and what they weigh."""
    return OnTokens(lambda x: (x @ x.transpose(1, 2)).softmax(-1) @ x)


def symmetric_affinities() -> nn.Module:
    """All pairs of positions, made symmetric."""
    return OnTokens(lambda x: (lambda a: (a + a.transpose(1, 2)) @ x / 100)(x @ x.transpose(1, 2)))


def correlation_volume() -> nn.Module:
    """All pairs of positions as a volume of four dims, pooled over two of them (optical flow)."""

    def correlate(x: Tensor) -> Tensor:
        images, _, rows, columns = x.shape
        pairs = torch.matmul(tokens(x), x.flatten(2)).view(images * rows * columns, 1, rows, columns)
        return functional.avg_pool2d(pairs, 2).view(images, rows, columns, -1)[..., :8].permute(0, 3, 1, 2)

    return Between(correlate)


def cumulated_both_ways() -> nn.Module:
    """Sums of all that is above and to the left (integral image)."""
    return Between(lambda x: x.cumsum(2).cumsum(3) / 100)


def rows_sorted() -> nn.Module:
    """Every column sorted."""
    return Between(lambda x: x.sort(2).values)


def linear_over_columns() -> nn.Module:
    """A linear layer over columns, and one over rows."""

    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.columns, self.rows = nn.Linear(20, 20), nn.Linear(24, 24)

        def forward(self, x: Tensor) -> Tensor:
            return self.rows(self.columns(x).transpose(2, 3)).transpose(2, 3)

    return Between(Layers())


def coordinates_joined() -> nn.Module:
    """Two channels with the coordinates of each position (CoordConv)."""

    def join(x: Tensor) -> Tensor:
        rows, columns = (torch.linspace(-1, 1, size, dtype=x.dtype) for size in x.shape[2:])
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        return torch.cat([x, grid.expand(len(x), -1, -1, -1)], 1)

    return Between(join, 10)


def embedded_rows_and_columns() -> nn.Module:
    """An embedding of each row and of each column, joined over channels (learned positions of DETR)."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows, self.columns = nn.Embedding(32, 4), nn.Embedding(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            height, width = x.shape[2:]
            columns = self.columns(torch.arange(width))[None].repeat(height, 1, 1)
            rows = self.rows(torch.arange(height))[:, None].repeat(1, width, 1)
            return x + torch.cat([columns, rows], -1).permute(2, 0, 1)[None].repeat(len(x), 1, 1, 1)

    return Between(Positions())


def planes_of_a_volume() -> nn.Module:
    """A volume plus itself with depth and height exchanged."""

    class Planes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.after = nn.Conv3d(3, 4, 3, padding=1), nn.Conv3d(4, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.before(x)
            return self.after(x + x.transpose(2, 3))

    return Planes()

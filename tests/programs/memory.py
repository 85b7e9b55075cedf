"""Memory that is shared: what is changed in place is seen through every other view of it, and through no copy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from programs.networks import Between, OnTokens, Returned, last, tokens

SIZES = {
    "diagonal_scaled": "2x3x24x24",
    "odd_row_slice": "2x3x23x19",
    "even_rows_zeroed": "2x3x23x19",
    "transposed_matrix_scaled": "2x3x24x24",
    "slab_of_a_volume": "1x3x9x12x10",
}
PLANS = {
    "row_slice_scaled": "sp=2 sp=3 sp=2x2 pp=2",
    "column_slice_shifted": "sp=2 sp=1x2 sp=2x2",
    "window_shifted": "sp=2 sp=2x2",
    "skip_before_relu": "sp=2 pp=2",
    "rows_shifted_into_zeros": "sp=2 sp=3",
    "odd_row_slice": "sp=2 sp=3 sp=2x2",
    "copied_into_slice": "sp=2 pp=2",
    "expanded_to_itself_and_clamped": "sp=2 pp=2",
    "added_to_its_own_view": "sp=2 pp=2",
    "changed_behind_split_layers": "tp=2",
    "tokens_changed_behind_split_layers": "tp=2",
    "checkpoint_changed_behind_it": "sp=2 pp=2",
    "checkpoint_changed_within_and_behind": "sp=2 pp=2",
    "view_of_a_checkpoint_changed": "sp=2 pp=2",
    "checkpoint_changed_beside_its_view": "sp=2 pp=2",
}


def row_slice_scaled() -> nn.Module:
    """Rows that lie on both workers are doubled in place, then the map is used."""
    return Between(lambda x: last(x[:, :, 5:19].mul_(2), x))


def column_slice_shifted() -> nn.Module:
    """Columns are shifted in place."""
    return Between(lambda x: last(x[..., 2:9].add_(1), x))


def odd_row_slice() -> nn.Module:
    """Every row but the first and the last, of an odd number."""
    return Between(lambda x: last(x[:, :, 1:-1].neg_(), x))


def channel_slice_relu() -> nn.Module:
    """ReLU in place on half of the channels."""
    return Between(lambda x: last(functional.relu_(x[:, :4]), x))


def half_detached_and_doubled() -> nn.Module:
    """The second of two halves of rows is doubled: a weight without a gradient."""
    return Between(lambda x: x * last(w := x.detach().clone(), w.chunk(2, 2)[1].mul_(2), w))


def dropout_on_top_rows() -> nn.Module:
    """Dropout in place on the upper rows."""
    return Between(lambda x: last(functional.dropout(x[:, :, :10], 0.3, inplace=True), x))


def transposed_row_zeroed() -> nn.Module:
    """A row is set to zero through a transposed view."""
    return Between(lambda x: last(x.transpose(1, 2)[:, 5].zero_(), x))


def tokens_scaled_in_place() -> nn.Module:
    """The sequence of positions is a view of the map: to scale it scales the map."""
    return Between(lambda x: last(tokens(x).mul_(2), x))


def first_token_halved() -> nn.Module:
    """The first position of a sequence is halved in place."""
    return OnTokens(lambda x: last(x[:, 0].mul_(0.5), x))


class _WithClassToken(nn.Module):
    """A sequence with a class token before it, which is changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        together = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        together[:, 0].add_(together[:, 1:].mean(1))
        return together


def class_token_updated() -> nn.Module:
    """The mean of all positions is added to the class token in place."""
    return OnTokens(_WithClassToken())


def selected_row_shifted() -> nn.Module:
    """One row, selected, is shifted."""
    return Between(lambda x: last(x.select(2, 7).add_(1), x))


def narrowed_rows_cleared() -> nn.Module:
    """Rows, narrowed, are set to zero."""
    return Between(lambda x: last(x.narrow(2, 10, 6).zero_(), x))


def diagonal_scaled() -> nn.Module:
    """The diagonal of a square map is doubled."""
    return Between(lambda x: last(x.diagonal(dim1=2, dim2=3).mul_(2), x))


def unfolded_rows_cleared() -> nn.Module:
    """Of every four rows the first is set to zero through `Tensor.unfold`."""
    return Between(lambda x: last(x.unfold(2, 4, 4)[..., 0].zero_(), x))


def detached_scaled() -> nn.Module:
    """A detached tensor shares its memory: to double it doubles the map, without a gradient."""
    return Between(lambda x: last(x.detach().mul_(2), x))


def data_rows_cleared() -> nn.Module:
    """Rows of ``x.data`` are set to zero."""
    return Between(lambda x: last(x.data[:, :, :9].zero_(), x))


def reshaped_is_a_view() -> nn.Module:
    """A reshape that needs no copy is a view: channels in pairs, of which the first is doubled."""
    return Between(lambda x: last(x.reshape(len(x), 4, 2, *x.shape[2:])[:, :, 0].mul_(2), x))


def reshaped_is_a_copy() -> nn.Module:
    """A reshape that needs a copy is none: the map stays as it is."""
    return Returned(lambda x: last(y := x.permute(0, 2, 3, 1).reshape(len(x), -1, 8, 1), y.mul_(2), (x, y)))


def contiguous_is_itself() -> nn.Module:
    """`contiguous` of what is contiguous is the same tensor."""
    return Between(lambda x: last(x.contiguous().mul_(2), x))


def contiguous_of_transposed_is_a_copy() -> nn.Module:
    """`contiguous` of a transposed view is a copy."""
    return Between(lambda x: x + last(y := x.transpose(2, 3).contiguous(), y.mul_(2), y).transpose(2, 3))


def same_type_is_itself() -> nn.Module:
    """`Tensor.to` of the type that it has already is the same tensor."""
    return Between(lambda x: last(x.to(x.dtype).add_(1), x))


def flattened_is_a_view() -> nn.Module:
    """`flatten` of rows and columns is a view."""
    return Between(lambda x: last(x.flatten(2)[:, :, 100:300].mul_(2), x))


def unsqueezed_is_a_view() -> nn.Module:
    """A dim more, and the map is changed through it."""
    return Between(lambda x: last(x.unsqueeze(1)[:, 0, :, 3:15].relu_(), x))


def skip_before_relu() -> nn.Module:
    """The skip connection is taken before a ReLU in place: it sees the ReLU."""
    return Between(lambda x: last(skip := x, y := functional.relu_(x), y * 0.5 + skip))


def even_rows_zeroed() -> nn.Module:
    """Every second row is assigned zero."""
    return Between(lambda x: last(x[:, :, ::2].zero_(), x))


class _Assigns(nn.Module):
    """Assigns by slices."""

    def forward(self, x: Tensor) -> Tensor:
        x[:, :, 0] = 1.0
        x[..., -1] = 0.5
        x[:, 0] = x[:, 1] * 2
        return x


def border_assigned() -> nn.Module:
    """A row, a column and a channel are assigned."""
    return Between(_Assigns())


def window_shifted() -> nn.Module:
    """Windows of eight rows by ten columns; a number is added to one of them."""
    return Between(lambda x: last(x.view(len(x), 8, 3, 8, 2, 10)[:, :, 1, :, 1].add_(1), x))


def flipped_is_a_copy() -> nn.Module:
    """A flipped map is a copy: to change it leaves the map."""
    return Between(lambda x: x + last(y := x.flip(2), y.mul_(2), y))


class _Shift(nn.Module):
    """Some channels move by a row or a column (temporal shift, S2-MLP, AS-MLP)."""

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        out[:, :2, 1:] = x[:, :2, :-1]
        out[:, 2:4, :-1] = x[:, 2:4, 1:]
        out[:, 4:6, :, 1:] = x[:, 4:6, :, :-1]
        out[:, 6:] = x[:, 6:]
        return out


def rows_shifted_into_zeros() -> nn.Module:
    """Channels are shifted by a row or a column into zeros."""
    return Between(_Shift())


class _IntoPlain(nn.Module):
    """Writes a map into a canvas that is larger (super-resolution, padding by hand)."""

    def forward(self, x: Tensor) -> Tensor:
        canvas = torch.zeros(len(x), 8, x.shape[2] + 4, x.shape[3] + 4, dtype=x.dtype, device=x.device)
        canvas[:, :, 2:-2, 2:-2] = x
        return canvas


def plain_canvas_filled() -> nn.Module:
    """A map is written into a larger canvas of zeros."""
    return Between(_IntoPlain())


def copied_into_slice() -> nn.Module:
    """`copy_` into rows of a map that was cloned."""
    return Between(lambda x: last(y := x.clone(), y[:, :, 4:16].copy_(x[:, :, 8:20]), y))


def transposed_matrix_scaled() -> nn.Module:
    """A square map times a matrix, in place on its transposed view."""
    return Between(lambda x: last(x.mT.mul_(torch.arange(24.0, dtype=x.dtype, device=x.device)), x))


def masked_on_a_view() -> nn.Module:
    """`masked_fill_` on some channels, with the mask of others."""
    return Between(lambda x: last(x[:, :4].masked_fill_(x[:, 4:].detach() > 0.5, 0.25), x))


class _Dense(nn.Module):
    """A dense block: the same map is kept in a list, and each layer begins with a norm and a ReLU in place."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(8 + 4 * i) for i in range(2)])
        self.layers = nn.ModuleList([nn.Conv2d(8 + 4 * i, 4, 3, padding=1) for i in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for norm, layer in zip(self.norms, self.layers, strict=True):
            maps.append(layer(functional.relu_(norm(torch.cat(maps, 1)))))
        return torch.cat(maps, 1)


def dense_block() -> nn.Module:
    """A dense block with ReLUs in place."""
    return Between(_Dense(), 16)


def squeezed_rows_changed() -> nn.Module:
    """A map of one channel, squeezed, is changed in some rows."""
    return Between(lambda x: last(m := x.mean(1, keepdim=True), m.squeeze(1)[:, 6:18].mul_(3), x * m))


class _Slab(nn.Module):
    """Changes some slices of a volume."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Conv3d(3, 4, 3, padding=1), nn.Conv3d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        x[:, :, 2:7].mul_(2)
        return self.after(x)


def slab_of_a_volume() -> nn.Module:
    """Slices of a volume are doubled in place."""
    return _Slab()


def attention_then_added_to() -> nn.Module:
    """What attention gives is changed in place, whose queries lie so that one worker's PyTorch keeps no result of it."""

    def change(x: Tensor) -> Tensor:
        weights = x.softmax(-1)
        found = functional.scaled_dot_product_attention(weights, weights * -0.7, x)
        return found.add_(weights)

    return OnTokens(change)


def scaled_after_instance_norm() -> nn.Module:
    """A turned map is changed in place after it was normalized: one worker's PyTorch has kept a copy."""

    def change(x: Tensor) -> Tensor:
        turned = x.transpose(2, 3) * 1.0
        normed = functional.instance_norm(turned)
        turned[:, :, 3:9].mul_(0.5)
        return normed.transpose(2, 3)

    return Between(change)


def rows_scaled_after_instance_norm() -> nn.Module:
    """Rows are changed in place after they were normalized."""

    def change(x: Tensor) -> Tensor:
        rows = x[:, :, 2:-3]
        normed = functional.instance_norm(rows)
        rows += 1
        return normed

    return Between(change)


def scaled_after_einsum() -> nn.Module:
    """A map is changed in place after its channels were mixed: one worker's product of letters has kept a copy."""
    mixing = torch.linspace(-0.5, 0.5, 64, dtype=torch.float64).view(8, 8)

    def change(x: Tensor) -> Tensor:
        column = x[..., :1].contiguous(memory_format=torch.channels_last)
        scaled = column.flatten(2).softmax(-1).view_as(column) * column
        mixed = torch.einsum("bchw,cd->bdhw", scaled, mixing.to(x.dtype).requires_grad_())
        scaled[:, -3:].mul_(0.9)
        return x + mixed

    return Between(change)


def scaled_after_tensordot() -> nn.Module:
    """A map is changed in place after a product over its channels."""
    mixing = torch.linspace(-0.5, 0.5, 64, dtype=torch.float64).view(8, 8)

    def change(x: Tensor) -> Tensor:
        column = x[..., :1].contiguous(memory_format=torch.channels_last)
        scaled = column.flatten(2).softmax(-1).view_as(column) * column
        mixed = torch.tensordot(scaled, mixing.to(x.dtype).requires_grad_(), dims=([1], [0]))
        scaled.mul_(0.9)
        return x + mixed.movedim(-1, 1)

    return Between(change)


def norm_of_no_channels() -> nn.Module:
    """Channels that a slice leaves out are normalized: none."""
    return Between(lambda x: torch.cat([x, functional.instance_norm(x[:, 8:])], 1))


class _Enlarged(nn.Module):
    """A transposed convolution, what it gives changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        enlarged = self.layer(x)
        enlarged[:, :, 5:].mul_(0.5)
        return enlarged


def enlarged_and_scaled() -> nn.Module:
    """What a transposed convolution gives is changed in place."""
    return Between(_Enlarged())


def diagonal_of_a_slice_scaled() -> nn.Module:
    """The diagonal of some rows is changed in place, then the map is used."""
    return Between(lambda x: last(x[:, :, 1:].diagonal(dim1=2, dim2=3).mul_(0.9), x))


def no_channels_flattened() -> nn.Module:
    """No channel at all is flattened, and added up with the others."""
    return Between(lambda x: x + x[:, 2:2].flatten(2).transpose(1, 2).sum())


class _Clamped(nn.Module):
    """A view that is made of the older of two names of one memory, and the memory changed through the newer one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        made = self.first(x)
        same = made.expand_as(made)
        same.mul_(1.5)
        side = self.second(made.clone())  # here it may be cut
        half = made[:, :-2]
        same.clamp_(min=0)
        return half + 1, side


def expanded_to_itself_and_clamped() -> nn.Module:
    """Two names of one memory, before and after a layer: a view of one sees what is changed through the other."""
    return _Clamped()


class _Added(_Clamped):
    """A memory to which its own view is added in place; both names are read afterwards."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        made = self.first(x)
        same = made.view(made.shape)
        same.mul_(-0.7)
        side = self.second(same.clone())  # here it may be cut
        made += same
        return made * 2, same[:, :, 1:] * 3 + side[:, :, 1:]


def added_to_its_own_view() -> nn.Module:
    """Two names of one memory, before and after a layer: one is added to the other, and both are read."""
    return _Added()


class _Halved(nn.Module):
    """Layers whose result is changed in place, through a view or not."""

    def __init__(self, layers: nn.Module, view: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layers, self.view = layers, view

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.layers(x)
        self.view(made).mul_(0.5)
        return made


def changed_behind_split_layers() -> nn.Module:
    """What two convolutions without a bias have computed is changed in place: under tp it is a sum over workers."""
    layers = nn.Conv2d(8, 256, 1, bias=False), nn.ReLU(), nn.Conv2d(256, 8, 3, padding=1, bias=False)
    return Between(_Halved(nn.Sequential(*layers), lambda made: made))


def tokens_changed_behind_split_layers() -> nn.Module:
    """Likewise of two linear layers, through a view."""
    layers = nn.Linear(8, 256, bias=False), nn.GELU(), nn.Linear(256, 8, bias=False)
    return OnTokens(_Halved(nn.Sequential(*layers), lambda made: made[:, 1:]))


def _kept(x: Tensor, layer: Callable[[Tensor], Tensor] = torch.tanh) -> Tensor:
    """Return what autograd needs as it is, but that it is computed again."""
    kept: Tensor = checkpoint(layer, x, use_reentrant=False)
    return kept


def checkpoint_changed_behind_it() -> nn.Module:
    """What a checkpoint has computed is changed in place, though backward needs it: it computes it again."""
    return Returned(lambda x: _kept(x).add_(1))


def checkpoint_changed_within_and_behind() -> nn.Module:
    """It is changed in place within the checkpoint, and once more behind it."""
    return Between(lambda x: _kept(x, lambda x: (x * 2).relu_()).mul_(2))


def view_of_a_checkpoint_changed() -> nn.Module:
    """Columns of what a checkpoint has computed are changed in place."""
    return Between(lambda x: last(y := _kept(x), y[..., 3:9].mul_(2), y))


def checkpoint_changed_beside_its_view() -> nn.Module:
    """What a checkpoint has computed is seen changed through a view that is older than the change."""
    return Between(lambda x: last(y := _kept(x), z := y[..., ::2], y.mul_(2), torch.cat([y, z], 3)))

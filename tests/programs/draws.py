"""Memory order of random numbers: PyTorch draws along the memory of a tensor, not along its shape."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from programs.networks import Between, OnTokens, last, tokens

LAST = torch.channels_last
SIZES = {
    "dropout_in_attention": "2x3x8x10",
    "dropout_on_attention_weights": "2x3x8x10",
    "dropout_in_torch_attention": "2x3x8x10",
    "dropout_on_an_odd_map": "2x3x23x19",
    "dropout_of_a_volume": "1x3x8x6x10",
    "dropout_at_the_top": "2x3x24x20",
}
PLANS = {
    "dropout_on_channels_last": "sp=2 sp=2x2 pp=2",
    "dropout_sequence_first": "sp=2 sp=3",
    "noise_of_a_transposed_map": "sp=2 sp=2x2",
    "dropout_on_an_odd_map": "sp=2 sp=3 sp=2x2",
    "drop_path": "sp=2 pp=2",
    "noise_in_place": "sp=2 pp=2",
    "dropout_twice": "sp=2 sp=2x2 pp=2",
}


def dropout_sequence_first() -> nn.Module:
    """Dropout on a sequence of positions that comes before the batch (DETR)."""
    return OnTokens(lambda x: functional.dropout(x.transpose(0, 1), 0.3).transpose(0, 1))


def dropout_on_channels_last() -> nn.Module:
    """Dropout on a map whose channels lie together."""
    return Between(lambda x: functional.dropout(x.contiguous(memory_format=LAST), 0.3))


def dropout_on_an_odd_map() -> nn.Module:
    """Dropout on a map of odd sizes."""
    return Between(lambda x: functional.dropout(x, 0.3))


def dropout_on_permuted() -> nn.Module:
    """Dropout on a permuted view, ``(B, H, W, C)``."""
    return Between(lambda x: functional.dropout(x.permute(0, 2, 3, 1), 0.3).permute(0, 3, 1, 2))


def dropout_on_permuted_copy() -> nn.Module:
    """Dropout on a permuted copy, ``(B, H, W, C)``."""
    return Between(lambda x: functional.dropout(x.permute(0, 2, 3, 1).contiguous(), 0.3).permute(0, 3, 1, 2))


def dropout_of_channels() -> nn.Module:
    """Dropout of whole channels of a map whose channels lie together."""
    return Between(lambda x: functional.dropout2d(x.contiguous(memory_format=LAST), 0.4))


def dropout_of_token_channels() -> nn.Module:
    """Dropout of whole channels of a sequence, which is transposed for it."""
    return OnTokens(lambda x: functional.dropout1d(x.transpose(1, 2), 0.4).transpose(1, 2))


def alpha_dropout() -> nn.Module:
    """Alpha dropout on a permuted view."""
    return Between(
        lambda x: functional.alpha_dropout(x.permute(0, 2, 3, 1), 0.2, training=True).permute(0, 3, 1, 2)
    )


def dropout_on_every_second_row() -> nn.Module:
    """Dropout on a slice with a step."""
    return Between(lambda x: functional.dropout(x[:, :, ::2], 0.3))


def dropout_on_expanded() -> nn.Module:
    """Dropout on a tensor that is expanded: its memory has strides of zero."""
    return Between(lambda x: x + functional.dropout(x.mean(1, keepdim=True).expand(-1, 8, -1, -1), 0.3))


def dropout_on_windows() -> nn.Module:
    """Dropout on windows of 8 x 10 positions that are a view (Swin)."""

    def windows(x: Tensor) -> Tensor:
        cut = x.view(len(x), 8, 3, 8, 2, 10).permute(0, 2, 4, 3, 5, 1)
        return functional.dropout(cut, 0.3).permute(0, 5, 1, 3, 2, 4).reshape(x.shape)

    return Between(windows)


def dropout_twice() -> nn.Module:
    """Two dropouts in a row, of which the second draws where the first has left off."""
    return Between(nn.Sequential(nn.Dropout(0.2), nn.Conv2d(8, 8, 1), nn.Dropout(0.3)))


def dropout_of_a_volume() -> nn.Module:
    """Dropout on a volume whose channels lie together, and of whole channels."""
    return nn.Sequential(
        nn.Conv3d(3, 4, 3, padding=1).to(memory_format=torch.channels_last_3d), nn.Dropout(0.3), nn.Dropout3d(0.3),
        nn.Conv3d(4, 2, 3, padding=1),
    )  # fmt: skip


def dropout_at_the_top() -> nn.Module:
    """Dropout on maps that are smaller and smaller, until they are whole on every worker."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Dropout(0.2), nn.MaxPool2d(4), nn.Conv2d(8, 8, 3, padding=1), nn.Dropout(0.2),
        nn.MaxPool2d(3), nn.Dropout(0.2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, 4),
    )  # fmt: skip


def dropout_of_a_channels_last_model() -> nn.Module:
    """A model whose weights lie channels last: so do its maps, and so is its dropout."""
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.3), nn.Conv2d(8, 4, 3)
    )
    return layers.to(memory_format=LAST)


def dropout_after_a_slice_in_place() -> nn.Module:
    """Dropout in place on rows of a map whose channels lie together."""
    return Between(
        lambda x: last(
            y := x.contiguous(memory_format=LAST).clone(),
            functional.dropout(y[:, :, 3:15], 0.3, inplace=True),
            y,
        )
    )


def noise_of_a_transposed_map() -> nn.Module:
    """`rand_like` of a transposed view: drawn in the order of its memory."""
    return Between(lambda x: x + torch.rand_like(x.transpose(2, 3)).transpose(2, 3))


def noise_in_the_order_of_its_shape() -> nn.Module:
    """`randn_like` of a transposed view with a contiguous result."""
    return Between(
        lambda x: (
            x + torch.randn_like(x.transpose(1, 3), memory_format=torch.contiguous_format).transpose(1, 3)
        )
    )


def noise_in_place() -> nn.Module:
    """An empty map like a permuted one is filled with normal numbers."""
    return Between(lambda x: x + torch.empty_like(x.permute(0, 2, 3, 1)).normal_().permute(0, 3, 1, 2))


def noise_of_a_new_tensor() -> nn.Module:
    """``x.new_empty(shape).uniform_()``, the shape of the whole map."""
    return Between(lambda x: x * x.new_empty(x.shape).uniform_(0.5, 1.5))


def noise_of_its_shape() -> nn.Module:
    """``torch.rand(x.shape)``: a plain tensor that every worker draws."""
    return Between(lambda x: x + torch.rand(x.shape, dtype=x.dtype, device=x.device))


def noise_of_each_position() -> nn.Module:
    """``torch.randn(B, 1, H, W)`` with the sizes of the map (StyleGAN)."""
    return Between(lambda x: x + 0.1 * torch.randn(len(x), 1, *x.shape[2:], dtype=x.dtype, device=x.device))


def integers_like_tokens() -> nn.Module:
    """`randint_like` of a sequence."""
    return OnTokens(lambda x: x * torch.randint_like(x, 1, 4))


def bernoulli_in_place() -> nn.Module:
    """A mask like a channels-last map, by ``bernoulli_``."""
    return Between(lambda x: x * torch.empty_like(x.contiguous(memory_format=LAST)).bernoulli_(0.7))


def bernoulli_of_probabilities() -> nn.Module:
    """A mask of which each element has its own probability, from a permuted view."""
    return Between(
        lambda x: x * torch.bernoulli(x.detach().permute(0, 2, 3, 1).sigmoid()).permute(0, 3, 1, 2)
    )


def drop_path() -> nn.Module:
    """Images leave out a branch: a mask of one number for each image, as timm and torchvision draw it."""
    return Between(
        lambda x: x + x.tanh() * x.new_empty((len(x),) + (1,) * (x.dim() - 1)).bernoulli_(0.5).div_(0.5)
    )


def drop_block() -> nn.Module:
    """Drop block: centres are drawn, and blocks about them are cleared."""

    def drop(x: Tensor) -> Tensor:
        centres = (torch.rand(len(x), 1, *x.shape[2:], dtype=x.dtype) < 0.05).to(x.dtype)
        keep = 1 - functional.max_pool2d(centres, 5, 1, 2)
        return x * keep * (keep.numel() / keep.sum())

    return Between(drop)


def random_slopes() -> nn.Module:
    """RReLU in training: a slope is drawn for each negative element."""
    return Between(lambda x: functional.rrelu(x, training=True))


def random_slopes_channels_last() -> nn.Module:
    """RReLU on a map whose channels lie together."""
    return Between(lambda x: functional.rrelu(x.contiguous(memory_format=LAST), training=True))


def gumbel_choice() -> nn.Module:
    """A soft choice among channels, by Gumbel's trick."""
    return Between(lambda x: x * functional.gumbel_softmax(x, dim=1))


def exponential_noise() -> nn.Module:
    """``exponential_`` on an empty map like a transposed sequence."""
    return OnTokens(lambda x: x + torch.empty_like(x).exponential_())


def dropout_in_attention() -> nn.Module:
    """`scaled_dot_product_attention` of windows of rows with dropout."""
    return OnTokens(lambda x: functional.scaled_dot_product_attention(x, x, x, dropout_p=0.2))


def dropout_on_attention_weights() -> nn.Module:
    """Dropout on the weights of attention over all positions."""
    return OnTokens(lambda x: functional.dropout((x @ x.transpose(1, 2)).softmax(-1), 0.2) @ x)


def dropout_in_torch_attention() -> nn.Module:
    """`nn.MultiheadAttention` with dropout on its weights."""
    attention = nn.MultiheadAttention(8, 2, dropout=0.2, batch_first=True)

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, x: Tensor) -> Tensor:
            return x + self.attention(x, x, x, need_weights=False)[0]

    return OnTokens(Layer())


def normal_distribution() -> nn.Module:
    """A sample of ``torch.distributions.Normal`` with the map as its mean (variational networks)."""
    return Between(lambda x: torch.distributions.Normal(x, 0.5, validate_args=False).rsample())


def tokens_in_random_order() -> nn.Module:
    """Positions in a random order, and back (masked autoencoders): the same order on every worker."""

    def shuffle(x: Tensor) -> Tensor:
        order = torch.randperm(x.shape[1], device=x.device)
        return x[:, order].tanh()[:, order.argsort()]

    return OnTokens(shuffle)


def channels_in_random_order() -> nn.Module:
    """Channels in a random order."""
    return Between(lambda x: x[:, torch.randperm(8)])


def dropout_then_choice() -> nn.Module:
    """A number is drawn after a dropout, and decides which way is taken: all workers must go the same."""
    return Between(
        lambda x: last(y := functional.dropout(x, 0.3), y * 2 if torch.rand(()) < 0.5 else y.tanh())
    )


def noise_of_tokens() -> nn.Module:
    """Noise like a sequence that is a view of a map."""
    return Between(lambda x: x + torch.randn_like(tokens(x)).transpose(1, 2).reshape(x.shape))

"""Every operation that a band can go through, as cases for the tests of bands: by group, each with its shape."""

import functools

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own habit

from support.whole_and_bands import Case


def conv(*args, dims=2, **named):
    class Convolution(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = getattr(nn, f"Conv{dims}d")(*args, **named)

        def forward(self, x):
            return self.layer(x)

    return Convolution


def layer(make):
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = make()

        def forward(self, x):
            return self.layer(x)

    return Layer


def resize(**named):
    return lambda x: F.interpolate(x, **named)


def squeeze_and_excite(x):
    return x * torch.sigmoid(x.mean((2, 3), keepdim=True))


def windows(x, side=4):
    """Swin's windows: rows and columns into the batch, attention within, and back."""
    b, c, h, w = x.shape
    tokens = x.permute(0, 2, 3, 1).view(b, h // side, side, w // side, side, c)
    tokens = tokens.permute(0, 1, 3, 2, 4, 5).reshape(-1, side * side, c)
    mixed = (tokens @ tokens.transpose(-2, -1)).softmax(-1) @ tokens
    back = mixed.view(b, h // side, w // side, side, side, c).permute(0, 1, 3, 2, 4, 5)
    return back.reshape(b, h, w, c).permute(0, 3, 1, 2)


def tokens(x, attention):
    b, c, h, w = x.shape
    sequence = x.flatten(2).transpose(1, 2)
    return attention(sequence).transpose(1, 2).reshape(b, c, h, w)


def explicit(t):
    return (t @ t.transpose(-2, -1) * 0.1).softmax(-1) @ t


def fused(t):
    return F.scaled_dot_product_attention(t.unsqueeze(1), t.unsqueeze(1), t.unsqueeze(1)).squeeze(1)


def dynamic_convolution(x):
    """Weights that are computed from the image itself."""
    b, c, h, w = x.shape
    weight = torch.sigmoid(x.mean((2, 3))).view(b * c, 1, 1, 1) * x.new_tensor([1.0, 2, 1]).view(1, 1, 3, 1)
    return F.conv2d(x.reshape(1, b * c, h, w), weight, padding=(1, 0), groups=b * c).view(b, c, h, w)


def position_attention(x):
    """MAnet's: the result's tokens are read as channels."""
    b, c, h, w = x.shape
    mixed = (x.flatten(2).transpose(1, 2) @ x.flatten(2)).view(b, -1).softmax(1).view(b, h * w, h * w)
    return x + (mixed @ x.flatten(2).transpose(1, 2)).reshape(b, c, h, w)


def class_token(x):
    """A token before the image's, as vision transformers have it, and the image's tokens back as a map."""
    b, c, h, w = x.shape
    tokens = torch.cat([x.mean((2, 3)).unsqueeze(1), x.flatten(2).transpose(1, 2)], 1)
    mixed = tokens.clone()
    mixed[:, 1:] = (tokens[:, 1:].reshape(b, h, w, c) * 2).reshape(b, h * w, c)
    return torch.cat(
        [mixed[:, 1:].transpose(1, 2).reshape(b, c, h, w), x * mixed[:, :1].transpose(1, 2).unsqueeze(3)], 1
    )


def focus(x):
    return torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)


def space_to_depth(x):
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4).reshape(b, 4 * c, h // 2, w // 2)


EVEN = (2, 4, 16, 12)
CONVOLUTIONS = {
    "conv1x1": Case(conv(4, 6, 1)),
    "conv1x1 s2": Case(conv(4, 6, 1, stride=2)),
    "conv2x2 s2": Case(conv(4, 6, 2, stride=2), EVEN),
    "conv3x3": Case(conv(4, 6, 3, padding=1)),
    "conv3x3 s2": Case(conv(4, 6, 3, stride=2, padding=1)),
    "conv3x3 without padding": Case(conv(4, 6, 3)),
    "conv7x7 s2": Case(conv(4, 6, 7, stride=2, padding=3), (1, 4, 26, 22)),
    "conv3x3 dilated": Case(conv(4, 6, 3, padding=2, dilation=2)),
    "conv3x3 dilated far": Case(conv(4, 6, 3, padding=6, dilation=6)),  # the halo reaches over several bands
    "depthwise conv5x5": Case(conv(4, 4, 5, padding=2, groups=4)),
    "conv4x4 s4": Case(conv(4, 6, 4, stride=4), (2, 4, 19, 21)),
    "conv3x1": Case(conv(4, 6, (3, 1), padding=(1, 0))),
    "conv same": Case(conv(4, 6, 3, padding="same", bias=False)),
    "conv same, even kernel": Case(conv(4, 6, 4, padding="same")),
    "conv reflect": Case(conv(4, 6, 3, padding=1, padding_mode="reflect")),
    "conv circular": Case(conv(4, 6, 3, padding=1, padding_mode="circular")),
    "transposed 2x2 s2": Case(layer(lambda: nn.ConvTranspose2d(4, 6, 2, 2))),
    "transposed 4x4 s2 p1": Case(layer(lambda: nn.ConvTranspose2d(4, 6, 4, 2, 1))),
    "transposed 3x3 s2 p1 op1": Case(layer(lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1))),
    "transposed 2x2 s3": Case(layer(lambda: nn.ConvTranspose2d(4, 6, 2, 3))),
    "transposed 3x3 d2": Case(layer(lambda: nn.ConvTranspose2d(4, 6, 3, 1, 2, dilation=2))),
}  # fmt: skip
POOLS = {
    "maxpool 2/2": Case(nn.MaxPool2d(2)),
    "maxpool 3/2/1": Case(nn.MaxPool2d(3, 2, 1)),
    "maxpool 3/2 ceil": Case(nn.MaxPool2d(3, 2, ceil_mode=True)),
    "maxpool 3/1/2 dilated": Case(nn.MaxPool2d(3, 1, 1, dilation=2)),
    "avgpool 2/2": Case(nn.AvgPool2d(2)),
    "avgpool 3/2/1": Case(nn.AvgPool2d(3, 2, 1)),
    "avgpool 3/2/1 without padding's count": Case(nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    "avgpool 2/2 ceil": Case(nn.AvgPool2d(2, ceil_mode=True)),
    "avgpool 3/2/1 ceil": Case(nn.AvgPool2d(3, 2, 1, ceil_mode=True)),
    "avgpool divisor": Case(nn.AvgPool2d(3, 2, 1, divisor_override=5)),
    "lp pool": Case(lambda x: F.lp_pool2d(x.abs() + 1, 2, 3, 2)),
    "adaptive avg 1": Case(nn.AdaptiveAvgPool2d(1)),
    "adaptive avg 2": Case(nn.AdaptiveAvgPool2d(2)),
    "adaptive avg 3": Case(nn.AdaptiveAvgPool2d(3)),
    "adaptive avg 6": Case(nn.AdaptiveAvgPool2d(6)),
    "adaptive avg (5, None)": Case(nn.AdaptiveAvgPool2d((5, None))),
    "adaptive avg, larger than the input": Case(nn.AdaptiveAvgPool2d(17)),
    "adaptive max 1": Case(nn.AdaptiveMaxPool2d(1)),
    "adaptive max 3": Case(nn.AdaptiveMaxPool2d(3)),
}
SCALES = {
    "nearest x2": Case(resize(scale_factor=2)),
    "nearest x0.5": Case(resize(scale_factor=0.5)),
    "nearest to a size": Case(resize(size=(25, 23))),
    "nearest-exact to a size": Case(resize(size=(20, 31), mode="nearest-exact")),
    "bilinear x2": Case(resize(scale_factor=2, mode="bilinear", align_corners=False)),
    "bilinear x4": Case(resize(scale_factor=4, mode="bilinear", align_corners=False)),
    "bilinear x2 corners": Case(resize(scale_factor=2, mode="bilinear", align_corners=True)),
    "bilinear to a size": Case(resize(size=(29, 17), mode="bilinear")),
    "bilinear to a size, corners": Case(resize(size=(29, 17), mode="bilinear", align_corners=True)),
    "bilinear x1.7": Case(resize(scale_factor=1.7, mode="bilinear")),
    "bilinear x1.7 recomputed": Case(resize(scale_factor=1.7, mode="bilinear", recompute_scale_factor=True)),
    "bilinear smaller": Case(resize(size=(7, 5), mode="bilinear")),
    "bilinear smaller, antialias": Case(resize(size=(7, 5), mode="bilinear", antialias=True)),
    "bicubic x2": Case(resize(scale_factor=2, mode="bicubic")),
    "bicubic to a size": Case(resize(size=(19, 29), mode="bicubic")),
    "bicubic corners": Case(resize(size=(19, 29), mode="bicubic", align_corners=True)),
    "bicubic smaller, antialias": Case(resize(size=(7, 6), mode="bicubic", antialias=True)),
    "area": Case(resize(size=(6, 5), mode="area")),
    "pixel shuffle": Case(nn.PixelShuffle(2)),
    "pixel unshuffle": Case(nn.PixelUnshuffle(2), EVEN),
}
PADS = {
    "constant": Case(lambda x: F.pad(x, (1, 2, 3, 0), value=2.5)),
    "cropping": Case(lambda x: F.pad(x, (-1, 0, -2, 1))),
    "reflect": Case(lambda x: F.pad(x, (2, 3, 4, 1), mode="reflect")),
    "replicate": Case(lambda x: F.pad(x, (2, 3, 4, 1), mode="replicate")),
    "circular": Case(lambda x: F.pad(x, (2, 3, 4, 1), mode="circular")),
}
NORMS = {
    "batch norm": Case(layer(lambda: nn.BatchNorm2d(4))),
    "batch norm in evaluation": Case(layer(lambda: nn.BatchNorm2d(4).eval())),
    "batch norm without affine": Case(layer(lambda: nn.BatchNorm2d(4, affine=False))),
    "batch norm, cumulative": Case(layer(lambda: nn.BatchNorm2d(4, momentum=None))),
    "group norm": Case(layer(lambda: nn.GroupNorm(2, 4))),
    "group norm of one group": Case(layer(lambda: nn.GroupNorm(1, 4))),
    "instance norm": Case(layer(lambda: nn.InstanceNorm2d(4))),
    "instance norm, affine": Case(layer(lambda: nn.InstanceNorm2d(4, affine=True))),
    "layer norm of channels": Case(layer(lambda: _ChannelsLast(nn.LayerNorm(4)))),
    "layer norm of everything": Case(layer(lambda: nn.LayerNorm((4, 13, 11)))),
    "local response norm": Case(nn.LocalResponseNorm(3)),
}
MOMENTS = {
    "mean": Case(lambda x: x.mean((2, 3))),
    "mean of all": Case(lambda x: x.mean()),
    "sum of rows": Case(lambda x: x.sum(2, keepdim=True) * x),
    "amax": Case(lambda x: x.amax((2, 3))),
    "amin": Case(lambda x: x.amin((-1, -2), keepdim=True) + x),
    "max of channels": Case(lambda x: x.max(1).values),
    "std": Case(lambda x: x.std((2, 3))),
    "std of equal numbers": Case(lambda x: torch.cat([x, x * 0], 1).std((2, 3))),
    "std of channels that are equal": Case(lambda x: x[:, :1].expand(x.shape).std(1)),
    "var_mean": Case(lambda x: sum(torch.var_mean(x, (2, 3), correction=0))),
    "norm": Case(lambda x: x.norm(2, (2, 3))),
    "softmax over channels": Case(lambda x: x.softmax(1)),
    "softmax over positions": Case(lambda x: x.flatten(2).softmax(2) * x.flatten(2)),
    "squeeze and excitation": Case(squeeze_and_excite),
    "global response norm": Case(lambda x: x * (x.norm(2, (2, 3), True) / x.norm(2, (2, 3), True).mean(1, True))),
    "cross-entropy": Case(lambda x: F.cross_entropy(x, torch.arange(2 * 13 * 11).view(2, 13, 11) % 4)),
    "mse": Case(lambda x: F.mse_loss(x, torch.ones(2, 4, 13, 11, dtype=x.dtype))),
    "flatten and linear": Case(layer(lambda: nn.Sequential(nn.Flatten(), nn.Linear(4 * 13 * 11, 3)))),
}  # fmt: skip
LAYOUTS = {
    "permuted to channels last and back": Case(lambda x: (x.permute(0, 2, 3, 1) * 2).permute(0, 3, 1, 2)),
    "cat of channels": Case(lambda x: torch.cat([x, x * 2, x.flip(1)], 1)),
    "cat of rows": Case(lambda x: torch.cat([x, x[:, :, :5]], 2)),
    "cat of columns": Case(lambda x: torch.cat([x, x[..., :5]], 3)),
    "stack": Case(lambda x: torch.stack([x, x.exp()], 1).sum(1)),
    "chunk and split": Case(lambda x: x.chunk(2, 1)[0] * x.split([1, 2, 1], 1)[1].sum(1, keepdim=True)),
    "slices of rows": Case(lambda x: x[:, :, 2:-3]),
    "slices of columns": Case(lambda x: x[..., 1:9:2]),
    "one row": Case(lambda x: x[:, :, 3] * 2),
    "flip of rows": Case(lambda x: x.flip(2) + x.flip(3)),
    "roll": Case(lambda x: x.roll((-3, 2), (2, 3))),
    "focus": Case(focus, EVEN),
    "space to depth": Case(space_to_depth, EVEN),
    "windows": Case(windows, EVEN),
    "windows of odd count": Case(windows, (2, 4, 20, 12)),
    "attention": Case(functools.partial(tokens, attention=explicit)),
    "fused attention": Case(functools.partial(tokens, attention=fused)),
    "multi-head attention": Case(layer(lambda: _Heads(batch_first=True))),
    "multi-head attention of sequences first": Case(layer(lambda: _Heads(bias=False, kdim=4, vdim=4))),
    "multi-head attention with a mask": Case(layer(lambda: _Heads(masked=True))),
    "dynamic convolution": Case(dynamic_convolution),
    "position attention": Case(position_attention),
    "einsum over channels": Case(lambda x: torch.einsum("bchw,dc->bdhw", x, torch.ones(3, 4, dtype=x.dtype))),
    "einsum over positions": Case(lambda x: torch.einsum("bchw,bdhw->bcd", x, x * 2)),
    "shuffled rows": Case(lambda x: F.pixel_shuffle(torch.cat([x.transpose(1, 2)] * 4, 1), 2)),
    "shuffled rows, back": Case(lambda x: F.pixel_unshuffle(torch.cat([x.transpose(1, 2)] * 2, 3), 2)),
    "bands that differ": Case(lambda x: F.pixel_shuffle(x, 2)[:, :, :13, :11] + x[:, :1]),
    "unfold": Case(lambda x: F.unfold(x, 3, padding=1, stride=2)),
    "windows of rows": Case(lambda x: x.unfold(2, 4, 2)),
    "windows of rows and columns": Case(lambda x: x.unfold(2, 4, 2).unfold(-2, size=3, step=3)),
    "windows that leave gaps": Case(lambda x: x.unfold(dimension=2, size=2, step=3)),
    "whole times bands": Case(lambda x: x * torch.linspace(0, 1, 13 * 11, dtype=x.dtype).view(13, 11)),
    "expand": Case(lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 13, 11) + x),
    "in place": Case(lambda x: x.clone().mul_(2).add_(x).relu_()),
    "inplace argument": Case(lambda x: F.relu(x * 2, inplace=True)),
    "set channels": Case(lambda x: _set_channels(x)),
    "set rows": Case(lambda x: _set_rows(x)),
    "tokens with a class token": Case(class_token),
    "boolean mask": Case(lambda x: x.masked_fill(x > 0, 0.5) + torch.where(x < 0, x, x * 2)),
    "repeat": Case(lambda x: x.repeat(1, 2, 1, 1)),
    "reshape of heads": Case(lambda x: x.reshape(2, 2, 2, 13, 11).transpose(1, 2).reshape(2, 4, 13, 11)),
}  # fmt: skip
UNCHANGED = {
    name: Case(lambda x, function=function: F.conv2d(function(x) * 2 + function(x).mean(), x.new_ones(2, x.shape[1], 3, 3), padding=1))
    for name, function in {
        "view": lambda x: x.view(x.shape), "view_as": lambda x: x.view_as(x), "reshape": lambda x: x.reshape(x.shape),
        "reshape_as": lambda x: x.reshape_as(x), "flatten": lambda x: x.flatten(1, 1), "unflatten": lambda x: x.unflatten(1, (x.shape[1],)),
        "permute": lambda x: x.permute(0, 1, 2, 3), "transpose": lambda x: x.transpose(2, 2), "swapaxes": lambda x: x.swapaxes(1, 1),
        "movedim": lambda x: x.movedim(1, 1), "expand": lambda x: x.expand(x.shape), "expand -1": lambda x: x.expand(-1, -1, -1, -1),
        "expand_as": lambda x: x.expand_as(x), "broadcast_to": lambda x: torch.broadcast_to(x, x.shape),
        "broadcast_tensors": lambda x: torch.broadcast_tensors(x, x)[0], "squeeze": lambda x: x[..., :2, :2].squeeze(2), "narrow": lambda x: x.narrow(2, 0, x.shape[2]),
        "slice": lambda x: x[:], "ellipsis": lambda x: x[...], "slices": lambda x: x[:, :, 0:], "contiguous": lambda x: x.contiguous(),
        "to": lambda x: x.to(x.dtype), "double": lambda x: x.double(), "type_as": lambda x: x.type_as(x), "clone": lambda x: x.clone(),
        "chunk": lambda x: x.chunk(1, 2)[0], "split": lambda x: x.split(x.shape[2], 2)[0], "rot90": lambda x: x.rot90(0, (2, 3)),
        "flip": lambda x: x.flip(()), "roll": lambda x: x.roll(0, 2), "tile": lambda x: x.tile(1), "repeat": lambda x: x.repeat(1, 1, 1, 1),
        "pad": lambda x: F.pad(x, (0, 0, 0, 0)), "crop": lambda x: F.pad(x, (0, -1, 0, 0)), "pad by reflection": lambda x: F.pad(x, (0, 0, 0, 0), mode="reflect"), "interpolate": lambda x: F.interpolate(x, x.shape[2:]),
        "adaptive": lambda x: F.adaptive_avg_pool2d(x, tuple(x.shape[2:])), "max_pool": lambda x: F.max_pool2d(x, 1), "avg_pool": lambda x: F.avg_pool2d(x, 1),
        "dropout": lambda x: F.dropout(x, 0.5, training=False), "dropout2d": lambda x: F.dropout2d(x, 0.5, training=False), "positive": lambda x: +x,
        "real": lambda x: x.real, "conj": lambda x: x.conj(), "cat": lambda x: torch.cat([x], 1), "alias": lambda x: torch.ops.aten.alias(x),
        "tril": lambda x: x.tril(99), "pixel_shuffle": lambda x: F.pixel_shuffle(x, 1), "where": lambda x: torch.where(x == x, x, x),
        "clamp": lambda x: x.clamp(-1e9, 1e9), "nan_to_num": lambda x: x.nan_to_num(), "sum": lambda x: x.sum(()) if False else x.sum((), keepdim=True) * 0 + x,
        "resolve_conj": lambda x: x.resolve_conj(), "atleast_3d": lambda x: torch.atleast_3d(x), "relu": lambda x: F.relu(x.abs()), "identity": lambda x: nn.Identity()(x),
        "masked_fill": lambda x: x.masked_fill(x != x, 0), "index": lambda x: x[torch.arange(x.shape[0])], "gather": lambda x: x[:, list(range(x.shape[1]))],
    }.items()
}  # fmt: skip
"""What leaves a tensor as it is: the tensor itself, a view of it or a copy, and PyTorch decides which."""
DIMS = {
    "conv1d": Case(conv(4, 6, 5, stride=2, padding=2, dims=1), (2, 4, 37)),
    "pools 1d": Case(lambda x: F.max_pool1d(x, 3, 2, 1) + F.avg_pool1d(x, 3, 2, 1), (2, 4, 37)),
    "linear 1d": Case(resize(scale_factor=2, mode="linear"), (2, 4, 19)),
    "conv3d": Case(conv(2, 3, 3, stride=2, padding=1, dims=3), (1, 2, 13, 9, 8)),
    "pools 3d": Case(lambda x: F.max_pool3d(x, 2) + F.avg_pool3d(x, 2), (1, 2, 13, 9, 8)),
    "adaptive 3d": Case(nn.AdaptiveAvgPool3d((3, 2, 1)), (1, 2, 13, 9, 8)),
    "transposed 3d": Case(layer(lambda: nn.ConvTranspose3d(2, 3, 2, 2)), (1, 2, 7, 5, 6)),
    "trilinear": Case(resize(scale_factor=2, mode="trilinear"), (1, 2, 7, 5, 6)),
    "batch norm 3d": Case(layer(lambda: nn.BatchNorm3d(2)), (2, 2, 7, 5, 6)),
}
GROUPS = {
    "convolution": CONVOLUTIONS, "pool": POOLS, "scale": SCALES, "pad": PADS, "norm": NORMS, "moments": MOMENTS,
    "layout": LAYOUTS, "unchanged": UNCHANGED,
}  # fmt: skip


class _ChannelsLast(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Heads(nn.Module):
    """Attention of each position to all others; PyTorch's first dim is the sequence unless it is told otherwise."""

    def __init__(self, masked=False, **named):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, **named)
        self.masked = masked

    def forward(self, x):
        b, c, h, w = x.shape
        tokens = x.flatten(2).permute((0, 2, 1) if self.attention.batch_first else (2, 0, 1))
        mask = torch.ones(h * w, h * w, dtype=torch.bool).triu(3) if self.masked else None
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False, attn_mask=mask)
        if not self.attention.batch_first:
            mixed = mixed.transpose(0, 1)
        return mixed.transpose(1, 2).reshape(b, c, h, w)


def _set_channels(x):
    y = x.clone()
    y[:, 1:3] = x[:, :2] * 3
    return y


def _set_rows(x):
    y = x.clone()
    y[:, :, 2:9] = x[:, :, 4:11] * 3
    y[..., :5] = 0.0
    return y

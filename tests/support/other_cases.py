"""What real networks call besides, in bands, as cases: along cut dims, spectra, repeats, embeddings, sequences, losses."""

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own habit

from support.operation_cases import layer
from support.whole_and_bands import Case


def tokens_of(x):
    return x.flatten(2).transpose(1, 2)


def classes_of(x, count=9):
    return (x.detach() * 3).long().abs().clamp(max=count - 1)


def both(function):
    """Along rows, and along columns."""
    return Case(lambda x: function(x, 2) * 0.7 + function(x, -1))


ALONG = {
    "cumsum": both(lambda x, d: x.cumsum(d)),
    "cumprod": both(lambda x, d: x.cumprod(d)),
    "cumsum in place": Case(lambda x: (x * 2).cumsum_(2) * x),
    "logcumsumexp": both(torch.logcumsumexp),
    "cummax": both(lambda x, d: x.cummax(d).values + torch.cummin(x, d)[0]),
    "sort": both(lambda x, d: x.sort(d, descending=True).values),
    "stable sort": both(lambda x, d: torch.sort(x, dim=d, stable=True)[0]),
    "argsort": Case(lambda x: x.argsort(2) * x),
    "msort": Case(lambda x: torch.msort(x.permute(2, 0, 1, 3))),
    "topk": Case(lambda x: x.topk(3, 2)[0] * x.topk(3, 2)[1] * 0.1),
    "kthvalue": both(lambda x, d: x.kthvalue(4, d, keepdim=True)[0] * x),
    "median": both(lambda x, d: x.median(d, keepdim=True)[0] * x),
    "median of all": Case(lambda x: x.median() * x),
    "nanmedian": both(lambda x, d: x.nanmedian(d)[0].sum()),
    "mode": both(lambda x, d: x.mode(d)[0].sum()),
    "quantile": both(lambda x, d: torch.quantile(x, 0.3, d, keepdim=True) * x),
    "quantiles": Case(lambda x: torch.quantile(x, torch.tensor([0.2, 0.7], dtype=x.dtype), 2)),
    "quantile of all": Case(lambda x: x.quantile(0.25) * x),
    "prod": both(lambda x, d: x.prod(d, keepdim=True) * x),
    "max with indices": both(lambda x, d: x.max(d).values.sum() + x.min(d).indices.sum()),
    "max of all": Case(lambda x: x.max() * x + torch.min(x)),
    "argmax": both(lambda x, d: x.argmax(d, keepdim=True) * x),
    "argmax of all": Case(lambda x: x.argmax() * x),
    "glu": Case(lambda x: F.glu(x[..., :10], -1) + F.glu(x[:, :, :10, :5], 2).sum()),
    "diff": both(lambda x, d: torch.diff(x, dim=d).sum() * x),
    "diff with a row before": Case(lambda x: torch.diff(x, 2, dim=2, prepend=x[:, :, :1], append=x[:, :, -2:])),
    "gradient": Case(lambda x: sum(torch.gradient(x, dim=(2, 3)))),
    "renorm": Case(lambda x: x.renorm(2, 1, 5.0) * x),
    "unique": Case(lambda x: classes_of(x).unique().sum() * x),
    "bincount": Case(lambda x: classes_of(x).flatten().bincount(minlength=9) * x.mean()),
    "histogram": Case(lambda x: torch.histc(x.detach(), 8) * x.mean()),
    "softmin": both(lambda x, d: F.softmin(x, dim=d)),
    "logsumexp": both(lambda x, d: x.logsumexp(d, keepdim=True) * x),
    "normalize": Case(lambda x: F.normalize(x) + F.normalize(x, p=1.0, dim=2) + F.normalize(x, dim=(2, 3))),
    "normalize nothing": Case(lambda x: F.normalize(x * 0, dim=2) + x),
    "norms": Case(lambda x: x.norm(float("inf"), 2).sum() + x.norm(-float("inf"), 3).sum() + x.norm(0, 2).sum() + x.norm(3, (2, 3)).sum() + x),
    "matrix norm": Case(lambda x: torch.linalg.norm(x, dim=(2, 3)).sum() + torch.linalg.matrix_norm(x).sum() + x),
    "cosine similarity": Case(lambda x: F.cosine_similarity(x, x * x) + F.cosine_similarity(x, x + 1, dim=2).sum()),
    "cosine similarity of all pairs": Case(lambda x: F.cosine_similarity(tokens_of(x)[:, :, None], tokens_of(x)[:, None, :9], dim=-1)),
    "pairwise distance": Case(lambda x: F.pairwise_distance(x, x * x) + torch.dist(x, x * 2)),
    "aminmax": Case(lambda x: torch.aminmax(x).min * x + x.aminmax(dim=2, keepdim=True).max),
    "nansum": Case(lambda x: x.where(x > 0, torch.nan).nansum(2).sum() + x.where(x > 0, torch.nan).nanmean((2, 3), keepdim=True) * x),
    "rms norm over rows and columns": Case(layer(lambda: nn.RMSNorm((13, 11)))),
    "rms norm over channels": Case(lambda x: F.rms_norm(x.permute(0, 2, 3, 1), (4,))),
    "tril and triu": Case(lambda x: x.tril() + x.triu(2) + x.transpose(2, 3).tril(-1).transpose(2, 3)),
    "triu in place": Case(lambda x: (x * 2).triu_(1) * x),
    "diagonals": Case(lambda x: x.diagonal(dim1=2, dim2=3) * x.diagonal(1, 2, 3)[..., :1] + torch.diag_embed(x).sum()),
    "trace": Case(lambda x: torch.trace(x[0, 0]) * x + torch.diag(x[0, 0, 0]).sum() + torch.diag(x[0, 0]).sum()),
}  # fmt: skip


class Fourier(nn.Module):
    """A spectral transform with weights for each frequency (FFC, GFNet)."""

    def __init__(self, rows=13, columns=11, norm="ortho"):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, rows, columns // 2 + 1, 2))
        self.mix, self.norm = nn.Conv2d(8, 8, 1), norm

    def forward(self, x):
        spectrum = torch.fft.rfft2(x, norm=self.norm) * torch.view_as_complex(self.weight)
        parts = torch.stack([spectrum.real, spectrum.imag], -1).permute(0, 1, 4, 2, 3).flatten(1, 2)
        parts = self.mix(parts).unflatten(1, (4, 2)).permute(0, 1, 3, 4, 2).contiguous()
        return torch.fft.irfft2(torch.view_as_complex(parts), s=x.shape[2:], norm=self.norm)


SPECTRA = {
    "spectral transform": Case(layer(Fourier)),
    "fft2": Case(lambda x: torch.fft.fft2(x).abs()),
    "fft2, normed forward": Case(lambda x: torch.fft.fft2(x, norm="forward").real + x),
    "fft2 and back": Case(lambda x: torch.fft.ifft2(torch.fft.fft2(x) * torch.fft.fft2(x.flip(2))).real),
    "fft of columns": Case(lambda x: torch.fft.fft(x).imag),
    "fft of rows": Case(lambda x: torch.fft.rfft(x, dim=2).abs()),
    "fft of channels": Case(lambda x: torch.fft.fft(x, dim=1).abs()),
    "fft padded": Case(lambda x: torch.fft.rfft2(x, s=(16, 20)).abs()),
    "fftn": Case(lambda x: torch.fft.fftn(x, dim=(1, 2, 3)).angle() + torch.fft.ifftn(x).abs()),
    "rfftn and back": Case(lambda x: torch.fft.irfftn(torch.fft.rfftn(x, dim=(2, 3)), s=(13, 11), dim=(2, 3)) * x),
    "hfft": Case(lambda x: torch.fft.hfft(torch.fft.ihfft(x, dim=2), n=13, dim=2)),
    "shift": Case(lambda x: torch.fft.fftshift(x, (2, 3)) + torch.fft.ifftshift(x, dim=2) * 2),
    "low frequencies": Case(lambda x: _low(x)),
    "polar": Case(lambda x: torch.fft.ifft2(torch.polar(x.abs(), x.sin())).real),
    "complex arithmetic": Case(lambda x: (torch.complex(x, x * 2).conj() * (1j * x)).mean((2, 3)).abs()),
    "stft": Case(lambda x: torch.stft(x[0].flatten(1), 16, return_complex=True, window=torch.ones(16, dtype=x.dtype)).abs()),
}  # fmt: skip
ARRANGED = {
    "repeat of rows": Case(lambda x: x.repeat(1, 1, 2, 1)),
    "repeat of rows and columns, with a new dim": Case(lambda x: x.repeat(2, 1, 1, 3, 2)),
    "tile": Case(lambda x: x.tile(2, 3) + x.tile((1, 1, 2, 1)).repeat(1, 1, 1, 3)),
    "repeat_interleave of rows": Case(lambda x: x.repeat_interleave(3, 2) * 2 + x.repeat_interleave(3, dim=2)),
    "repeat_interleave, then a window": Case(lambda x: F.avg_pool2d(x.repeat_interleave(2, 2).repeat_interleave(2, 3), 3, 2, 1)),
    "repeat_interleave by numbers": Case(lambda x: x.repeat_interleave(torch.arange(13) % 3, dim=2)),
    "repeat_interleave of all": Case(lambda x: x.repeat_interleave(2)),
    "stacks": Case(lambda x: torch.hstack([x, x * 2]).sum(1) + torch.vstack([x, x])[:2].sum(1) + torch.dstack([x, x])[:, :, ::2].sum(1)),
    "splits": Case(lambda x: torch.dsplit(x, [4, 9])[1] * torch.hsplit(x, 2)[0].sum()),
    "meshgrid": Case(lambda x: sum(torch.meshgrid(x.mean((0, 1, 3)), x.mean((0, 1, 2)), indexing="ij"))),
    "meshgrid, columns first": Case(lambda x: sum(torch.meshgrid(x.mean((0, 1, 2)), x.mean((0, 1, 3)), indexing="xy")) * x),
    "rot90": Case(lambda x: torch.rot90(x, 1, (2, 3)).transpose(2, 3) + torch.rot90(x, 2, (2, 3)) + torch.rot90(x, -1, [2, 3]).transpose(2, 3)),
    "ravel and broadcast": Case(lambda x: sum(torch.broadcast_tensors(x, x.mean((2, 3), keepdim=True))) * x.ravel().sum()),
    "one hot": Case(lambda x: F.one_hot(classes_of(x[:, 0]), 9).permute(0, 3, 1, 2) * x[:, :1]),
    "one hot of as many as there are": Case(lambda x: F.one_hot(classes_of(x[:, 0])) * x[:, 0, :, :, None]),
    "embedding": Case(layer(lambda: _Embedded())),
    "embedding with padding": Case(layer(lambda: _Embedded(padding_idx=0))),
    "gumbel softmax": Case(lambda x: F.gumbel_softmax(x, dim=1) + F.gumbel_softmax(x, tau=0.5, hard=True, dim=1) * x),
    "gumbel softmax over rows": Case(lambda x: F.gumbel_softmax(x, dim=2, hard=True) * x),
    "bucketize": Case(lambda x: torch.bucketize(x, torch.linspace(-2, 2, 5, dtype=x.dtype)) * x),
    "searchsorted": Case(lambda x: torch.searchsorted(torch.linspace(-2, 2, 5, dtype=x.dtype), x) * x),
    "isin": Case(lambda x: torch.isin(classes_of(x), torch.tensor([1, 3])) * x),
    "special functions": Case(lambda x: torch.special.expit(x) + torch.erfinv(x.tanh() * 0.9) + x.asinh() + torch.logaddexp(x, x * 2) + torch.lgamma(x.abs() + 1)),
    "pooling of drawn windows": Case(lambda x: F.fractional_max_pool2d(x, 2, output_size=(7, 5))),
}  # fmt: skip


class Rows(nn.Module):
    """Recurrent layers along columns, then along rows (a separable one for pictures)."""

    def __init__(self, kind=nn.LSTM, **named):
        super().__init__()
        self.along_columns = kind(4, 3, batch_first=True, bidirectional=True, **named)
        self.along_rows = kind(6, 3, **named)

    def forward(self, x):
        b, _, h, w = x.shape
        columns, state = self.along_columns(x.permute(0, 2, 3, 1).reshape(b * h, w, 4))
        columns = columns.view(b, h, w, 6)
        last = state[0] if isinstance(state, tuple) else state
        rows, _ = self.along_rows(columns.permute(1, 0, 2, 3).reshape(h, b * w, 6))
        return rows.view(h, b, w, 3).permute(1, 3, 0, 2) + last.mean()


class Cells(nn.Module):
    def __init__(self):
        super().__init__()
        self.long, self.gated, self.plain = nn.LSTMCell(4, 5), nn.GRUCell(4, 5), nn.RNNCell(4, 5)

    def forward(self, x):
        flat = x.permute(0, 2, 3, 1).reshape(-1, 4)
        hidden, cell = self.long(flat)
        hidden, cell = self.long(flat * 2, (hidden, cell))
        return self.gated(flat, hidden) + self.plain(flat) + cell


SEQUENCES = {
    "lstm": Case(layer(Rows)),
    "gru": Case(layer(lambda: Rows(nn.GRU))),
    "padded to the longest": Case(
        lambda x: torch.nn.utils.rnn.pad_sequence(
            [x[0, 0], x[0, 1, :5], x[1, 0, 3:]], batch_first=True, padding_value=0.5
        )
    ),
    "padded to the longest, columns": Case(
        lambda x: torch.nn.utils.rnn.pad_sequence([x[0, 0, 0], x[1, 2, 7, 2:], x.mean((0, 1, 3))])
    ),
    "padded to the longest, one whole": Case(
        lambda x: torch.nn.utils.rnn.pad_sequence([x.mean((0, 2, 3)), x[0, 1, :, 2]], batch_first=True)
    ),
    "rnn": Case(layer(lambda: Rows(nn.RNN, nonlinearity="relu", bias=False))),
    "lstm of two layers with dropout": Case(layer(lambda: Rows(num_layers=2, dropout=0.3))),
    "lstm over tokens, with a state": Case(layer(lambda: _Read())),
    "lstm of one sequence": Case(layer(lambda: _ReadOne())),
    "cells": Case(layer(Cells)),
}
LOSSES = {
    "kl_div, batchmean": Case(lambda x: F.kl_div(x.log_softmax(1), x.detach().flip(1).softmax(1), reduction="batchmean")),
    "kl_div of logarithms": Case(lambda x: F.kl_div(x.log_softmax(1), x.flip(1).log_softmax(1), log_target=True, reduction="sum")),
    "cross-entropy of a plain tensor": Case(
        lambda x: F.cross_entropy(torch.ones(2, 4, 13, 11, dtype=x.dtype), x.detach().argmax(1)) * x.mean()
    ),
    "cross-entropy over rows": Case(lambda x: F.cross_entropy(x.transpose(1, 2), torch.arange(2 * 4 * 11).view(2, 4, 11) % 13)),
    "cosine embedding": Case(lambda x: F.cosine_embedding_loss(x.flatten(1), x.flatten(1) ** 2, torch.ones(2))),
    "triplets": Case(lambda x: F.triplet_margin_loss(x.flatten(1), x.flatten(1) ** 2, x.flatten(1).sin())),
    "gaussian": Case(lambda x: F.gaussian_nll_loss(x, x * 2, x.exp())),
}  # fmt: skip
GROUPS = {"along": ALONG, "spectra": SPECTRA, "arranged": ARRANGED, "sequences": SEQUENCES, "losses": LOSSES}


def _low(x):
    """Keep low frequencies only, as frequency-separating blocks do."""
    spectrum = torch.fft.fftshift(torch.fft.fft2(x), dim=(-2, -1))
    mask = torch.zeros(x.shape, device=x.device)
    mask[:, :, 4:9, 3:8] = 1
    return torch.fft.ifft2(torch.fft.ifftshift(spectrum * mask, dim=(-2, -1))).abs()


class _Embedded(nn.Module):
    def __init__(self, **named):
        super().__init__()
        self.table = nn.Embedding(9, 5, **named)

    def forward(self, x):
        return self.table(classes_of(x[:, 0])) * x.mean()


class _Read(nn.Module):
    def __init__(self):
        super().__init__()
        self.read, self.start = nn.LSTM(4, 3, batch_first=True), nn.Parameter(torch.randn(1, 2, 3))

    def forward(self, x):
        read, (hidden, cell) = self.read(tokens_of(x), (self.start, x.mean((2, 3))[None, :, :3].contiguous()))
        return read * (hidden + cell)[0, :, None]


class _ReadOne(nn.Module):
    def __init__(self):
        super().__init__()
        self.read = nn.GRU(4, 3)

    def forward(self, x):
        return self.read(tokens_of(x)[0])[0]

"""Operations that are rare, and found in real networks: indices, sampling, masks, transforms, products of other forms."""

from __future__ import annotations

from fuzz.scope import Template

T = Template

KINDS = (
    T("gather along rows", "{map}.gather({2|3|1}, {like}.argsort({2|3|1}))", "map", "", 0.2),
    T("index of rows", "{map}.index_select({2|3}, torch.tensor([0, 2, 1, 0]))", "map", "", 0.2),
    T("index of channels", "{map}.index_select(1, torch.tensor([1, 0]))", "map", "", 0.2),
    T("advanced index", "{map}[:, :, torch.arange({H}).flip(0)]", "map", "", 0.2),
    T("grid sample", 'F.grid_sample({map}, F.affine_grid(torch.tensor([[[0.9, 0.1, 0.0], [-0.1, 0.8, 0.2]]], dtype={map}.dtype).repeat({B}, 1, 1), list({map}.shape), align_corners=False), align_corners=False)', "map", "", 0.2),
    T("pool and unpool", "pooled, places = F.max_pool2d({map}, 2, return_indices=True)\nF.max_unpool2d(pooled, places, 2, output_size={map}.shape[2:])", "map", "", 0.2),
    T("fold", "F.fold(F.unfold({map}, 3, padding=1), {map}.shape[2:], 3, padding=1) / 9", "map", "", 0.2),
    T("fft", "torch.fft.fft2({map}, norm=\"ortho\").real", "map", "", 0.15),
    T("attention with weights", "self.{new}({tokens}, {tokens}, {tokens})[0]", "tokens", "self.{new} = nn.MultiheadAttention({C}, 1, batch_first=True)", 0.15),
    T("einsum with an ellipsis", 'torch.einsum("b...h,b...h->b...", {map}, {like})', "rows", "", 0.2),
    T("tensordot", "torch.tensordot({map}, self.{new}, dims=([1], [0])).permute(0, 3, 1, 2)", "map", "self.{new} = nn.Parameter(torch.linspace(-0.5, 0.5, {C} * 3).view({C}, 3))", 0.2),
    T("aminmax", "low, high = torch.aminmax({map})\n({map} - low) / (1 + high - low)", "map", "", 0.2),
    T("tiled", "{map}.{repeat(1, 1, 2, 1)|tile(1, 1, 1, 2)|repeat(1, 2, 1, 1)}", "map", "", 0.2),
    T("unbind of rows", "torch.stack({map}.unbind(2)[::-1], 2)", "map", "", 0.2),
    # (half of it: of a map with itself the divergence is 0, and what is computed is rounding alone)
    T("kl divergence", 'F.kl_div({map}.log_softmax(1), ({like} * 0.5).softmax(1), reduction="batchmean")', "scalar", "", 0.2),
    T("gumbel softmax", "F.gumbel_softmax({map}, tau=1.0, hard=False, dim=1)", "map", "", 0.2),
    T("one hot", "{map} * F.one_hot({map}.argmax(1), {C}).permute(0, 3, 1, 2)", "map", "", 0.2),
    T("embedding", "self.{new}({map}.argmax(1)).permute(0, 3, 1, 2) + {map}", "map", "self.{new} = nn.Embedding({C}, {C})", 0.2),
    T("masked mean", "{map}[{map} > 0].mean()", "scalar", "", 0.15, None, "{map}.mean()"),
    T("sorted", "{map}.sort({2|3|1})[0]", "map", "", 0.15),
    T("argmax of positions", "{map} * ({map}.flatten(2).argmax(2)[:, :, None, None] % 3)", "map", "", 0.15),
    T("scatter of channels", "torch.zeros_like({map}).scatter_(1, {map}.argmax(1, keepdim=True), 1.0) * {map}", "map", "", 0.15),
    T("trapezoid", "{map}.{diff(dim=2)|diff(dim=3)}", "map", "", 0.15),
    T("cross entropy inside", "F.cross_entropy({map}, {like}.detach().argmax(1))", "scalar", "", 0.2),
)  # fmt: skip

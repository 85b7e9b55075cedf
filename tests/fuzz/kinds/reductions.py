"""Reductions to scalars, vectors and rows, which are used later; softmax along every dim."""

from __future__ import annotations

from fuzz.scope import Template

T = Template

KINDS = (
    T("mean of all", "{any}.{mean()|sum() / 100|std()|norm() / 10|square().mean()|amax()|max()|logsumexp((0, 1))[0].mean()}", "scalar", "", 1.5),
    T("mean over positions", "{map}.{mean((2, 3))|mean([-2, -1])|amax((2, 3))|flatten(2).mean(2)|std((2, 3))|sum((2, 3)) / 100|mean(3).mean(2)}", "vector", "", 1.5),
    T("mean over tokens", "{tokens}.{mean(1)|amax(1)|sum(1) / 50|max(1)[0]}", "vector", "", 0.8),
    T("mean over rows", "{map}.{mean|amax|sum}({2|3})", "rows", "", 0.8),
    T("mean over channels", "{map}.{mean|amax|sum}(1, keepdim=True)", "map", "", 0.8),
    T("mean over rows, kept", "{map}.{mean|sum|std}({2|3}, keepdim=True)", "map", "", 0.7),
    T("mean over images", "{map}.mean(0, keepdim=True) + {like}", "map", "", 0.5),
    T("centred", "{map} - {map}.mean({(2, 3)|1|2|3|(1, 2, 3)|(0, 2, 3)}, keepdim=True)", "map", "", 1),
    T("normed", "{map} / (1 + {map}.{std|var|norm}(dim={(2, 3)|1|2|3}, keepdim=True))", "map", "", 0.7),
    T("normalize", "F.normalize({map}, dim={1|2|3}, eps=0.1)", "map", "", 0.5),
    T("times a scalar", "{any} * {scalar}", "same", "", 1.5),
    T("over a scalar", "{any} / (1 + {scalar}.abs())", "same", "", 0.7),
    T("plus a scalar", "{any} + {scalar}", "same", "", 0.7),
    T("scalars", "torch.stack([{scalar}, {scalar2}]).{sum()|mean()|softmax(0)[0]}", "scalar", "", 0.4),
    T("a number of a scalar", "{any} * float({scalar}.detach())", "same", "", 0.3, None, "{any} * 0.5"),
    T("softmax", "{map}.{softmax|log_softmax}({1|2|3|-1|-2})", "map", "", 0.9),
    T("softmax of tokens", "{tokens}.softmax({1|-1})", "tokens", "", 0.7),
    T("softmax of positions", "{map}.flatten(2).softmax(-1).view_as({map}) * {like}", "map", "", 0.6),
    T("softmax of rows", "{rows}.softmax(-1)", "rows", "", 0.4),
    T("soft argmax", "({map}.flatten(2).softmax(2) * torch.linspace(0, 1, {H} * {W})).sum(2)", "vector", "", 0.5),
    T("running sum", "{map}.cumsum({2|3|1}) / 10", "map", "", 0.4),
    T("gated by its mean", "{map} * ({map} > {map}.mean()).to({map}.dtype)", "map", "", 0.4),
    T("loss inside", "F.{mse_loss|l1_loss|smooth_l1_loss}({any}, {like} * {factor})", "scalar", "", 0.4),
    T("largest of rows", "{map}.topk({1|2}, {1|2|3})[0]", "map", "", 0.3),
    T("cosine", "F.cosine_similarity({map}, {like} + 1, dim=1).unsqueeze(1)", "map", "", 0.3),
)  # fmt: skip

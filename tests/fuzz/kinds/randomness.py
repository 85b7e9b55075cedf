"""Random draws: in the memory order of what they are like, from every generator that a network uses."""

from __future__ import annotations

from fuzz.scope import Template

T = Template

KINDS = (
    T("dropout of maps", "F.dropout({map}, {0.3|0.5})", "map", "", 1.2),
    T("dropout layer", "self.{new}({any})", "same", "self.{new} = nn.Dropout({0.2|0.5})", 0.8),
    T("dropout of tokens", "F.dropout({tokens}, {0.3|0.5})", "tokens", "", 1.2),
    T("dropout of fresh tokens", "F.dropout({map}.flatten(2).transpose(1, 2), 0.3)", "tokens", "", 0.8),
    T("dropout of channels last", "F.dropout({last}, {0.3|0.5})", "last", "", 0.8),
    T("dropout of channels last memory", "F.dropout({map}.contiguous(memory_format=torch.channels_last), 0.4)", "map", "", 0.7),
    T("dropout of a transpose", "F.dropout({map}.transpose(2, 3), 0.4)", "map", "", 0.5),
    T("dropout in place", "F.dropout({write map}, 0.3, inplace=True)", "", "", 0.7),
    T("dropout of a slice in place", "F.dropout({write map}[:, :, {cut H}], 0.3, inplace=True)", "", "", 0.5),
    T("feature dropout", "F.dropout2d({map}, {0.3|0.5})", "map", "", 0.7),
    T("alpha dropout", "F.alpha_dropout({map}, 0.3, training=True)", "map", "", 0.2),
    T("noise", "{any} + torch.{randn_like|rand_like}({like}) * {small}", "same", "", 1.2),
    T("noise of channels last memory", "{map} + torch.randn_like({map}.contiguous(memory_format=torch.channels_last))", "map", "", 0.6),
    T("noise of a permuted map", "{map} + torch.randn_like({map}.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)", "map", "", 0.5),
    T("bernoulli", "{map} * torch.bernoulli({like}.detach().sigmoid())", "map", "", 0.7),
    T("bernoulli in place", "{any} * torch.empty_like({like}).bernoulli_(0.7)", "same", "", 0.7),
    T("bernoulli of new", "{map} * {map}.new_empty({map}.shape).bernoulli_(0.7)", "map", "", 0.5),
    T("uniform in place", "{any} * torch.empty_like({like}).uniform_(0.5, 1.5)", "same", "", 0.7),
    T("normal in place", "{any} + torch.empty_like({like}).normal_(0, 0.5)", "same", "", 0.7),
    T("torch.normal", "{map} * torch.normal({like}.detach() * 0.1 + 1, {0.1|0.5})", "map", "", 0.6),
    T("torch.normal of two", "{map} + torch.normal({map}.detach(), {like}.detach().abs())", "map", "", 0.3),
    T("torch.normal of a number", "{map} + torch.normal(0.5, {like}.detach().abs())", "map", "", 0.3),
    T("plain noise", "{map} + torch.randn({B}, {C}, {1, 1|{H}, {W}|1, {W}|{H}, 1}, dtype={map}.dtype)", "map", "", 0.7),
    T("drop path", "{map} + {like} * {map}.new_empty({B}, 1, 1, 1).bernoulli_(0.7) / 0.7", "map", "", 0.8),
    T("plain drop path", "{map} * torch.floor(0.7 + torch.rand({B}, 1, 1, 1, dtype={map}.dtype))", "map", "", 0.4),
    T("a number from numpy", "{any} * (float(np.random.rand()) + 0.5)", "same", "", 0.6),
    T("a choice from numpy", "{map} * (2.0 if np.random.uniform() < 0.5 else 0.5)", "map", "", 0.3),
    T("a number from random", "{any} * random.uniform(0.5, 1.5)", "same", "", 0.6),
    T("an array from numpy", "{map} * torch.as_tensor(np.random.rand({C})).view(1, -1, 1, 1)", "map", "", 0.3, None,
      "{map} * torch.ones(1, {C}, 1, 1)"),
    T("a drawn number", "{any} * (torch.rand(()) + 0.5)", "same", "", 0.5),
    T("shuffled channels", "{map}[:, torch.randperm({C})]", "map", "", 0.4),
    T("a drawn shift", "torch.roll({map}, random.randint(0, 3), {2|3})", "map", "", 0.3),
    T("gumbel noise", "({any} - torch.log(-torch.log(torch.rand_like({like}) * 0.8 + 0.1))).softmax(1)", "same", "", 0.3),
)  # fmt: skip

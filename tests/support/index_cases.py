"""Elements chosen, set, gathered and scattered in bands, as cases: by index tensors, masks, numbers and slices at once."""

import functools

import torch

from support.whole_and_bands import Case

ROWS, COLUMNS = torch.tensor([12, 0, 5, 5]), torch.tensor([3, 10, -1, 0])


def at(*index):
    return Case(lambda x: x[index[0] if len(index) == 1 else index] * 2)


def put(value, *index):
    """Set values, and use what was set with its neighbours in backward."""

    def set_items(x):
        y = x * 1.5
        y[index[0] if len(index) == 1 else index] = value(x) if callable(value) else value
        return y * y

    return Case(set_items)


def places(x, d, count=6):
    """Positions that depend on the image, of the size of all other dims."""
    return x.detach().argsort(d).narrow(d, 1, count)


def chosen_by(mask):
    return Case(lambda x: x[mask(x)] * x.mean())


def set_by(mask, value):
    def set_items(x):
        y = x * 1.5
        y[mask(x)] = value(x) if callable(value) else value
        return y * x

    return Case(set_items)


def into(method, d, source=None, **named):
    """Scatter by an index that depends on the image."""

    def scatter(x):
        index = places(x, d)
        values = [x.narrow(d, 2, 6) * 3] if source is None else [source]
        return getattr(x, method)(d, index, *values, **named) * x

    return Case(scatter)


def into_rows(method, d, index, **named):
    index = torch.tensor(index)
    return Case(lambda x: getattr(x, method)(d, index, x.narrow(d, 1, len(index)) * 3, **named) * x)


def plain_filled(make, fill):
    """A plain tensor that takes what has come from the image."""

    def filled(x):
        out = make(x)
        fill(out, x)
        return out * out * x.mean()

    return Case(filled)


def _zeros(*shape):
    return lambda x: torch.zeros(shape, dtype=x.dtype)


def _put(index, value):
    def fill(out, x):
        out[index] = value(x)

    return fill


ALL = slice(None)
CHOSEN = {
    "rows by a tensor": at(ALL, ALL, ROWS),
    "rows by a list": at(ALL, ALL, [12, 0, 5]),
    "rows by a long tensor": at(ALL, ALL, torch.arange(40) % 13),
    "columns by a tensor": at(..., COLUMNS),
    "rows and columns": at(ALL, ALL, ROWS, COLUMNS),
    "a grid": at(ALL, ALL, ROWS[:, None], COLUMNS),
    "a number before": at(0, ALL, ROWS),
    "a number between": at(ALL, ROWS % 4, 3, COLUMNS),
    "tensors apart": at(ROWS % 2, ALL, ROWS),
    "tensors apart, new dims": at(ROWS % 2, None, ALL, ROWS, None),
    "a slice of rows and a tensor": at(ALL, ALL, slice(2, 11, 3), COLUMNS),
    "True": at(True, ...),
    "nothing": at(ALL, ALL, torch.zeros(0, dtype=torch.long)),
    "a number of a tensor": at(ALL, ALL, torch.tensor(7)),
    "a plain mask of rows": at(ALL, ALL, torch.arange(13) % 3 == 0),
    "a plain mask of maps": at(ALL, ALL, (torch.arange(13)[:, None] + torch.arange(11)) % 3 == 0),
    "mask of everything": chosen_by(lambda x: x > 0.5),
    "mask of positions": Case(lambda x: x.permute(0, 2, 3, 1)[x.mean(1) > 0.1]),
    "mask of no position": Case(lambda x: x.permute(0, 2, 3, 1)[x.mean(1) > 100]),
    "mask and a number": Case(lambda x: x.permute(2, 0, 1, 3)[x.detach().mean((0, 1, 3)) > 0, 1]),
    "index of the image's own": Case(lambda x: x.flatten(2)[:, :, x.detach().mean((0, 1)).flatten().topk(7)[1]]),
    "batch and index": Case(
        lambda x: x.flatten(2).transpose(1, 2)[torch.arange(2)[:, None], x.detach().mean(1).flatten(1).topk(5)[1]]
    ),
    "weights by a map": Case(
        lambda x: torch.linspace(0, 1, 9, dtype=x.dtype)[(x.detach() * 3).long().abs().clamp(max=8)] * x
    ),
    "weights by maps": Case(
        lambda x: torch.eye(9, dtype=x.dtype)[(x.detach() * 3).long().abs().clamp(max=8), 2] * x
    ),
    "index_select of rows": Case(lambda x: x.index_select(2, ROWS)),
    "index_select of columns": Case(lambda x: x.index_select(-1, torch.arange(30) % 11)),
    "take": Case(lambda x: torch.take(x, torch.tensor([[0, 1000], [57, 3]]))),
    "masked_select": Case(lambda x: x.masked_select(x.mean(1, keepdim=True) > 0)),
    "gather rows": Case(lambda x: x.gather(2, places(x, 2))),
    "gather columns": Case(lambda x: x.gather(3, places(x, 3))),
    "gather more rows": Case(lambda x: x.gather(2, torch.cat([places(x, 2, 12)] * 2, 2))),
    "gather rows of some columns": Case(lambda x: x.gather(2, places(x, 2)[:1, :, :, 2:9])),
    "gather by a plain index": Case(lambda x: x.gather(2, (torch.arange(2 * 4 * 3 * 11) % 13).view(2, 4, 3, 11))),
    "gather channels": Case(lambda x: x.gather(1, x.detach().argmax(1, keepdim=True))),
    "gather tokens": Case(
        lambda x: x.flatten(2).transpose(1, 2).gather(1, x.detach().mean(1).flatten(1).topk(9)[1][..., None].expand(-1, -1, 4))
    ),
    "take_along_dim": Case(lambda x: torch.take_along_dim(x, x.detach()[:, :1].argsort(2), 2)),
    "take_along_dim of all": Case(lambda x: torch.take_along_dim(x, x.detach().flatten().argsort()[:50])),
    "nonzero": Case(lambda x: (x.mean(1) > 0.2).nonzero().double() * x.mean()),
    "nonzero as a tuple": Case(lambda x: sum((x > 1).nonzero(as_tuple=True)).double() * x.mean()),
    "where alone": Case(lambda x: x[torch.where(x > 1)]),
    "unbind of rows": Case(lambda x: functools.reduce(lambda a, b: a * 0.9 + b, x.unbind(2))),
    "for each row": Case(lambda x: torch.stack([row.sin() for row in x.permute(2, 0, 1, 3)], 2)),
    "a class token and the others": Case(lambda x: x.flatten(2)[..., 0] * x.flatten(2)[..., 1:].mean(2)),
}  # fmt: skip
SET = {
    "one row": put(1.0, ALL, ALL, 4),
    "one row from the end, from a row": put(lambda x: x[:, :, 2] * 3, ALL, ALL, -1),
    "one element": put(lambda x: x.mean(), 0, 1, 4, 5),
    "every third row": put(lambda x: x[:, :, 1:5] * 3, ALL, ALL, slice(1, 12, 3)),
    "every second row and column": put(0.5, ..., slice(None, None, 2), slice(1, None, 2)),
    "a row of one image": put(lambda x: x[1, :, 3:4] * 2, 0, ALL, slice(5, 6)),
    "columns, of a smaller value": put(lambda x: x.mean((2, 3))[..., None, None], ..., slice(2, 9)),
    "channels by a list": put(lambda x: x[:, :2] * 3, ALL, [3, 0]),
    "rows by a tensor": put(lambda x: x[:, :, :3] * 3, ALL, ALL, ROWS[:3]),
    "columns by a tensor": put(lambda x: x[..., 2:5] * 3, ..., COLUMNS[:3]),
    "rows and columns": put(lambda x: x[:, :, 0, :3] * 3, ALL, ALL, ROWS[:3], COLUMNS[:3]),
    "a grid": put(lambda x: x[:, :, :2, :3] * 3, ALL, ALL, ROWS[:2, None], COLUMNS[:3]),
    "a number and a tensor": put(lambda x: x[0, :, :3] * 3, 1, ALL, ROWS[:3]),
    "a number, a slice of rows and a tensor": put(lambda x: x[0, :, 1:10:3, :3] * 3, 1, ALL, slice(1, 10, 3), COLUMNS[:3]),
    "tensors apart": put(lambda x: x[:, :, 0, :2] * 3, torch.tensor([0, 1]), ALL, ROWS[:2], slice(0, 2)),
    "None": put(lambda x: x[:, :, None, 3:6] * 2, ALL, ALL, None, slice(3, 6)),
    "mask of everything": set_by(lambda x: x > 0, 0.25),
    "mask of everything, a value of the image's": set_by(lambda x: x > 0, lambda x: x.mean()),
    "mask of everything, many values": set_by(lambda x: x > 0, lambda x: x[x > 0] * 2),
    "a plain mask of rows": put(lambda x: x[:, :, :5] * 3, ALL, ALL, torch.arange(13) % 3 == 0),
    "a plain mask of rows, one value": put(lambda x: x.mean((0, 2)).mean(1)[:, None, None], ALL, ALL, torch.arange(13) % 3 == 0),
    "a mask of one row's columns": put(lambda x: x[0, 0, 0, :2].sum(), ..., 3, torch.arange(11) > 6),
    "a mask of a map": put(lambda x: x.mean((2, 3))[..., None], ALL, ALL, torch.eye(13, 11, dtype=torch.bool)),
    "index_put": Case(lambda x: x.index_put((torch.tensor([0, 1]), torch.tensor([3, 0]), ROWS[:2]), x[:, 0, 3]) * x),
    "index_put, added up": Case(lambda x: x.index_put((torch.tensor([0, 1, 1]), torch.tensor([3, 0, 0]), ROWS[1:]), x[:, 0, 3:4].reshape(2, 11)[:1], accumulate=True) * x),
    "select_scatter": Case(lambda x: torch.select_scatter(x, x[:, 0] * 2, 1, 2)),
    "select_scatter of a row": Case(lambda x: torch.select_scatter(x, x[:, :, 0] * 2, 2, -3)),
    "slice_scatter": Case(lambda x: torch.slice_scatter(x, x[:, :, 1:3] * 2, 2, 4, 6)),
    "slice_scatter of every other": Case(lambda x: torch.slice_scatter(x, x[..., :5] * 2, 3, 1, 10, 2)),
    "index_fill": Case(lambda x: x.index_fill(2, ROWS, 0.5) * x),
    "scatter": into("scatter", 2),
    "scatter columns": into("scatter", 3),
    "scatter a number": into("scatter", 2, 0.5),
    "scatter channels": Case(lambda x: x.scatter(1, x.detach().argmax(1, keepdim=True), 0.0) * x),
    "scatter_add": Case(lambda x: x.scatter_add(2, places(x, 2) % 3, x.narrow(2, 2, 6) * 3) * x),
    "scatter_reduce": Case(lambda x: x.scatter_reduce(2, places(x, 2) % 3, x.narrow(2, 2, 6) * 3, "mean") * x),
    "scatter in place": Case(lambda x: (x * 2).scatter_(2, places(x, 2), x.narrow(2, 2, 6)) * x),
    "scatter into part of the columns": Case(lambda x: x.scatter(2, places(x, 2)[..., 1:8], x[:, :, :6, 1:8] * 3) * x),
    "index_add": into_rows("index_add", 2, [1, 7, 7, 12], alpha=2),
    "index_add of columns": into_rows("index_add", 3, [1, 7, 7, 10]),
    "index_copy": into_rows("index_copy", 2, [1, 7, 3, 12]),
    "index_reduce": Case(lambda x: x.detach().index_reduce(2, ROWS, x.detach()[:, :, :4], "amax") * x),
    "masked_scatter": Case(lambda x: x.masked_scatter(x > 0, x * 3) * x),
    "put": Case(lambda x: x.put(torch.tensor([3, 900]), x[0, 0, 0, :2] * 3) * x),
    "in place on a slice of channels": Case(lambda x: _in_place_on_slice(x)),
}  # fmt: skip
PLAIN = {
    "a channel": plain_filled(_zeros(2, 5, 13, 11), _put((ALL, slice(1, 5)), lambda x: x * 2)),
    "a larger canvas": plain_filled(_zeros(2, 4, 17, 19), _put((..., slice(1, 14), slice(2, 13)), lambda x: x * 2)),
    "tokens": plain_filled(_zeros(2, 144, 4), _put((ALL, slice(1, None)), lambda x: x.flatten(2).transpose(1, 2))),
    "a number": plain_filled(_zeros(2, 3), _put((0, 1), lambda x: x.mean())),
    "rows by a tensor": plain_filled(_zeros(2, 4, 20, 11), _put((ALL, ALL, torch.arange(13) + 3), lambda x: x)),
    "mask of the image": plain_filled(
        lambda x: torch.ones(2, 13, 11, dtype=x.dtype), lambda out, x: out.__setitem__(x.mean(1) > 0, 0.0)
    ),
    "twice": plain_filled(_zeros(2, 4, 13, 11), lambda out, x: (_put((ALL, 0), lambda x: x[:, 0])(out, x), _put((ALL, 2), lambda x: x[:, 1])(out, x))),
    "scatter into zeros": plain_filled(_zeros(2, 4, 13, 11), lambda out, x: out.scatter_(1, x.detach().argmax(1, keepdim=True), x.mean(1, keepdim=True))),
    "index_add into zeros": plain_filled(_zeros(2, 4, 5, 11), lambda out, x: out.index_add_(2, torch.arange(13) % 5, x)),
    "index_put into weights": plain_filled(lambda x: torch.linspace(0, 1, 30, dtype=x.dtype) * 2, _put(torch.arange(4), lambda x: x.mean((0, 2, 3)))),
}  # fmt: skip
GROUPS = {"chosen": CHOSEN, "set": SET, "plain": PLAIN}


def _in_place_on_slice(x):
    y = x * 2
    y[:, 1:3][x[:, :2] > 0] = 0.0
    return y * x

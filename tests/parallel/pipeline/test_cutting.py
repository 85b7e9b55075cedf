"""Cutting networks into stages, in one process: the same numbers as the network, wherever it is cut."""

import pytest
import torch
from torch import nn

from support.local_stages import Skips, compare_with_whole
from ziggurat.config import ModelConfig
from ziggurat.errors import UserError
from ziggurat.parallel.graph.cannot_cut import CannotCut
from ziggurat.parallel.graph.stages import find_places, make_stages, state_names
from ziggurat.parallel.graph.trace import Tracer, spec_of
from ziggurat.verification.networks import build_network


@pytest.mark.sampled(11)
@pytest.mark.parametrize("width", [8, 9])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("stages", [2, 3, 4, 5])
def test_skips_and_all_that_is_awkward(stages, width, training):
    images = torch.randn(2, 3, 6, width, dtype=torch.float64)
    model = Skips().double().train(training)
    graph = Tracer(model).trace(spec_of(images))
    names = sorted(graph.places(), key=graph.places().__getitem__)
    by_place = list({graph.places()[name]: name for name in names}.values())
    step = max(1, len(by_place) // (stages - 1))
    for offset in range(step):
        cut = by_place[offset::step][: stages - 1]
        compare_with_whole(model, images, cut)
        model.zero_grad(set_to_none=True)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "name",
    [
        "fcos-test_resnet-fpn", "retinanet-test_resnet-bifpn", "pnn", "spp-test_resnet", "smp:unet/tu-test_resnet",
        "timm:mobilenetv3_small_050", "timm:swin_tiny_patch4_window7_224", "torchvision:squeezenet1_1",
    ],
)  # fmt: skip
def test_networks_cut_in_four(name):
    torch.manual_seed(0)
    model = build_network(name, ModelConfig(channels=8, head_depth=1, neck_depth=1)).double().train()
    images = torch.randn(2, 3, 64, 70, dtype=torch.float64)
    graph = Tracer(model).trace(spec_of(images))
    names = list({place: name for name, place in graph.places().items()}.values())
    quarter = len(names) // 4
    compare_with_whole(model, images, [names[quarter], names[2 * quarter], names[3 * quarter]])


def test_another_size_has_another_record_with_the_same_cut():
    model = Skips().double()
    tracer = Tracer(model)
    even, odd = (tracer.trace(spec_of(torch.zeros(1, 3, 6, w, dtype=torch.float64))) for w in (8, 9))
    assert len(odd.calls) == len(even.calls) + 1  # the padding
    assert find_places(odd, ["shared"]) == [find_places(even, ["shared"])[0] + 1]
    assert tracer.trace(spec_of(torch.zeros(1, 3, 6, 8, dtype=torch.float64))) is even


def test_what_crosses_a_cut_goes_to_every_stage_that_needs_it():
    model = Skips().double()
    graph = Tracer(model).trace(spec_of(torch.zeros(1, 3, 6, 8, dtype=torch.float64)))
    stages = make_stages(graph, find_places(graph, ["shared", "down", "tied", "drop:2"]))
    first = stages[1].receives[0]
    assert len(first) == 1
    assert {n: s.receives[0] for n, s in enumerate(stages) if 0 in s.receives} == {
        1: first, 2: first, 3: first, 4: first,
    }  # fmt: skip
    assert sum(len(stage.calls) for stage in stages) == len(graph.calls)


def test_states_of_stages():
    model = Skips().double()
    model.unused = nn.Linear(2, 2)
    graph = Tracer(model).trace(spec_of(torch.zeros(1, 3, 6, 8, dtype=torch.float64)))
    names = state_names(make_stages(graph, find_places(graph, ["down", "tied"])), model)
    assert "shared.weight" in names[0] & names[2]  # tied, and reused
    assert {"unused.weight", "unused.bias"} <= names[2]
    assert {"down.weight", "down.bias", "shift"} <= names[1]
    assert set.union(*names) == {n for n, _ in (*model.named_parameters(), *model.named_buffers())}


class TwiceNormed(nn.Module):
    """A batch norm that is used twice: its running statistics see both, in order."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.last(self.norm(self.conv(self.norm(x) * 2)))


def test_running_statistics_stay_together():
    model = TwiceNormed().double()
    images = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    graph = Tracer(model).trace(spec_of(images))
    assert set(graph.places()) == {"last"}
    with pytest.raises(UserError, match=r"plan\.cut names 'conv', where the network cannot be cut"):
        find_places(graph, ["conv"])
    compare_with_whole(model, images, ["last"])


class Overwritten(nn.Module):
    """A view that is read after its memory has been overwritten by a later layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.last = nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        y = self.conv(x)
        part = y[:, :2]
        z = self.last(self.act(y))
        return z[:, :2] + part


def test_an_overwritten_memory_stays_with_its_views():
    model = Overwritten().double()
    images = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    assert set(Tracer(model).trace(spec_of(images)).places()) == {"last"}
    compare_with_whole(model, images, ["last"])


class ChangedLater(nn.Module):
    """A memory that is changed under another name than it is read by, each in a stage of its own."""

    def __init__(self, way):
        super().__init__()
        self.conv, self.act, self.act_too = nn.Conv2d(3, 4, 1), nn.Dropout(0.3, inplace=True), Halves()
        self.one, self.two, self.last = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.way = way

    def forward(self, x):
        y = self.conv(x).tanh() * 1.5
        z = self.one(y.clone())
        if self.way == "view":
            y[:, :2].mul_(z.mean())
        elif self.way == "layer":
            self.act(y[:, :2])
        else:
            self.act_too(y)
        w = self.two(z + 1)
        y[:, 1:].add_(w[:, 1:])
        return self.last(w) + y, y


class Halves(nn.Module):
    """One call, which returns a part of what it has changed."""

    def forward(self, y):
        return y[:, :, 1:].mul_(0.5)


@pytest.mark.parametrize("way", ["view", "layer", "part of a layer"])
def test_a_memory_that_is_sent_as_one_may_be_changed_in_any_stage(way):
    model = ChangedLater(way).double()
    images = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    places = list(Tracer(model).trace(spec_of(images)).places())
    assert {"one", "two", "last"} <= set(places)
    for cut in (["one"], ["two"], ["last"], ["one", "two"], ["one", "last"], ["one", "two", "last"]):
        compare_with_whole(model, images, cut)
        model.zero_grad(set_to_none=True)


class Doubled(torch.autograd.Function):
    """Its gradient is not that of its forward."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 7


class Custom(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.last(Doubled.apply(self.conv(x)))


def test_a_custom_function_keeps_its_gradient():
    apply = torch.autograd.Function.apply
    compare_with_whole(Custom().double(), torch.randn(1, 3, 4, 4, dtype=torch.float64), ["last"])
    assert torch.autograd.Function.apply == apply


class OfValues(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.conv(x) if x.mean() > 0 else x


class Leaf(nn.Module):
    def forward(self, x):
        return x * 2 if x.mean() > 0 else x


def test_what_depends_on_values_is_refused_by_name():
    spec = spec_of(torch.zeros(1, 3, 4, 4))
    with pytest.raises(
        CannotCut, match="OfValues cannot be cut into stages: what it computes must depend on"
    ):
        Tracer(OfValues()).trace(spec)
    with pytest.raises(CannotCut, match="in 'deep'"):
        Tracer(nn.ModuleDict({"deep": Leaf()}) and _Deep()).trace(spec)


class _Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.deep = Leaf()

    def forward(self, x):
        return self.deep(x)


def test_a_row_of_layers_needs_no_record():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), Leaf(), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)).double()
    compare_with_whole(model, torch.randn(2, 3, 4, 4, dtype=torch.float64), ["1", "3"])


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.inner, self.last = nn.Conv2d(3, 3, 1), Inner(), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.last(self.inner(self.conv(x)))


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = nn.ReLU()
        self.other = nn.Identity()

    def forward(self, x):
        with torch._C.DisableTorchFunction():  # as code that the recorder cannot see
            y = x * 2
        return self.act(self.other(x) + y)


def test_code_that_cannot_be_seen_is_one_call():
    model = Scripted().double()
    images = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    tracer = Tracer(model)
    tracer.trace(spec_of(images))
    assert tracer.opaque == {"inner"}
    compare_with_whole(model, images, ["inner", "last"])


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (["layer"], "plan.cut names 'layer', which is not called: known"),
        (["stem"], "plan.cut names 'stem', where the network cannot be cut"),
        (
            ["tied", "shared"],
            "in the order in which they are called.*got tied,shared; the order is shared,tied",
        ),
    ],
)
def test_a_wrong_cut(cut, message):
    graph = Tracer(Skips().double()).trace(spec_of(torch.zeros(1, 3, 6, 8, dtype=torch.float64)))
    with pytest.raises(UserError, match=message):
        find_places(graph, cut)


class Appends(nn.Module):
    """Adds a coarser map to the list that it is given, as torchvision's last level of a feature pyramid does."""

    def forward(self, maps):
        maps.append(nn.functional.max_pool2d(maps[-1], 1, 2))
        return maps


class Pyramid(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), Appends()

    def forward(self, images):
        first = self.one(images)
        return self.last([first, self.two(first)])


def test_a_layer_that_appends_to_a_list():
    compare_with_whole(Pyramid().double(), torch.randn(1, 3, 4, 4, dtype=torch.float64), ["last"])

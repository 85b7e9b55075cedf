"""Each call of a network is measured once: seconds, bytes, random numbers, and what it computes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ziggurat.parallel.graph.costs import seconds_by_operation
from ziggurat.parallel.graph.trace import Tracer, spec_of
from ziggurat.strategies.costs.measure import measure_calls


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3, padding=1)
        self.two = nn.Conv2d(4, 4, 3, padding=1)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.two(self.one(x)))
        return self.drop(x) + torch.rand_like(x)


def measured(**named: object) -> dict[str, object]:
    model, images = Network().train(), torch.zeros(2, 3, 8, 8)
    return measure_calls(
        model, Tracer(model).trace(spec_of(images)), spec_of(images), torch.device("cpu"), **named
    )


def test_the_table_of_a_network() -> None:
    costs = measured()
    assert list(costs) == ["one", "two", "two:2", "drop", " rand_like", " add"]
    assert [cost.draws for cost in costs.values()] == [False, False, False, True, True, False]
    assert all(cost.seconds > 0 for cost in costs.values())
    assert all(cost.backward_seconds is not None for cost in costs.values())
    assert {cost.output_bytes for cost in costs.values()} == {2 * 4 * 8 * 8 * 4}
    assert costs["one"].weight_bytes == 4 * (4 * 3 * 9 + 4)
    assert costs["two"].kept_bytes == 2 * 4 * 8 * 8 * 4, "its input; that of the network counts nowhere"
    assert costs["one"].kept_bytes == 0
    operation = costs["two"].operation
    assert operation is not None
    assert operation.name == "Conv2d(4, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))"
    assert operation.shapes == ((2, 4, 8, 8),)
    assert (operation.dtype, operation.device, operation.threads) == (
        "float32",
        "cpu",
        torch.get_num_threads(),
    )
    assert operation == costs["two:2"].operation != costs["one"].operation
    of_two = seconds_by_operation(costs)[operation]
    assert of_two[0] == (costs["two"].seconds + costs["two:2"].seconds) / 2
    assert of_two[1] is not None


def test_forward_alone_keeps_nothing() -> None:
    costs = measured(backward=False)
    assert {(cost.backward_seconds, cost.kept_bytes) for cost in costs.values()} == {(None, None)}
    assert [cost.draws for cost in costs.values()] == [False, False, False, True, True, False]
    assert {of[1] for of in seconds_by_operation(costs).values()} == {None}


def test_one_run_is_enough_where_no_more_are_asked_for() -> None:
    assert all(cost.seconds > 0 for cost in measured(runs=1).values())


def test_the_type_is_that_in_which_is_computed() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert measured(runs=1)["one"].operation.dtype == "bfloat16"


class Untrainable(nn.Module):
    """Predicts, and cannot be trained: what the gradient of the first change needs is changed by the second."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x).sigmoid_().clamp_(min=0)


def test_forward_is_measured_where_there_is_no_way_back() -> None:
    model, images = Untrainable(), torch.zeros(2, 3, 8, 8)
    graph = Tracer(model).trace(spec_of(images))
    costs = measure_calls(model, graph, spec_of(images), torch.device("cpu"))
    assert len(costs) == 3
    assert all(cost.seconds > 0 for cost in costs.values())
    assert {(cost.backward_seconds, cost.kept_bytes) for cost in costs.values()} == {(None, None)}
    assert all(parameter.grad is None for parameter in model.parameters())

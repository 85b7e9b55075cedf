"""The table of costs: what it knows, what it tells of what it has not seen, and what its file keeps."""

import pytest
import torch

from ziggurat.planning.amounts import work_of
from ziggurat.planning.costs import CostTable, Machine
from ziggurat.planning.kernels import kernel_of
from ziggurat.planning.measuring import Conditions, Measured
from ziggurat.planning.program import Kernel
from ziggurat.strategies.costs.cache import MeasurementCache

aten = torch.ops.aten
MACHINE = Machine("a processor", "2.0", threads=2, workers=3)


def conv(side, channels=3, batch=1):
    image = torch.empty(batch, channels, side, side, device="meta")
    weight = torch.empty(4, channels, 3, 3, device="meta")
    return kernel_of(
        aten.convolution.default, (image, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1), {}
    )


def add(size):
    x = torch.empty(size, device="meta")
    return kernel_of(aten.add.Tensor, (x, x), {})


def by_work(kernel):
    """Seconds of a machine that takes a microsecond to begin."""
    return 1e-6 + work_of(kernel).flops * 1e-9 + work_of(kernel).num_bytes * 1e-10


class Fake:
    def __init__(self, refuses=()):
        self.asked, self.refuses = [], refuses

    def __call__(self, kernels, conditions):
        self.asked.append((list(kernels), conditions))
        return {kernel: Measured(by_work(kernel), 0.01) for kernel in kernels if kernel not in self.refuses}


def test_measures_once_each_kernel_under_the_tables_load():
    fake = Fake()
    table = CostTable(MACHINE, fake)
    table.measure([conv(8), add(4), conv(8)], Conditions(passes=7))
    table.measure([add(4), conv(16)])
    assert [kernels for kernels, _ in fake.asked] == [[conv(8), add(4), conv(8)], [conv(16)]]
    assert fake.asked[0][1] == Conditions(workers=3, threads=2, passes=7)
    assert table.known(conv(16))
    assert table.seconds(conv(16)) == by_work(conv(16))
    assert table.residual(conv(16)) == 0.01


def test_the_same_layer_at_another_size_is_told_by_a_line():
    table = CostTable(MACHINE, Fake())
    table.measure([conv(8), conv(16), conv(32)])
    cost = table.cost(conv(24))
    assert cost.how == "layer"
    assert cost.seconds == pytest.approx(by_work(conv(24)), rel=0.05)
    assert cost.residual < 0.05
    assert not table.known(conv(24))


def test_a_layer_that_was_measured_at_one_size_follows_the_operators_line():
    table = CostTable(MACHINE, Fake())
    table.measure([conv(8), conv(16), conv(32), conv(8, channels=6)])
    cost = table.cost(conv(16, channels=6))
    assert cost.how == "layer"
    assert cost.seconds == pytest.approx(by_work(conv(16, channels=6)), rel=0.2)


def test_another_layer_is_told_by_its_operator_and_another_operator_by_all():
    table = CostTable(MACHINE, Fake())
    table.measure([conv(8), conv(16), conv(32), add(1 << 10), add(1 << 15), add(1 << 20)])
    assert table.cost(conv(16, channels=8)).how == "operator"
    x = torch.empty(1 << 18, device="meta")
    other = kernel_of(aten.mul.Tensor, (x, x), {})
    assert table.cost(other).how == "work"
    assert table.seconds(other) == pytest.approx(by_work(other), rel=0.05)


def test_what_tiny_kernels_tell_is_not_carried_on_to_large_ones():
    class Noisy(Fake):
        def __call__(self, kernels, conditions):
            found = super().__call__(kernels, conditions)
            tiny = {1: 1e-6, 100: 9e-6}
            return {
                k: Measured(tiny[k.arguments[0].shape[0]], 0.0) if "full_like" in k.name else one
                for k, one in found.items()
            }

    def fill(size):
        return kernel_of(aten.full_like.default, (torch.empty(size, device="meta"), 1), {})

    table = CostTable(MACHINE, Noisy())
    table.measure([add(1 << 10), add(1 << 15), add(1 << 20), fill((1,)), fill((100,))])
    large = fill((1 << 20,))
    assert (
        by_work(large) / 2 < table.seconds(large) < 3 * by_work(large)
    )  # 94 ms by the line of the tiny ones


def test_an_empty_table_guesses_nothing():
    with pytest.raises(ValueError, match="nothing was measured"):
        CostTable(MACHINE, Fake()).seconds(conv(8))


def test_views_take_nothing_and_are_not_measured():
    fake = Fake()
    table = CostTable(MACHINE, fake)
    view = kernel_of(aten.view.default, (torch.zeros(4), [2, 2]), {})
    table.measure([view])
    assert fake.asked == []
    assert table.known(view)
    assert table.seconds(view) == 0.0


def test_what_cannot_be_measured_is_asked_for_once_and_told_by_others():
    fake = Fake(refuses=[add(100)])
    table = CostTable(MACHINE, fake)
    table.measure([add(100), add(1000), add(10000)])
    table.measure([add(100)])
    assert len(fake.asked) == 1
    assert table.cost(add(100)).how == "layer"


def test_a_file_gives_back_the_table_of_its_machine_alone(tmp_path):
    cache = MeasurementCache(tmp_path / "kernels.json")
    table = CostTable(MACHINE, Fake())
    table.measure([conv(8), conv(16), add(100)])
    cache.write("forward", {"another": "value"})
    table.write(cache)
    again = CostTable.read(cache, MACHINE)
    for kernel in (conv(8), conv(24), add(100)):
        assert again.cost(kernel) == table.cost(kernel)
    assert CostTable.read(cache, Machine("a processor", "2.0", threads=2, workers=1)).entries == {}
    assert cache.read("forward") == {"another": "value"}


def test_a_file_that_holds_nonsense_is_said_and_measured_anew(tmp_path, capsys):
    cache = MeasurementCache(tmp_path / "kernels.json")
    cache.write(MACHINE.key, {"layer": {"text": ["x"]}})
    assert CostTable.read(cache, MACHINE).entries == {}
    assert "no usable value" in capsys.readouterr().err


def test_this_machine_has_a_name():
    machine = Machine.here(threads=1, workers=2)
    assert machine.torch == torch.__version__
    assert machine.key != Machine.here(threads=2, workers=2).key


def test_a_kernel_of_no_tensors_has_a_cost():
    table = CostTable(MACHINE, Fake())
    table.measure([add(100)])
    assert table.seconds(Kernel("aten.zeros.default", ((3,),))) > 0

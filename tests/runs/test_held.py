"""What a worker holds while it trains, under each plan: its own part, the same bits as others have of what is common."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from support.held import after_each_step, digest, elements, local, shapes
from support.promises import EMA, NARROW, SHARDED, world_of
from support.ranks import run_ranks
from support.small_runs import config_of, weights_of
from support.states import checkpoint_tensors
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.runs.folder import load_run
from ziggurat.torch_internals.hooks import register_unseen
from ziggurat.training.loop import train


def held(workers, plan, folder, config):
    """Train; return of the last step the elements, shapes and bits that this worker holds, and the hash of the result."""
    seen = {}

    def look(found):
        parts = found.parts()
        seen["elements"] = {kind: elements(part) for kind, part in parts.items()}
        seen["parameters"] = sum(local(p).numel() for p in found.parameters().values() if not p.is_meta)
        seen["shapes"] = {kind: shapes(part) for kind, part in parts.items()}
        seen["bits"] = {kind: digest(part) for kind, part in parts.items()}
        seen["largest"] = max(t.untyped_storage().nbytes() for part in parts.values() for t in part.values())

    after_each_step(look)
    result = train(workers, dataclasses.replace(config, plan=plan), folder)
    return seen | {"weights_sha256": result["weights_sha256"]}


def facts(folder):
    """Return the elements of all states and of all parameters of a run, and how many parameters there are."""
    parameters = list(load_run(folder).model.parameters())
    states = sum(t.numel() for t in weights_of(folder).values())
    return states, sum(p.numel() for p in parameters), len(parameters)


@pytest.mark.sampled(0)
def test_a_worker_of_pp_holds_its_own_stages(tmp_path):
    first, second = run_ranks(held, 2, ("pp=2", tmp_path / "run", config_of("detect", **EMA)))
    states, parameters, _ = facts(tmp_path / "run")
    for kind in ("model", "average"):
        assert first["elements"][kind] + second["elements"][kind] == states
        assert not first["shapes"][kind].keys() & second["shapes"][kind].keys()
    moments = first["elements"]["moments"] + second["elements"]["moments"]
    steps = moments - 2 * parameters  # AdamW has two moments, and a number of steps
    assert 0 < steps < 1000
    assert min(first["elements"]["model"], second["elements"]["model"]) > 0


@pytest.mark.sampled(0)
def test_a_worker_of_lp_holds_all_weights(tmp_path):
    first, second = run_ranks(held, 2, ("lp=2", tmp_path / "run", config_of("detect", **EMA)))
    states, _, _ = facts(tmp_path / "run")
    assert first["elements"] == second["elements"]
    assert (first["elements"]["model"], first["elements"]["average"]) == (states, states)
    assert first["elements"]["moments"] > 1.9 * states, "AdamW has two moments"
    assert first["bits"] == second["bits"], "weights, average and moments of both workers"


def called(workers, plan, folder, config):
    """Train; return the layers that this worker computes while it trains."""
    names, seen, root = {}, set(), []

    def look(found):
        if not root:
            root.append(found.model)
            names.update({module: name for name, module in found.model.named_modules()})

    def hook(module, *_):
        if torch.is_grad_enabled() and names.get(module) and not list(module.children()):
            seen.add(names[module])

    after_each_step(look)
    handle = register_module_forward_hook(hook)
    train(workers, dataclasses.replace(config, plan=plan), folder)
    handle.remove()
    return seen


@pytest.mark.sampled(0)
def test_a_worker_of_lp_computes_its_branches(tmp_path):
    config = config_of("classify", **{"train.evaluate_every": 0})
    (alone,) = run_ranks(called, 1, ("dp=1", tmp_path / "one", config))
    first, second = run_ranks(called, 2, ("lp=2", tmp_path / "two", config))
    assert first | second == alone
    assert first < alone
    assert second < alone


def test_a_worker_of_fsdp_holds_its_rows(tmp_path):
    first, second = run_ranks(held, 2, ("fsdp=2", tmp_path / "run", config_of("detect", **SHARDED, **EMA)))
    _, total, count = facts(tmp_path / "run")
    assert first["parameters"] + second["parameters"] == total
    whole = load_run(tmp_path / "run").model.named_parameters()
    rows = {name: len(parameter) for name, parameter in whole}
    for kind in ("model", "average"):
        parts = [{name: part["shapes"][kind][name] for name in rows} for part in (first, second)]
        assert {name: parts[0][name][0] + parts[1][name][0] for name in rows} == rows
        assert all(parts[0][name][0] - parts[1][name][0] in (0, 1) for name in rows), (
            "an odd row is the first's"
        )
    moments = first["elements"]["moments"] + second["elements"]["moments"]
    assert moments == 2 * total + 2 * count, "AdamW has two moments, and a number of steps on each worker"
    largest = max(parameter.numel() for parameter in load_run(tmp_path / "run").model.parameters())
    assert max(first["largest"], second["largest"]) <= 4 * (largest // 2 + 4096)
    assert first["weights_sha256"] == second["weights_sha256"]
    (newest,) = (tmp_path / "run" / "checkpoints").iterdir()
    stored = shapes(checkpoint_tensors(newest))
    for name, parameter in load_run(tmp_path / "run").model.named_parameters():
        of_it = [shape for key, shape in stored.items() if name in key and len(shape) == parameter.ndim]
        assert of_it.count(tuple(parameter.shape)) >= 4, "weight, average and two moments are written whole"


def test_a_worker_of_tp_holds_its_part(tmp_path):
    first, second = run_ranks(held, 2, ("tp=2", tmp_path / "run", config_of("detect", **NARROW | EMA)))
    whole = {name: tuple(t.shape) for name, t in load_run(tmp_path / "run").model.named_parameters()}
    split = {name for name, shape in first["shapes"]["model"].items() if shape != whole.get(name, shape)}
    assert sum(np.prod(whole[name]) for name in split) > sum(map(np.prod, whole.values())) / 2
    for found in (first, second):
        assert found["shapes"]["model"] == found["shapes"]["average"]
        for name in split:
            assert 2 * np.prod(found["shapes"]["model"][name]) == np.prod(whole[name])
        for name in whole:
            assert found["shapes"]["moments"][f"{name}.exp_avg"] == found["shapes"]["model"][name]
            assert found["shapes"]["moments"][f"{name}.exp_avg_sq"] == found["shapes"]["model"][name]


COMMON = [
    ("tp=2", "detect", {}),
    ("tp=2", "classify", {}),
    ("tp=2", "segment", {}),
    pytest.param("dp=2,tp=2", "detect", {}, marks=pytest.mark.slow),
    pytest.param("tp=3", "classify", {"model.pnn.channels": 12, "model.pnn.hidden": 24}, marks=pytest.mark.slow),
    *(pytest.param("tp=2", task, {"dtype": "bf16"}, marks=pytest.mark.slow) for task in ("detect", "segment")),
]  # fmt: skip


def whole_shapes(folder):
    return {name: tuple(tensor.shape) for name, tensor in weights_of(folder).items()}


def of_common(found, whole):
    """Return the bits of what is not split: of weights, average and moments."""
    split = {name for name, shape in found["shapes"]["model"].items() if shape != whole[name]}
    assert split
    return {
        (kind, name): value
        for kind, part in found["bits"].items()
        for name, value in part.items()
        if not any(name == one or name.startswith(f"{one}.") for one in split)
    }


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("plan", "task", "settings"), COMMON)
def test_what_is_not_split_has_the_same_bits(tmp_path, plan, task, settings):
    config = config_of(task, **NARROW | {"train.evaluate_every": 0} | settings)
    results = run_ranks(held, world_of(plan), (plan, tmp_path / "run", config))
    whole = whole_shapes(tmp_path / "run")
    assert all(of_common(found, whole) == of_common(results[0], whole) for found in results)


def disagreeing(workers, plan, folder, config):
    """Let the second worker compute two other last bits of each gradient, which leave sums as they are."""

    def spoil(gradient):
        other = gradient.clone(memory_format=torch.contiguous_format)
        if other.numel() > 1:
            other.view(-1)[:2].view(torch.int32).add_(torch.tensor([1, -1], dtype=torch.int32))
        return other

    begun = []

    def look(found):
        if not begun and workers.rank == 1:
            begun.extend(register_unseen(p, spoil) for p in found.parameters().values())

    after_each_step(look)
    return held(workers, plan, folder, config)


def test_workers_that_compute_other_bits_take_those_of_the_first(tmp_path):
    config = config_of("classify", **NARROW | {"train.steps": 3})
    first, second = run_ranks(disagreeing, 2, ("tp=2", tmp_path / "run", config))
    whole = whole_shapes(tmp_path / "run")
    ours, theirs = of_common(first, whole), of_common(second, whole)
    assert {key for key in ours if ours[key] != theirs[key]} == set()


def gradients(workers, plan, folder, config):
    """Train; return the gradients of this worker before each step of the optimizer."""
    found = []
    after_each_step(lambda holding: found.append(holding.gradients()), before=True)
    train(workers, dataclasses.replace(config, plan=plan), folder)
    return found


@pytest.mark.sampled(0)
def test_the_norm_is_that_of_the_whole_gradient(tmp_path):
    """What is split counts once from each worker, what is common once."""
    config = config_of("segment", **NARROW | {"train.clip_norm": 0})
    parts = run_ranks(gradients, 2, ("tp=2", tmp_path / "run", config))
    whole = whole_shapes(tmp_path / "run")
    for step, said in enumerate(norms(tmp_path / "run")):
        squares = 0.0
        for name, gradient in parts[0][step].items():
            each = [part[step][name].double().square().sum() for part in parts]
            squares += float(sum(each) if tuple(gradient.shape) != whole[name] else each[0])
        assert said == pytest.approx(squares**0.5, rel=1e-6)


def norms(folder):
    """Return what the run's log says of the norms of its steps."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["gradient_norm"] for line in lines if line["kind"] == "train"]


def joined(workers, folder, config):
    """Train; return how often tensors of several workers were joined before each step of the optimizer, and at the end."""
    calls, before, join = [], [], Workers.start_all_gather

    def count(self, whole, part, sizes=None):
        if self.size > 1 and part.is_floating_point():  # objects travel as bytes
            calls.append(part.shape)
        return join(self, whole, part, sizes)

    after_each_step(lambda _: before.append(len(calls)), before=True)
    Workers.start_all_gather = count  # in this process alone
    train(workers, dataclasses.replace(config, plan="tp=2"), folder)
    return [*before, len(calls)]


SPLIT_OUTPUTS = {
    "timm": ("classify", {"model.name": "timm:test_resnet"}), "pnn": ("classify", {}), "fcos": ("detect", {}),
    "unet": ("segment", {}),
}  # fmt: skip


@pytest.mark.sampled(1)
@pytest.mark.parametrize("network", SPLIT_OUTPUTS)
def test_training_gathers_no_logits(tmp_path, network):
    """An evaluation between two steps does, where the network's classes are spread over the workers."""
    task, settings = SPLIT_OUTPUTS[network]
    config = config_of(task, **NARROW | {"train.evaluate_every": 2, "train.steps": 3} | settings)
    for first, second, third, _ in run_ranks(joined, 2, (tmp_path / "run", config)):
        assert first == second == 0
        assert third > 0 or network != "timm"

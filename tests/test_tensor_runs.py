"""Whole runs under tp: training, evaluation and prediction of every task, against the same run on one worker.

Of what is split each worker has a part of the weights, the average and the optimizer's moments; what is written is whole.
"""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from support.commands import metrics_under, mostly_slow, noise_images, predictions_under, run, sets
from support.ranks import run_ranks
from test_nonfinite import contents
from test_pipeline_runs import EMA, assert_alike, replaced, weights_of
from test_spatial_runs import SCENES, SMALL, TASKS, config_of, resumed, trained
from ziggurat.errors import UserError
from ziggurat.parallel.tensor import split
from ziggurat.runs.folder import load_run
from ziggurat.strategies.tensor_training import TensorTraining
from ziggurat.training.loop import train

NARROW = {"tensor.min_width": 8, "model.head_depth": 2, "train.ema": 0.9}


def narrow(task, **settings):
    return config_of(task, **(NARROW | settings))


def spy(look):
    """Let what `look` returns of a training be known when it ends (in this process alone)."""
    seen = []

    class Spy(TensorTraining):
        def close(self):
            super().close()
            seen.append(look(self))

    sys.modules["ziggurat.strategies.joining"].TensorTraining = Spy
    return seen


def bits(tensor):
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def common_bits(training):
    """Return the bits of all that is not split."""
    found = {}
    for kind, model in (("model", training.model), ("average", training.state.average)):
        states = model.state_dict().items()
        found |= {(kind, name): bits(t) for name, t in states if name not in training.tensor.dims}
    for name, parameter in training.model.named_parameters():
        if name not in training.tensor.dims:
            slots = training.state.optimizer.state[parameter].items()
            found |= {(name, slot): bits(value) for slot, value in slots if value is not None}
    return found, len(training.tensor.splits)


def no_join(*arguments):
    raise AssertionError("training gathers no logits")


def watched(workers, plan, folder, configs):
    """Train as `trained` does; also return what all workers of tp have of each run, and refuse to gather logits in it."""
    seen, closed = spy(common_bits), TensorTraining.close
    joined, split.join = split.join, no_join

    def close(self):
        split.join = joined  # evaluation may
        gradients = {name: p.grad for name, p in self.names.items() if p.grad is not None}
        norm = torch.nn.utils.get_total_norm(self.tensor.whole(gradients).values())
        torch.testing.assert_close(self.gradient_norm(), norm, rtol=1e-6, atol=0)
        closed(self)

    def again(*arguments, **named):
        split.join = no_join
        return started(*arguments, **named)

    started, TensorTraining.start, TensorTraining.close = TensorTraining.start, again, close
    return trained(workers, plan, folder, configs), seen


@pytest.mark.parametrize(
    ("plan", "world"), [("tp=2", 2), pytest.param("dp=2,tp=2", 4, marks=pytest.mark.slow)]
)
def test_runs_of_every_task(tmp_path, plan, world):
    configs = [narrow(task, **{"train.evaluate_every": 0}) for task in TASKS]
    (alone,) = run_ranks(trained, 1, ("dp=1", tmp_path, configs))
    outcomes = run_ranks(watched, world, (plan, tmp_path, configs))
    results = [result for result, _ in outcomes]
    for number in range(len(configs)):
        assert len({repr(on_rank[number]) for on_rank in results}) == 1, "the workers agree"
        commons = [seen[number] for _, seen in outcomes]
        assert all(common == commons[0] for common in commons), "what is not split has the same bits"
        assert commons[0][1] > 0
        (losses, norms), (true_losses, true_norms) = (
            np.array(case[number][1]).T for case in (results[0], alone)
        )
        assert losses == pytest.approx(true_losses, rel=1e-5)
        assert norms == pytest.approx(true_norms, rel=2e-3)  # batch norms of few values magnify rounding
        # pnn takes maxima, between which rounding may choose (test_verify_tensor compares in float64)
        tolerance = 1e-3 if number == list(TASKS).index("classify") else 1e-4
        one, other = (weights_of(tmp_path / f"{name}-{number}") for name in ("dp=1", plan))
        assert_alike(one, other, tolerance)
        for name, value in alone[number][2].items():
            if isinstance(value, float):
                # a pixel whose two best classes are nearly equal may change sides: one in 12288 here
                assert results[0][number][2][name] == pytest.approx(value, abs=5e-4), name


@pytest.mark.slow
def test_other_numbers_of_workers_and_bf16(tmp_path):
    """Three workers, whose all-reduce has another form, and bfloat16: what is not split has the same bits on all."""
    odd = {"model.pnn.channels": 12, "model.pnn.hidden": 24, "train.steps": 3}
    configs = [narrow("classify", **odd), *(narrow(task, dtype="bf16") for task in TASKS)]
    (alone,) = run_ranks(trained, 1, ("dp=1", tmp_path, configs))
    three = run_ranks(watched, 3, ("tp=3", tmp_path, configs[:1]))
    two = run_ranks(watched, 2, ("tp=2", tmp_path, configs[1:]))
    assert all(seen == three[0][1] for _, seen in three)
    assert all(seen == two[0][1] for _, seen in two)
    assert np.array(three[0][0][0][1]) == pytest.approx(np.array(alone[0][1]), rel=2e-3)
    for number in range(1, len(configs)):
        losses = [[loss for loss, _ in case] for case in (alone[number][1], two[0][0][number - 1][1])]
        assert losses[1] == pytest.approx(losses[0], rel=0.05)  # bfloat16 has 8 bits


def sizes(training):
    """Return the elements of weights, average and moments that a worker holds; then those of what is split."""
    states = training.state.optimizer.state
    names = {parameter: name for name, parameter in training.model.named_parameters()}
    counts = []
    for is_counted in (lambda name: True, lambda name: name in training.tensor.dims):
        weights, averages = (
            sum(t.numel() for name, t in model.named_parameters() if is_counted(name))
            for model in (training.model, training.state.average)
        )
        moments = [v for p, slots in states.items() if is_counted(names[p]) for v in slots.values()]
        counts.append([weights, averages, sum(value.numel() for value in moments if value.dim())])
    return counts


def held(workers, folder, config):
    seen = spy(sizes)
    train(workers, dataclasses.replace(config, plan="tp=2"), folder)
    return seen[0]


def test_a_worker_holds_its_part(tmp_path):
    first, second = run_ranks(held, 2, (tmp_path / "run", narrow("detect", **EMA)))
    assert first == second
    (weights, averages, moments), (split_weights, split_averages, split_moments) = first
    whole = sum(p.numel() for p in load_run(tmp_path / "run").model.parameters())
    assert weights == averages == whole - split_weights, "it lacks as much as it has of what is split"
    assert split_weights == split_averages > whole / 4
    assert (moments, split_moments) == (2 * weights, 2 * split_weights)  # AdamW has two


@pytest.mark.parametrize(
    ("first", "then", "world"), [("dp=1", "tp=2", 2), ("tp=2", "dp=1", 1), ("tp=2", "dp=2,tp=2", 4)]
)
def test_a_run_goes_on_under_another_plan(tmp_path, first, then, world):
    settings = {"train.checkpoint_every": 1, "train.steps": 3, "train.evaluate_every": 2}
    (whole,) = run_ranks(trained, 1, ("dp=1", tmp_path / "whole", [narrow("detect", **settings)]))
    run_ranks(trained, 2 if first == "tp=2" else 1, (first, tmp_path, [narrow("detect", **settings)]))
    folder = tmp_path / f"{first}-0"
    reference, found = (
        contents(f / "checkpoints" / "step-3") for f in (tmp_path / "whole" / "dp=1-0", folder)
    )
    assert_alike(reference, found, 1e-4)  # names, shapes, and numbers, whatever the plan
    shutil.rmtree(folder / "checkpoints" / "step-3")
    results = run_ranks(resumed, world, (then, folder))
    assert results[0]["samples"] == 4, "one step is left"
    assert {result["weights_sha256"] for result in results} == {results[0]["weights_sha256"]}
    assert results[0]["loss"] == pytest.approx(whole[0][1][2][0], rel=1e-4)
    assert_alike(weights_of(tmp_path / "whole" / "dp=1-0"), weights_of(folder), 1e-4)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "val"] == [2, 3]


def test_the_same_plan_goes_on_in_the_same_bits(tmp_path):
    first = run_ranks(trained, 2, ("tp=2", tmp_path, [narrow("classify", **{"train.checkpoint_every": 1})]))
    folder = tmp_path / "tp=2-0"
    names = {
        path.name.partition("-model")[0] for path in (folder / "checkpoints" / "step-1").glob("*.safetensors")
    }
    assert len(names) == 2, "each worker writes some of the tensors"
    shutil.rmtree(folder / "checkpoints" / "step-2")
    results = run_ranks(resumed, 2, ("tp=2", folder))
    assert [result["weights_sha256"] for result in results] == [first[0][0][0]] * 2


def spoiled(workers, folder, policy):
    """Make the gradient of a part of a weight infinite on the second worker, in the second step."""

    class Spoiled(TensorTraining):
        steps = 0

        def start(self, num_leaves):
            super().start(num_leaves)
            self.steps += 1
            if workers.rank == 1 and self.steps == 2:
                name = sorted(self.tensor.dims.keys() & self.names.keys())[0]
                self.hook = self.names[name].register_hook(lambda gradient: gradient * float("inf"))
            elif hasattr(self, "hook"):
                self.hook.remove()

    sys.modules["ziggurat.strategies.joining"].TensorTraining = Spoiled
    config = narrow("classify", **{"train.on_nonfinite": policy, "train.steps": 3})
    try:
        result = train(workers, dataclasses.replace(config, plan="tp=2"), folder / policy)
    except UserError as error:
        return error.faults
    return result["skipped_steps"], result["weights_sha256"], result["loss"]


def test_a_part_of_a_gradient_that_is_not_finite(tmp_path):
    stopped = run_ranks(spoiled, 2, (tmp_path, "stop"))
    assert stopped[0] == stopped[1]
    for text in ("the gradient is not finite in step 2, microbatch 0, on workers 0 to 1; first bad parameter: body.",
                 "samples: "):  # fmt: skip
        assert text in stopped[0][0]
    skipped = run_ranks(spoiled, 2, (tmp_path, "skip"))
    assert skipped[0] == skipped[1]
    assert skipped[0][0] == 1
    assert np.isfinite(skipped[0][2])


def disagreeing(workers, folder):
    """Let the second worker compute two other last bits of what is not split, which leave sums as they are."""

    class Other(TensorTraining):
        def finish_gradients(self):
            super().finish_gradients()
            for name, parameter in self.names.items():
                if workers.rank == 1 and name not in self.tensor.dims and parameter.grad is not None:
                    last_bits = parameter.grad.view(torch.int32).flatten()
                    if len(last_bits) > 1:
                        last_bits[:2] += torch.tensor([1, -1], dtype=torch.int32)

    sys.modules["ziggurat.strategies.joining"].TensorTraining = Other
    seen = []
    Other.close = lambda self: (TensorTraining.close(self), seen.append(common_bits(self)))
    train(workers, dataclasses.replace(narrow("classify"), plan="tp=2"), folder)
    return seen[0][0]


def test_workers_that_compute_other_bits_take_those_of_the_first(tmp_path):
    first, second = run_ranks(disagreeing, 2, (tmp_path / "run",))
    different = {key for key in first if first[key] != second[key]}
    assert not different


def refused(workers, folder):
    config = dataclasses.replace(config_of("detect", **{"tensor.min_width": 4096}), plan="tp=2")
    with pytest.raises(UserError) as caught:
        train(workers, config, folder)
    return caught.value.faults


def test_a_plan_that_splits_nothing_is_refused(tmp_path, capfd):
    first, second = run_ranks(refused, 2, (tmp_path / "run",))
    assert first == second
    assert len(first) == 1
    for text in ("tensor.min_width=4096", "--set tensor.min_width=N", "--plan dp=2"):
        assert text in first[0]


def test_samples_that_are_replaced_are_counted_once(tmp_path):
    """Every worker of tp reads them."""
    for split_name in ("train", "val"):
        for number, label in enumerate(("one", "one", "two")):
            path = tmp_path / "data" / split_name / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
    bad = tmp_path / "data" / "train" / "one" / "1.png"
    bad.write_bytes(bad.read_bytes()[:2000])
    config = narrow("classify", **{"data.path": str(tmp_path / "data"), "data.on_error": "skip"})
    (alone,) = run_ranks(replaced, 1, ("dp=1", tmp_path, config))
    assert alone > 0
    assert run_ranks(replaced, 2, ("tp=2", tmp_path, config)) == [alone, alone]


@pytest.mark.parametrize("task", mostly_slow(TASKS, "classify"))
def test_the_commands(tmp_path, capfd, task):
    """Train, evaluate and predict under tp; the latter two as on one worker."""
    settings = SMALL | TASKS[task] | NARROW | {"decode.score_threshold": 0.0}
    out = tmp_path / "run"
    words = ("--task", task, "--plan", "tp=2", "--out", out, "--json")
    result = run(capfd, "train", "digits", *words, *sets(settings, SCENES))
    assert (result["plan"], result["world_size"]) == ("tp=2", 2)
    assert "split over tp: " in (out / "log.txt").read_text()
    plans = ("dp=1", "tp=2", "dp=2,tp=2")
    metrics = metrics_under(capfd, out, plans)
    for name, value in metrics[0].items():
        if isinstance(value, float):
            assert [other[name] for other in metrics] == pytest.approx([value] * 3, abs=1e-6), name

    found = predictions_under(capfd, out, plans, noise_images(tmp_path))
    assert found[0]
    for rows in found[1:]:
        assert len(rows) == len(found[0])
        for row, known in zip(rows, found[0], strict=True):
            assert row.keys() == known.keys()
            assert row["image_id"] == known["image_id"]
            for name in ("category_id", "pixels"):
                assert row.get(name) == known.get(name)
            for name in ("bbox", "score"):
                if name in row:
                    assert row[name] == pytest.approx(known[name], abs=1e-3, rel=1e-5)

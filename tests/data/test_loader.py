from __future__ import annotations

import gc
import multiprocessing
import os
import time
from collections.abc import Callable

import pytest
import torch

from support.torchvision_twins import split_objects
from ziggurat.data.batch import Microbatch, Objects, Sample, SampleId
from ziggurat.data.loader import LoaderSettings, load_steps
from ziggurat.data.loading.process import prepare
from ziggurat.data.sampler import Sampler, microbatch_ids
from ziggurat.errors import UserError
from ziggurat.system.forking import fork_context
from ziggurat.tasks.detection.targets import ObjectKind

SAMPLER = Sampler(num_samples=11, batch_size=4, seed=0)  # steps of 4, 4 and 3 samples


class Numbered:
    """Samples that hold their own number, with as many objects as the number modulo 3; one may fail."""

    kind = ObjectKind()

    def __init__(self, failing: int | None = None) -> None:
        self.failing = failing

    kind = ObjectKind()

    def sample(self, id: SampleId) -> Sample:
        if id.sample == self.failing:
            raise UserError(["cannot decode the image a.png: cut", "and so on"])
        count = id.sample % 3
        image = torch.full((3, 4, 4 + count), id.sample, dtype=torch.uint8)
        boxes = torch.full((count, 4), float(id.epoch))
        return Sample(id, image, Objects(boxes, torch.full((count,), id.sample)))


def pieces(step: int) -> list[tuple[int, tuple[SampleId, ...]]]:
    return list(enumerate(microbatch_ids(SAMPLER.batch(step), 4, 2)))


def second_worker(step: int) -> list[tuple[int, tuple[SampleId, ...]]]:
    return [(index, ids) for index, ids in pieces(step) if index == 1 and step != 1]


def load(
    plan: Callable[[int], list[tuple[int, tuple[SampleId, ...]]]] = pieces,
    num_workers: int = 0,
    failing: int | None = None,
    steps: range = range(5),
) -> list[list[Microbatch]]:
    loader = load_steps(
        Numbered(failing), SAMPLER, plan, steps.start, steps.stop, LoaderSettings(num_workers)
    )
    return list(loader)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
@pytest.mark.parametrize("plan", [pieces, second_worker])
def test_steps_hold_this_workers_microbatches(
    num_workers: int, plan: Callable[[int], list[tuple[int, tuple[SampleId, ...]]]]
) -> None:
    loaded = load(plan, num_workers, steps=range(1, 6))
    assert [[(m.index, m.ids) for m in step] for step in loaded] == [plan(step) for step in range(1, 6)]
    for microbatch in (m for step in loaded for m in step):
        assert microbatch.images_BCHW.is_contiguous()
        assert microbatch.images_BCHW.shape[3] == max(width for _, width in microbatch.sizes)
        for id, image, size, objects in zip(
            microbatch.ids, microbatch.images_BCHW, microbatch.sizes, split_objects(microbatch), strict=True
        ):
            assert size == (4, 4 + id.sample % 3)
            assert (image[:, :, : size[1]] == id.sample).all()
            assert (image[:, :, size[1] :] == 0).all()
            assert objects.labels.tolist() == [id.sample] * (id.sample % 3)
            assert objects.boxes_xyxy.shape == (id.sample % 3, 4)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_users_error_keeps_its_message(num_workers: int) -> None:
    with pytest.raises(UserError) as raised:
        load(num_workers=num_workers, failing=5)
    assert raised.value.faults == ["cannot decode the image a.png: cut", "and so on"]
    assert str(raised.value) == "2 faults:\n  - cannot decode the image a.png: cut\n  - and so on"


def test_closing_ends_the_loader_processes() -> None:
    loader = load_steps(Numbered(), SAMPLER, pieces, 0, 1000, LoaderSettings(2))
    next(loader)
    assert len(multiprocessing.active_children()) == 2
    loader.close()  # type: ignore[attr-defined] # it is a generator
    assert not multiprocessing.active_children()


def test_closing_waits_for_nobody() -> None:
    """Processes that are killed at any instant of asking, making and passing on leave nothing that closing waits for."""
    for number in range(20):
        loader = load_steps(Numbered(), SAMPLER, pieces, 0, 1000, LoaderSettings(2))
        for _ in range(number % 4 + 1):
            next(loader)
        for child in multiprocessing.active_children():
            child.kill()
        begin = time.monotonic()
        loader.close()  # type: ignore[attr-defined] # it is a generator
        assert time.monotonic() - begin < 5
        assert not multiprocessing.active_children()


class Buggy(Numbered):
    """Samples of which one meets a bug of ours."""

    def sample(self, id: SampleId) -> Sample:
        if id.sample == 5:
            raise IndexError("of a bug")
        return super().sample(id)


def test_another_error_travels_with_its_traceback() -> None:
    loader = load_steps(Buggy(), SAMPLER, pieces, 0, 5, LoaderSettings(2))
    with pytest.raises(
        RuntimeError,
        match=r"a loader process failed:\nTraceback[\s\S]*in sample\n[\s\S]*IndexError: of a bug",
    ):
        list(loader)
    assert not multiprocessing.active_children()


def test_no_more_is_under_way_than_two_for_each_process() -> None:
    asked: list[int] = []

    def watched(step: int) -> list[tuple[int, tuple[SampleId, ...]]]:
        asked.append(step)
        return pieces(step)

    loader = load_steps(Numbered(), SAMPLER, watched, 0, 1000, LoaderSettings(2))
    next(loader)
    assert max(asked) <= 3, "two microbatches a step"
    loader.close()  # type: ignore[attr-defined] # it is a generator


def test_tensors_outlive_the_loader() -> None:
    loaded = load(num_workers=2)
    gc.collect()
    for step, microbatches in enumerate(loaded):
        for microbatch, (_, ids) in zip(microbatches, pieces(step), strict=True):
            microbatch.images_BCHW.add_(1)  # they are the worker's own
            assert microbatch.images_BCHW[:, 0, 0, 0].tolist() == [id.sample + 1 for id in ids]


def test_the_global_generator_is_left_alone() -> None:
    state = torch.random.get_rng_state()
    load()
    assert torch.equal(state, torch.random.get_rng_state())


def test_samples_of_another_step_are_refused() -> None:
    with pytest.raises(ValueError, match="microbatch 0 of step 0 holds samples of another step"):
        load(lambda step: [(0, (SampleId(9, 0),))])


def test_loader_processes_die_with_their_worker() -> None:
    receive, send = multiprocessing.Pipe(duplex=False)

    def worker() -> None:
        loader = load_steps(Numbered(), SAMPLER, pieces, 0, 1000, LoaderSettings(2))
        next(loader)
        send.send([child.pid for child in multiprocessing.active_children()])
        time.sleep(60)

    process = fork_context().Process(target=worker)
    process.start()
    assert receive.poll(60), "the worker has failed"
    pids = receive.recv()
    process.kill()
    process.join()
    receive.close()
    send.close()
    deadline = time.monotonic() + 10
    while any(map(_runs, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(pids) == 2
    assert not any(map(_runs, pids))


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_loader_process_of_a_dead_worker_ends_at_once() -> None:
    process = fork_context().Process(target=prepare, args=(os.getppid(),))
    process.start()
    process.join(10)
    assert process.exitcode == 1


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_a_plan_that_changes_between_two_steps_is_followed_at_once(num_workers: int) -> None:
    """What was loaded ahead for the plan of before is thrown away; a worker without microbatches may get some, and lose them."""
    plans = [range(2), range(0), range(0), range(1), range(1, 2), range(2), range(2), range(0), range(1)]
    now = 0

    def mine(step: int) -> list[tuple[int, tuple[SampleId, ...]]]:
        return [(index, ids) for index, ids in pieces(step) if index in plans[now]]

    loader = load_steps(Numbered(), SAMPLER, mine, 0, len(plans), LoaderSettings(num_workers))
    for step in range(len(plans)):
        now = step
        made = next(loader)
        assert [(m.index, m.ids) for m in made] == mine(step), step
        assert [int(m.images_BCHW[0, 0, 0, 0]) for m in made] == [m.ids[0].sample for m in made]
    assert next(loader, None) is None

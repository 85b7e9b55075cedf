"""Loaders that fail: processes that die, images that cannot be read, too little shared memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ziggurat.config import DataConfig, DigitsConfig
from ziggurat.data.batch import Microbatch, Sample, SampleId
from ziggurat.data.loader import LoaderSettings, load_steps
from ziggurat.data.loading.ordered import MAX_DEATHS
from ziggurat.data.sampler import Sampler, microbatch_ids
from ziggurat.data.samples import TrainingSamples
from ziggurat.errors import UserError
from ziggurat.tasks.classification.targets import LabelKind
from ziggurat.tasks.opening import open_dataset

SAMPLER = Sampler(num_samples=11, batch_size=4, seed=0)


class Deadly:
    """Samples that hold their own number; some end the process that makes them, a number of times.

    Args:
        folder: Remembers the deaths, over all processes.
        deaths: How often a sample kills, by its number.
    """

    kind = LabelKind()

    def __init__(self, folder: Path, deaths: dict[int, int], number: int = signal.SIGKILL) -> None:
        self.folder = folder
        self.deaths = deaths
        self.number = number

    def sample(self, id: SampleId) -> Sample:
        for death in range(self.deaths.get(id.sample, 0)):
            with contextlib.suppress(FileExistsError):  # another process has died it, or is about to
                (self.folder / f"{id.sample}-{death}").touch(exist_ok=False)
                os.kill(os.getpid(), self.number)
        return Sample(id, torch.full((3, 4, 4), id.sample, dtype=torch.uint8), id.sample)

    def replacements(self, id: SampleId) -> Iterator[SampleId]:
        return iter(())

    def describe(self, id: SampleId) -> str:
        return f"number {id.sample}"


def pieces(step: int) -> list[tuple[int, tuple[SampleId, ...]]]:
    return list(enumerate(microbatch_ids(SAMPLER.batch(step), 4, 2)))


def seen(steps: list[list[Microbatch]]) -> list[list[int]]:
    return [[int(image[0, 0, 0]) for m in step for image in m.images_BCHW] for step in steps]


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("deaths", [{3: 1}, {0: 1, 7: 2, 10: 1}, {5: MAX_DEATHS}])
def test_a_loader_that_dies_is_replaced_and_no_sample_is_lost(
    tmp_path: Path, num_workers: int, deaths: dict[int, int]
) -> None:
    said: list[str] = []
    handler = signal.getsignal(signal.SIGCHLD)
    settings = LoaderSettings(num_workers)
    loaded = list(load_steps(Deadly(tmp_path, deaths), SAMPLER, pieces, 0, 6, settings, said.append))
    assert seen(loaded) == [[id.sample for id in SAMPLER.batch(step)] for step in range(6)]
    assert 1 <= len(said) <= sum(deaths.values()), "two may die at once"
    assert said[0] == "a loader process ended (SIGKILL) and was replaced; its samples are loaded again"
    assert signal.getsignal(signal.SIGCHLD) is handler
    assert not multiprocessing.active_children()


def test_loaders_that_die_again_and_again_are_explained(tmp_path: Path) -> None:
    first = SAMPLER.batch(0)[0].sample
    samples = Deadly(tmp_path, {first: 99}, signal.SIGBUS)
    with pytest.raises(UserError) as caught:
        list(load_steps(samples, SAMPLER, pieces, 0, 6, LoaderSettings(2)))
    message = str(caught.value)
    assert message.startswith(f"{MAX_DEATHS + 1} loader processes in turn ended (SIGBUS)")
    assert f"number {first}, " in message
    assert "SIGBUS of too little shared memory" in message
    assert not multiprocessing.active_children()


def test_signals_for_the_worker_do_not_end_its_loaders() -> None:
    loader = load_steps(Deadly(Path("/"), {}), SAMPLER, pieces, 0, 1000, LoaderSettings(2))
    next(loader)
    children = multiprocessing.active_children()
    for child in children:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            os.kill(child.pid, number)  # type: ignore[arg-type] # it runs
    for _ in range(20):  # more than they had made before
        next(loader)
    assert all(child.is_alive() for child in children)
    loader.close()  # type: ignore[attr-defined] # it is a generator


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A class folder of five images, of which two are cut in the middle: the head is whole."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(5):
            path = tmp_path / split / ("odd" if number % 2 else "even") / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    for path in (tmp_path / "train" / "odd" / "1.png", tmp_path / "train" / "even" / "2.png"):
        path.write_bytes(path.read_bytes()[:1500])
    return tmp_path


def samples_of(folder: Path, **settings: object) -> TrainingSamples:
    config = DataConfig(path=str(folder), crop=32, resize=32, **settings)  # type: ignore[arg-type]  # a wrong value, or one of a table
    dataset = open_dataset(str(folder), "train", "classify", config, DigitsConfig())
    assert dataset is not None
    return TrainingSamples(dataset, LabelKind(), config, seed=0)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_what_cannot_be_read_is_replaced_by_the_next_image(damaged: Path, num_workers: int) -> None:
    samples = samples_of(damaged, on_error="skip")
    sampler = Sampler(len(samples), 4, seed=0)

    def plan(step: int) -> list[tuple[int, tuple[SampleId, ...]]]:
        return list(enumerate(microbatch_ids(sampler.batch(step), 4, 2)))

    steps = list(load_steps(samples, sampler, plan, 0, 4, LoaderSettings(num_workers, on_error="skip")))
    names = [samples.dataset.record(index).name for index in range(5)]
    bad = {index for index, name in enumerate(names) if name.endswith(("1.png", "2.png"))}
    faults = [fault for step in steps for m in step for fault in m.faults]
    ids = [id for step in range(4) for id in sampler.batch(step)]
    assert len(faults) == sum(id.sample in bad for id in ids) > 0
    for microbatch in (m for step in steps for m in step):
        for id, image in zip(microbatch.ids, microbatch.images_BCHW, strict=True):
            stand_in = id.sample
            while stand_in in bad:
                stand_in = (stand_in + 1) % 5
            assert torch.equal(image, samples.sample(SampleId(id.epoch, stand_in)).image_CHW)
    assert all("cannot decode the image" in fault and "stands in the place of" in fault for fault in faults)


def test_without_the_policy_the_file_is_named(damaged: Path) -> None:
    samples = samples_of(damaged)
    sampler = Sampler(len(samples), 5, seed=0)
    with pytest.raises(UserError, match=r"cannot decode the image .*[12]\.png"):
        list(load_steps(samples, sampler, lambda step: [(0, sampler.batch(step))], 0, 1, LoaderSettings()))


def test_when_no_image_can_be_read_it_ends(damaged: Path) -> None:
    for path in (damaged / "train").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:1500])
    samples = samples_of(damaged, on_error="skip")
    sampler = Sampler(len(samples), 5, seed=0)
    with pytest.raises(UserError, match="no image can be read; the last fault: cannot decode"):
        list(
            load_steps(
                samples, sampler, lambda step: [(0, sampler.batch(step))], 0, 1,
                LoaderSettings(on_error="skip"),
            )
        )  # fmt: skip


PROGRAM = """
    import torch
    from ziggurat.data.batch import Sample, SampleId
    from ziggurat.data.loader import LoaderSettings, load_steps
    from ziggurat.data.sampler import Sampler
    from ziggurat.errors import UserError
    from ziggurat.tasks.classification.targets import LabelKind

    class Large:
        kind = LabelKind()

        def sample(self, id):
            return Sample(id, torch.zeros(3, 1024, 1024, dtype=torch.uint8), 0)

    sampler = Sampler(4, 4, 0)
    try:
        list(load_steps(Large(), sampler, lambda step: [(0, sampler.batch(step))], 0, 2, LoaderSettings(1)))
    except UserError as error:
        print(error)
"""


def test_exhausted_shared_memory_is_explained(tmp_path: Path) -> None:
    """With a /dev/shm of 4 MB in a mount namespace of its own."""
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    small = "mount -t tmpfs -o size=4m tmpfs /dev/shm"
    if (
        not shutil.which("unshare")
        or subprocess.run(["unshare", "-m", "sh", "-c", small], capture_output=True, check=False).returncode
    ):
        pytest.skip("this user may not make a mount namespace")
    command = f"{small} && exec {sys.executable} {tmp_path / 'program.py'}"
    result = subprocess.run(
        ["unshare", "-m", "sh", "-c", command], capture_output=True, text=True, timeout=120, check=False
    )
    assert (
        "a loader process cannot pass on a microbatch of 12.6 MB: of the 4.2 MB of shared memory"
        in result.stdout
    )
    assert "--shm-size" in result.stdout

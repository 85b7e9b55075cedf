"""A run whose weights are the mean of several runs', with its batch norms measured anew."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.swa_utils import update_bn

from support.small_runs import config_of
from support.untrained_runs import untrained_run
from ziggurat.commands.evaluate import evaluate
from ziggurat.commands.soup import soup
from ziggurat.commands.train import train
from ziggurat.data.sampler import Sampler
from ziggurat.data.samples import TrainingSamples
from ziggurat.errors import UserError
from ziggurat.models.images import Normalization
from ziggurat.runs.folder import load_run
from ziggurat.tasks.opening import open_dataset
from ziggurat.tasks.registry import find_task
from ziggurat.training.soup import greedy_choice

CONFIG = config_of("segment")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [untrained_run(folder / str(seed), CONFIG, seed) for seed in range(3)]


def is_measured(name):
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def test_a_soup_is_the_mean_of_weights_and_has_its_own_batch_norms(runs, tmp_path):
    result = soup(runs, str(tmp_path / "soup"))
    made = load_file(tmp_path / "soup" / "weights.safetensors")
    given = [load_file(f"{run}/weights.safetensors") for run in runs]
    assert sum(map(is_measured, made)) > 10
    for name in filter(lambda name: not is_measured(name), made):
        expected = sum(one[name].double() for one in given) / 3
        torch.testing.assert_close(made[name].double(), expected, rtol=1e-6, atol=1e-7)
    assert result["batches"] == 4, "8 scenes in microbatches of 2"
    assert (result["runs"], result["left_out"], result["metrics"]) == (runs, [], {})
    assert json.loads((tmp_path / "soup" / "soup.json").read_text()) == result

    model = load_run(tmp_path / "soup").model  # PyTorch's own measure, of the same samples
    data = open_dataset("digits", "train", "segment", CONFIG.data, CONFIG.digits)
    samples = TrainingSamples(data, find_task("segment").targets, CONFIG.data, CONFIG.seed)
    sampler, normalize = Sampler(len(samples), 2, CONFIG.seed), Normalization.of(CONFIG.data, model)
    batches = [torch.stack([samples.sample(id).image_CHW for id in sampler.batch(step)]) for step in range(4)]
    update_bn([normalize(batch, [(64, 64)] * 2) for batch in batches], model)
    reference = model.state_dict()
    for name in filter(is_measured, made):
        torch.testing.assert_close(made[name], reference[name], rtol=1e-4, atol=1e-5, msg=name)
    assert evaluate(tmp_path / "soup", "digits", {"plan": "dp=1"})["images"] == 3


def test_a_greedy_soup_takes_what_does_not_make_it_worse(runs, tmp_path):
    scores = {(1,): 0.5, (0,): 0.7, (2,): 0.6, (0, 2): 0.8, (0, 2, 1): 0.75}
    assert greedy_choice([0.7, 0.5, 0.6], lambda runs: scores[tuple(runs)]) == ([0, 2], 0.8)
    assert greedy_choice([0.5, 0.5], lambda runs: 0.5) == ([0, 1], 0.5)
    result = soup(runs[:2], str(tmp_path / "soup"), greedy=True)
    alone = [evaluate(run, "digits", {"plan": "dp=1"})["metrics"]["miou"] for run in runs[:2]]
    assert result["metrics"]["miou"] >= max(alone)
    assert (
        evaluate(tmp_path / "soup", "digits", {"plan": "dp=1"})["metrics"]["miou"]
        == result["metrics"]["miou"]
    )


def test_what_is_of_no_one_network_is_refused_by_name(runs, tmp_path):
    other = untrained_run(tmp_path / "other", CONFIG, 0, **{"model.name": "smp:fpn/tu-test_resnet"})
    with pytest.raises(
        UserError, match=r"the same model\.name: .* has smp:unet/tu-test_resnet, .*other has smp:fpn"
    ):
        soup([runs[0], other], str(tmp_path / "soup"))
    mean = untrained_run(tmp_path / "mean", CONFIG, 0, **{"data.mean": "1,2,3", "data.std": "1,2,3"})
    with pytest.raises(UserError, match=r"the same data\.mean"):
        soup([runs[0], mean], str(tmp_path / "soup"))
    with pytest.raises(UserError, match="two runs or more"):
        soup(runs[:1], str(tmp_path / "soup"))
    with pytest.raises(UserError, match="holds a run already"):
        soup(runs[:2], runs[2])
    assert not (tmp_path / "soup").exists()


def test_a_soup_does_not_go_on(runs, tmp_path):
    soup(runs[:2], str(tmp_path / "soup"))
    with pytest.raises(UserError, match="is a soup, which no training has led to"):
        train(None, {}, tmp_path / "soup", resume=True)

"""Early stopping: at the same step on any number of workers, and after any break."""

import shutil

import pytest

from support.commands import BARE, run
from ziggurat.cli.main import main
from ziggurat.training.patience import Patience


@pytest.mark.parametrize(
    ("allowed", "metrics", "stops"),
    [
        (1, [0.1, 0.2, 0.2], 3),
        (1, [0.1, 0.2, 0.3], None),
        (2, [0.5, 0.4, 0.6, 0.1, 0.6], 5),
        (2, [None, None], 2),
        (2, [None, 0.0, None, float("nan")], 4),
        (0, [0.5, 0.1, 0.1, 0.1], None),
    ],
)
def test_it_counts_evaluations_that_are_no_better(allowed, metrics, stops):
    patience = Patience(allowed)
    stopped = None
    for step, metric in enumerate(metrics, start=1):
        patience.note(step, metric)
        if patience.is_over and stopped is None:
            stopped = step
        again = Patience(allowed, list(enumerate(metrics[:step], start=1)))
        assert (again.is_over, again.best_step) == (patience.is_over, patience.best_step)
    assert stopped == stops


WORDS = [
    *BARE, "--model", "pnn", "--lr", "1e-12", "--microbatches", "2", "--dtype", "fp32", "--set", "model.pnn.channels=4",
    "model.pnn.hidden=8", "train.evaluate_every=1", "train.checkpoint_every=1", "train.patience=2", "checkpoint.keep=9",
    "train.report=numbers", "train.ema=0", "train.weight_decay=0",
]  # fmt: skip


def test_a_run_stops_and_goes_on_as_if_it_had_not_been_broken(tmp_path, capfd):
    """So small a learning rate changes no metric: the first evaluation is the best, and two follow."""
    words = [
        word if word != "2" or WORDS[place - 1] != "--steps" else "9" for place, word in enumerate(WORDS)
    ]
    alone = run(capfd, "train", "digits", "--plan", "dp=1", "--out", tmp_path / "one", "--json", *words)
    assert alone["steps"] == 3
    assert (
        "stopped after step 3: 2 evaluations without a better top1"
        in (tmp_path / "one" / "log.txt").read_text()
    )
    together = run(capfd, "train", "digits", "--plan", "dp=2", "--out", tmp_path / "two", "--json", *words)
    assert (together["steps"], together["weights_sha256"]) == (3, alone["weights_sha256"])

    shutil.rmtree(tmp_path / "two" / "checkpoints" / "step-3")
    again = ["train", "--resume", "--out", tmp_path / "two", "--plan", "dp=1", "--json"]
    resumed = run(capfd, *again)
    assert (resumed["steps"], resumed["weights_sha256"]) == (3, alone["weights_sha256"])
    assert (run(capfd, *again)["steps"], run(capfd, *again, "--set", "train.patience=0")["steps"]) == (3, 9)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "train.patience=2"], "train.patience has no effect without train.evaluate_every"),
        (["--set", "train.patience=-1"], "train.patience must be from 0 to 1000000: got -1"),
    ],
)
def test_what_it_needs(words, message, tmp_path, capfd):
    assert main(["train", "digits", "--model", "pnn", "--out", str(tmp_path / "run"), *words]) == 2
    assert message in capfd.readouterr().err

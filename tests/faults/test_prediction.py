"""Kill a prediction at any instant: it goes on to the bytes of one that was not; `make faults` kills it a hundred times."""

import random

import pytest

from support.killed_predictions import BATCH_PIXELS, files_of, go_on, predict_for, save_images
from support.ranks import run_ranks
from ziggurat.inference import tiles

KILLS = 100


@pytest.mark.slow
def test_a_hundred_kills_at_random_instants(tmp_path, monkeypatch):
    """On one worker and on two in turn; a prediction that ends is compared, and the next one begins."""
    monkeypatch.setitem(tiles.BATCH_PIXELS, "cpu", BATCH_PIXELS)
    images, undisturbed = tmp_path / "images", tmp_path / "undisturbed"
    images.mkdir()
    save_images(images)
    run_ranks(go_on, 1, (images, undisturbed))
    expected, num_runs = files_of(undisturbed), undisturbed.with_suffix(".runs").stat().st_size
    draw, kills, ends = random.Random(7), 0, 0
    while kills < KILLS or not ends:
        out, lost = tmp_path / str(ends), 0
        while True:
            world = draw.randint(1, 2)
            try:
                run_ranks(predict_for, world, (images, out, draw.uniform(0.02, 1.0)), grace=0.2)
                break
            except RuntimeError:
                lost += world
                kills += 1
        assert files_of(out) == expected
        assert out.with_suffix(".runs").stat().st_size <= num_runs + lost
        ends += 1
    print(f"{kills} kills, {ends} predictions")

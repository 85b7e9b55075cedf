"""A prediction that was killed goes on, and ends in the bytes of one that was not."""

import dataclasses
import os
import random
import signal

import numpy as np
import pytest

from support.fake_detector import FindSquares
from support.killed_predictions import (
    BATCH_PIXELS,
    CONFIG,
    WRITE,
    files_of,
    go_on,
    predict,
    predict_until,
    save_images,
)
from support.ranks import run_ranks
from ziggurat.errors import UserError
from ziggurat.inference import journal, tiles
from ziggurat.inference import predict as predict_module
from ziggurat.inference.journal import FOLDER, Journal, read_journal
from ziggurat.inference.rows import IMAGE
from ziggurat.parallel.collectives.workers import Workers


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    save_images(folder)
    return folder


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setitem(tiles.BATCH_PIXELS, "cpu", BATCH_PIXELS)


@pytest.fixture(scope="module")
def undisturbed(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiles.BATCH_PIXELS, "cpu", BATCH_PIXELS)
        run_ranks(predict, 1, (images, out))
    return files_of(out), out.with_suffix(".runs").stat().st_size


KILLS = 6


@pytest.mark.parametrize("world", [1, 2])
def test_killed_predictions_end_in_the_same_bytes(images, undisturbed, tmp_path, world):
    files, num_runs = undisturbed
    draw, out = random.Random(world), tmp_path / "out"
    assert num_runs > 15
    for _ in range(KILLS):
        with pytest.raises(RuntimeError, match=r"without a word|failed"):
            run_ranks(predict_until, world, (images, out, draw.randint(0, 8)), grace=0.2)
    assert not (out / "predictions.json").exists()
    (result, *_) = run_ranks(go_on, world, (images, out))
    assert files_of(out) == files
    assert result["resumed"]
    lost = out.with_suffix(".runs").stat().st_size - num_runs
    assert lost <= world * KILLS, "a kill costs each worker one batch"


def test_a_prediction_goes_on_with_another_number_of_workers(images, undisturbed, tmp_path):
    out = tmp_path / "out"
    for world in (2, 3):
        with pytest.raises(RuntimeError):
            run_ranks(predict_until, world, (images, out, 7), grace=0.2)
    run_ranks(go_on, 1, (images, out))
    assert files_of(out) == undisturbed[0]


def stop_early(images, out):
    with pytest.raises(RuntimeError):
        run_ranks(predict_until, 1, (images, out, 9))


def late(workers, images, out):
    """Predict; the second worker looks at the journal when the first has written all of its images."""
    read = predict_module.read_journal

    def late_read(folder, check=False):
        while workers.rank and not any(kind == IMAGE for kind, _ in read(folder)):
            os.sched_yield()
        return read(folder, check)

    predict_module.read_journal = late_read
    return predict(workers, images, out)


def test_a_worker_that_comes_late_joins_the_images_that_are_its_own(images, undisturbed, tmp_path):
    """It read what the others had written by then, and so took other images than those that were left to it."""
    run_ranks(late, 2, (images, tmp_path / "out"))
    assert files_of(tmp_path / "out") == undisturbed[0]


CHANGES = {
    "decode.score_threshold is 0.5, and was 0.05": lambda c: dataclasses.replace(c, decode=dataclasses.replace(c.decode, score_threshold=0.5)),
    "data.tile_overlap is 0.25, and was 0.5": lambda c: dataclasses.replace(c, data=dataclasses.replace(c.data, tile_overlap=0.25)),
}  # fmt: skip


def test_another_prediction_is_refused_by_name(images, tmp_path):
    out, copy = tmp_path / "out", tmp_path / "copy"
    copy.mkdir()
    for file in images.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    stop_early(copy, out)
    for message, change in CHANGES.items():
        with pytest.raises(UserError, match=message):
            predict(Workers(), copy, out, change(CONFIG), resume=True)
    with pytest.raises(UserError, match="pictures is none, and was auto"):
        predict(Workers(), copy, out, resume=True, pictures="none")
    with pytest.raises(UserError, match="the weights are not those"):
        predict(Workers(), copy, out, resume=True, weights="others")
    with pytest.raises(UserError, match="that has not ended: go on with it"):
        predict(Workers(), copy, out)
    os.utime(copy / "3.png", ns=(1, 1))
    with pytest.raises(UserError, match=r"images are others, or have changed: .*3\.png"):
        predict(Workers(), copy, out, resume=True)
    (copy / "3.png").unlink()
    with pytest.raises(UserError, match="there are 4 images, and were 5"):
        predict(Workers(), copy, out, resume=True)
    assert predict(Workers(), copy, out, overwrite=True)["images"] == 4
    assert not (out / FOLDER).exists()
    with pytest.raises(UserError, match="a prediction that has ended, and cannot go on"):
        predict(Workers(), copy, out, resume=True)


def test_records_that_are_not_whole_are_computed_again(images, undisturbed, tmp_path):
    """Half a line, bytes that have changed, a file of records that ends early."""
    out = tmp_path / "out"
    stop_early(images, out)
    run_ranks(go_on_until_the_end_of_tiles, 1, (images, out))
    folder = out / FOLDER
    before = len(read_journal(folder, check=True))
    assert before > 10
    data = folder / "0001-0000.data"
    spoiled = bytearray(data.read_bytes())
    spoiled[10] ^= 1
    data.write_bytes(spoiled)
    lines = folder / "0002-0000.jsonl"
    lines.write_bytes(lines.read_bytes()[:-9])
    assert len(read_journal(folder, check=True)) == before - 2
    run_ranks(go_on, 1, (images, out))
    assert files_of(out) == undisturbed[0]


def go_on_until_the_end_of_tiles(workers, images, out):
    """Stop before the first image is joined."""

    def stop(*_):
        raise KeyboardInterrupt

    FindSquares.write = stop
    with pytest.raises(KeyboardInterrupt):
        go_on(workers, images, out)


def test_images_that_cannot_be_decoded_stay_left_out(images, tmp_path):
    """Their tiles were computed as black ones before the kill; nobody may take these for results."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for file in images.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    whole = (folder / "0.png").read_bytes()
    (folder / "0.png").write_bytes(whole[: len(whole) // 2])
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, on_error="skip"))
    expected = predict(Workers(), folder, tmp_path / "expected", config)
    with pytest.raises(RuntimeError):
        run_ranks(predict_tolerantly_until, 1, (folder, out, config, 40))
    assert ("fault", 0) in read_journal(out / FOLDER)
    result = predict(Workers(), folder, out, config, resume=True)
    assert result["faults"] == expected["faults"]
    assert list(result["faults"]) == [(folder / "0.png").as_posix()]
    assert files_of(out) == files_of(tmp_path / "expected")


def predict_tolerantly_until(workers, images, out, config, write):
    left = [write]

    def deadly(file, data):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        WRITE(file, data)

    journal._write = deadly
    return predict(workers, images, out, config)


def test_a_journal_waits_for_the_disk_now_and_then(tmp_path, monkeypatch):
    times, synced = iter(np.arange(0, 10, 0.3)), []
    monkeypatch.setattr(os, "fsync", synced.append)
    with Journal(tmp_path, "0001-0000", lambda: next(times)) as one:
        for number in range(10):
            one.add("tiles", number, b"x" * number)
        assert 2 * 2 <= len(synced) <= 2 * 3
        one.sync()
    records = read_journal(tmp_path, check=True)
    assert [records["tiles", number].read() for number in range(10)] == [b"x" * n for n in range(10)]

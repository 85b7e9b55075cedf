"""The noise scale: of gradients that are drawn with a known one, and of a run's log."""

import json

import numpy as np
import pytest

from ziggurat.planning.noise import format_noise, noise_of_run, noise_scale


def drawn(true, deviation, batch, part, steps, seed=0):
    """Return rows of steps whose images have gradients of a true one and noise, normal in each of its elements."""
    generator = np.random.default_rng(seed)
    rows = []
    for step in range(steps):
        images = true + deviation * generator.standard_normal((batch, len(true)))
        rows.append(
            {
                "kind": "train", "step": 10 * step + 1, "images": batch, "microbatch_images": part,
                "gradient_norm": float(np.linalg.norm(images.mean(0))),
                "microbatch_gradient_norm": float(np.linalg.norm(images[:part].mean(0))),
            }
        )  # fmt: skip
    return rows


@pytest.mark.parametrize(
    ("batch", "part", "deviation"), [(64, 16, 0.5), (32, 4, 0.5), (8, 1, 0.5), (64, 16, 2.0), (128, 4, 2.0)]
)
def test_the_noise_that_was_drawn_is_found(batch, part, deviation):
    """As far as the batch is not much smaller than it: else it drowns the direction."""
    true = np.full(400, 0.1)
    found = noise_scale(drawn(true, deviation, batch, part, 50))
    assert found.images == pytest.approx(400 * deviation**2 / (400 * 0.01), rel=0.25)
    assert (found.batch, found.steps, found.last_step) == (batch, 50, 491)


def test_without_direction_it_is_far_above_the_batch():
    found = noise_scale(drawn(np.zeros(400), 1.0, 8, 2, 50, seed=2))
    assert found.images is None or found.images > 100
    assert (
        "far above 8 images" in format_noise({"images": None, "batch": 8, "steps": 50, "last_step": 491})[0]
    )
    assert (
        "gradient noise scale: 120 images"
        in format_noise({"images": 120.0, "batch": 40, "steps": 9, "last_step": 81})[0]
    )
    assert "saves 75%" in format_noise({"images": 120.0, "batch": 40, "steps": 9, "last_step": 81})[0]


def test_few_steps_or_steps_of_one_microbatch_tell_nothing():
    rows = drawn(np.ones(4), 1.0, 8, 2, 4)
    assert noise_scale(rows) is None
    assert noise_scale([{"kind": "train", "step": 1, "gradient_norm": 1.0, "images": 8}] * 20) is None
    other = drawn(np.ones(4), 1.0, 16, 4, 30)
    assert noise_scale(other + rows) is None, "another batch since"
    assert noise_scale(rows + other).batch == 16
    nothing = [row | {"gradient_norm": None} for row in other]  # a step that was skipped
    assert noise_scale(nothing) is None


def test_a_log_is_read_as_far_as_it_can_be(tmp_path):
    assert noise_of_run(tmp_path) is None
    rows = drawn(np.ones(4), 1.0, 16, 4, 30)
    lines = [json.dumps(row) for row in rows] + [json.dumps({"kind": "val", "step": 3}), '{"kind": "tra']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert noise_of_run(tmp_path) == noise_scale(rows)

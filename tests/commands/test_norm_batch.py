from __future__ import annotations

import pytest

from ziggurat.commands.norm_batch import check_smallest_microbatch
from ziggurat.config import RunConfig, override
from ziggurat.data.crop_sizes import crop_sizes
from ziggurat.errors import UserError
from ziggurat.models.build import build_model


def check(num_samples: int, batch_size: int, microbatches: int, **settings: object) -> None:
    defaults = {"model.name": "smp:upernet/resnet10t", "model.channels": 32, "data.crop": 64}
    train = {"train.batch_size": batch_size, "train.microbatches": microbatches}
    config = override(RunConfig(), defaults | train | {k.replace("__", "."): v for k, v in settings.items()})
    check_smallest_microbatch(build_model(config.model, 2), config, num_samples, min(crop_sizes(config.data)))


def test_the_message_has_the_numbers_and_what_helps() -> None:
    with pytest.raises(UserError) as caught:
        check(17, batch_size=8, microbatches=4)
    (fault,) = caught.value.faults
    assert "17 samples an epoch, batches of 8 and 4 microbatches of 2 come to a microbatch of 1" in fault
    assert "use --batch-size 12, or --set model.norm=group" in fault
    check(17, batch_size=12, microbatches=4)  # 5 samples are left: 3 and 2


def test_fewer_microbatches_help_where_they_do() -> None:
    with pytest.raises(UserError, match=r"use --batch-size 16, --microbatches 4, or --set model\.norm=group"):
        check(64, batch_size=8, microbatches=8)
    check(64, batch_size=16, microbatches=8)
    check(64, batch_size=8, microbatches=4)


@pytest.mark.parametrize(
    ("num_samples", "settings"),
    [
        (16, {}),  # nothing is left over
        (18, {}),
        (17, {"train__steps": 2}),  # the last batch is not reached
        (17, {"model__norm": "group"}),
        (17, {"model__name": "smp:unet/resnet10t"}),
    ],
)
def test_runs_that_meet_no_single_image_or_do_not_mind(num_samples: int, settings: dict[str, object]) -> None:
    check(num_samples, batch_size=8, microbatches=4, **settings)

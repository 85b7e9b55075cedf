"""Plans, and what they resolve to."""

import pytest

from ziggurat.config import RunConfig, override
from ziggurat.errors import UserError
from ziggurat.strategies.plan import Plan, parse_plan
from ziggurat.strategies.resolve import available_cores, resolve_batch, resolve_device_of, resolve_place


def test_a_plan_reads_back():
    assert parse_plan("dp=4") == Plan(dp=4)
    assert str(Plan(dp=4)) == "dp=4"
    assert parse_plan(" dp = 2 ").num_workers == 2


@pytest.mark.parametrize(
    ("text", "plan", "workers", "name"),
    [
        ("sp=2", Plan(sp=(2,)), 2, "sp=2"),
        ("sp=2x3,dp=2", Plan(dp=2, sp=(2, 3)), 12, "dp=2,sp=2x3"),
        ("sp=1x2", Plan(sp=(1, 2)), 2, "sp=1x2"),
        ("dp=2,sp=3x1", Plan(dp=2, sp=(3,)), 6, "dp=2,sp=3"),
        ("dp=1,sp=1x1", Plan(), 1, "dp=1"),
        ("pp=3", Plan(pp=3), 3, "pp=3"),
        ("sp=2,fsdp=3", Plan(fsdp=3, sp=(2,)), 6, "fsdp=3,sp=2"),
        ("pp=2,dp=2,sp=2x1", Plan(dp=2, sp=(2,), pp=2), 8, "dp=2,sp=2,pp=2"),
    ],
)
def test_a_spatial_plan_reads_back(text, plan, workers, name):
    assert parse_plan(text) == plan
    assert (plan.num_workers, str(plan)) == (workers, name)
    assert parse_plan(name) == plan


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("dp=0", ["the degree of dp must be a positive whole number: got '0' in 'dp=0'"]),
        ("dp=two", ["the degree of dp must be a positive whole number: got 'two' in 'dp=two'"]),
        ("dp", ["the degree of dp must be a positive whole number: got '' in 'dp'"]),
        ("lp=2,pp=2", ["lp does not go with pp: got 'lp=2,pp=2'; use one of them, with dp, sp and tp"]),
        ("pp=2,fsdp=2", ["fsdp does not go with pp: got 'pp=2,fsdp=2'; use one of them, with dp, sp and tp"]),
        ("fsdp=2,lp=2", ["lp does not go with fsdp: got 'fsdp=2,lp=2'; use one of them, with sp and tp"]),
        (
            "dp=2,fsdp=2",
            ["fsdp spreads samples as dp does: got 'dp=2,fsdp=2'; use fsdp=4 without dp, or leave out fsdp"],
        ),
        ("dp=2,dp=3", ["the plan 'dp=2,dp=3' names the axis dp twice"]),
        (
            "fsdp=2,ddp=2,sp=2x0,sp=2x2x2",
            [
                "unknown axis 'ddp' in the plan 'fsdp=2,ddp=2,sp=2x0,sp=2x2x2': did you mean 'dp'?",
                "the degree of sp must be a positive whole number, or rows x columns such as 2x2: got '2x0' in "
                "'fsdp=2,ddp=2,sp=2x0,sp=2x2x2'",
                "the degree of sp must be a positive whole number, or rows x columns such as 2x2: got '2x2x2' in "
                "'fsdp=2,ddp=2,sp=2x0,sp=2x2x2'",
            ],
        ),
    ],
)
def test_every_fault_of_a_plan_is_named(text, faults):
    with pytest.raises(UserError) as caught:
        parse_plan(text)
    assert caught.value.faults == faults


def config(**settings):
    return override(
        RunConfig(device="cpu"), {name.replace("__", "."): value for name, value in settings.items()}
    )


def test_without_a_plan_every_core_is_a_worker():
    place = resolve_place(config(), world=None)
    assert place.plan == f"dp={max(n for n in range(1, available_cores() + 1) if 8 % n == 0)}"
    assert place.dtype in ("bf16", "fp32")


@pytest.mark.parametrize(
    ("cores", "batch", "microbatches", "plan"), [(6, 8, 0, 4), (3, 4, 0, 2), (64, 8, 0, 8), (4, 8, 2, 2)]
)
def test_without_a_plan_the_workers_share_the_batch_evenly(monkeypatch, cores, batch, microbatches, plan):
    monkeypatch.setattr("ziggurat.strategies.resolve.available_cores", lambda: cores)
    chosen = config(train__batch_size=batch, train__microbatches=microbatches)
    assert resolve_place(chosen, None).plan == f"dp={plan}"
    assert resolve_batch(chosen, None).train.microbatches == (microbatches or plan)


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 8), ("200000 100000", 2), ("50000 100000", 1)])
def test_a_containers_quota_limits_the_cores(monkeypatch, quota, cores):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr("ziggurat.strategies.resolve._cpu_quota", lambda: quota)
    assert available_cores() == cores


def test_threads_are_the_cores_of_a_worker():
    assert resolve_place(config(plan="dp=1"), None).threads == available_cores()
    assert resolve_place(config(plan="dp=1", threads=3), None).threads == 3


def test_the_world_of_torchrun_is_the_plan():
    assert resolve_place(config(), world=6).plan == "dp=6"
    with pytest.raises(
        UserError, match="dp=2 has 2, torchrun started 6: change the plan or --nproc-per-node"
    ):
        resolve_place(config(plan="dp=2"), world=6)


def test_microbatches_default_to_the_workers():
    assert resolve_batch(config(plan="dp=4"), None).train.microbatches == 4
    assert resolve_batch(config(plan="dp=4", train__microbatches=8), None).train.microbatches == 8


def test_workers_that_share_images_share_microbatches():
    assert resolve_batch(config(plan="sp=4"), None).train.microbatches == 1
    assert resolve_batch(config(plan="dp=2,sp=2x2"), None).train.microbatches == 2
    assert resolve_batch(config(plan="fsdp=2,sp=2"), None).train.microbatches == 2
    assert resolve_batch(config(plan="sp=4", train__microbatches=1), None).train.microbatches == 1
    assert resolve_place(config(plan="sp=2x2,dp=2"), world=8).plan == "dp=2,sp=2x2"
    with pytest.raises(UserError, match="dp=2,sp=2 has 4, torchrun started 2"):
        resolve_place(config(plan="dp=2,sp=2"), world=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"plan": "dp=3", "train__microbatches": 2},
            "the plan dp=3 has 3, and microbatches is 2: use --plan dp=2 or --microbatches 3",
        ),
        (
            {"plan": "dp=3,sp=2", "train__microbatches": 2},
            "the plan dp=3,sp=2 has 3, and microbatches is 2: use --plan dp=2,sp=2 or --microbatches 3",
        ),
        (
            {"plan": "fsdp=3,sp=2", "train__microbatches": 2},
            "each worker of the fsdp axis needs a microbatch: the plan fsdp=3,sp=2 has 3, and microbatches is 2: use --plan "
            "fsdp=2,sp=2 or --microbatches 3",
        ),
        ({"plan": "dp=1", "train__microbatches": 3}, "use 2 microbatches, or a batch of 9"),
        ({"plan": "dp=1", "train__microbatches": 9}, "raise --batch-size or lower --microbatches"),
    ],
)
def test_batch_microbatches_and_workers_must_fit(settings, message):
    with pytest.raises(UserError, match=message):
        resolve_batch(config(**settings), None)


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="PyTorch finds no GPU here"):
        resolve_place(override(RunConfig(), {"device": "cuda"}), None)


def test_workers_share_a_gpu_where_they_are_told_to(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    two = {"device": "cuda", "plan": "dp=2", "dtype": "fp32"}
    with pytest.raises(UserError, match="needs 2 GPUs: this machine has 1; workers share them") as caught:
        resolve_place(config(**two), None)
    assert "launch.backend=gloo" in str(caught.value)
    assert resolve_place(config(**two, **{"launch.backend": "gloo"}), None).plan == "dp=2"


@pytest.mark.parametrize(
    ("gpus", "settings", "device"),
    [(0, {}, "cpu"), (1, {}, "cpu"), (2, {}, "cuda"), (1, {"launch.backend": "gloo"}, "cuda"), (2, {"device": "cpu"}, "cpu")],
)  # fmt: skip
def test_a_plan_is_tried_out_on_gpus_where_there_are_enough(monkeypatch, gpus, settings, device):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    assert resolve_device_of(Plan(sp=(2,)), override(RunConfig(), settings), None) == device
    if gpus == 1:
        with pytest.raises(UserError, match="needs 2 GPUs"):
            resolve_device_of(Plan(sp=(2,)), override(RunConfig(), {"device": "cuda"}), None)


def test_runs_take_stages():
    resolved = resolve_batch(resolve_place(config(plan="dp=2,pp=2"), None), None)
    assert (resolved.plan, resolved.train.microbatches) == ("dp=2,pp=2", 4)


def test_settings_of_the_plan():
    pipeline = override(RunConfig(), {"plan.cut": "layer1,layer2", "plan.schedule": "gpipe"}).pipeline
    assert (pipeline.cut, pipeline.schedule) == ("layer1,layer2", "gpipe")
    with pytest.raises(UserError, match=r"unknown setting 'plan\.cuts': did you mean 'plan\.cut'"):
        override(RunConfig(), {"plan.cuts": "layer1"})

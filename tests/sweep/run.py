"""One network of the sweep: built once, one reference for each size, and the same step under every plan.

Everything happens in a process of its own, with a time limit: a network that fails, hangs or crashes ends nothing else.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import signal
import time
import traceback
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import nn

from ranks import run_ranks
from ziggurat.config import ModelConfig, RunConfig, override
from ziggurat.errors import UserError
from ziggurat.parallel.launch import die_with_parent
from ziggurat.parallel.workers import Workers
from ziggurat.plans.mesh import make_mesh
from ziggurat.plans.plan import parse_plan
from ziggurat.verify.check import Check, check_step
from ziggurat.verify.compare import BOUNDS
from ziggurat.verify.networks import build_network
from ziggurat.verify.rounding import measure_rounding
from ziggurat.verify.step import Step, Trial, run_step

SIZES = {"square": (96, 96), "odd": (99, 115), "prime": (101, 127)}
# many batch norms in a row over a handful of values amplify rounding: the last maps would be of 1 x 2 pixels
LARGE_SIZES = {"square": (160, 160), "odd": (155, 171), "prime": (151, 163)}
# its auxiliary classifier has a window of 5 x 5 on a map that it has pooled
LARGEST_SIZES = {"square": (304, 304), "odd": (301, 315), "prime": (307, 311)}
VIDEO_SIZES = {
    "square": (448, 448),
    "odd": (450, 454),
    "prime": (454, 458),
}  # half of them: it pools 7 x 7 after five halvings
ONE_SIZE = {"square": (224, 224), "odd": (224, 224), "prime": (224, 224)}  # the network takes no other
SIZES_OF = {
    "atss-resnet18-bifpn": LARGE_SIZES,
    "fcos-resnet18-bifpn": LARGE_SIZES,
    "fcos-tf_efficientnet_lite0-fpn": LARGE_SIZES,
    "timm:dla60_res2net": LARGE_SIZES,
    "timm:dla60_res2next": LARGE_SIZES,
    "timm:ghostnetv2_100": LARGE_SIZES,
    "timm:inception_v3": LARGE_SIZES,
    "timm:inception_v4": LARGE_SIZES,
    "timm:inception_resnet_v2": LARGE_SIZES,
    "torchvision:inception_v3": LARGEST_SIZES,
    "torchvision:maxvit_t": ONE_SIZE,
    "torchvision:s3d": VIDEO_SIZES,
    "torchvision:ssd300_vgg16": LARGEST_SIZES,
    "torchvision:vit_b_32": ONE_SIZE,
}
CASES = (("sp=2", "square"), ("sp=3", "odd"), ("sp=2x2", "prime"))
# the plan and the schedule of its stages; 7 images in two microbatches, the last one smaller
STAGE_CASES = (("pp=3 1f1b", "small"), ("pp=2 interleaved", "small"))
STAGE_SIZES = {"small": (64, 64)}
STAGE_BATCH, STAGE_MICROBATCHES = 7, 2
SMALL = ModelConfig(
    channels=64, head_depth=2
)  # pyramids and heads of ours: the same operations, less of each
FRAMES = 5
FRAMES_OF = {"torchvision:s3d": 16}  # it pools pairs of frames after three halvings
BATCH = 3  # a batch norm of two values gives 1 and -1 whatever they are: its gradient is rounding
BATCH_OF = {
    "smp:pan/mobilenet_v2": 8
}  # a batch norm after pooling to one position, with gradients larger than others'
SEED = 3
MOST_ROUNDING = 2  # times what rounding does on one worker: a plan rounds in a way of its own


@dataclass
class Outcome:
    """What came of one network.

    Attributes:
        family: As in the table.
        name: As ``ziggurat verify`` takes it.
        verdict: ``exact``; ``rounding`` (a bound is broken, by as much as rounding moves the step on one worker);
            ``wrong`` (a bound is broken); ``raised`` (an operation is unsupported); ``failed`` (it
            ends by another error under a plan); ``not built`` (it does not run on one worker either).
        why: Of everything but ``exact``.
        error: The largest relative error of all plans.
        size: Where the network takes one size only.
        cases: By plan and size, each with its verdict, its errors and what it had to gather.
        seconds: All together.
    """

    family: str
    name: str
    verdict: str
    why: str = ""
    error: float = 0.0
    size: str = ""
    cases: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def run_network(family: str, name: str, cases: Any = CASES, limit: float = 120) -> Outcome:
    """Verify one network in a process of its own; the process and its workers are ended after `limit` seconds."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_main, args=(send, family, name, cases))
    begin = time.monotonic()
    process.start()
    send.close()
    outcome = Outcome(family, name, "failed", f"no answer in {limit:.0f} s")
    try:
        while receive.poll(max(0.0, begin + limit - time.monotonic())):
            outcome = receive.recv()
    except EOFError:  # it has ended
        pass
    finally:
        _end_group(process.pid)
        process.join()
        receive.close()
    outcome.seconds = round(time.monotonic() - begin, 1)
    return outcome


def _end_group(group: int | None) -> None:
    try:
        if group is not None:
            os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def _main(pipe: Connection, family: str, name: str, cases: Any) -> None:
    die_with_parent(os.getppid())
    os.setsid()
    torch.set_num_threads(1)
    outcome = Outcome(family, name, "exact")
    try:
        torch.manual_seed(SEED)
        model = build_network(name, SMALL).double()
    except UserError as error:
        pipe.send(Outcome(family, name, "not built", str(error)))
        return
    references: dict[tuple[int, ...], tuple[Step, Trial]] = {}
    pieces = STAGE_MICROBATCHES if _is_staged(cases[0][0]) else 1
    outcome.size = str(getattr(model, "only_size", None) or "")
    for plan, size in cases:
        shape = _shape(model, family, name, size, STAGE_BATCH if pieces > 1 else BATCH_OF.get(name, BATCH))
        if shape not in references:
            generator = torch.Generator().manual_seed(SEED)
            images = torch.randn(shape, generator=generator, dtype=torch.float64)
            trial = Trial(images, SEED, pieces, config=RunConfig(model=replace(SMALL, name=name)))
            try:
                references[shape] = run_step(copy.deepcopy(model), trial, make_mesh(Workers())), trial
            except Exception as error:  # noqa: BLE001 - the network's own code
                pipe.send(Outcome(family, name, "not built", f"{type(error).__name__}: {error}"))
                return
        reference, trial = references[shape]
        _add_case(outcome, plan, trial, model, reference)
        pipe.send(outcome)


def _is_staged(plan: str) -> bool:
    return "pp=" in plan


def _shape(model: Any, family: str, name: str, size: str, batch: int) -> tuple[int, ...]:
    only = getattr(model, "only_size", None)
    sizes = SIZES_OF.get(name, SIZES)
    sizes = sizes | (STAGE_SIZES if sizes is SIZES else {"small": sizes["square"]})
    rows, columns = (only, only) if only else sizes[size]
    if family.endswith("video"):
        return (batch if size in STAGE_SIZES else 1, 3, FRAMES_OF.get(name, FRAMES), rows // 2, columns // 2)
    return (batch, 3, rows, columns)


def _add_case(outcome: Outcome, case: str, trial: Trial, model: nn.Module, reference: Step) -> None:
    """Run one plan, and join its verdict to those before."""
    plan, _, schedule = case.partition(" ")
    images = trial.images
    if schedule:
        trial = replace(trial, config=override(trial.config, {"pipeline.schedule": schedule}))
    key = f"{case} {'x'.join(str(n) for n in images.shape)}"
    try:
        check: Check = run_ranks(check_step, parse_plan(plan).num_workers, (plan, model, trial, reference))[0]
    except (RuntimeError, TimeoutError) as error:
        if isinstance(error.__cause__, UserError):  # it cannot be cut
            why = str(error.__cause__)
            outcome.cases[key] = {"verdict": "raised", "why": why}
            if outcome.verdict == "exact":
                outcome.verdict, outcome.why = "raised", why
            return
        why = traceback.format_exc().strip()
        outcome.cases[key] = {"verdict": "failed", "why": why}
        outcome.verdict = outcome.verdict if outcome.verdict == "wrong" else "failed"
        outcome.why = outcome.why or why.splitlines()[-1]
        return
    if check.errors is None:
        found = check.unsupported[0]
        why = f"{found['operation']} in {found['layer']}: {found['reason']}"
        outcome.cases[key] = {"verdict": "raised", "why": why, **found}
        if outcome.verdict == "exact":
            outcome.verdict, outcome.why = "raised", why
        return
    error = check.errors.largest
    verdict, why = "exact", ""
    if error > BOUNDS[images.dtype]:
        rounding = measure_rounding(copy.deepcopy(model), trial, reference).largest
        verdict = "rounding" if error <= MOST_ROUNDING * rounding else "wrong"
        why = f"{key}: {error:.1e}; rounding in other ways moves the step on one worker by {rounding:.1e}; {check.errors}"
    gathers = {f"{layer} {operation}": size for (layer, operation), size in check.gathers.items()}
    outcome.cases[key] = {"verdict": verdict, "gathers": gathers, **asdict(check.errors)}
    outcome.error = max(outcome.error, error)
    if verdict == "wrong" or (verdict == "rounding" and outcome.verdict == "exact"):
        outcome.verdict, outcome.why = verdict, why

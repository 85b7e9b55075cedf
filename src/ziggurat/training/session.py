"""What a run leaves in its folder: checkpoints, weights, and what there is to say of a step that failed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ziggurat.config import RunConfig
from ziggurat.data.balance import ClassCounts
from ziggurat.data.dataset import Dataset
from ziggurat.data.extents import Extent
from ziggurat.data.faults import Fault, count_left_out
from ziggurat.errors import Preempted, UserError
from ziggurat.models.vision import VisionModel
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.parallel.runtime.heartbeat import phase
from ziggurat.parallel.runtime.preemption import Preemption
from ziggurat.runs.checkpoint import Checkpoints, Progress, checkpoint_folder, load_state, take_progress
from ziggurat.runs.folder import (
    WEIGHTS,
    declare_run,
    list_skipped,
    resume_command,
    save_weights,
    start_run_folder,
    write_counts,
)
from ziggurat.runs.log import LOG, RunLog
from ziggurat.strategies.parallel import Parallel
from ziggurat.strategies.state import TrainState
from ziggurat.system.writing import CannotWrite
from ziggurat.training.callbacks import Calls
from ziggurat.training.data import TrainingData
from ziggurat.training.extension import extension_of
from ziggurat.training.nonfinite import bad_weights
from ziggurat.training.plan_change import Change, PlanAsked
from ziggurat.training.plan_requests import Requests
from ziggurat.training.replanning import Replanning
from ziggurat.training.snapshot import hand_over, handed_over

REMEDY = "lower train.lr, lengthen train.warmup, or use --dtype fp32"


@dataclass
class Session:
    """What a run leaves in its folder.

    Attributes:
        workers: All workers.
        config: Of the run.
        folder: Of the run.
        state: As this worker has it.
        checkpoints: Of the run.
        parallel: How the state is spread over workers, once it is.
        crop_of: Returns rows and columns of the images of a step.
        replanning: When the planner is asked without anybody asking for it.
        memory: Where the state goes when the plan changes; None takes a checkpoint on the disk.
        missing: The faults of files that must be there and are not (the first worker's).
        unbounded: Buffers that the network itself fills with infinity, such as the mask of an attention.
    """

    workers: Workers
    config: RunConfig
    folder: Path
    state: TrainState[VisionModel]
    checkpoints: Checkpoints
    crop_of: Callable[[int], Extent]
    replanning: Replanning
    parallel: Parallel[VisionModel] | None = None
    memory: Path | None = None
    missing: list[CannotWrite] = field(default_factory=list)
    unbounded: frozenset[str] = frozenset()

    @cached_property
    def requests(self) -> Requests:
        """Who asks for another plan."""
        return Requests(self.folder, self.config, self.replanning, self.crop_of, self.workers.line)

    @property
    def spread(self) -> Parallel[VisionModel]:
        """The state as it is spread over workers: after `begin`."""
        assert self.parallel is not None
        return self.parallel

    def start_folder(self, dataset: Dataset, resume: bool) -> None:
        """Write what the run is about, where it begins."""
        self.workers.decide_on_first(lambda: start_run_folder(self.folder, self.config, dataset, resume))

    def write_counts(self, counts: ClassCounts | None) -> None:
        """Write how often each class occurs in the training data, where that was counted."""
        if counts is not None:
            self.workers.decide_on_first(lambda: write_counts(self.folder, counts))

    def list_skipped(self, left_out: Mapping[str, Sequence[Fault]]) -> None:
        """Write the list of annotations and images that were left out, by split."""
        if self.workers.is_first:
            list_skipped(self.folder, left_out)

    def extension(self, data: TrainingData) -> str | None:
        """Return what is said of a run that goes on to another length, on every worker; see `extension_of`."""
        return self.workers.decide_on_first(
            lambda: extension_of(self.folder, self.config, data, self.state.step)
        )

    def begin(self, parallel: Parallel[VisionModel]) -> None:
        """Take the state as it is spread over workers; only now the folder is that of a run, and `--out` is taken."""
        self.parallel = parallel
        weights = {name for name, _ in self.state.model.named_parameters()}
        self.unbounded = frozenset(bad_weights(self.state.model, weights))
        if self.workers.is_first:
            declare_run(self.folder, self.config)

    def resume(self, memory: Path | None) -> bool:
        """Load the newest state, and return whether survivors have handed it over.

        What survivors hand over is that of the instant at which its last step was done: what else was due after this
        step may be missing.
        """
        found = self.checkpoints.look()
        survived = handed_over(memory, self.checkpoints.run) if self.workers.is_first else None
        survived = self.workers.broadcast_object(survived)
        if survived is not None and memory is not None and (found is None or found.step <= survived.step):
            progress, place = survived, checkpoint_folder(memory, survived.step)
        else:
            progress = found or self.checkpoints.none_found()
            place = self.checkpoints.path(progress)
        load_state(place, progress, self.state)
        return progress is survived

    def go_on(self, change: Change, is_whole: bool) -> None:
        """Take the state as a change of plan has left it.

        Args:
            change: Of the plan of this run.
            is_whole: Whether all tensors are there already.
        """
        self.checkpoints.know(change.known)
        if is_whole:
            take_progress(change.progress, self.state)
        else:
            load_state(change.place, change.progress, self.state)

    def save_checkpoint(self, done: int, log: RunLog, metric: float | None = None) -> None:
        """Begin to write the state after `done` steps; what the log says of them is on the disk before.

        Raises:
            UserError: If its weights are not finite.
        """
        phase("checkpoint")
        self.refuse_broken(done, [])
        log.sync()
        progress = Progress(done, metric, dict(self.state.counters), self.state.decisions.to_json())
        self.checkpoints.save(progress, self.spread.chunks())
        self.report(log)

    def agree(
        self,
        done: int,
        preemption: Preemption,
        happened: tuple[int, list[str]],
        log: RunLog,
        is_last: bool = False,
    ) -> None:
        """Let all workers know what happened on each before a step: signals, samples that were replaced, another plan that is asked for.

        Args:
            done: Steps that are done.
            preemption: Whether a signal has asked this worker to stop.
            happened: How many samples of the step were replaced on this worker, and what there is to say.
            log: Where it is said.
            is_last: Whether no step follows.

        Raises:
            PlanAsked: If another plan is asked for, and can be; the state is where the next start finds it.
            Preempted: If a signal has asked any worker to stop; the state is in a checkpoint, if it could be written.
        """
        replaced, notices = happened
        asks = self.workers.is_first and self._look_for_request(done, log, is_last)
        mine = [
            preemption.requested,
            preemption.by_user,
            replaced,
            len(notices),
            log.removed is not None,
            asks,
        ]
        stopping, by_user, replaced, to_say, is_removed, another_plan = self.workers.sum(mine)
        if is_removed:
            raise UserError(self.workers.broadcast_object(f"{log.removed}; the run ends after step {done}"))
        if stopping:
            self._stop(done, by_user > 0, log)
        if another_plan and is_last:
            log.say(f"{self.requests.path} asks for another plan after the last step")
        elif another_plan:
            self._change_plan(done, log)
        self.state.pending["replaced_samples"] += replaced
        if to_say:
            for rank, said in enumerate(self.workers.gather(notices)):
                for notice in said:
                    log.say(f"worker {rank}: {notice}")
        if replaced:
            log.say(f"samples that were replaced so far: {self.state.counted('replaced_samples')}")

    def _change_plan(self, done: int, log: RunLog) -> None:
        """Leave the plan for the one that is asked for; say why that cannot be, where it cannot."""
        phase("handover")
        found = self.workers.broadcast_object(self.requests.found)
        if isinstance(found, str):
            log.say(found)
            self._take_request_away(log)
            return
        state, kept_in = self.state, self.memory or self.checkpoints.folder
        progress = Progress(done, counters=dict(state.counters), decisions=state.decisions.to_json())
        knows = self.spread.setting.has_no_history
        requests = self.requests
        change = Change(self.config, found, progress, {}, knows, requests.replanning, requests.why)
        log.say(f"after step {done} the plan {self.config.plan} becomes {found.plan}")
        fault = "there is no memory for it"
        if self.memory is not None:
            fault = hand_over(self.memory, self.checkpoints.run, self.spread) or ""
        if fault:
            self.save_checkpoint(done, log)
            self.finish_checkpoints(log)
            kept_in = self.checkpoints.folder
        change.place, change.known = checkpoint_folder(kept_in, done), self.checkpoints.known
        is_kept = self.workers.broadcast_object(not fault or self.checkpoints.newest == done)
        if not is_kept:
            log.say(
                f"the state can be kept neither in memory ({fault}) nor on the disk: the plan stays {self.config.plan}"
            )
        self._take_request_away(log)  # a kill before leaves it to the next attempt
        if not is_kept:
            return
        if self.workers.is_first and self.workers.line is not None:
            self.workers.line.kept()
        change.mark("state to memory")
        raise PlanAsked(change)

    def _look_for_request(self, done: int, log: RunLog, is_last: bool) -> bool:
        requests = self.requests
        asks = requests.look_late() if is_last else requests.look(done)
        for said in self.requests.news:
            log.say(said)
        self.requests.news.clear()
        return asks

    def _take_request_away(self, log: RunLog) -> None:
        if self.workers.is_first and (why := self.requests.take_away()):
            log.say(why)

    def call(self, calls: Calls, done: int, log: RunLog) -> None:
        """Tell the callbacks of a new checkpoint; all workers end together where one of them has failed.

        Raises:
            UserError: On every worker, with what was raised; the state is in a checkpoint.
        """
        newest = self.checkpoints.newest
        calls.checkpoint(
            newest, "" if newest is None else str(checkpoint_folder(self.checkpoints.folder, newest))
        )
        fault = calls.fault()
        if fault:
            self.save_checkpoint(done, log)
            self.finish_checkpoints(log)
            raise UserError(f"{fault}; --resume goes on after step {self.checkpoints.newest}")

    def finish_checkpoints(self, log: RunLog) -> None:
        """Return when the last checkpoint is written, or has failed, and say so."""
        phase("checkpoint")
        self.checkpoints.wait()
        self.report(log)

    def report(self, log: RunLog) -> None:
        """Say what has become of the checkpoints."""
        for message in self.checkpoints.messages():
            log.say(message)

    def _stop(self, done: int, by_user: bool, log: RunLog) -> None:
        self.save_checkpoint(done, log)
        self.finish_checkpoints(log)
        newest = self.checkpoints.newest
        kept = "no checkpoint could be written"
        if newest is not None:
            kept = f"`{resume_command(self.folder)}` goes on after step {newest}"
        raise Preempted(f"stopped by a signal after step {done}; {kept}", by_user)

    def not_finite(self, faults: list[str], log: RunLog) -> None:
        """Count the present step, whose numbers are not finite.

        Raises:
            UserError: If the policy is to stop, or the weights themselves are not finite.
        """
        step = self.state.step
        self.refuse_broken(step, faults)
        if self.config.train.on_nonfinite == "stop":
            self.save_checkpoint(step, log)
            self.save_weights()
            self.finish_checkpoints(log)
            kept = f"the weights of before this step are in {self.folder / WEIGHTS}"
            raise UserError([*faults, f"{self.missing[0] if self.missing else kept}: {REMEDY}"])
        self.state.pending["skipped_steps"] += 1
        for fault in faults:
            log.say(fault)
        log.say(f"step {step + 1} is skipped: {self.state.counted('skipped_steps')} so far")

    def refuse_broken(self, done: int, faults: list[str]) -> None:
        """End the run where the weights, or their average, are not finite: nothing later mends them, and nothing keeps them.

        Args:
            done: Steps that are done.
            faults: What else there is to say.

        Raises:
            UserError: On all workers.
        """
        found = [
            name for model in self.state.models for name in bad_weights(model) if name not in self.unbounded
        ]
        if self.state.replicas is not None:
            found += self.state.replicas.bad()
        broken = list(dict.fromkeys(itertools.chain(*self.workers.gather(found))))
        if not broken:
            return
        self.checkpoints.wait()  # for the one that is being written
        newest = self.checkpoints.newest
        kept = "none" if newest is None else f"that of step {newest}"
        raise UserError(
            [
                *faults,
                f"the weights are not finite after step {done} ({', '.join(broken[:3])}), and are not saved; the newest "
                f"checkpoint is {kept}: {REMEDY}",
            ]
        )

    def save_weights(self) -> VisionModel | None:
        """Export the averaged weights, and return them as a model on the first worker; elsewhere None."""
        whole = self.spread.whole_average()
        if whole is not None:
            with self.noting_missing():
                save_weights(whole, self.folder / WEIGHTS, {"model": self.config.model.name})
        self.workers.barrier()
        return whole

    @contextmanager
    def noting_missing(self) -> Iterator[None]:
        """Note a file that a block cannot write: what is left to be done is done first, and `finish` says it."""
        try:
            yield
        except CannotWrite as fault:
            self.missing.append(fault)

    def finish(self, log: RunLog) -> None:
        """End the run, now that all is done that can be, and say where everything is.

        Raises:
            UserError: On every worker, if files that must be there could not be written: in one sentence, with where the newest state is.
        """
        faults = [str(fault) for fault in (*self.missing, *log.missing())]
        faults += [self.checkpoints.fault] if self.checkpoints.fault else []
        missing = "; ".join(dict.fromkeys(self.workers.broadcast_object(faults)))
        if missing:
            newest, weights = self.checkpoints.newest, self.folder / WEIGHTS
            state = "no checkpoint could be written either: make room and start again"
            if weights.is_file():
                state = f"the newest state are the weights in {weights}"
            if newest is not None:
                place = checkpoint_folder(self.checkpoints.folder, newest)
                state = f"the newest state is {place}: `{resume_command(self.folder)}` writes what is missing"
            raise UserError(f"{missing}; {state}")
        report, place = self.folder / "report", self.folder
        seen = f"report: {report}; " if report.is_dir() else ""
        log.say(
            f"weights: {place / WEIGHTS}; {seen}checkpoints: {self.checkpoints.folder}; log: {place / LOG}"
        )

    def result(self, data: TrainingData) -> dict[str, Any]:
        """Return what the command says of the run itself."""
        return {
            "run": str(self.folder),
            "task": self.config.task,
            "model": self.config.model.name,
            "plan": self.config.plan,
            "world_size": self.workers.size,
            "microbatches": self.config.train.microbatches,
            "skipped_steps": self.state.counters["skipped_steps"],
            "replaced_samples": self.state.counters["replaced_samples"],
            "skipped": count_left_out(itertools.chain(*data.left_out.values())),
        }

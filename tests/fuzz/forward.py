"""A program forward alone, in evaluation and inference mode: two batches of images, as `evaluate` and `predict` compute them.

What is compared are its outputs; the verdict is found as that of a step (`judge`).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from fuzz.judge import Judge, Rounding, drawing_from
from fuzz.program import Program
from ziggurat.parallel.graph.generators import seed_everything
from ziggurat.parallel.graph.trace import spec_of
from ziggurat.parallel.spatial import cut
from ziggurat.strategies.base import Setting
from ziggurat.strategies.executor import place_for_inference
from ziggurat.strategies.mode import EvaluationMode
from ziggurat.strategies.running import Microbatches
from ziggurat.verification.losses import tensors_of
from ziggurat.verification.precision import KeepFloat64
from ziggurat.verification.step import Outcome, Seen, Trial

BATCHES = 2


class ForwardJudge(Judge):
    """One of the workers that judge what programs compute in evaluation."""

    def trial(self, program: Program) -> Trial:
        """Return the batches: the program's images, and others."""
        images = program.images()
        both = torch.cat([images, images.flip(0) * 1.25 + 0.125])
        return Trial(both, program.seed, BATCHES, self.config)

    def _alone(
        self, program: Program, trial: Trial, rounded: Rounding = lambda model: nullcontext()
    ) -> Outcome:
        """Call the network on one worker, rounded in another way if that is given."""
        with drawing_from(program.seed):
            model = program.build().eval()
            found = []
            with rounded(model), torch.inference_mode(), KeepFloat64():
                for piece in trial.pieces():
                    seed_everything(piece.number)
                    found.append((piece.number, list(tensors_of(model(piece.images.clone())))))
        return _outcome(found)

    def _spread(self, program: Program, trial: Trial) -> Outcome:
        """Run the network under the plan, as a prediction does."""
        mesh, pieces = self._mesh(), trial.pieces()

        def images(index: int) -> Tensor:
            given = pieces[index].images.clone()
            return given if mesh.spatial is None else cut(given, mesh.spatial)

        def finish(outputs: Any, index: int) -> tuple[int, list[Tensor]]:
            return index, list(tensors_of(outputs))

        with drawing_from(program.seed + 1000 * self.workers.rank):
            trial = self._decided(program, trial)
            model = program.build().eval()
            setting = Setting(
                spec_of(pieces[0].images), trial.config, 1, nullcontext, decisions=trial.decisions
            )
            executor = place_for_inference(model, mesh, setting)
            work = Microbatches(BATCHES, images, finish, KeepFloat64, seed_everything)
            with EvaluationMode(model), executor.context():
                found = executor.run(work)
            executor.end()
        return _outcome(one for one in found if one is not None)


def _outcome(found: Iterable[tuple[int, list[Tensor]]]) -> Outcome:
    """Return the outputs of each batch as what a step leaves behind that has nothing else."""
    seen = {index: Seen([one.detach().clone() for one in outputs], None) for index, outputs in found}
    nothing = torch.zeros(())
    return Outcome(seen, torch.zeros(0), nothing, {}, {}, {})

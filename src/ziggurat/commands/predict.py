"""`ziggurat predict`: runs a trained model on images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ziggurat.commands.launching import launch_plan
from ziggurat.commands.runs import config_of, load
from ziggurat.config import RunConfig
from ziggurat.inference.predict import predict_files
from ziggurat.inference.predictor import Predictor
from ziggurat.parallel.collectives.workers import Workers
from ziggurat.strategies.mesh import make_mesh


def predict(
    run: str | Path,
    images: Sequence[str],
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Run a trained model on images, as `ziggurat predict` does.

    Args:
        run: The folder of a run; or a file of weights, whose model is ``model.name`` in the settings.
        images: Files, folders and globs.
        out: Where results and pictures go; None takes the run's ``predictions``.
        settings: From dotted names to values.

    Raises:
        UserError: If the run, the images, or the settings are not usable.
    """
    run = Path(run)
    config = config_of(run, settings or {})
    folder = run if run.is_dir() else run.parent
    out = Path(out) if out else folder / "predictions"
    return launch_plan(_predict_worker, (run, config, list(images), out), config)


def _predict_worker(
    workers: Workers, path: Path, config: RunConfig, images: list[str], out: Path
) -> dict[str, Any]:
    run = load(path, config)
    category_ids = run.category_ids or tuple(range(run.model.num_classes))
    with make_mesh(workers, config.plan) as mesh:
        predictor = Predictor.of_run(run._replace(config=config), mesh)
        return predict_files(predictor, category_ids, images, out)

"""The application for Ray Serve's own config files, as KubeRay takes them: runs and limits come from the environment.

ZIGGURAT_RUNS names the runs, with spaces between: ``trees=/runs/trees roofs=/runs/roofs``; ZIGGURAT_REPLICAS how many replicas each has.
"""

import os
from typing import Any

from ziggurat.commands.serve import models_of
from ziggurat.config.serve_config import ServeConfig
from ziggurat.serving.ray_app import build


def make(arguments: dict[str, str]) -> Any:
    """Return the application; Ray Serve calls it (``import_path: serve_app:make``)."""
    runs = (arguments.get("runs") or os.environ["ZIGGURAT_RUNS"]).split()
    replicas = int(arguments.get("replicas") or os.environ.get("ZIGGURAT_REPLICAS", "1"))
    return build(models_of(runs), ServeConfig(replicas=replicas))

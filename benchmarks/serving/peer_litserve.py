"""The same model behind LitServe, with the same batch limits: python benchmarks/serving/peer_litserve.py RUN PORT REPLICAS."""

from __future__ import annotations

import io
import sys
from typing import Any

import litserve
import torch
from fastapi import Request, Response
from PIL import Image

import ziggurat
from ziggurat.config.serve_config import ServeConfig


class Model(litserve.LitAPI):
    """Predicts by `ziggurat.load`, as a user of LitServe would."""

    def __init__(self, run: str) -> None:
        limits = ServeConfig()
        super().__init__(max_batch_size=limits.batch, batch_timeout=limits.batch_wait, api_path="/predict")
        self._run = run

    def setup(self, device: str) -> None:
        torch.set_num_threads(1)
        self._predictor = ziggurat.load(self._run, "cpu")

    async def decode_request(self, request: Request) -> Any:
        return Image.open(io.BytesIO(await request.body()))

    def batch(self, inputs: list[Any]) -> list[Any]:
        return list(inputs)

    def predict(self, x: list[Any]) -> list[Any]:
        return list(self._predictor(x))

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: Any) -> Response:
        return Response(f'{{"found": {len(output)}}}', media_type="application/json")


if __name__ == "__main__":
    run, port, replicas = sys.argv[1:]
    server = litserve.LitServer(
        Model(run), accelerator="cpu", workers_per_device=int(replicas), healthcheck_path="/v2/health/ready"
    )
    server.run(host="127.0.0.1", port=int(port), generate_client_file=False)

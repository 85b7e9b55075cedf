"""Predictions that are killed: images with squares, a detector that notes each run of its network, and the files that are left."""

import os
import signal

from PIL import Image

from support.fake_detector import BrightSquares, FindSquares, Squares
from ziggurat.config import DataConfig, DecodeConfig, RunConfig
from ziggurat.inference import journal
from ziggurat.inference.predict import predict_files
from ziggurat.inference.predictor import Predictor
from ziggurat.strategies.mesh import make_mesh

CONFIG = RunConfig(
    dtype="fp32", data=DataConfig(crop=64, tile_overlap=0.5), decode=DecodeConfig(max_detections=200)
)
SCENES = Squares([(200, 330), (64, 64), (50, 40), (64, 64), (120, 170)])
BATCH_PIXELS = 4 * 64 * 64
WRITE = journal._write


class Counted(BrightSquares):
    """Notes each run in a file."""

    def __init__(self, file):
        super().__init__()
        self.file = file

    def forward(self, images_BCHW):
        with self.file.open("ab") as stream:
            stream.write(b".")
        return super().forward(images_BCHW)


def save_images(folder):
    """Write the images of the scenes."""
    for scene in range(len(SCENES)):
        Image.fromarray(SCENES.image(scene).permute(1, 2, 0).numpy()).save(folder / f"{scene}.png")


def predict(workers, images, out, config=CONFIG, **options):
    """Predict, and note the runs of the network beside the folder."""
    model = Counted(out.with_suffix(".runs"))
    predictor = Predictor.of_model(model, config, make_mesh(workers), SCENES.classes, FindSquares(config))
    return predict_files(predictor, SCENES.category_ids, [images], out, **options)


def go_on(workers, images, out):
    """Go on with a prediction."""
    return predict(workers, images, out, resume=True)


def predict_until(workers, images, out, write):
    """Go on, and die in the midst of a write on each worker."""
    left = [write + workers.rank]

    def deadly(file, data):
        left[0] -= 1
        if left[0] < 0:
            os.write(file, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        WRITE(file, data)

    journal._write = deadly
    return go_on(workers, images, out)


def predict_for(workers, images, out, seconds):
    """Go on, and die after a time, wherever that is."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    result = go_on(workers, images, out)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return result


def files_of(folder):
    """Return the bytes of every file, by its path in the folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

"""Runs an export of Ziggurat with nothing of Ziggurat: NumPy, Pillow, and ONNX Runtime or OpenVINO.

    python examples/read_export.py runs/detect-1/exports/model.onnx harbour.png market.jpg
    python examples/read_export.py runs/detect-1/exports/model.xml harbour.png

All that it has to know stands in the file: how large images of a batch have to be, and what the outputs mean. Images are seen whole
and in their own size, three bands of 8 bits; larger ones than a training crop are better cut into tiles, as `ziggurat predict` does.
"""

import json
import sys

import numpy as np
from PIL import Image


def open_export(path):
    """Return a function from inputs to outputs by their names, and what the file says of itself."""
    if path.endswith(".onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        facts = json.loads(session.get_modelmeta().custom_metadata_map["ziggurat"])
        names = [one.name for one in session.get_outputs()]
        return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True)), facts
    import openvino

    model = openvino.Core().read_model(path)
    facts = json.loads(model.get_rt_info(["ziggurat"]).value)
    names = [one["name"] for one in facts["outputs"]]
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda inputs: {name: compiled(inputs)[name] for name in names}, facts


def batch_of(images, multiple):
    """Return the inputs of a graph: samples as they are, padded behind each image, and the size of each before."""
    sizes = np.array([image.shape[:2] for image in images], dtype=np.int64)
    rows, columns = -(-sizes.max(axis=0) // multiple) * multiple
    samples = np.zeros((len(images), 3, rows, columns), dtype=np.float32)
    for place, image in zip(samples, images, strict=True):
        place[:, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
    return {"images": samples, "sizes": sizes}


def results_of(outputs, facts, sizes):
    """Return what was found in each image."""
    if "count" in outputs:
        return [
            [
                {
                    "class": facts["classes"][label],
                    "score": float(score),
                    "box": [float(side) for side in box],
                }
                for label, score, box in zip(labels[:count], scores[:count], boxes[:count], strict=True)
            ]
            for labels, scores, boxes, count in zip(
                *(outputs[name] for name in ("labels", "scores", "boxes_xyxy", "count")), strict=True
            )
        ]
    best = outputs["logits"].argmax(axis=1)
    if best.ndim == 1:
        return [facts["classes"][label] for label in best]
    counts = [
        np.bincount(labels[:rows, :columns].ravel(), minlength=len(facts["classes"]))
        for labels, (rows, columns) in zip(best, sizes, strict=True)
    ]
    return [dict(zip(facts["classes"], map(int, one), strict=True)) for one in counts]


def main(words):
    if len(words) < 2 or words[0].startswith("-"):
        sys.exit("usage: read_export.py MODEL.onnx|MODEL.xml IMAGE...")
    run, facts = open_export(words[0])
    for word in words[1:]:
        image = np.asarray(Image.open(word).convert("RGB"))
        inputs = batch_of([image], facts["multiple"])
        print(json.dumps({"image": word, "found": results_of(run(inputs), facts, inputs["sizes"])[0]}))


if __name__ == "__main__":
    main(sys.argv[1:])

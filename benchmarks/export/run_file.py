"""Runs an exported file on batches of images, with NumPy and ONNX Runtime or OpenVINO, and nothing of Ziggurat or PyTorch.

    python run_file.py onnxruntime model.onnx batches.npz found.npz
    python run_file.py openvino model.xml batches.npz found.npz

``batches.npz`` holds ``images-0``, ``sizes-0``, ``images-1`` ...; ``found.npz`` gets ``NAME-0`` ... for each output of the graph.
"""

import json
import sys

import numpy as np

INPUTS = ("images", "sizes")


def open_onnxruntime(path, threads):
    """Return a function from inputs to outputs by name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return lambda given: dict(zip(names, session.run(names, given), strict=True))


def open_openvino(path, threads):
    """Return a function from inputs to outputs by name."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    for node in model.get_ops():  # equal values in the order of their indices, as ONNX has them
        if node.get_type_name() == "TopK":
            node.set_attribute("stable", True)
    hints = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", hints)
    text = model.get_rt_info(["ziggurat"]).value if model.has_rt_info(["ziggurat"]) else None
    names = [one["name"] for one in json.loads(text)["outputs"]] if text else None
    names = names or [output.get_any_name() for output in model.outputs]

    def run(given):
        found = compiled(given)
        return {name: found[name] for name in names}

    return run


OPENERS = {"onnxruntime": open_onnxruntime, "openvino": open_openvino}


def main(words):
    runtime, path, batches, found, *threads = words
    run = OPENERS[runtime](path, int(threads[0]) if threads else 1)
    results = {}
    with np.load(batches) as arrays:
        for number in range(sum(name.startswith("images-") for name in arrays)):
            outputs = run({name: arrays[f"{name}-{number}"] for name in INPUTS})
            results |= {f"{name}-{number}": value for name, value in outputs.items()}
    np.savez(found, **results)


if __name__ == "__main__":
    main(sys.argv[1:])

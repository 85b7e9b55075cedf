"""A task of your own: how many digits are on an image? python examples/own_task.py train digits --task count --plan dp=2."""

import torch
from torch.nn import functional

from ziggurat import Findings, Metric, Task, main, register_task
from ziggurat.data.views import make_center_view
from ziggurat.tasks.detection.targets import ObjectKind
from ziggurat.tasks.own import whole_output
from ziggurat.visualize.boxes import draw_caption


class CountKind(ObjectKind):
    """Objects are read and cut as a detector's are; of each crop only their number matters."""

    def stack(self, targets, rows, columns):
        return torch.tensor([float(len(objects)) for objects in targets])

    def draw(self, generator, num_classes, count, extent, part):
        return torch.randint(0, 9, (count,), generator=generator).float()


class CountMetric(Metric):
    """The share of images whose digits are counted right, and the mean error."""

    def __init__(self, dataset):
        self.dataset, self.errors = dataset, {}

    def update(self, index, prediction):
        self.errors[index] = prediction - len(self.dataset.objects(index))

    def state(self):
        return self.errors

    def merge(self, states):
        self.errors = dict(item for state in states for item in state.items())

    def compute(self):
        errors = torch.tensor([abs(self.errors[index]) for index in sorted(self.errors)])
        return {"right": (errors < 0.5).float().mean().item(), "mean_error": errors.mean().item()}

    def findings(self, metrics):
        quality = [1 / (1 + abs(self.errors[index])) for index in sorted(self.errors)]
        return Findings.of_quality("digits", metrics, torch.tensor(quality).double(), "1 / (1 + error)")


@register_task
class CountTask(Task):
    """Predicts a number for each image."""

    name = "count"
    main_metric = "right"
    annotations = ("boxes",)
    model_task = "classify"  # any classifier will do: its outputs are summed
    default_model = "pnn"
    targets, legend = CountKind(), "in the corner: how many digits there seem to be"
    term_names, normalizer_names = ("error",), ("images",)

    def assign(self, batch):
        return batch.targets

    def normalizers(self, assignment):
        return assignment.new_full((1,), len(assignment), dtype=torch.float64)

    def loss_shares(self, outputs, assignment, totals):
        counts, num_workers = self._counts(
            outputs
        )  # of workers that share the images, each takes an equal part
        loss = functional.smooth_l1_loss(counts, assignment.to(counts.dtype), reduction="sum")
        return {"error": loss / (totals[0].to(counts) * num_workers)}

    def view(self, record):
        return make_center_view(record, self.config.data)

    def decode(self, outputs, sizes):
        return self._counts(outputs)[0].tolist()

    def stitch(self, tiles, view, record):
        return tiles[0][1]

    def metric(self, dataset):
        return CountMetric(dataset)

    def draw(self, image, prediction, classes):
        return draw_caption(image, f"{prediction:.1f}", 0)

    def draw_comparison(self, image, prediction, dataset, index):
        return draw_caption(image, f"{prediction:.1f} (true: {len(dataset.objects(index))})", 0)

    def rows(self, prediction, place):
        return [{**place.facts, "count": prediction}]

    def _counts(self, outputs):
        logits, num_workers = whole_output(outputs["logits"])
        return (logits if logits.dtype == torch.float64 else logits.float()).sum(dim=1), num_workers


if __name__ == "__main__":
    raise SystemExit(main())

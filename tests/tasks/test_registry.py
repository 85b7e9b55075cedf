"""`TASKS` is the only place that turns a name into a task, and only tasks look into targets."""

import ast
from pathlib import Path

import pytest

import ziggurat
from ziggurat.config import RunConfig
from ziggurat.errors import UserError
from ziggurat.tasks.registry import TASKS, find_task, register_task, tasks_of

SRC = Path(ziggurat.__file__).parent
# What is known of one kind of data set or target only.
KINDS = {
    "ClassificationDataset", "DetectionDataset", "SegmentationDataset", "FileDataset", "LabelDataset", "MaskDataset",
    "OutlineDataset", "DigitScenes", "DigitLabels", "DigitMasks", "Objects", "ObjectTargets", "LabelTargets", "MaskTargets",
    "Detections",
}  # fmt: skip


def modules_outside():
    return sorted(path for path in SRC.rglob("*.py") if path.relative_to(SRC).parts[0] != "tasks")


def declarations(tree):
    """Return the constants that declare what a model is for: ``task = "detect"``, ``Family(task="detect")``."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and all(
            isinstance(t, ast.Name) and t.id == "task" for t in node.targets
        ):
            found.add(node.value)
        if isinstance(node, ast.keyword) and node.arg == "task":
            found.add(node.value)
    return found


def asked(path, root=SRC):
    """Return where a module asks for a task's name, or for the type of a data set or a target."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    declared = declarations(tree) if path.parent.name == "models" else set()
    places = []
    for node in ast.walk(tree):
        is_name = isinstance(node, ast.Constant) and node.value in TASKS and node not in declared
        is_check = (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance"
        )
        words = (
            {word.id for word in ast.walk(node.args[1]) if isinstance(word, ast.Name)} if is_check else set()
        )
        is_table = (
            isinstance(node, ast.Subscript)
            and isinstance(node.slice, ast.Attribute)
            and node.slice.attr == "task"
        )
        if is_name or words & KINDS or is_table:
            places.append(f"{path.relative_to(root)}:{node.lineno}")
    return places


def test_nothing_outside_this_room_asks_for_a_task():
    assert [place for path in modules_outside() for place in asked(path)] == []


def test_the_search_finds_what_it_looks_for(tmp_path):
    file = tmp_path / "module.py"
    for text in (
        'if task == "detect": ...',
        "X[model.task]",
        "isinstance(x, (int, Objects))",
        '{"segment": 1}',
    ):
        file.write_text(text)
        assert len(asked(file, tmp_path)) == 1, text


def test_every_task_is_whole():
    for name, task in TASKS.items():
        assert (task.name, bool(task.annotations), bool(task.main_metric)) == (name, True, True)
        assert task.demo() is None or task.demo().task == name
        assert not task.__abstractmethods__


def test_unknown_and_taken_names():
    with pytest.raises(UserError, match="task must be one of auto, detect, classify, segment: got 'detekt'"):
        find_task("detekt")
    with pytest.raises(UserError, match=r"'detect' of .* is that of .*DetectionTask"):
        register_task(type("Other", (), {"name": "detect"}))


def test_annotations_serve_tasks():
    assert tasks_of(["boxes", "outlines", "masks"]) == ("detect", "segment")
    assert TASKS["classify"].natural_settings(RunConfig()) == {"data.resize": RunConfig().data.crop}

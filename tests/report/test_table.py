"""The table on the terminal."""

import io

import numpy as np
import torch
from rich.console import Console

from ziggurat.metrics.findings import ClassRow, Findings
from ziggurat.metrics.scores import score_curve
from ziggurat.report.table import print_table, worst_first


def printed(rows, metrics=None, scores=None):
    findings = Findings(
        "objects",
        metrics or {},
        rows,
        np.zeros((1, 1)),
        ("a",),
        None,
        "",
        torch.ones(1),
        "F1",
        lambda index: 0,
        scores,
    )
    console = Console(file=io.StringIO(), width=80)
    print_table(console, findings)
    return console.file.getvalue()


def rows(count):
    return [ClassRow(f"class-{k}", 1000 + k, {"AP": k / count, "recall": None}) for k in range(count)][::-1]


def test_the_worst_come_first_and_those_without_a_number_last():
    unknown = ClassRow("unknown", 0, {"AP": None})
    assert [row.name for row in worst_first([unknown, *rows(2)])] == ["class-0", "class-1", "unknown"]


def test_a_row_for_each_class_with_all_numbers():
    lines = printed(rows(3), {"map": 0.25, "map_large": None}).splitlines()
    assert lines[0].split() == ["map", "0.250", "map_large", "-"]
    (line,) = (line for line in lines if "class-1 " in line)
    assert line.replace("│", " ").split() == ["class-1", "1,001", "0.333", "-"]
    assert "more classes" not in printed(rows(20))


def test_of_many_classes_the_worst_and_how_many_more():
    text = printed(rows(33))
    assert text.count("class-") == 20
    assert "class-0 " in text
    assert "and 13 more classes" in text


def test_each_class_has_its_best_score_where_there_are_scores():
    best = {"score": 0.35, "precision": 1.0, "recall": 0.5, "f1": 0.667}
    curve = score_curve(np.array([0.9]), np.array([True]), 1)
    text = printed([ClassRow("oak", 3, {"AP": 0.5}, best), ClassRow("pine", 0, {"AP": None})], scores=curve)
    lines = [line.replace("│", " ").split() for line in text.splitlines()]
    assert ["oak", "3", "0.500", "0.667", "0.350"] in lines
    assert ["pine", "0", "-", "-", "-"] in lines
    assert "best F1" not in printed(rows(3))


def test_names_are_no_markup():
    assert "[red]tree" in printed([ClassRow("[red]tree", 1, {"AP": 0.5})])

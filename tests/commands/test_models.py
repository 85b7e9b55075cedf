"""The table of models is that of the models, and is read without PyTorch."""

import subprocess
import sys

import pytest

from ziggurat.commands.models import house_models
from ziggurat.commands.models_table import built_models, plans_of
from ziggurat.models.build import family_of
from ziggurat.models.catalogue import model_names

REMEDY = "python -m ziggurat.commands.models_table"


def test_the_table_has_every_model_of_the_house():
    rows = house_models()
    assert [row["name"] for row in rows] == model_names(), REMEDY
    assert all(row["task"] == family_of(row["name"]).task for row in rows), REMEDY
    assert all(row["plans"] == plans_of(row["name"]) for row in rows), REMEDY


def check(names):
    table = {row["name"]: row for row in house_models()}
    assert [table[name] for name in names] == list(built_models(lambda name: name in names)), REMEDY


def test_one_of_seventeen_models_has_the_parameters_of_the_table():
    check(model_names()[::17])


@pytest.mark.slow
def test_every_model_has_the_parameters_of_the_table():
    check(model_names())


def test_the_list_needs_no_pytorch():
    code = (
        "import sys; from ziggurat.cli.main import main; assert main(['models', '--filter', 'pnn']) == 0; "
        "sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "fcos-pnn" in ran.stdout


@pytest.mark.sampled(0)
def test_models_of_a_script_are_listed_too():
    code = (
        "from ziggurat import Family, main, register_family\n"
        "from ziggurat.models.build import build_model\n"
        "from ziggurat.config import ModelConfig\n"
        "build = lambda config, classes: build_model(ModelConfig(name='pnn'), classes)\n"
        "register_family('mine', Family('classify', lambda name: name == 'mine-own', build, names=lambda: ['mine-own']))\n"
        "main(['models', '--filter', 'mine'])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert ran.stdout.startswith("mine-own"), ran.stderr

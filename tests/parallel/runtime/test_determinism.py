"""The same bits on a GPU: what is set, that it is undone, and what is said of what has no such form."""

import os

import pytest
import torch
from torch import nn

from ziggurat.parallel.runtime.determinism import deterministic, explain_nondeterminism


def settings():
    return (
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.conv.fp32_precision,
        torch.backends.cudnn.rnn.fp32_precision,
        torch.backends.cuda.matmul.fp32_precision,
    )


def test_all_of_it_is_set_and_undone():
    before = settings()

    def fail_inside():
        with deterministic("cuda"):
            assert settings()[:8] == (":4096:8", True, False, False, True, False, False, False)
            raise KeyError("in the block")

    with pytest.raises(KeyError):
        fail_inside()
    assert settings() == before


def test_a_workspace_of_the_users_own_stays(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with deterministic("cuda"):
        assert settings()[0] == ":16:8"
    assert settings()[0] == ":16:8"


def test_the_cpu_needs_none_of_it():
    before = settings()
    with deterministic("cpu"):
        assert settings() == before


class Refusing(nn.Module):
    def forward(self, x):
        raise RuntimeError(
            "adaptive_max_pool2d_cuda does not have a deterministic implementation, but you set "
            "'torch.use_deterministic_algorithms(True)'. You can turn off determinism just for this operation"
        )


def test_the_layer_is_named():
    model = nn.Sequential(nn.Identity(), nn.ModuleDict({"pool": Refusing()})["pool"])
    with pytest.raises(RuntimeError) as caught:
        model(torch.ones(1))
    told = explain_nondeterminism(caught.value)
    assert "adaptive_max_pool2d_cuda in the layer '1'" in str(told)
    assert "device=cpu" in str(told)


def test_another_error_is_none_of_this_kind():
    assert explain_nondeterminism(RuntimeError("shapes do not fit")) is None

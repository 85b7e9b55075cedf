"""Hooks on tensors and parameters; buffers that are changed in place or assigned; counters."""

from __future__ import annotations

from fuzz.scope import Template, Variable
from ziggurat.torch_internals.tensors import is_view

T = Template
MEAN = 'self.register_buffer("{new}", torch.zeros({C}))'


def takes_hooks(variable: Variable) -> bool:
    """Return whether a variable is no view: `register_hook` of one that was changed in place ends PyTorch 2.14 by SIGSEGV."""
    return variable.tensor is not None and not is_view(variable.tensor)


KINDS = (
    T("hook of a tensor", "{any}.register_hook(lambda gradient: gradient * {factor})", "", "", 1, takes_hooks),
    T("hook that looks at neighbours", "{map}.register_hook(lambda gradient: gradient - gradient.mean((2, 3), keepdim=True))", "", "", 0.4, takes_hooks),
    T("hook that draws", "{any}.register_hook(lambda gradient: gradient * torch.rand_like(gradient))", "", "", 0.05, takes_hooks),
    T("hook that draws by shape", "{any}.register_hook(lambda gradient: gradient * torch.rand(gradient.shape, dtype=gradient.dtype))", "", "", 0.1, takes_hooks),
    T("hook on the gradients of a layer", "self.{new}({map})", "map",
      "self.{new} = nn.Conv2d({C}, {C}, 1)\nself.{new}.register_full_backward_hook(lambda layer, inner, outer: tuple(one * 2 for one in inner))", 0.05),
    T("custom function", "OwnSwish.apply({map})", "map", "", 0.2),
    T("custom function by a name", "swish({map})", "map", "", 0.05),
    T("hook that clamps a weight", "self.{new}({map})", "map",
      "self.{new} = nn.Conv2d({C}, {C}, 3, padding=1)\nself.{new}.weight.register_hook(lambda gradient: gradient.clamp(-0.01, 0.01))", 0.4),
    T("hook that scales a weight", "self.{new}({map})", "map",
      "self.{new} = nn.Conv2d({C}, {C}, 3, padding=1)\nself.{new}.weight.register_hook(lambda gradient: gradient * 2)", 0.4),
    T("forward hook", "self.{new}({map})", "map",
      "self.{new} = nn.Conv2d({C}, {C}, 1)\nself.{new}.register_forward_hook(lambda layer, given, made: made * 2)", 0.4),
    T("running mean in place", "self.{new}.mul_(0.9).add_({map}.detach().mean((0, 2, 3)), alpha=0.1)\n{map} - self.{new}[:, None, None]", "map", MEAN, 0.4),
    T("running mean by lerp", "with torch.no_grad():\n    self.{new}.lerp_({map}.mean((0, 2, 3)), 0.1)\n{map} - self.{new}.clone()[:, None, None]", "map", MEAN, 0.3),
    T("running mean assigned", "self.{new} = 0.9 * self.{new} + 0.1 * {map}.detach().mean((0, 2, 3))\n{map} - self.{new}[:, None, None]", "map", MEAN, 0.4),
    T("running mean copied", "self.{new}.copy_({map}.detach().amax((0, 2, 3)))\n{map} * 1", "map", MEAN, 0.3),
    T("buffer by data", "self.{new}.data = {map}.detach().amax((0, 2, 3))\n{map} * self.{new}[:, None, None]", "map", MEAN, 0.2),
    T("counter", "self.{new} += 1\n{map} * self.{new}", "map", 'self.register_buffer("{new}", torch.ones(()))', 0.5),
    T("counter assigned", "self.{new} = self.{new} + 1\n{map} * self.{new}", "map", 'self.register_buffer("{new}", torch.ones(()))', 0.4),
    T("without gradient", "with torch.no_grad():\n    still = {map} * {factor}\nstill + {map}", "map", "", 0.4),
)  # fmt: skip

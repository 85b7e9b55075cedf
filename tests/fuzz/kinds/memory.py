"""The order of memory: channels last, permuted, contiguous again."""

from __future__ import annotations

from fuzz.scope import Template

T = Template

KINDS = (
    T("to channels last memory", "{map}.{contiguous|clone}(memory_format=torch.channels_last)", "map", "", 1.2),
    T("to channels last", "{map}.to(memory_format=torch.channels_last)", "map", "", 0.7),
    T("contiguous", "{any}.contiguous()", "same", "", 1),
    T("clone", "{any}.clone()", "same", "", 1),
    T("detached", "{any} + {any}.detach() * {factor}", "same", "", 0.4),
    T("asked for its order", "{map} * (2.0 if {map}.is_contiguous() else 1.0)", "map", "", 0.3),
    T("asked for its strides", "{map} * (2.0 if {map}.stride()[1] == 1 else 1.0)", "map", "", 0.3),
    T("same type", "{any}.{to({any}.dtype)|type_as({like})|double()}", "same", "", 0.4),
    T("as strided view", "{map}.contiguous().view({B}, -1)", "vector", "", 0.2),
)  # fmt: skip

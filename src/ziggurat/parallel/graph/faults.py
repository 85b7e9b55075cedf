"""What a trace does not hold of a network: such networks are refused by who runs the trace in the network's place."""

from __future__ import annotations

import sys
from typing import Literal, get_args

from ziggurat.parallel.graph.draws import REMEDY
from ziggurat.parallel.runtime.frames import line_of_network

Kind = Literal["hook", "hidden", "memory", "state", "outer", "kept", "mode", "checkpoint", "numbers"]
"""What is not in a trace.

hook      a hook on a gradient, or a gradient that is kept: it would be on tensors of the trace
hidden    a layer that is one call uses a tensor that it was not given
memory    the network asks how a tensor lies in memory, which a trace need not know
state     what the network does depends on what it has kept from the call before, or may do so
outer     likewise, but what it has kept lies out of its modules' sight, so that the trace itself has changed it
kept      it keeps a tensor that it has computed, for others to look at
mode      it puts a layer into training or evaluation mode, which the layer that is called in its place would not know; or says which
          parameters have gradients, or of which type new tensors are
checkpoint  it changes in place what a checkpoint has computed, which is not computed again where calls are stages
numbers   it draws numbers of NumPy's or Python's between its calls: a trace has them once and for all
"""

KINDS: frozenset[Kind] = frozenset(get_args(Kind))
INSIDE = "in a layer that has no layers in it, which is called as it is"
REMEDIES: dict[Kind, str] = {
    "hook": f"change the tensor, or the loss, instead; or do so {INSIDE}, with a tensor that this layer makes; or run it without pp and lp",
    "hidden": "give it to the layer as an argument; or run it without pp, lp and tp",
    "memory": f"decide by shapes, or call contiguous() in any case; or ask {INSIDE}; or run it without pp and lp",
    "state": "return what is to be kept, and keep it outside of the network; or run it without pp and lp",
    "outer": "give it a tensor in the place of what is another one each time; or run it without pp, lp and tp",
    "kept": "return it; or run it without pp and lp",
    "mode": "do so before the forward pass (a layer's mode: in the network's own train()); or run it without pp and lp",
    "checkpoint": "change a clone() of it; or run it without pp and lp",
    "numbers": REMEDY,
}


class Faults:
    """The faults of a trace: the first of each kind.

    Attributes:
        found: What is said of each kind: the layer, the line, and what is done there.
    """

    def __init__(self) -> None:
        self.found: dict[Kind, str] = {}

    def note(self, kind: Kind, layer: str, said: str, has_line: bool = True) -> None:
        """Take note of a fault.

        Args:
            kind: Of it.
            layer: Where the network is; empty for its own forward.
            said: What the layer does.
            has_line: Whether it is a line of code that is being run now.
        """
        if kind in self.found:
            return
        place = f"the layer '{layer}'" if layer else "its forward"
        line = line_of_network(sys._getframe(1)) if has_line else ""
        where = f"{place} ({line})" if line else place
        self.found[kind] = f"{where} {said}"

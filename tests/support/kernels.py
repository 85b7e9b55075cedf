"""The kernels that a block calls, as the planner notes them."""

from torch.utils._python_dispatch import TorchDispatchMode

from ziggurat.planning.kernels import kernel_of


class Recorded(TorchDispatchMode):
    """Computes everything, and keeps what is called.

    Attributes:
        kernels: In order.
    """

    def __init__(self):
        super().__init__()
        self.kernels = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.kernels.append(kernel_of(func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))

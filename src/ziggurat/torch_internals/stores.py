"""The stores that workers meet at.

Why: they are documented as names of ``torch.distributed``, which does not declare them there; a type checker finds them only
where they are defined.
"""

from torch._C._distributed_c10d import FileStore, PrefixStore, Store, TCPStore

__all__ = ["FileStore", "PrefixStore", "Store", "TCPStore"]

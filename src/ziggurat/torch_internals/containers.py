"""Walking through nested lists, tuples and dicts, also those that a library has registered.

Why: what a network takes and returns may be any of them (the outputs of `transformers`' models are registered with PyTorch's
tree functions); walking by hand would miss these. The functions have no public name in PyTorch 2.14.
"""

from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map, tree_map_only, tree_unflatten

__all__ = ["TreeSpec", "tree_flatten", "tree_leaves", "tree_map", "tree_map_only", "tree_unflatten"]

"""Level parallelism: parallel branches of one network (levels of a pyramid, heads, HRNet's branches) on several workers."""

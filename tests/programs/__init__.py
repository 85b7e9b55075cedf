"""Small networks as real ones are written, in which a tensor is more than its values: each is exact under a plan, or refused by name."""

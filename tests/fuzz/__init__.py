"""The fuzzer: random programs, each taken as a training step by one worker and under a plan."""

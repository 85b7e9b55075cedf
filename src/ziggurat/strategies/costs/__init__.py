"""What is measured of a network, and decided by it.

measure       seconds, bytes and random numbers of each call, on one worker: the table of `parallel.graph.costs`
cuts          from the table to the stages of pp
branch_costs  from the table to the placement under lp
decisions     what of it fixes a run's bits: part of the run's state
cache         the file beside the config that spares measuring again
"""

"""Which plan to take: what a step costs under it, found out without taking the step.

program     what a worker does in a step: kernels, messages, waits
kernels     from a call of an operator to its kernel, and back
record      every worker's program, from a run of the plan's own code (work, events, processes)
hollow      running that code without computing
shadow      workers that sleep instead of computing: a step that is measured, of any number of them
meetings    which messages of several programs meet
simulate    when each worker does what, and whom it waits for (segments, sharing)
scale       the same for many replicas, as vectors; more of them than were recorded
search      which plans there are, and which are best
judging     from a plan to its simulated step
request     what the user asks for
place       recordings and costs of this machine, or of described ones
finding     from a request to plans with their costs
stepping    real steps under a plan, to see how long they take
table       the result, for people
amounts     what a kernel has to do, and which kernels are alike
measuring   seconds of kernels on this machine, under load
fits        a line through what was measured
costs       the table: what any kernel takes
overheads   what steps take beside their kernels (small_steps: real ones, from which that is found)
network     what messages take, and how collectives are made of them
calibration messages between the workers of this machine, measured
devices     GPUs as their makers describe them
clusters    machines from a file
"""

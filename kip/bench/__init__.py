"""`kip bench`: what the kernel engine, methods, steps and data loading cost here, each against an alternative.

`engine` measures kernels beside neural-tangents, `gpu` all that a new accelerator is asked, `step` the parts of a step
of KIP, `devices` when each device of a host computes in one, `networks` updates of a network in training, `methods`
those of learning methods, `matching` DC and DM beside PyTorch, `loader` pictures on disk.
"""

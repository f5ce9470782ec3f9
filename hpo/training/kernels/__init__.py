"""Kernels: steps of a training written by hand for a device, each of which plain torch in `training` can do as well.

`selection` says which there are; C for CPUs (`cpu`), Triton's language for GPUs (`gpu`).
"""

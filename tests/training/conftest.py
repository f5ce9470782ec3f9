"""One thread: networks of this size are slower on two, and much slower where others use the cores."""

import torch

torch.set_num_threads(1)

"""Populations of modules whose layers have no stacked twin: torch maps the plain module over its lanes.

`torch.func.vmap` runs the module's own `forward` once, each operation over all lanes at once. Its forward sees what one
training's sees. Slower than twins (`hpo.training.stacked`), which are tried first.

Shapes: P lanes, B items of a batch.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from hpo.training import streams
from hpo.training.dropout import dropouts
from hpo.training.stacked import CannotStack, stack

# Layers that draw from torch's generator, which all lanes would share.
_RANDOM = (
    nn.modules.dropout._DropoutNd,
    nn.RReLU,
    nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
)


def twin_of(plain: nn.Module, *, windows: bool = False) -> nn.Module:
    """A module of P lanes with the plain one's parameter names: of stacked layers, else mapped.

    Raises CannotStack for one that has neither: with buffers, which would be a lane's state, or with layers that draw
    random numbers of their own; and for one without a stacked twin that was to read windows.
    """
    try:
        return stack(plain, windows=windows)
    except CannotStack:
        if windows:
            raise
        return MappedTwin(plain)


class MappedTwin(nn.Module):
    """P lanes of a module, run by `vmap`."""

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        for name, layer in plain.named_modules():
            where = f"{type(layer).__name__} ({name or 'the module'})"
            if isinstance(layer, _RANDOM) and getattr(layer, "p", 1) != 0:
                raise CannotStack(f"{where} draws random numbers that all lanes would share: use hpo.dropout")
            if next(layer.buffers(recurse=False), None) is not None:
                raise CannotStack(f"{where} keeps numbers beside its parameters, as no lane does: train by a function")
        self.lanes = copy.deepcopy(plain)  # its parameters are those of P lanes, under the same names
        new = {id(one): nn.Parameter(one.detach()[None].clone()) for one in plain.parameters()}
        for name, parameter in plain.named_parameters(remove_duplicate=False):  # what is tied stays so
            owner, _, attribute = name.rpartition(".")
            setattr(self.lanes.get_submodule(owner), attribute, new[id(parameter)])
        # Not a child: the module whose forward is run, and the dropout layers that it asks for masks.
        self._single = (copy.deepcopy(plain),)

    def named_parameters(self, *words: Any, **options: Any) -> Any:
        """Under the plain module's names."""
        return self.lanes.named_parameters(*words, **options)

    def forward(self, x: Any) -> Any:
        """One lane alone is run as it is, so that what cannot be mapped can be trained all the same."""
        single = self._single[0].train(self.training)
        masks = [layer.mask for layer in dropouts(self.lanes)] if self.training else []
        layers = dropouts(single)[: len(masks)]

        def run(parameters: dict[str, Tensor], masks: list[Tensor | None], x: Any) -> Any:
            for layer, mask in zip(layers, masks, strict=True):
                layer.mask = mask
            try:
                return functional_call(single, parameters, (x,))
            finally:
                for layer in layers:
                    layer.mask = None

        arguments: tuple[Any, ...] = (dict(self.lanes.named_parameters()), masks, x)
        if len(x) > 1:
            with sdpa_kernel(SDPBackend.MATH):  # the only attention that vmap knows
                return vmap(run)(*arguments)
        before = torch.random.get_rng_state()
        out = tree_map(lambda of: of[None], run(*tree_map(lambda of: of[0], arguments)))
        if not torch.equal(torch.random.get_rng_state(), before):  # of lanes together vmap refuses it
            raise RuntimeError(
                "the module's forward draws from torch's generator, so it cannot be repeated: use hpo.dropout"
            )
        return out


def module_initialisation(make: Callable[[], nn.Module], seed: int) -> dict[str, Tensor]:
    """The parameters of a new module by name, drawn by its own code from a seed; torch's generator is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.key(seed, "init"))
        module = make()
    return {name: parameter.detach() for name, parameter in module.named_parameters()}

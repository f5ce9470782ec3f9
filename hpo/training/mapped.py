"""Populations of modules whose layers have no stacked twin: torch maps the plain module over its lanes.

`torch.func.vmap` runs the module's own `forward` once, each operation over all lanes at once. Its forward sees what one
training's sees. Slower than twins (`hpo.training.stacked`), which are tried first. What cannot be mapped, as a branch
that depends on numbers, or layers that draw from torch's generator, which all lanes would share, is run for one lane.

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
from hpo.training.memory import is_out_of_memory
from hpo.training.stacked import CannotStack, stack


def twin_of(plain: nn.Module, *, windows: bool = False) -> nn.Module:
    """A module of P lanes with the plain one's parameter names: of stacked layers, else mapped.

    Raises CannotStack for one without a stacked twin that was to read windows.
    """
    try:
        return stack(plain, windows=windows)
    except CannotStack:
        if windows:
            raise
        return MappedTwin(plain)


class CannotMap(RuntimeError):
    """A module that cannot be run for several lanes at once; says which part of it, and why."""


class MappedTwin(nn.Module):
    """P lanes of a module, run by `vmap`."""

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        self.lanes = copy.deepcopy(plain)  # its parameters and buffers are those of P lanes, under the same names
        new = {id(one): nn.Parameter(one.detach()[None].clone()) for one in plain.parameters()}
        for name, parameter in plain.named_parameters(remove_duplicate=False):  # what is tied stays so
            owner, _, attribute = name.rpartition(".")
            setattr(self.lanes.get_submodule(owner), attribute, new[id(parameter)])
        for name, buffer in plain.named_buffers():
            owner, _, attribute = name.rpartition(".")
            setattr(self.lanes.get_submodule(owner), attribute, buffer.detach()[None].clone())
        # Not a child: the module whose forward is run, and the dropout layers that it asks for masks.
        self._single = (copy.deepcopy(plain),)

    def named_parameters(self, *words: Any, **options: Any) -> Any:
        """Under the plain module's names."""
        return self.lanes.named_parameters(*words, **options)

    def named_buffers(self, *words: Any, **options: Any) -> Any:
        """Under the plain module's names; a forward in training changes them in place, as BatchNorm's do."""
        return self.lanes.named_buffers(*words, **options)

    def forward(self, x: Any) -> Any:
        """One lane alone is run as it is, so that what cannot be mapped can be trained all the same.

        Raises CannotMap for several where it cannot.
        """
        single = self._single[0].train(self.training)
        masks = [layer.mask for layer in dropouts(self.lanes)] if self.training else []
        layers = dropouts(single)[: len(masks)]

        def run(state: dict[str, Tensor], masks: list[Tensor | None], x: Any) -> Any:
            for layer, mask in zip(layers, masks, strict=True):
                layer.mask = mask
            try:
                return functional_call(single, state, (x,))
            finally:
                for layer in layers:
                    layer.mask = None

        state = dict([*self.lanes.named_parameters(), *self.lanes.named_buffers()])
        arguments: tuple[Any, ...] = (state, masks, x)
        if len(x) == 1:
            return tree_map(lambda of: of[None], run(*tree_map(lambda of: of[0], arguments)))
        try:
            with sdpa_kernel(SDPBackend.MATH):  # the only attention that vmap knows
                return vmap(run)(*arguments)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            sentence = str(error).partition("\n")[0].partition(". ")[0]
            raise CannotMap(f"{_where(error, single)}: {sentence}") from error


def _where(error: BaseException, module: nn.Module) -> str:
    """The innermost part of a module whose forward an error comes from, in words."""
    names = {id(part): name for name, part in module.named_modules()}
    part, at = module, error.__traceback__
    while at is not None:
        inner: Any = at.tb_frame.f_locals.get("self")
        part, at = (inner if id(inner) in names else part), at.tb_next
    return f"{type(part).__name__} ({names[id(part)] or 'the module'})"


def module_initialisation(make: Callable[[], nn.Module], seed: int) -> dict[str, Tensor]:
    """Parameters and buffers of a new module, drawn by its own code from a seed; torch's generator is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.key(seed, "init"))
        module = make()
    return {name: values.detach() for name, values in (*module.named_parameters(), *module.named_buffers())}

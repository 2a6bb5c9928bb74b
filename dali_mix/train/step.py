"""The one module that a training step runs, and that DDP wraps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dali_mix.batch import Batch
from dali_mix.errors import ConfigError
from dali_mix.methods import Plain, StepMethod, registered


class TrainStep(nn.Module):
    """Forward and losses of a batch by the method that serves its branch.

    Args:
        plain: serves the batches that no other method does; its model is the one under training.
        methods: that serve a branch each, with the same model.

    Fields:
        parts: what they return beside "loss", each once.
    """

    def __init__(self, plain: Plain, methods: Sequence[StepMethod] = ()) -> None:
        super().__init__()
        self.model = plain.model
        self._modules_of_methods = nn.ModuleList([plain, *methods])
        self.parts = tuple(dict.fromkeys(part for method in (plain, *methods) for part in method.parts))
        self._serving: dict[str, StepMethod] = {method.name: method for method in (plain, *methods)}
        self._by_part = any(method.compiled_by_part for method in methods)

    @property
    def methods(self) -> list[StepMethod]:
        """All methods of the run, the plain one first."""
        return list(self._serving.values())

    def method_of(self, branch: str) -> StepMethod:
        """Find the method that serves the batches of a branch.

        Raises:
            ValueError: for a batch that was left to a method which this step does not have.
        """
        serving = self._serving.get(branch)
        if serving is None:
            if any(method.name == branch for method in registered()):
                raise ValueError(f"the batch was left for {branch}, but this step has no such method")
            serving = self._serving[""]
        return serving

    # Only what it calls is compiled: the branch and the plan would be part of a graph.
    @torch.compiler.disable(recursive=False)
    def forward(self, batch: Batch, plan: Any = None) -> dict[str, Tensor]:
        """Return what the batch's method does; the losses lie in memory of their own: a CUDA graph's is overwritten.

        Args:
            batch: from ``MixLoader``.
            plan: of the method, equal on all ranks.

        Returns:
            "loss", which carries the graph, "output", and the method's parts, detached.
        """
        method = self.method_of(batch.branch)
        return self._finish(method(batch, plan), method)

    @torch.compiler.disable
    def _finish(self, result: dict[str, Tensor], serving: StepMethod) -> dict[str, Tensor]:
        """The method's result, with the other methods' parameters in the graph of the loss at no weight."""
        _check_result(result, serving)
        loss, parts = result["loss"], [result[part].detach() for part in serving.parts]
        if self._by_part:
            loss, parts = loss.clone(), list(torch.stack(parts).unbind()) if parts else []
        for method in self._serving.values():
            if method is not serving and isinstance(idle := method.idle(), Tensor):
                loss = loss + idle
        return {"loss": loss, "output": result["output"], **dict(zip(serving.parts, parts, strict=True))}

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile in place the model, which serves the validation too, and what a method calls by part."""
        self.model.compile(*args, **kwargs)
        if self._by_part:
            super().compile(*args, **kwargs)


def _check_result(result: Any, serving: StepMethod) -> None:
    """Refuse what a method should not have returned, where an error deep in the loop would not say what it should."""
    names = ("loss", "output", *serving.parts)
    got = dict.fromkeys(names) | (result if isinstance(result, dict) else {})
    for name in names:
        value = got[name]
        if not isinstance(value, Tensor) or (value.ndim and name != "output"):
            shown = f"of the shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise ConfigError(
                f"{type(serving).__name__}.forward must return a dict of {', '.join(names)}, tensors of one number but "
                f"for output; its {name} is {shown}"
            )

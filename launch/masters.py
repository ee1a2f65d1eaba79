"""Weights in bf16 that stand for fp32 ones ("Mixed Precision Training", arXiv:1710.03740, section
3.1), where ZeRO does not keep these."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


class Masters:
    """At ZeRO 0: the fp32 weights that `optimizer` updates, and their gradients.

    A gradient is added to its master's in fp32 as soon as the backward pass has it, so that neither
    micro-batches nor ranks are summed in bf16. To DeepSpeed, whose own bf16 optimizer makes the
    first update at this stage too small and leaves experts out of the norm, it is the optimizer.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self._of: dict[nn.Parameter, Tensor] = {}
        for group in optimizer.param_groups:
            for param in group["params"]:
                self._of[param] = param.detach().float().requires_grad_()
                param.register_post_accumulate_grad_hook(partial(_take, self._of[param]))
            group["params"] = [self._of[param] for param in group["params"]]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def of(self, param: nn.Parameter) -> Tensor:
        """The fp32 weight behind a model's."""
        return self._of[param]

    def get_grads_for_reduction(self) -> tuple[list[Tensor], dict[str, list[Tensor]]]:
        """DeepSpeed averages the first over all ranks and the others, by group, over the ranks with
        the same experts."""
        shared: list[Tensor] = []
        spread: dict[str, list[Tensor]] = {}
        for param, master in self._of.items():
            if master.grad is None:  # all ranks must reduce the same
                master.grad = torch.zeros_like(master)
            group = getattr(param, "group_name", None)  # of spread experts alone
            (shared if group is None else spread.setdefault(group, [])).append(master.grad)
        return shared, spread

    def step(self) -> None:
        self.optimizer.step()
        self.publish()

    @torch.no_grad()
    def publish(self) -> None:
        """Bring the weights to the model that computes."""
        torch._foreach_copy_(list(self._of), list(self._of.values()))

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()


def _take(master: Tensor, param: Tensor) -> None:
    assert param.grad is not None
    if master.grad is None:
        master.grad = param.grad.float()
    else:
        master.grad += param.grad
    param.grad = None

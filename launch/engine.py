"""The one door to DeepSpeed: forward, backward and update at any ZeRO stage.

One rank has nothing to shard, so it runs at stage 0, whose arithmetic in fp32 is bit-equal to that
of stages 1 and 2 and whose bookkeeping costs a fifth of theirs (measured at 0.1M parameters: 0.3 ms
a step against 2.4). There DeepSpeed's own all-reduce over one rank is off too.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import deepspeed
import deepspeed.ops
import torch
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.utils import groups, safe_get_full_grad
from torch import Tensor, nn

from launch import device
from launch.config import RunConfig
from launch.masters import Masters
from launch.ranks import Ranks
from launch.zero_state import Share, ZeroState

BUCKET = 500_000_000
"""Gradients that DeepSpeed reduces at once, its own default."""


def prepare(expert_parallel: int) -> Any:
    """Ready DeepSpeed in this process; give the expert-parallel group, if there is to be one.

    The shared-memory op, which training never calls, would be compiled here: it is switched off.
    """
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    deepspeed.init_distributed(verbose=False)
    if expert_parallel == 1:
        return None
    name = _group_name(expert_parallel)
    if name not in groups._get_expert_parallel_group_dict():
        groups._create_expert_and_data_parallel(expert_parallel)
    return groups._get_expert_parallel_group(name)


class Engine:
    """Owns the wrapped module and its optimizer for one run; `close` frees both."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        shares: dict[nn.Parameter, Share],
        config: RunConfig,
        ranks: Ranks,
    ) -> None:
        self._ranks = ranks
        self._clip = config.train.clip
        self._shares = shares
        self._expert_parallel = config.parallel.expert_parallel
        self._inner = optimizer
        self._rates = [group["lr"] for group in optimizer.param_groups]
        if self._expert_parallel > 1:
            _mark_experts(optimizer, self._expert_parallel)
        alone = ranks.world == 1 and not config.parallel.offload
        self.stage = 0 if alone else config.parallel.zero_stage
        settings = _settings(config, self.stage, sum(param.numel() for param in shares))
        self._engine = _DeepSpeed(
            args=None,
            model=module,
            optimizer=optimizer,
            config=settings,
            config_class=DeepSpeedConfig(settings),
        )
        self._engine.enable_backward_allreduce = not alone
        self.state = ZeroState(self._engine, shares, _buffers(module))
        self.grad_norm: Tensor | float | None = None
        self.grad_norms: tuple[list[str], Tensor] = [], torch.empty(0)

    def __call__(self, *args: Any) -> Any:
        return self._engine(*args)

    def backward(self, loss: Tensor) -> None:
        """Gradients are averaged over ranks and micro-batches."""
        self._engine.backward(loss)

    def update(self, factor: float, skip: bool = False, watch: bool = False) -> bool:
        """End a micro-batch; after the step's last one, clip and update at `factor` of each rate,
        or leave weights and moments as they are (`skip`). To `watch` sets `grad_norms`.

        False over a gradient that is not finite: nothing is updated.
        """
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()
            return True
        for group, rate in zip(self._inner.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        if self.stage == 0:
            self.grad_norm = self._clip_whole()
            if not math.isfinite(device.value(self.grad_norm)):
                return False
        elif watch:
            self._note_shards()
        with self._standing_still() if skip else nullcontext():
            self._engine.step()
        if self.stage > 0:
            self.grad_norm = self._engine.get_global_grad_norm()
        return bool(self._engine.was_step_applied())

    def _clip_whole(self) -> Tensor:
        """Without ZeRO every rank holds the averaged gradients, but only its own experts'."""
        owners = {param: self.state.owner(param) for param in self._shares}
        graded = {param: owner for param, owner in owners.items() if owner.grad is not None}
        grads = [owner.grad for owner in graded.values() if owner.grad is not None]
        self._note(list(graded), torch.stack(torch._foreach_norm(grads)))
        norm: Tensor = self.grad_norms[1].norm()
        if self._clip is not None:
            nn.utils.clip_grads_with_norm_(graded.values(), self._clip, norm, foreach=True)
        return norm

    def _note_shards(self) -> None:
        """The norms of gradients that ZeRO spread: each is gathered in turn."""
        norms = {
            param: grad.norm()
            for param in self._shares
            if (grad := safe_get_full_grad(param)) is not None
        }
        self._note(list(norms), torch.stack(list(norms.values())))

    def _note(self, params: list[nn.Parameter], norms_P: Tensor) -> None:
        """Norms by parameter; of experts that ranks share, those of all of them together."""
        if self._expert_parallel > 1:
            copies = self._ranks.world / self._expert_parallel
            is_spread_P = torch.tensor([_is_spread(param) for param in params])
            squares_P = norms_P.double().cpu().square() * is_spread_P / copies
            whole_P = torch.tensor(self._ranks.sum(*squares_P.tolist())).sqrt().to(norms_P)
            norms_P = torch.where(is_spread_P.to(norms_P.device), whole_P, norms_P)
        self.grad_norms = [self._shares[param].name for param in params], norms_P

    @contextmanager
    def _standing_still(self) -> Iterator[None]:
        """DeepSpeed's step without the optimizer's: gradients are cleared and counters move."""
        optimizer: Any = self._inner
        optimizer.step = lambda *_, **__: None
        try:
            yield
        finally:
            del optimizer.step

    def close(self) -> None:
        self._engine.destroy()


class _DeepSpeed(DeepSpeedEngine):  # type: ignore[misc]
    """DeepSpeed's engine, taught four things."""

    def _configure_distributed_model(self, model: nn.Module) -> None:
        """It looks for its own MoE class to learn that a model has sharded experts, and rounds
        every buffer to bf16 too, in which a router's balancing bias would stand still."""
        exact = {name: buffer.clone() for name, buffer in _buffers(model).items()}
        super()._configure_distributed_model(model)
        for name, buffer in _buffers(model).items():
            buffer.data = exact[name].to(buffer.device)
        self.has_moe_layers = any(_is_spread(param) for param in model.parameters())

    def _configure_fp16_optimizer(self, optimizer: Any, low_precision_dtype: Any) -> Masters:
        """What it takes for bf16 at stage 0 is wrong there."""
        return Masters(optimizer)

    def zero_grad(self) -> None:
        """It walks the module tree for this, which in a small model costs as much as AdamW."""
        self.basic_optimizer.zero_grad()


def _mark_experts(optimizer: torch.optim.Optimizer, size: int) -> None:
    """Tell DeepSpeed which parameters to average over the expert-data-parallel group alone."""
    for group in optimizer.param_groups:
        if getattr(group["params"][0], "expert", False):
            group.update(moe=True, name=_group_name(size))
            for param in group["params"]:
                param.allreduce, param.group_name = False, _group_name(size)


def _is_spread(param: nn.Parameter) -> bool:
    return not getattr(param, "allreduce", True)


def _group_name(size: int) -> str:
    return f"ep_size_{size}"


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    """Those that a state dict keeps, such as a router's balancing bias."""
    kept = module.state_dict(keep_vars=True).keys()
    return {name: buffer for name, buffer in module.named_buffers() if name in kept}


def _settings(config: RunConfig, stage: int, n_params: int) -> dict[str, Any]:
    # DeepSpeed makes room for a bucket of gradients, however few there are, and reduces a full one
    # in the midst of the backward pass, where ranks that share sequences wait for each other.
    is_shared = config.parallel.sequence_parallel > 1
    bucket = n_params if is_shared and stage == 1 else min(n_params, BUCKET)
    return {
        "train_batch_size": config.rank_micro_batch * config.accumulation * config.parallel.ranks,
        "train_micro_batch_size_per_gpu": config.rank_micro_batch,
        "gradient_accumulation_steps": config.accumulation,
        "gradient_clipping": (config.train.clip or 0.0) if stage else 0.0,
        "bf16": {"enabled": config.train.dtype == "bf16"},
        **({} if stage else {"communication_data_type": "fp32"}),
        "zero_optimization": {"stage": stage, "reduce_bucket_size": bucket}
        | ({"offload_optimizer": {"device": "cpu"}} if config.parallel.offload else {}),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }

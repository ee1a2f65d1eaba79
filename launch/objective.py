"""Model and loss as one module, so that DeepSpeed's hooks see the whole forward pass."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from data import objectives
from data.loader import Objective as Transform
from data.mixture import Mixture
from models import ModelConfig
from models.model import Model
from models.training import losses


class Losses(NamedTuple):
    """Of one micro-batch: `total` is what to differentiate and `nats` the plain negative log
    likelihood, both summed over the weighted tokens; `balance` is the weighted sum of the
    auxiliary losses, a mean over the micro-batch. `reported` are those and the load, unweighted.
    """

    total: Tensor
    nats: Tensor
    balance: Tensor | None
    reported: dict[str, Tensor]

    def objective(self, share: float) -> Tensor:
        """`share`: the micro-batch's size over its tokens' weight, so that ranks' means add up."""
        objective = self.total * share
        return objective if self.balance is None else objective + self.balance


class Objective(nn.Module):
    def __init__(self, model: Model, *, label_smoothing: float, z_loss: float) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing
        self.z_loss = z_loss

    def forward(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor,
        weights_BT: Tensor,
        segments_BT: Tensor | None,
        positions_BT: Tensor | None,
        sources_BS: Tensor | None = None,
    ) -> Losses:
        # Evaluations judge the same samples of a generator, and leave no trace in the training.
        is_sampled = self.model.generator is not None and not self.training
        with torch.random.fork_rng(enabled=is_sampled):
            if is_sampled:
                torch.manual_seed(0)
            found = losses(
                self.model,
                tokens_BT,
                targets_BT,
                weights_BT,
                sources_BS=sources_BS,
                segments_BT=segments_BT,
                positions_BT=positions_BT,
                label_smoothing=self.label_smoothing,
                z_loss=self.z_loss,
            )
        return Losses(
            total=found.summed,
            nats=found.parts.nats.detach() * found.parts.weight,
            balance=found.balance,
            reported={name: value.detach() for name, value in found.aux.items()},
        )


def transform(model: ModelConfig, data: Mixture, seed: int) -> Transform | None:
    """What the recipe's objective makes of causal batches; None if it leaves them as they are.

    The mask or the sentinels are the last ids of the model's vocabulary.

    Raises:
        ValueError: there is no room for them beside the text's own tokens.
    """
    task, kind = model.recipe.task, model.recipe.objective["type"]  # type: ignore[index]
    if model.vocab_size < data.vocab_size + task.special:
        raise ValueError(
            f"model.vocab_size is {model.vocab_size}; allowed: at least "
            f"{data.vocab_size + task.special}, the {data.vocab_size} tokens of the text and the "
            f"{task.special} that the objective {kind} adds"
        )
    mask, end = model.vocab_size - 1, data.end_of_document
    made: dict[str, Any] = {
        "causal": lambda: None,
        "multi_token": lambda: None,
        "masked": lambda: objectives.Masked(mask, data.vocab_size, seed, task.probability),
        "replaced_token": lambda: objectives.ReplacedToken(
            data.vocab_size,
            seed,
            task.probability,
            mask_token=None if model.recipe.generator is None else mask,
        ),
        "span_corruption": lambda: objectives.SpanCorruption(
            tuple(range(mask, mask - task.sentinels, -1)),
            end,
            seed,
            task.density,
            task.mean_span,
            joined=model.recipe.encoder is None,
        ),
        "infilling": lambda: objectives.Infilling(mask, end, seed, task.density, task.mean_span),
        "prefix": lambda: objectives.Prefix(end, task.share),
    }
    found: Transform | None = made[kind]()
    return found

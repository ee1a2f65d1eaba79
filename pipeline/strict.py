"""What every part of a study's configuration is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NAME_LENGTH = 64
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
"""As `launch.config.Name`, of runs."""
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Flops = Annotated[float, Field(gt=0, le=1e27)]
"""Twice the largest training that is known of (2025); more is a slip of the keys."""
Counts = Annotated[list[Count], Field(min_length=1, max_length=64)]
Positives = Annotated[list[Positive], Field(min_length=1, max_length=64)]


class Strict(BaseModel):
    """No unknown key, no coercion, no NaN, no change after construction."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

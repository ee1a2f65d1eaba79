"""Config to model: a recipe is a pattern of residual branches, and its cost is derived.

Shape suffixes, used in every name of this package and explained nowhere else:

    B batch            T time (query position)   S source time (key position) or recurrent state
    D model width      H heads                   G key/value heads or groups
    K head width       V vocabulary or value     E experts
    I inner width      C chunks                  Q position in a chunk
    N rows (tokens flattened, each once per expert it goes to)

`x_BTD` is a tensor of shape (B, T, D). All FLOPs are forward and count two per multiply-add;
the factor 3 of training is applied in `models.costs` alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.assembly import build
    from models.costs import Cost, cost
    from models.errors import RecipeError
    from models.model import Model, Output
    from models.recipe import ModelConfig, Recipe

__all__ = ["Cost", "Model", "ModelConfig", "Output", "Recipe", "RecipeError", "build", "cost"]

_HOME = {
    "Cost": "costs",
    "Model": "model",
    "ModelConfig": "recipe",
    "Output": "model",
    "Recipe": "recipe",
    "RecipeError": "errors",
    "build": "assembly",
    "cost": "costs",
}


def __getattr__(name: str) -> Any:
    """Import torch on first use only, so that `import models` is instant."""
    if name not in _HOME:
        raise AttributeError(f"module 'models' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"models.{_HOME[name]}"), name)
    globals()[name] = value
    return value

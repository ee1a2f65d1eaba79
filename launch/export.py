"""A checkpoint's weights for others: whole, by name, in one safetensors file, of any layout."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from launch.config import RunConfig
from launch.manifest import DamagedCheckpointError, verify
from launch.pieces import BUFFER, Pieces
from launch.zero_state import WEIGHT, Fragment
from models import Model, ModelConfig, build


def newest(run: Path) -> Path:
    """The folder of the run's newest checkpoint."""
    folders = sorted((run / "checkpoints").glob("step-*"), key=lambda path: int(path.name[5:]))
    if not folders:
        raise DamagedCheckpointError(f"{run} has no checkpoint; set train.checkpoint_every")
    return folders[-1]


def weights(run: Path, checkpoint: Path | None = None) -> dict[str, Tensor]:
    """The state dict of `models.build` in fp32, from a verified checkpoint (null: the newest).

    Raises:
        DamagedCheckpointError: there is none, or a file is not what was written.
    """
    config = RunConfig.read(run / "config.json")
    folder = checkpoint or newest(run)
    manifest = verify(folder, config.trajectory())
    pieces = Pieces([folder / name for name in manifest["files"]])
    with torch.device("meta"):
        model = build(ModelConfig.from_dict(config.model))
    state = {}
    for name, param in model.named_parameters():
        state[name] = torch.empty(param.shape)
        pieces.fill(Fragment(name, 0, {WEIGHT: state[name].view(-1)}, writes=False))
    for name in pieces.names(BUFFER):
        if name.startswith("model."):  # the others are the loop's own
            state[name.removeprefix("model.")] = pieces.read(BUFFER, name)
    return state


def load_model(run: Path, checkpoint: Path | None = None) -> Model:
    """The trained model, ready to evaluate."""
    config = RunConfig.read(run / "config.json")
    model = build(ModelConfig.from_dict(config.model))
    missing, unknown = model.load_state_dict(weights(run, checkpoint), strict=False)
    assert not unknown, unknown
    assert not set(missing) & dict(model.named_parameters()).keys(), missing  # others are tied
    return model.eval()


def export(run: Path, target: Path, checkpoint: Path | None = None) -> None:
    """Write `target`, with the model's config in the file's metadata."""
    config = RunConfig.read(run / "config.json")
    save_file(weights(run, checkpoint), target, metadata={"config": json.dumps(config.model)})

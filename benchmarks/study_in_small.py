"""What the launch benchmarks share: random tokens and the config of a dense run over them."""

from pathlib import Path
from typing import Any

import numpy as np

from data.files import file_sha256
from data.megatron import Writer, token_type
from data.store import Shard, TokenStore
from launch.config import RunConfig
from models import ModelConfig, Recipe, cost

VOCAB = 1024
SHAPES = {
    "0.3M": (64, 4),
    "1M": (112, 6),
    "2M": (160, 6),
    "10M": (320, 8),
    "20M": (448, 8),
    "50M": (640, 10),
}


def random_store(folder: Path, n_tokens: int, vocab_size: int = VOCAB) -> TokenStore:
    folder.mkdir(parents=True)
    writer = Writer(token_type(vocab_size))
    bin_path, idx_path = folder / "0.bin", folder / "0.idx"
    with bin_path.open("wb") as file:
        writer.add(file, np.random.default_rng(0).integers(1, vocab_size, n_tokens))
    idx_path.write_bytes(writer.index())
    shard = Shard(
        name="0",
        tokens=n_tokens,
        documents=1,
        bytes=n_tokens,
        bin_bytes=bin_path.stat().st_size,
        bin_sha256=file_sha256(bin_path),
        idx_bytes=idx_path.stat().st_size,
        idx_sha256=file_sha256(idx_path),
    )
    store = TokenStore.of(folder, (shard,), vocab_size, 0, token_type(vocab_size))
    store.save()
    return store


def dense_run(name: str, size: str, stores: Path, steps: int, batch: int, length: int) -> RunConfig:
    width, n_layers = SHAPES[size]
    recipe = Recipe.from_dict({"pattern": "attention+mlp", "positions": "rope"})
    model = recipe.at(width=width, n_layers=n_layers, vocab_size=VOCAB)
    return run_of(model, stores, steps, batch, length, name=name)


def run_of(
    model: ModelConfig,
    stores: Path,
    steps: int,
    batch: int,
    length: int,
    name: str = "run",
    **train: Any,
) -> RunConfig:
    """Any model's run; `train` are further settings of its training."""
    costs = cost(model, length)
    params = costs.params
    return RunConfig.model_validate(
        {
            "name": name,
            "model": model.to_dict(),
            "data": {
                "train": stores / "train",
                "heldout": stores / "heldout",
                "fingerprint": "random",
                "sequence_length": length,
                "batch_size": batch,
            },
            "train": {
                "steps": steps,
                "log_every": 10,
                "optimizer": {"learning_rate": 1e-3},
                "schedule": {"warmup_steps": min(10, steps)},
            }
            | train,
            "cost": {
                "params": {
                    "total": params.total,
                    "active": params.active,
                    "non_embedding": params.non_embedding,
                    "compute": params.compute,
                },
                "training_flops_per_token": float(costs.training_flops_per_token),
            },
        }
    )


def make_stores(folder: Path, n_tokens: int = 2_000_000, vocab_size: int = VOCAB) -> Path:
    random_store(folder / "train", n_tokens, vocab_size)
    random_store(folder / "heldout", 4096, vocab_size)
    return folder

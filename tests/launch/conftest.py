"""Tiny token stores and run configs: a run here takes well under a second."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from data.files import file_sha256
from data.loader import Loader
from data.megatron import Writer, token_type
from data.store import Shard, TokenStore
from launch.config import ParallelConfig, RunConfig
from launch.export import newest
from launch.journal import RunRecord, read_run
from launch.pieces import Pieces
from launch.ranks import Place, Ranks, open_store
from launch.schedule import factor
from launch.zero_state import Fragment
from models import ModelConfig, Recipe, build
from models.loss import cross_entropy

VOCAB = 32
RECIPES: dict[str, dict[str, Any]] = {
    "dense": {"pattern": "attention+mlp"},
    "moe": {"pattern": "attention+moe", "branches": {"moe": {"n_experts": 4, "top_k": 2}}},
    "hybrid": {"pattern": "mamba+mlp attention+moe", "branches": {"moe": {"n_experts": 4}}},
}


def write_store(folder: Path, n_tokens: int, seed: int) -> TokenStore:
    """Tokens of a random bigram chain, so that there is something to learn."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    table = np.random.default_rng(0).integers(1, VOCAB, (VOCAB, 3))
    tokens = np.zeros(n_tokens, np.int64)
    for i in range(1, n_tokens):
        tokens[i] = table[tokens[i - 1], random.integers(3)]
    writer = Writer(token_type(VOCAB))
    with (folder / "0.bin").open("wb") as file:
        for document in np.array_split(tokens, 8):
            writer.add(file, document)
    (folder / "0.idx").write_bytes(writer.index())
    bin_path, idx_path = folder / "0.bin", folder / "0.idx"
    shard = Shard(
        name="0",
        tokens=n_tokens,
        documents=8,
        bytes=2 * n_tokens,
        bin_bytes=bin_path.stat().st_size,
        bin_sha256=file_sha256(bin_path),
        idx_bytes=idx_path.stat().st_size,
        idx_sha256=file_sha256(idx_path),
    )
    store = TokenStore.of(folder, (shard,), VOCAB, 0, token_type(VOCAB))
    store.save()
    return store


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TokenStore]:
    root = tmp_path_factory.mktemp("stores")
    return {
        "train": write_store(root / "train", 20_000, seed=1),
        "heldout": write_store(root / "heldout", 1_000, seed=2),
    }


@pytest.fixture
def run_config(stores: dict[str, TokenStore]) -> Callable[..., RunConfig]:
    """A config from a recipe's name and any number of dotted overrides."""

    def make(recipe: str = "dense", **overrides: Any) -> RunConfig:
        model = Recipe.from_dict(RECIPES[recipe]).at(width=16, n_layers=2, vocab_size=VOCAB)
        config: dict[str, Any] = {
            "name": recipe,
            "model": model.to_dict(),
            "data": {
                "train": str(stores["train"].folder),
                "heldout": str(stores["heldout"].folder),
                "fingerprint": stores["train"].fingerprint,
                "sequence_length": 16,
                "batch_size": 8,
            },
            "train": {
                "steps": 12,
                "log_every": 1,
                "evaluations": 2,
                "optimizer": {"learning_rate": 1e-2},
                "schedule": {"warmup_steps": 2},
            },
            "parallel": {},
            "cost": {
                "params": {"total": 1, "active": 1, "non_embedding": 1, "compute": 1},
                "training_flops_per_token": 6e4,
            },
        }
        for path, value in overrides.items():
            *sections, key = path.split("__")
            place = config
            for section in sections:
                place = place.setdefault(section, {})
            place[key] = value
        return RunConfig.model_validate_json(json.dumps(config))

    return make


@pytest.fixture(scope="session")
def ranks() -> Ranks:
    """This process as a gang of one."""
    store, port = open_store("127.0.0.1", 1)
    return Ranks(Place(port=port), store)


class PlainRun(NamedTuple):
    """Loss and gradient norm of each step, and AdamW's first moment of each parameter at the end:
    what its gradients have been, to scale."""

    curve: list[tuple[float, float]]
    moments: dict[str, torch.Tensor]


def plain_run(config: RunConfig) -> PlainRun:
    """The shortest loop over the whole batch, in fp32."""
    data, settings = config.data, config.train
    loader = Loader(TokenStore.open(data.train), data.sequence_length, data.batch_size, data.seed)
    model = build(ModelConfig.from_dict(config.model))
    model.init_weights(settings.seed)
    chosen = settings.optimizer
    optimizer = torch.optim.AdamW(
        model.param_groups(chosen.learning_rate, chosen.weight_decay), betas=chosen.betas
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    curve = []
    for step in range(settings.steps):
        batch = loader.batch(step)
        out = model.run(torch.from_numpy(batch.tokens_BT))
        loss = cross_entropy(out.logits, torch.from_numpy(batch.targets_BT)).total
        total = loss + sum(out.aux[name] * weight for name, weight in model.aux_weights.items())
        optimizer.zero_grad()
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip or math.inf)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor(settings.schedule, step, settings.steps)
        optimizer.step()
        curve.append((loss.item(), norm.item()))
    named = model.named_parameters()
    return PlainRun(curve, {name: optimizer.state[param]["exp_avg"] for name, param in named})


@pytest.fixture(scope="session")
def plain() -> Callable[[RunConfig], PlainRun]:
    """Whatever their layout, runs of one trajectory share it."""
    known: dict[str, PlainRun] = {}

    def run(config: RunConfig) -> PlainRun:
        key = config.trajectory()
        if key not in known:
            known[key] = plain_run(config)
        return known[key]

    return run


def saved_moments(run: Path, like: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same of a run's newest checkpoint, put together from all ranks' files."""
    pieces = Pieces(sorted(newest(run).glob("*.safetensors")))
    found = {name: torch.empty_like(moment) for name, moment in like.items()}
    for name, moment in found.items():
        pieces.fill(Fragment(name, 0, {"exp_avg": moment.view(-1)}, writes=False))
    return found


class Gangs:
    """Warm gangs by shape, as a sweep keeps them."""

    def __init__(self) -> None:
        self.idle: dict[ParallelConfig, Any] = {}

    def of(self, config: RunConfig) -> Any:
        from launch.gang import Gang

        parallel = config.parallel
        shape = ParallelConfig(ranks=parallel.ranks, step_timeout=parallel.step_timeout)
        if shape not in self.idle:
            self.idle[shape] = Gang(shape)
        return self.idle[shape]

    def run(self, config: RunConfig, folder: Path) -> RunRecord:
        """Train to an end, whatever it is."""
        gang = self.of(config)
        gang.submit(config, folder)
        self.wait(gang)
        return read_run(folder)

    def wait(self, gang: Any) -> Any:
        from launch.gang import wait_any

        while not (ended := wait_any([gang], 60)):
            pass
        outcome = ended[0][1]
        if not outcome.is_worker_sound:
            self.idle = {shape: kept for shape, kept in self.idle.items() if kept is not gang}
        return outcome

    def close(self) -> None:
        for gang in self.idle.values():
            gang.close()


@pytest.fixture(scope="session")
def gangs(ray_cluster: None) -> Iterator[Gangs]:
    kept = Gangs()
    yield kept
    kept.close()

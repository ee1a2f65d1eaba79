"""Ladders: sizes by tokens per parameter, the durations of one size branched from one trunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import geometric_mean
from typing import Literal

from pydantic import Field

from launch.config import RunConfig, TrunkConfig, decay_start
from pipeline.grids.base import Grid, Point, Proposal, Sized, around
from pipeline.strict import Positives
from pipeline.tables import short


class LadderGrid(Grid):
    """Every size of ``params`` for every number of ``tokens_per_parameter``.

    With ``trunk`` the runs of one size are decays (schedule wsd: Hu et al. 2024, 2404.06395; Hägele
    et al. 2024, 2405.18392) branched from the checkpoints of one run at constant rate. They share
    batch and learning rate, the rule's for the geometric mean of their durations, and the warm-up
    of the shortest. ``control`` adds one cosine run a size, of the median duration, which measures
    what that schedule costs.
    """

    type: Literal["ladder"] = Field(description="every size for every duration")
    params: Positives = Field(description="sizes; the nearest shapes are taken")
    tokens_per_parameter: Positives = Field(description="durations, as a multiple of the size")
    trunk: bool = Field(default=True, description="branch the durations of a size from one run")
    control: bool = Field(
        default=True, description="with `trunk`, a cosine run for each size, to compare with"
    )

    @property
    def reach(self) -> tuple[float, float]:
        """Around the sizes."""
        return around(self.params)

    def points(self, shapes: Sequence[Sized], proposals: Sequence[Proposal]) -> Iterator[Point]:
        """By size, seed and duration, shortest first; then the size's control."""
        ratios = sorted(self.tokens_per_parameter)
        for shape in self.nearest(shapes, sorted(self.params)):
            for seed in self.seeds:
                for ratio in ratios:
                    yield self._point(shape, ratio, seed, "run")
            if self.trunk and self.control:
                yield self._point(shape, ratios[len(ratios) // 2], self.seeds[0], "control")

    @property
    def names(self) -> list[str]:
        """Those of trunks too."""
        return [*super().names, *(f"12.3k-trunk-s{seed}" for seed in self.seeds if self.trunk)]

    def _point(
        self, shape: Sized, ratio: float, seed: int, role: Literal["run", "control"]
    ) -> Point:
        size = self.size(shape)
        name = f"{short(size)}-{ratio:g}x" + ("-cosine" if role == "control" else "")
        schedule: Literal["cosine", "wsd"] = "cosine" if role == "control" else "wsd"
        return Point(
            shape=shape,
            tokens=ratio * size,
            name=name,
            budget=ratio * size * shape.flops_per_token,
            seed=seed,
            role=role,
            like=geometric_mean(self.tokens_per_parameter) * size if self.trunk else None,
            schedule=schedule if self.trunk else None,
        )

    def linked(
        self, runs: Sequence[RunConfig], folder: Callable[[RunConfig], Path]
    ) -> list[RunConfig]:
        """Each size's trunk, its branches, its control."""
        if not self.trunk:
            return list(runs)
        found: list[RunConfig] = []
        for _, group in groupby(runs, key=lambda run: (run.labels["params"], run.train.seed)):
            same = list(group)
            branches = [run for run in same if run.labels["role"] == "run"]
            found += with_trunk(branches, folder) if len(branches) > 1 else branches
            found += [run for run in same if run.labels["role"] == "control"]
        return found


def with_trunk(runs: Sequence[RunConfig], folder: Callable[[RunConfig], Path]) -> list[RunConfig]:
    """A trunk at constant rate, and ``runs``, which differ in length alone, as its branches."""
    warmup = min(run.train.schedule.warmup_steps for run in runs)
    warmed = [_changed(run, schedule={"warmup_steps": warmup}) for run in runs]
    starts = [decay_start(run.train.schedule, run.train.steps) for run in warmed]
    longest = max(zip(starts, warmed, strict=True), key=lambda pair: pair[0])[1]
    trunk = _changed(
        longest,
        schedule={"name": "constant"},
        steps=max(starts),
        evaluations=min(longest.train.evaluations, max(starts)),
        checkpoint_at=tuple(sorted(set(starts))),
    )
    labels = {**longest.labels, "role": "trunk"}
    name = f"{longest.name.rsplit('-', 2)[0]}-trunk-s{longest.train.seed}"
    trunk = trunk.model_copy(update={"name": name, "labels": labels})
    home = folder(trunk)
    return [
        trunk,
        *(
            _changed(run, trunk=TrunkConfig(run=home, step=start))
            for run, start in zip(warmed, starts, strict=True)
        ),
    ]


def _changed(
    run: RunConfig, schedule: dict[str, object] | None = None, **train: object
) -> RunConfig:
    """``run`` with some of its training settings replaced, checked again."""
    values = dict(run)
    settings = dict(run.train) | train
    settings["schedule"] = run.train.schedule.model_copy(update=schedule or {})
    values["train"] = type(run.train)(**settings)
    return RunConfig(**values)

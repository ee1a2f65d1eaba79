"""A trained run for use elsewhere: its model and tokenizer, text from it, a folder for others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.tokenizer import END_OF_DOCUMENT
from pipeline.errors import StudyError, nearest

STUDIES = Path("studies")


def find_run(name: str) -> Path:
    """The folder of a run: a path, or the run's name if one study under ``studies/`` has it.

    Raises:
        StudyError: there is none, or there are several.
    """
    if (Path(name) / "config.json").is_file():
        return Path(name)
    folders = [path.parent for path in STUDIES.glob("*/runs/*/config.json")]
    found = [folder for folder in folders if folder.name.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(str(folder) for folder in sorted(found)[:4])
        raise StudyError(f"RUN: given '{name}', which {len(found)} runs begin with: {listed}, …")
    hint = nearest(name, [folder.name for folder in folders])
    raise StudyError(f"RUN: given '{name}', allowed: a run's folder, or its name in studies/{hint}")


def tokenizer_of(run: Path) -> Path:
    """The ``tokenizer.json`` that a run's tokens were made with, from the plan of its study.

    Raises:
        StudyError: the run lies in no study.
    """
    plan = run.resolve().parent.parent / "plan.json"
    if not plan.is_file():
        raise StudyError(f"{run}: no plan.json two folders up, so its tokenizer is not known")
    return Path(json.loads(plan.read_text())["tokens"]["tokenizer"])


def export_hf(run: Path, target: Path) -> str:
    """Write ``target`` for ``transformers``: safetensors, config, tokenizer. The class it loads as.

    Raises:
        RecipeError: no ``transformers`` model computes what this recipe does.
        StudyError: the target exists and holds something.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StudyError(f"DIR: given {target}, which is not empty; allowed: a new or empty folder")
    from launch.export import load_model
    from models.convert import to_hf
    from models.convert.tokenizer import save_tokenizer

    hf_model = to_hf(load_model(run))
    hf_model.save_pretrained(target)
    save_tokenizer(tokenizer_of(run), target, END_OF_DOCUMENT)
    return type(hf_model).__name__


def generate(run: Path, prompt: str, count: int, temperature: float, seed: int) -> Iterator[str]:
    """Text that a run's model goes on with, piece by piece; greedy at temperature 0."""
    import torch
    from tokenizers import Tokenizer

    from launch.export import load_model

    model, tokenizer = load_model(run), Tokenizer.from_file(str(tokenizer_of(run)))
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = tokenizer.encode(prompt, add_special_tokens=False).ids
    if not ids:
        raise StudyError("--prompt: given nothing, allowed: at least one token of text")
    cache, fresh, shown = model.new_cache(), ids, tokenizer.decode(ids)
    with torch.no_grad():
        for _ in range(count):
            logits_V = model.run(torch.tensor([fresh]), cache=cache).logits[0, -1]
            fresh = [_choose(logits_V, temperature, generator)]
            ids = [*ids, *fresh]
            text = tokenizer.decode(ids)
            yield text[len(shown) :]
            shown = text


def _choose(logits_V: Any, temperature: float, generator: Any) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    return int((logits_V / temperature).softmax(-1).multinomial(1, generator=generator))

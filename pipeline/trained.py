"""A trained run for use elsewhere: its model and tokenizer, text from it, a folder for others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from data.tokenizer import END_OF_DOCUMENT
from launch.config import RunConfig
from pipeline.errors import StudyError, nearest
from pipeline.plan import PLAN

STUDIES = Path("studies")
HIDDEN = re.compile("⟨([0-9]+)⟩")


def find_run(name: str) -> Path:
    """The folder of a run: a path, or the run's name if one study under ``studies/`` has it.

    Raises:
        StudyError: there is none, or there are several.
    """
    if (Path(name) / "config.json").is_file():
        return Path(name)
    folders = [path.parent for path in STUDIES.glob("*/runs/*/config.json")]
    exact = [folder for folder in folders if folder.name == name]
    found = exact or [folder for folder in folders if folder.name.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(str(folder) for folder in sorted(found)[:4])
        more = ", …" if len(found) > 4 else ""
        which = "are called" if exact else "begin with"
        raise StudyError(f"RUN: given '{name}', which {len(found)} runs {which}: {listed}{more}")
    hint = nearest(name, [folder.name for folder in folders])
    raise StudyError(f"RUN: given '{name}', allowed: a run's folder, or its name in studies/{hint}")


def tokenizer_of(run: Path) -> Path:
    """The ``tokenizer.json`` that a run's tokens were made with, from the plan of its study.

    Raises:
        StudyError: the run lies in no study, or in one that was planned over other tokens since.
    """
    plan = run.resolve().parent.parent / PLAN
    if not plan.is_file():
        raise StudyError(f"{run}: no {PLAN} two folders up, so its tokenizer is not known")
    tokens = json.loads(plan.read_text())["tokens"]
    if RunConfig.read(run / "config.json").data.fingerprint != tokens["fingerprint"]:
        raise StudyError(
            f"{run}: trained on other tokens than {plan} is of: the study has another corpus or "
            "tokenizer now, and that of this run is not known"
        )
    return Path(tokens["tokenizer"])


def export_hf(run: Path, target: Path) -> str:
    """Write ``target`` for ``transformers``: safetensors, config, tokenizer. The class it loads as.

    Raises:
        RecipeError: no ``transformers`` model computes what this recipe does.
        StudyError: the target exists and holds something.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StudyError(f"DIR: given {target}, which is not empty; allowed: a new or empty folder")
    from tokenizers import Tokenizer

    from launch.export import load_model
    from models.convert import to_hf
    from models.convert.tokenizer import save_tokenizer

    hf_model, tokenizer = to_hf(load_model(run)), tokenizer_of(run)
    if hf_model.config.is_encoder_decoder:
        start = Tokenizer.from_file(str(tokenizer)).token_to_id(END_OF_DOCUMENT)
        hf_model.config.decoder_start_token_id = start
        hf_model.generation_config.decoder_start_token_id = start
    hf_model.save_pretrained(target)
    save_tokenizer(tokenizer, target, END_OF_DOCUMENT)
    return type(hf_model).__name__


def generate(run: Path, prompt: str, count: int, temperature: float, seed: int) -> Iterator[str]:
    """Text that a run's model makes of a prompt, piece by piece; greedy at temperature 0.

    A decoder goes on with the prompt; an encoder-decoder reads it and answers. What an objective
    hides is written ⟨0⟩, ⟨1⟩ and so on, in the prompt and in the text.

    Raises:
        StudyError: the prompt holds nothing, or the model is one that does not generate.
    """
    import torch
    from tokenizers import Tokenizer

    from launch.export import load_model
    from models.generate import generate as tokens_from

    model, tokenizer = load_model(run), Tokenizer.from_file(str(tokenizer_of(run)))
    alphabet = Alphabet(tokenizer, model.config.vocab_size)
    ids = alphabet.encode(prompt)
    if not ids:
        raise StudyError("--prompt: given nothing, allowed: at least one token of text")
    start = tokenizer.token_to_id(END_OF_DOCUMENT) or 0
    generator = torch.Generator().manual_seed(seed)
    found = tokens_from(model, ids, start=start, temperature=temperature, generator=generator)
    kept = [] if model.encoder is not None else ids
    shown = alphabet.decode(kept)
    try:
        for fresh in islice(found, count):
            kept = [*kept, fresh]
            text = alphabet.decode(kept)
            yield text[len(shown) :]
            shown = text
    except ValueError as error:
        raise StudyError(f"RUN: given {run}: {error}") from None


class Alphabet:
    """A tokenizer, and ⟨n⟩ for the n-th id from the end of a model's larger vocabulary."""

    def __init__(self, tokenizer: Any, vocab_size: int) -> None:
        self.tokenizer, self.last = tokenizer, vocab_size - 1
        self.n_own = tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Ids of a text; where the vocabulary is the tokenizer's own, ⟨n⟩ is text.

        Raises:
            StudyError: an ⟨n⟩ that stands for no id.
        """
        n_more = self.last + 1 - self.n_own
        ids: list[int] = []
        for i, part in enumerate(HIDDEN.split(text) if n_more > 0 else [text]):
            if i % 2 == 0:
                ids += self.tokenizer.encode(part, add_special_tokens=False).ids
            elif int(part) < n_more:
                ids.append(self.last - int(part))
            else:
                allowed = f"⟨0⟩ to ⟨{n_more - 1}⟩"
                raise StudyError(f"--prompt: given ⟨{part}⟩, allowed: {allowed}")
        return ids

    def decode(self, ids: list[int]) -> str:
        """The text of ids."""
        runs = groupby(ids, key=lambda token: token < self.n_own)
        return "".join(
            self.tokenizer.decode(list(run))
            if is_own
            else "".join(f"⟨{self.last - token}⟩" for token in run)
            for is_own, run in runs
        )

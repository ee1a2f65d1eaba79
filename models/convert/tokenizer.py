"""A `tokenizer.json` as `transformers` reads it beside a model."""

from __future__ import annotations

from pathlib import Path


def save_tokenizer(path: Path, target: Path, end_of_document: str) -> None:
    """Write the tokenizer at `path` into the folder `target`, for `AutoTokenizer`."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token=end_of_document)
    tokenizer.save_pretrained(target)

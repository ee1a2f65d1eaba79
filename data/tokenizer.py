"""Tokenizers, trained on a corpus' training split or read from any `tokenizer.json`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from data.corpus import MIB, Strict
from data.errors import DataError, nearest
from data.files import sha256

END_OF_DOCUMENT = "<|endoftext|>"
# Ends of documents of well-known tokenizers, tried in this order when none is named.
KNOWN_ENDS = (END_OF_DOCUMENT, "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[SEP]", "[EOS]")


class TokenizerConfig(Strict):
    """`bpe` and `unigram` are trained, byte-level, to `vocab_size`; `file` is read from `path`.

    `sample_bytes` bounds the text that training reads, taken evenly over the corpus' shards. For a
    file, `vocab_size` is optional and checked when given, and `end_of_document` names the token
    that ends a document where it is not one of the usual ones. `reserved` tokens never occur in
    text: masks and sentinels for `data.objectives`, counted in `vocab_size`.
    """

    kind: Literal["bpe", "unigram", "file"] = Field(
        "bpe", description="trained on the corpus, or read from a file"
    )
    vocab_size: Annotated[int, Field(ge=257, le=1 << 24)] | None = Field(
        None, description="tokens in all; of a file it is checked, if given"
    )
    path: str | None = Field(None, description="a tokenizer.json, for kind file")
    end_of_document: str | None = Field(
        None, description="the token that ends a document; null: one of the usual"
    )
    sample_bytes: Annotated[int, Field(gt=0)] = Field(
        256 * MIB, description="text that is read to train it"
    )
    reserved: Annotated[int, Field(ge=0)] = Field(
        0, description="tokens that no text holds: masks and sentinels of some objectives"
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed, foreign = ("path", "") if self.kind == "file" else ("vocab_size", "path")
        if getattr(self, needed) is None:
            raise ValueError(f"a tokenizer of kind {self.kind!r} needs {needed!r}")
        if foreign and getattr(self, foreign) is not None:
            raise ValueError(f"a tokenizer of kind {self.kind!r} takes no {foreign!r}")
        return self


class Tokenizer:
    """A `tokenizers.Tokenizer` that never reads special tokens out of a document's text."""

    def __init__(self, text: str, end_of_document: str | None = None) -> None:
        import tokenizers

        self.text = text
        self.inner = tokenizers.Tokenizer.from_str(text)
        self.inner.encode_special_tokens = True
        self.inner.no_padding()
        self.inner.no_truncation()
        if getattr(self.inner.model, "dropout", None):
            self.inner.model.dropout = None  # a text has one encoding
        self.vocab_size = max(self.inner.get_vocab().values()) + 1
        self.end_token = end_of_document or self._known_end()
        end = self.inner.token_to_id(self.end_token)
        if end is None:
            raise DataError(
                f"the tokenizer has no token {self.end_token!r}"
                + nearest(self.end_token, self.inner.get_vocab()),
                ("end_of_document",),
            )
        self.end_of_document: int = end
        self.reserved = self._reserved()
        # The library's version is part of what decides the tokens.
        self.fingerprint = sha256(text, self.end_token, tokenizers.__version__)

    @classmethod
    def load(cls, path: Path, end_of_document: str | None = None) -> "Tokenizer":
        try:
            return cls(path.read_text(encoding="utf-8"), end_of_document)
        except OSError as error:
            raise DataError(
                f"cannot read the tokenizer {path}: {error.strerror}", ("path",)
            ) from error
        except DataError:
            raise
        except Exception as error:  # the library raises bare Exception over a file it cannot parse
            raise DataError(f"{path} is no tokenizer.json: {error}", ("path",)) from error

    def _known_end(self) -> str:
        for token in KNOWN_ENDS:
            if self.inner.token_to_id(token) is not None:
                return token
        raise DataError(
            "the tokenizer has none of the usual ends of documents, name its own: "
            + ", ".join(KNOWN_ENDS),
            ("end_of_document",),
        )

    def _reserved(self) -> tuple[int, ...]:
        ids: list[int] = []
        while (token := self.inner.token_to_id(reserved_token(len(ids)))) is not None:
            ids.append(token)
        return tuple(ids)

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self.inner.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, tokens: list[int]) -> str:
        text: str = self.inner.decode(tokens, skip_special_tokens=False)
        return text


def reserved_token(number: int) -> str:
    return f"<|reserved_{number}|>"


def load(config: TokenizerConfig) -> Tokenizer:
    """Read a tokenizer of kind `file` and hold it to the vocabulary that the configuration
    states."""
    assert config.path is not None
    tokenizer = Tokenizer.load(Path(config.path).expanduser(), config.end_of_document)
    if config.vocab_size is not None and config.vocab_size != tokenizer.vocab_size:
        raise DataError(
            f"{config.path} has a vocabulary of {tokenizer.vocab_size}, not {config.vocab_size}",
            ("vocab_size",),
        )
    return tokenizer


def train(config: TokenizerConfig, texts: Iterator[str]) -> Tokenizer:
    """Train to exactly `vocab_size` tokens; too little text for them raises `DataError`.

    Byte-level: all 256 bytes are in the vocabulary, so any text is encoded and nothing is unknown.
    The same texts give the same BPE; the library's unigram trainer breaks ties by chance.
    """
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, pre_tokenizers, trainers

    end = config.end_of_document or END_OF_DOCUMENT
    model, trainer_class = {
        "bpe": (models.BPE(), trainers.BpeTrainer),
        "unigram": (models.Unigram(), trainers.UnigramTrainer),
    }[config.kind]
    inner = Inner(model)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainer_class(
        vocab_size=config.vocab_size,
        special_tokens=[end, *map(reserved_token, range(config.reserved))],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    if inner.get_vocab_size() != config.vocab_size:
        raise DataError(
            f"the training text supports a vocabulary of {inner.get_vocab_size()} only, "
            f"not {config.vocab_size}: give more text or ask for fewer tokens",
            ("vocab_size",),
        )
    return Tokenizer(inner.to_str(), end)

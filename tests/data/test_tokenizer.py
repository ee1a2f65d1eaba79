from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data.errors import DataError
from data.prepare import Prepared
from data.tokenizer import END_OF_DOCUMENT, Tokenizer, TokenizerConfig, load, train

Story = Callable[[int], str]
any_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def tokenizer(request: pytest.FixtureRequest, story: Story) -> Tokenizer:
    config = TokenizerConfig(kind=request.param, vocab_size=280)
    return train(config, (story(number) for number in range(40)))


@any_fixture
@given(st.text(max_size=60))
def test_any_text_round_trips(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_text_never_contains_an_end_of_document(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(f"one{END_OF_DOCUMENT}two")
    assert tokenizer.end_of_document not in tokens
    assert tokenizer.decode(tokens) == f"one{END_OF_DOCUMENT}two"


def test_vocabularies_have_the_size_asked_for(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 280


def test_reserved_tokens_are_in_the_vocabulary_and_never_in_text(story: Story) -> None:
    config = TokenizerConfig(kind="bpe", vocab_size=300, reserved=3)
    made = train(config, (story(number) for number in range(40)))
    assert made.vocab_size == 300
    assert len({*made.reserved, made.end_of_document}) == 4
    assert not set(made.encode("<|reserved_0|>")) & set(made.reserved)


def test_bpe_training_is_deterministic(bpe: TokenizerConfig, story: Story) -> None:
    once, again = (train(bpe, (story(number) for number in range(40))) for _ in range(2))
    assert once.text == again.text


def test_too_little_text_for_the_vocabulary_is_an_error() -> None:
    with pytest.raises(DataError, match=r"vocabulary of 2.. only, not 5000") as error:
        train(TokenizerConfig(vocab_size=5000), iter(["one small text"]))
    assert error.value.key == ("vocab_size",)


def test_file_of_another_vocabulary_is_refused(prepared: Prepared) -> None:
    config = TokenizerConfig(kind="file", path=str(prepared.tokenizer), vocab_size=1024)
    with pytest.raises(DataError, match="has a vocabulary of 300, not 1024") as error:
        load(config)
    assert error.value.key == ("vocab_size",)


def test_missing_damaged_and_endless_tokenizers_are_named(
    prepared: Prepared, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"absent\.json: No such file"):
        Tokenizer.load(tmp_path / "absent.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DataError, match=r"bad\.json is no tokenizer\.json"):
        Tokenizer.load(tmp_path / "bad.json")
    with pytest.raises(
        DataError, match=r"no token '<\|endoftex\|>', did you mean '<\|endoftext\|>'"
    ):
        Tokenizer.load(prepared.tokenizer, "<|endoftex|>")


def test_each_kind_takes_its_own_keys() -> None:
    with pytest.raises(ValidationError, match="needs 'path'"):
        TokenizerConfig(kind="file")
    with pytest.raises(ValidationError, match="needs 'vocab_size'"):
        TokenizerConfig(kind="bpe")
    with pytest.raises(ValidationError, match="takes no 'path'"):
        TokenizerConfig(kind="bpe", vocab_size=300, path="x")

"""Whatever the text, the tokens are the library's own."""

import random
from collections.abc import Callable

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers

from data.prepare import Prepared
from data.tokenizer import Tokenizer, TokenizerConfig, train
from data.words import GPT2, MEMORY_BYTES, PATTERNS, Encoder

Story = Callable[[int], str]
Change = Callable[[tokenizers.Tokenizer], None]

# What patterns disagree about: contractions, white space of every kind, characters between classes.
SNIPPETS = [
    *("a", "B", "the", "5", "1234", "'", "'s", "'S", "'ll", "'ve", "'ſ", "ſ", "K", "ß"),
    *("!", "._", "(", "-", "`", "\x00", "\x7f", "\x1c", "\x1f"),
    *(" ", "  ", "\n", "\r\n", "\t", "\x0b", "\x0c", "\x85", "\xa0", "\u2003", "\u2028", "\u3000"),
    *("é", "я", "מ", "中文", "ㄱ", "²", "٣", "Ⅷ", "’", "—", "€", "ͅ", "\u0301", "\u200b", "\u0378"),
    *("😀", "👩\u200d👧", "\U00010400", "\U0010ffff", "<|endoftext|>"),
]
IDS = ["bpe", "unigram", "gpt2", "llama3", "qwen2"]
texts = st.lists(
    st.one_of(
        st.lists(st.sampled_from(SNIPPETS), max_size=30).map("".join),
        st.text(max_size=60),
        st.text(st.characters(max_codepoint=0x7F), max_size=60),
    ),
    max_size=4,
)


@pytest.fixture(scope="module", params=["bpe", "unigram", *PATTERNS], ids=IDS)
def encoder(request: pytest.FixtureRequest, story: Story) -> Encoder:
    """A tokenizer that is trained here, or one that parts text by each of the known patterns."""
    config = TokenizerConfig(vocab_size=280)
    if request.param == "unigram":
        config = TokenizerConfig(kind="unigram", vocab_size=280)
    made = train(config, map(story, range(40)))
    return Encoder(changed(made, parts_by(request.param)) if request.param in PATTERNS else made)


def changed(tokenizer: Tokenizer, change: Change) -> Tokenizer:
    inner = tokenizers.Tokenizer.from_str(tokenizer.text)
    change(inner)
    return Tokenizer(inner.to_str(), tokenizer.end_token)


def parts_by(pattern: str) -> Change:
    def change(inner: tokenizers.Tokenizer) -> None:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        bytes_alone = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        inner.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_alone])

    return change


def same(encoder: Encoder, given: list[str]) -> bool:
    return [ids.tolist() for ids in encoder(given)] == [
        encoder.tokenizer.encode(text) for text in given
    ]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(given=texts)
def test_tokens_are_those_of_the_library(encoder: Encoder, given: list[str]) -> None:
    assert same(encoder, given)
    for text in given:
        assert words(encoder, text) == [
            w for part in parts(encoder, text) for w in words(encoder, part)
        ]


def parts(encoder: Encoder, text: str) -> list[str]:
    assert encoder.cut is not None
    return encoder.cut(text)


def words(encoder: Encoder, text: str) -> list[str]:
    """Where the library itself parts a text."""
    return [word for word, _ in encoder.tokenizer.inner.pre_tokenizer.pre_tokenize_str(text)]


def test_every_character_is_cut_where_the_library_cuts(encoder: Encoder) -> None:
    characters = [*map(chr, range(0xD800)), *map(chr, range(0xE000, 0x10000))]
    chooser = random.Random(0)
    around = ["a", "1", "!", " ", "\n", "'", "  ", ""]
    given = [
        "".join(chooser.choice(around) + c + chooser.choice(around) for c in characters[at::997])
        for at in range(997)
    ]
    for text in given:
        assert words(encoder, text) == [
            w for part in parts(encoder, text) for w in words(encoder, part)
        ]


def lowercases(inner: tokenizers.Tokenizer) -> None:
    inner.normalizer = normalizers.Lowercase()


def adds_a_token(inner: tokenizers.Tokenizer) -> None:
    inner.add_tokens([AddedToken("loss fit", special=False)])


def prefixes_a_space(inner: tokenizers.Tokenizer) -> None:
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


@pytest.mark.parametrize(
    "change", [lowercases, adds_a_token, prefixes_a_space, parts_by(GPT2 + "|x"), parts_by(" ")]
)
def test_other_tokenizers_are_asked_for_whole_texts(
    prepared: Prepared, story: Story, change: Change
) -> None:
    encoder = Encoder(changed(Tokenizer.load(prepared.tokenizer), change))
    assert encoder.cut is None
    assert same(encoder, [story(0), "The Loss fits, a loss fit", ""])


def test_what_is_remembered_is_bounded(
    prepared: Prepared, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MEMORY_BYTES < 100e6
    monkeypatch.setattr("data.words.MEMORY_BYTES", 10_000)
    encoder = Encoder(Tokenizer.load(prepared.tokenizer))
    for number in range(50):
        assert same(encoder, [f"{story(number)} {number}{'x' * number} {number * 7}"])
        assert encoder.remembered < 30_000


def test_the_library_sees_a_word_once(prepared: Prepared, story: Story) -> None:
    encoder = Encoder(Tokenizer.load(prepared.tokenizer))
    given = [story(number) for number in range(20)]
    encoder(given)
    before = encoder.remembered
    assert same(encoder, [" ".join(given), *reversed(given)])
    assert encoder.remembered < before + 40 * 200  # at most the words where the texts now meet


def test_a_tokenizer_that_drops_merges_by_chance_does_not(prepared: Prepared, story: Story) -> None:
    def drops_merges(inner: tokenizers.Tokenizer) -> None:
        inner.model.dropout = 0.5

    plain = Tokenizer.load(prepared.tokenizer)
    assert changed(plain, drops_merges).encode(story(0)) == plain.encode(story(0))

"""Text from a model and a folder for others, of a decoder and of an encoder-decoder."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from data.tokenizer import END_OF_DOCUMENT
from launch.config import RunConfig
from models import Model, Recipe, build
from models.positions import LearnedTable
from pipeline import trained
from pipeline.errors import StudyError
from pipeline.plan import PLAN, Plan, Tokens

CONFIGS = Path(__file__).parents[2] / "configs" / "models"
WORDS = [END_OF_DOCUMENT, *"abcdefghijklmnopqrs"]


@pytest.fixture
def run_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A run's folder, of which only the model and the tokenizer are looked at."""
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="a"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    monkeypatch.setattr(trained, "tokenizer_of", lambda run: tmp_path / "tokenizer.json")

    def make(name: str) -> tuple[Path, Model]:
        recipe = Recipe.from_dict(YAML(typ="safe").load(CONFIGS / f"{name}.yaml"))
        vocab_size = len(WORDS) + recipe.task.special
        model = build(recipe.at(width=16, n_layers=2, vocab_size=vocab_size))
        model.init_weights(0)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
        monkeypatch.setattr("launch.export.load_model", lambda run: model)
        return tmp_path, model

    return make


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_an_encoder_decoder_answers_as_its_export_does(
    run_of: Any, name: str, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    run, model = run_of(name)
    text = "".join(trained.generate(run, "a b ⟨0⟩ c d", 8, 0.0, 0))
    assert trained.export_hf(run, tmp_path / "hf").endswith("ForConditionalGeneration")
    loaded = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "hf")
    alphabet = trained.Alphabet(
        Tokenizer.from_file(str(tmp_path / "tokenizer.json")), model.config.vocab_size
    )
    source = alphabet.encode("a b ⟨0⟩ c d")
    assert source == [1, 2, model.config.vocab_size - 1, 3, 4]
    theirs = loaded.generate(torch.tensor([source]), max_new_tokens=8, do_sample=False)
    assert text == alphabet.decode(theirs[0, 1:].tolist())


def test_only_what_the_objective_hides_can_be_written(run_of: Any) -> None:
    run, _ = run_of("bart")
    with pytest.raises(StudyError, match="--prompt: given ⟨7⟩, allowed: ⟨0⟩ to ⟨0⟩"):
        next(trained.generate(run, "a ⟨7⟩", 1, 0.0, 0))
    run, _ = run_of("gpt2")  # has nothing hidden: this is text
    assert next(trained.generate(run, "a ⟨7⟩", 1, 0.0, 0))


def test_a_runs_whole_name_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained, "STUDIES", tmp_path)
    for name in ("dense-1", "dense-10", "dense-11"):
        folder = tmp_path / "some" / "runs" / name
        folder.mkdir(parents=True)
        (folder / "config.json").touch()
    assert trained.find_run("dense-1").name == "dense-1"
    with pytest.raises(StudyError, match="which 3 runs begin with"):
        trained.find_run("dense")
    with pytest.raises(StudyError, match="did you mean 'dense-10'"):
        trained.find_run("dens-10")


def test_a_run_is_not_paired_with_the_tokenizer_of_another_plan(
    tmp_path: Path, run_config: RunConfig
) -> None:
    folder = tmp_path / "runs" / "dense"
    folder.mkdir(parents=True)
    run_config.write(folder / "config.json")
    own = Tokens(
        tmp_path / "tokenizer.json", tmp_path, tmp_path, run_config.data.fingerprint, 1, 300
    )
    Plan((run_config,), (), own).write(tmp_path / PLAN)
    assert trained.tokenizer_of(folder) == tmp_path / "tokenizer.json"
    Plan((run_config,), (), replace(own, fingerprint="0" * 64)).write(tmp_path / PLAN)
    with pytest.raises(StudyError, match="another corpus or tokenizer now"):
        trained.tokenizer_of(folder)


def test_a_masked_model_is_exported_and_does_not_generate(run_of: Any, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    run, model = run_of("bert")
    with pytest.raises(StudyError, match="sees later positions"):
        list(trained.generate(run, "a b", 3, 0.0, 0))
    assert trained.export_hf(run, tmp_path / "hf") == "BertForMaskedLM"
    loaded = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "hf").eval()
    tokens = torch.tensor([[3, 4, 5, len(WORDS)]])
    torch.testing.assert_close(loaded(tokens).logits, model(tokens), rtol=1e-4, atol=1e-4)


def test_a_decoder_goes_on_with_its_prompt(run_of: Any) -> None:
    run, model = run_of("gpt2")
    ids = [1, 2, 3]
    for _ in range(5):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    text = "a b c" + "".join(trained.generate(run, "a b c", 5, 0.0, 0))
    assert text == " ".join(WORDS[i] for i in ids)


def test_text_longer_than_the_learned_positions_is_refused(run_of: Any) -> None:
    run, model = run_of("gpt2")
    model.positions = LearnedTable(6, 16)
    torch.nn.init.normal_(model.positions.weight)
    text = trained.generate(run, "a b c", 5, 0.0, 0)
    for _ in range(4):  # three of the prompt, three more, and what follows the last
        next(text)
    with pytest.raises(StudyError, match=r"positions.max_length: shorter .*: 6; .* length 7"):
        next(text)

"""The same weights give the logits of `transformers`, there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from models import Recipe, RecipeError
from models.convert import families, from_hf, hf_class, to_hf

transformers = pytest.importorskip("transformers")

V = 48
SHAPE = {
    "vocab_size": V,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
GROUPED = {**SHAPE, "num_key_value_heads": 2}
DEEPSEEK = {
    **SHAPE,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "n_group": 4,
    "topk_group": 2,
    "num_experts_per_tok": 3,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "n_shared_experts": 2,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 512,
}
MAMBA2 = {
    "vocab_size": V,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "state_size": 8,
    "num_heads": 8,
    "head_dim": 8,
    "chunk_size": 8,
}
LLAMA4 = {
    **GROUPED,
    "num_hidden_layers": 4,
    "head_dim": 8,
    "intermediate_size_mlp": 48,
    "num_local_experts": 4,
    "interleave_moe_layer_step": 2,
    "attention_chunk_size": 5,
    "floor_scale": 6,
}
NEMOTRON = {
    **{key: value for key, value in GROUPED.items() if key != "num_hidden_layers"},
    "head_dim": 8,
    "layers_block_type": ["mamba", "mlp", "attention", "moe"],
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "n_groups": 2,
    "ssm_state_size": 8,
    "n_routed_experts": 4,
    "n_group": 2,
    "moe_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 24,
}
ZAMBA = {
    **SHAPE,
    "num_key_value_heads": 4,
    "layers_block_type": ["mamba", "hybrid"] * 2,
    "num_hidden_layers": 4,
    "mamba_d_state": 8,
    "tie_word_embeddings": True,
}
RWKV = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "bos_token_id": None}
XLSTM = {
    "vocab_size": V,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "ffn_round_up_to_multiple_of": 8,
}
ENCODER = {**SHAPE, "max_position_embeddings": 24}
DEBERTA = {
    **SHAPE,
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": ["p2c", "c2p"],
    "max_position_embeddings": 32,
}
T5 = {
    "vocab_size": V,
    "d_model": 32,
    "d_kv": 12,
    "d_ff": 40,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
}
BART = {
    "vocab_size": V,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 40,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
    "forced_eos_token_id": None,
}
SWITCH = {
    **{key: value for key, value in T5.items() if key != "num_layers"},
    "num_layers": 4,
    "num_sparse_encoder_layers": 2,
    "num_sparse_decoder_layers": 2,
    "num_experts": 4,
}
QWEN_MOE = {
    **GROUPED,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 24,
    "num_experts": 4,
    "num_experts_per_tok": 2,
}
QWEN3_NEXT = {
    **QWEN_MOE,
    "num_hidden_layers": 4,
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 6,
}
JAMBA = {
    **GROUPED,
    "num_hidden_layers": 4,
    "attn_layer_period": 4,
    "attn_layer_offset": 2,
    "num_experts": 4,
    "mamba_d_state": 8,
    "use_mamba_kernels": False,
}
GPT2 = {"vocab_size": V, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
BLOOM = {"vocab_size": V, "hidden_size": 32, "n_layer": 2, "n_head": 4}
MAMBA = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
TIED = {"tie_word_embeddings": True}
UNTIED = {"tie_word_embeddings": False}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("bert", ENCODER),
    ("bert", {**ENCODER, "hidden_act": "gelu_new", "hidden_size": 48, "type_vocab_size": 1}),
    ("roberta", {**ENCODER, "pad_token_id": 1, "type_vocab_size": 1}),
    ("electra", {**ENCODER, "embedding_size": 32}),
    ("electra", {**ENCODER, "embedding_size": 16}),
    ("electra", {**ENCODER, "embedding_size": 40, "architectures": ["ElectraForMaskedLM"]}),
    ("deberta-v2", DEBERTA),
    (
        "deberta-v2",
        {
            **DEBERTA,
            "share_att_key": True,
            "position_buckets": 4,
            "max_relative_positions": 16,
            "norm_rel_ebd": "layer_norm",
        },
    ),
    ("deberta-v2", {**DEBERTA, "pos_att_type": ["c2p"], "max_position_embeddings": 6}),
    ("t5", T5),
    ("t5", {**T5, "num_decoder_layers": 1, "feed_forward_proj": "gated-gelu"}),
    ("t5", {**T5, **UNTIED, "feed_forward_proj": "gated-silu"}),
    ("bart", BART),
    ("bart", {**BART, "scale_embedding": True, "encoder_layers": 1}),
    ("switch_transformers", SWITCH),
    ("switch_transformers", {**SWITCH, "num_decoder_layers": 3, "num_sparse_decoder_layers": 1}),
    ("switch_transformers", {**SWITCH, "num_sparse_encoder_layers": 4, "dense_act_fn": "gelu"}),
    ("switch_transformers", {**SWITCH, "num_experts": 7, "num_decoder_layers": 1}),
    ("gpt2", GPT2),
    ("gpt2", {**GPT2, "n_inner": 40, "activation_function": "relu", "n_head": 2, **UNTIED}),
    ("gpt_neox", SHAPE),
    ("gpt_neox", {**SHAPE, "use_parallel_residual": False, "hidden_size": 64}),
    ("gpt_neox", {**SHAPE, **TIED, "hidden_act": "gelu_new"}),
    ("llama", GROUPED),
    ("llama", {**SHAPE, "tie_word_embeddings": True, "head_dim": 16, "attention_bias": True}),
    ("llama", {**GROUPED, "head_dim": 16, "rope_parameters": YARN}),
    ("mistral", {**GROUPED, "sliding_window": 5, "head_dim": 8}),
    ("mistral", {**SHAPE, "num_key_value_heads": 1, "sliding_window": 1, **TIED}),
    ("mistral", {**GROUPED, "sliding_window": None}),
    ("gemma2", {**SHAPE, "num_key_value_heads": 1, "head_dim": 8, "sliding_window": 3, **UNTIED}),
    ("gemma2", {**GROUPED, "head_dim": 16, "sliding_window": 6, "query_pre_attn_scalar": 20}),
    ("bloom", BLOOM),
    ("bloom", {**BLOOM, "hidden_size": 48, "n_layer": 1, "n_head": 6, **UNTIED}),
    ("olmo2", GROUPED),
    ("olmo2", {**SHAPE, **TIED, "attention_bias": True}),
    ("mixtral", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    ("mixtral", {**GROUPED, "sliding_window": 4, "num_experts_per_tok": 1, **TIED}),
    ("mixtral", {**SHAPE, "num_key_value_heads": 1, "num_experts_per_tok": 3}),
    ("qwen2_moe", QWEN_MOE),
    ("qwen2_moe", {**QWEN_MOE, "num_experts_per_tok": 3, "norm_topk_prob": True, **TIED}),
    ("qwen2_moe", {**QWEN_MOE, "num_experts_per_tok": 1, "qkv_bias": False}),
    ("deepseek_v2", {**DEEPSEEK, "topk_method": "group_limited_greedy"}),
    ("deepseek_v2", {**DEEPSEEK, "q_lora_rank": None, "routed_scaling_factor": 2.0}),
    ("deepseek_v2", {**DEEPSEEK, "first_k_dense_replace": 0, "num_experts_per_tok": 1, **TIED}),
    ("deepseek_v3", DEEPSEEK),
    ("deepseek_v3", {**DEEPSEEK, "norm_topk_prob": False, "q_lora_rank": None, **TIED}),
    ("deepseek_v3", {**DEEPSEEK, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 1}),
    ("mamba", MAMBA),
    ("mamba", {**MAMBA, "use_bias": True, "use_conv_bias": False, "expand": 3, **UNTIED}),
    ("falcon_mamba", MAMBA),
    ("falcon_mamba", {**MAMBA, "conv_kernel": 3, "time_step_rank": 5, **UNTIED}),
    ("mamba2", {**MAMBA2, "n_groups": 2}),
    ("mamba2", {**MAMBA2, "n_groups": 1, "use_bias": True}),
    ("mamba2", {**MAMBA2, "n_groups": 4, "use_conv_bias": False, **TIED}),
    ("jamba", JAMBA),
    ("jamba", {**JAMBA, "num_experts_per_tok": 1, "expert_layer_offset": 0, **TIED}),
    ("qwen3_next", QWEN3_NEXT),
    ("qwen3_next", {**QWEN3_NEXT, "norm_topk_prob": False, "attention_bias": True, **TIED}),
    (
        "qwen3_next",
        {
            **QWEN3_NEXT,
            "layer_types": ["full_attention", "linear_attention"] * 2,
            "hidden_size": 48,
        },
    ),
    ("diffllama", GROUPED),
    ("diffllama", {**GROUPED, **TIED, "head_dim": 16, "num_hidden_layers": 3}),
    ("diffllama", {**SHAPE, "num_attention_heads": 8, "num_key_value_heads": 4}),
    ("llama4_text", LLAMA4),
    ("llama4_text", {**LLAMA4, "use_qk_norm": False, "num_experts_per_tok": 2}),
    ("llama4_text", {**LLAMA4, "num_local_experts": 5, "attn_temperature_tuning": False, **TIED}),
    ("nemotron_h", NEMOTRON),
    ("nemotron_h", {**NEMOTRON, "num_experts_per_tok": 1, "norm_topk_prob": False, **TIED}),
    (
        "nemotron_h",
        {**NEMOTRON, "layers_block_type": ["moe", "mamba", "attention"], "use_bias": True},
    ),
    ("zamba", ZAMBA),
    ("zamba", {**ZAMBA, "n_mamba_heads": 1, "num_key_value_heads": 2}),
    ("rwkv", {**RWKV, "eos_token_id": None, "rescale_every": 0}),
    ("rwkv", {**RWKV, "eos_token_id": None, "intermediate_size": 40, "tie_word_embeddings": True}),
    ("xlstm", {**XLSTM, "num_heads": 4}),
    ("xlstm", {**XLSTM, "num_heads": 1, "v_dim_factor": 0.5, **TIED}),
    ("xlstm", {**XLSTM, "num_heads": 2, "qk_dim_factor": 1.0, "gate_soft_cap": 3.0}),
]


def hf_model(kind: str, options: dict[str, Any]) -> Any:
    """A model with random weights, none of them at their neutral start."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **options)
    model = getattr(transformers, hf_class(config))(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize(("kind", "options"), CASES, ids=lambda value: str(value)[:24])
@torch.no_grad()
def test_logits_are_theirs(kind: str, options: dict[str, Any]) -> None:
    theirs = hf_model(kind, options)
    ours = from_hf(theirs)
    for batch, length in ((1, 1), (2, 7), (1, 19)):
        tokens = torch.randint(2, V, (batch, length))
        if theirs.config.is_encoder_decoder:
            target = torch.randint(2, V, (batch, 2 * length - 1))
            expected = theirs(tokens, decoder_input_ids=target).logits
            found = ours(tokens, decoder_tokens=target)
        else:
            expected, found = theirs(tokens).logits, ours(tokens)
        if expected.ndim == 2:  # of two classes, the second's against the first's 0
            assert (found[..., 0] == 0).all()
            found = found[..., 1]
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize(("kind", "options"), CASES, ids=lambda value: str(value)[:24])
def test_weights_come_back(kind: str, options: dict[str, Any]) -> None:
    theirs = hf_model(kind, options)
    again = to_hf(from_hf(theirs), kind)
    assert type(again) is type(theirs)
    assert again.config.model_type == kind
    # Where several of theirs are one of ours, that one comes back.
    folded = getattr(families()[kind], "FOLDED", ())
    for name, value in theirs.state_dict().items():
        if name not in folded:
            torch.testing.assert_close(again.state_dict()[name], value, msg=name)
    if folded:
        first, second = from_hf(theirs).state_dict(), from_hf(again).state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {**GROUPED, "hidden_act": "gelu"}),
        ("llama", {**GROUPED, "mlp_bias": True}),
        ("mixtral", {**GROUPED, "hidden_act": "relu"}),
        ("gemma2", {**GROUPED, "hidden_activation": "relu"}),
        ("gpt2", {**GPT2, "scale_attn_by_inverse_layer_idx": True}),
        ("bloom", {**BLOOM, "apply_residual_connection_post_layernorm": True}),
        ("mamba", {**MAMBA, "hidden_act": "relu"}),
        ("mamba2", {**MAMBA2, "time_step_limit": (0.0, 0.1)}),
        ("deepseek_v3", {**DEEPSEEK, "rope_interleave": False}),
        ("switch_transformers", {**SWITCH, "router_bias": True}),
        ("switch_transformers", {**SWITCH, **UNTIED}),
        ("bert", {**ENCODER, "is_decoder": True}),
        ("nemotron_h", {**NEMOTRON, "mamba_hidden_act": "gelu"}),
    ],
    ids=str,
)
def test_options_that_we_do_not_have_are_refused(kind: str, options: dict[str, Any]) -> None:
    """They change the logits and no weight's name or shape: nothing else would tell."""
    changed = options.keys() - {**SHAPE, **GROUPED}.keys()
    with pytest.raises(RecipeError, match="not converted") as caught:
        from_hf(hf_model(kind, options))
    assert caught.value.key[0] in changed


def test_every_family_is_tried() -> None:
    assert {kind for kind, _ in CASES} == set(families())


def test_exported_folder_is_loaded_and_generates_the_same(tmp_path: Path, zoo: Any) -> None:
    """A recipe of ours, muP included: greedy tokens are those of our own step decoding."""
    from models import build

    for name in ("llama", "mixtral", "gpt2"):
        model = build(zoo.small(name))
        model.init_weights(0)
        torch.nn.init.normal_(model.head.weight)
        to_hf(model).save_pretrained(tmp_path / name)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name)
        tokens = prompt = zoo.tokens(1, 5)
        for _ in range(6):
            tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], 1)
        theirs = loaded.generate(prompt, max_new_tokens=6, do_sample=False)
        assert torch.equal(theirs, tokens)


@pytest.mark.parametrize(
    ("name", "width", "n_layers"),
    [
        ("rwkv4", 32, 2),
        ("xlstm", 128, 1),
        ("qwen3_next", 32, 4),
        ("falcon_mamba", 32, 1),
        ("diff_transformer", 32, 1),
        ("gemma2", 32, 2),
        ("nemotron_h", 32, 13),
        ("llama4", 32, 4),
        ("zamba", 32, 12),
    ],
)
@torch.no_grad()
def test_recipes_can_be_exported(zoo: Any, name: str, width: int, n_layers: int) -> None:
    config = zoo.recipe_of(name).at(width=width, n_layers=n_layers, vocab_size=zoo.vocab)
    model = zoo.randomized(config, torch.float32)
    x = zoo.tokens(1, 7)
    torch.testing.assert_close(to_hf(model).eval()(x).logits, model(x), rtol=1e-3, atol=1e-4)


def test_what_cannot_be_converted_says_so(zoo: Any) -> None:
    from models import build

    with pytest.raises(RecipeError, match="no transformers family"):
        to_hf(build(zoo.small("hybrid")))


@pytest.mark.parametrize("name", ["gpt2", "bart", "bert"])
@torch.no_grad()
def test_a_tied_heads_multiplier_is_exported(zoo: Any, name: str) -> None:
    """Into the last norm: the model's, that of the last branch, that of the head's transform."""
    recipe = Recipe.from_dict(zoo.recipe_dict(name) | {"init": "mup"})
    model = zoo.randomized(recipe.at(width=32, n_layers=2, vocab_size=zoo.vocab), torch.float32)
    assert model.multiplier == 2
    x = zoo.tokens(2, 9)
    given = {} if model.encoder is None else {"decoder_input_ids": x}
    found = to_hf(model).eval()(x, **given).logits
    expected = model(x) if model.encoder is None else model(x, decoder_tokens=x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "theirs"),
    {
        "bert": "BertForMaskedLM",
        "roberta": "BertForMaskedLM",  # the same model; RoBERTa's layout is had by name
        "electra": "ElectraForPreTraining",
        "deberta": "DebertaV2ForMaskedLM",
        "t5": "T5ForConditionalGeneration",
        "switch_t5": "SwitchTransformersForConditionalGeneration",
        "bart": "BartForConditionalGeneration",
    }.items(),
)
@torch.no_grad()
def test_encoders_of_ours_become_theirs(zoo: Any, name: str, theirs: str) -> None:
    model = zoo.randomized(zoo.small(name), torch.float32)
    exported = to_hf(model).eval()
    assert type(exported).__name__ == theirs
    tokens = zoo.tokens(2, 9, seed=7)
    if model.encoder is None:
        found, expected = exported(tokens).logits, model(tokens)
    else:
        x = zoo.tokens(2, 11)
        found = exported(tokens, decoder_input_ids=x).logits
        expected = model(tokens, decoder_tokens=x)
    if model.config.recipe.head.binary:
        expected = expected[..., 1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    if model.generator is not None:
        generator = to_hf(model.generator).eval()
        assert type(generator).__name__ == "ElectraForMaskedLM"
        assert generator.config.embedding_size == model.config.width
        expected = model.generator(tokens)
        torch.testing.assert_close(generator(tokens).logits, expected, rtol=1e-4, atol=1e-4)


def wide_heads(zoo: Any, name: str) -> Recipe:
    """Under muP, with heads twice as wide as at the base width."""
    given = zoo.recipe_dict(name) | {"init": {"scheme": "mup", "base_width": 16}}
    for stack in (given, given.get("encoder") or {}):
        for kind, options in (stack.get("branches") or {}).items():
            chosen = (options or {}).get("type", kind)
            if chosen in ("attention", "cross", "differential", "disentangled"):
                stack["branches"][kind] = {**options, "n_heads": 2, "scale": None}
                for other in ("head_width", "n_kv_heads", "queries_per_kv"):
                    stack["branches"][kind].pop(other, None)
                if chosen in ("differential", "disentangled"):
                    del stack["branches"][kind]["scale"]
    return Recipe.from_dict(given)


@pytest.mark.parametrize(
    "name",
    ["llama", "bart", "bert", "deberta", "deepseek_v2", "diff_transformer", "olmo2"],
)
@torch.no_grad()
def test_mups_scale_of_scores_is_exported(zoo: Any, name: str) -> None:
    config = wide_heads(zoo, name).at(width=32, n_layers=2, vocab_size=zoo.vocab)
    model = zoo.randomized(config, torch.float32)
    x = zoo.tokens(2, 9)
    given = {} if model.encoder is None else {"decoder_input_ids": x}
    found = to_hf(model).eval()(x, **given).logits
    expected = model(x) if model.encoder is None else model(x, decoder_tokens=x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_scale_that_no_weight_takes_is_not_exported(zoo: Any) -> None:
    config = wide_heads(zoo, "llama4").at(width=32, n_layers=4, vocab_size=zoo.vocab)
    with pytest.raises(RecipeError, match="muP's scale of scores"):
        to_hf(zoo.randomized(config, torch.float32))

"""Branches that read a source, and distances: against their equations, and counted pair by pair."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from models import Recipe, RecipeError, build, cost
from models.branch import Frame
from models.context import Context
from models.engines import conv
from models.mixers.bahdanau import Bahdanau
from models.mixers.convolution import Convolution
from models.mixers.cross import Cross
from models.mixers.disentangled import Disentangled
from models.mixers.luong import Luong
from models.positions import Disentangled as Distances
from models.positions import DistanceTable

WIDTH, T, S = 8, 7, 5
FRAME = Frame(width=WIDTH, n_layers=1, n_branches=1)
DISTANT = {"type": "disentangled", "max_distance": 3, "buckets": None, "norm": False}


def ready(branch: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in branch.parameters():
            parameter.normal_(generator=generator)
    return branch.double()


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("span", ["global", "monotonic", "predictive"])
@pytest.mark.parametrize("score", ["dot", "general", "concat"])
def test_luongs_attention_is_its_equations(score: Any, span: Any) -> None:
    reach = 1
    branch = ready(Luong(FRAME, score=score, span=span, reach=reach))
    x, source = drawn(1, T, WIDTH)[0], drawn(1, S, WIDTH)[0]
    rows = []
    for t in range(T):
        h = x[t]
        scores = []
        for m in source:
            if score == "dot":
                scores.append(h @ m)
            elif score == "general":
                scores.append((branch.query.weight @ h) @ m)
            else:
                both = torch.cat([branch.query.weight, branch.source.weight], 1)
                scores.append(torch.tanh(both @ torch.cat([h, m])) @ branch.align_D)
        place = torch.tensor(float(min(t, S - 1)), dtype=torch.float64)
        if span == "predictive":
            inner = torch.tanh(branch.place.weight @ h)
            place = (S - 1) * torch.sigmoid(branch.place_out.weight[0] @ inner)
        away = torch.arange(S) - place
        near = torch.ones(S, dtype=torch.bool) if span == "global" else away.abs() <= reach
        weights = torch.stack(scores).masked_fill(~near, -torch.inf).softmax(0)
        if span == "predictive":
            weights = weights * torch.exp(-(away**2) / (2 * (reach / 2) ** 2))
        rows.append(torch.tanh(branch.out.weight @ torch.cat([weights @ source, h])))
    found = branch(x[None], Context(source_BSD=source[None]))[0]
    torch.testing.assert_close(found, torch.stack(rows))


@pytest.mark.parametrize(("length", "source"), [(7, 5), (3, 9), (4, 4)])
def test_local_windows_are_counted_pair_by_pair(length: int, source: int) -> None:
    for reach in (1, 2, 20):
        branch = Luong(FRAME, span="monotonic", reach=reach)
        pairs = sum(
            abs(s - min(t, source - 1)) <= reach for t in range(length) for s in range(source)
        )
        assert branch.source_mixing_flops(length, source) == 4 * pairs * WIDTH


def test_bahdanaus_decoder_looks_before_each_step() -> None:
    branch = ready(Bahdanau(FRAME, cell="gru", hidden=6))
    x, source = drawn(1, T, WIDTH)[0], drawn(1, S, WIDTH)[0]
    h, rows = torch.zeros(6, dtype=torch.float64), []
    for t in range(T):
        keys = source @ branch.source.weight.T
        scores = torch.tanh(branch.query.weight @ h + keys) @ branch.align_I
        mean = scores.softmax(0) @ source
        u = branch.into.weight @ x[t] + branch.into.bias + branch.bring.weight @ mean
        u_r, u_z, u_n = u.chunk(3)
        h_r, h_z, h_n = (branch.again.weight @ h + branch.again.bias).chunk(3)
        r, z = torch.sigmoid(u_r + h_r), torch.sigmoid(u_z + h_z)
        h = (1 - z) * torch.tanh(u_n + r * h_n) + z * h
        rows.append(branch.out.weight @ h)
    found = branch(x[None], Context(source_BSD=source[None]))[0]
    torch.testing.assert_close(found, torch.stack(rows))


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(("c2p", "p2c"), [(True, True), (True, False), (False, True)])
def test_disentangled_scores_are_sums_of_three(share: bool, c2p: bool, p2c: bool) -> None:
    frame = Frame(width=WIDTH, n_layers=1, n_branches=1, positions=DISTANT)
    options = {"content_to_position": c2p, "position_to_content": p2c}
    branch = ready(Disentangled(frame, n_heads=2, share=share, **options))
    table = ready(DistanceTable(Distances(max_distance=3), WIDTH, 1e-5))
    x = drawn(1, T, WIDTH)
    q, k, v = (part[0].view(T, 2, 4) for part in branch.qkv(x).chunk(3, -1))
    made_by = branch.qkv if share else branch.distance
    near = (table.weight @ made_by.weight.T + made_by.bias).split(WIDTH, -1)
    near_q = near[0].view(-1, 2, 4)
    near_k = near[1 if share else -1].view(-1, 2, 4)
    scores = torch.zeros(2, T, T, dtype=torch.float64)
    for head in range(2):
        for i in range(T):
            for j in range(T):
                row = min(max(i - j + 3, 0), 5)
                scores[head, i, j] = q[i, head] @ k[j, head]
                if c2p:
                    scores[head, i, j] += q[i, head] @ near_k[row, head]
                if p2c:
                    scores[head, i, j] += k[j, head] @ near_q[row, head]
    weights = (scores / math.sqrt(4 * (1 + c2p + p2c))).softmax(-1)
    y = torch.einsum("hij,jhk->ihk", weights, v).flatten(1)
    found = branch(x, Context(relative=table.between(0, T)))[0]
    torch.testing.assert_close(found, branch.out(y))


def test_distances_are_counted_as_they_are_multiplied() -> None:
    """Everything between positions, by torch's counter: the projections apart."""
    frame = Frame(width=WIDTH, n_layers=1, n_branches=1, positions=DISTANT)
    for length in (2, 3, 12):
        branch = Disentangled(frame, n_heads=2)
        table = DistanceTable(Distances(max_distance=3), WIDTH, 1e-5)
        with FlopCounterMode(display=False) as counter:
            branch(torch.zeros(1, length, WIDTH), Context(relative=table.between(0, length)))
        total = counter.get_total_flops() - length * branch.matmul_flops()
        assert total == branch.mixing_flops(length)


def test_cross_attention_is_counted_for_both_lengths() -> None:
    branch = Cross(FRAME, n_heads=2, n_kv_heads=1)
    with torch.device("meta"):
        branch = branch.to("meta")
        context = Context(source_BSD=torch.zeros(1, S, WIDTH))
        with FlopCounterMode(display=False) as counter:
            branch(torch.zeros(1, T, WIDTH), context)
    projections = T * branch.matmul_flops() + S * branch.source_matmul_flops()
    counted = counter.get_flop_counts()["Cross"]
    assert sum(v for op, v in counted.items() if "mm" in str(op)) == projections
    assert branch.source_mixing_flops(T, S) == 2 * T * S * 2 * (4 + 4)


def test_a_decoder_longer_than_its_source_sees_all_of_it() -> None:
    branch = ready(Cross(FRAME, n_heads=2))
    x, source = drawn(2, T, WIDTH), drawn(2, S, WIDTH)
    whole = branch(x, Context(source_BSD=source))
    ones = torch.zeros(2, T, dtype=torch.long), torch.zeros(2, S, dtype=torch.long)
    masked = branch(x, Context(ones[0], source_BSD=source, source_segments_BS=ones[1]))
    torch.testing.assert_close(whole, masked)


@pytest.mark.parametrize(
    ("n_taps", "dilation", "causal"), [(3, 1, True), (2, 4, True), (5, 2, False)]
)
def test_taps_are_torchs_convolution(n_taps: int, dilation: int, causal: bool) -> None:
    x, weight = drawn(2, 11, 4), drawn(6, 4, n_taps)
    reach = (n_taps - 1) * dilation
    left = reach if causal else reach // 2
    padded = torch.nn.functional.pad(x.mT, (left, reach - left))
    expected = torch.nn.functional.conv1d(padded, weight, dilation=dilation).mT
    taps = conv.taps(x, n_taps, dilation, causal=causal)
    flat = weight.permute(0, 2, 1).reshape(6, -1)
    torch.testing.assert_close(taps @ flat.T, expected)


def test_centred_taps_are_odd() -> None:
    with pytest.raises(RecipeError, match="an odd number"):
        Convolution(FRAME, n_taps=4, causal=False)


def test_encoder_decoders_are_counted_over_both_sequences(zoo: Any) -> None:
    """Layers of the encoder cost by the source's length, of the decoder by the target's."""
    recipe = zoo.recipe_of("t5")
    given = recipe.to_dict()
    shape = {"width": 32, "n_layers": 2, "vocab_size": 128}
    once = cost(recipe.at(**shape), 100).flops_per_token
    given["encoder"]["n_layers"] = 4
    deeper = cost(Recipe.from_dict(given).at(**shape), 100).flops_per_token
    source, target = recipe.task.lengths(100)
    assert (source, target) == (100 - 15 + 5, 15 + 5 + 1)
    encoder = build(recipe.at(**shape)).encoder
    matmul = sum(use.branch.matmul_flops() for use in encoder.uses())
    mixing = sum(use.branch.mixing_flops(source) for use in encoder.uses())
    assert deeper.matmul - once.matmul == pytest.approx(matmul * source / 100)
    assert deeper.mixing - once.mixing == pytest.approx(mixing / 100)


@pytest.mark.parametrize("span", ["global", "monotonic", "predictive"])
@pytest.mark.parametrize("score", ["dot", "general", "concat"])
def test_every_kind_of_luongs_attention_decodes_and_keeps_documents_apart(
    zoo: Any, score: str, span: str
) -> None:
    given = zoo.recipe_dict("luong")
    given["branches"]["luong"] = {"score": score, "span": span, "reach": 2}
    model = zoo.randomized(Recipe.from_dict(given).at(width=16, n_layers=1, vocab_size=64))
    sources, targets = zoo.tokens(1, 5, 1), zoo.tokens(1, 7, 2)
    cache = model.new_cache()
    steps = [
        model.run(sources, decoder_tokens=targets[:, t : t + 1], cache=cache).logits
        for t in range(7)
    ]
    whole = model(sources, decoder_tokens=targets)
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-9, atol=1e-9)
    twice = [torch.cat([x, x], 1) for x in (sources, targets)]
    segments = [torch.tensor([[0] * n + [1] * n]) for n in (5, 7)]
    places = [torch.arange(n).repeat(2)[None] for n in (5, 7)]
    packed = model(
        twice[0], segments[0], places[0],
        decoder_tokens=twice[1], decoder_segments=segments[1], decoder_positions=places[1],
    )  # fmt: skip
    torch.testing.assert_close(packed, torch.cat([whole, whole], 1), rtol=1e-9, atol=1e-9)


def test_a_second_sequence_is_for_encoder_decoders_alone(zoo: Any) -> None:
    x = zoo.tokens(1, 3)
    with pytest.raises(ValueError, match="decoder_tokens"):
        build(zoo.small("t5"))(x)
    with pytest.raises(ValueError, match="decoder_tokens"):
        build(zoo.small("gpt2"))(x, decoder_tokens=x)

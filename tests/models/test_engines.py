"""Every fast form against its naive form: values and gradients, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from models.context import Context
from models.engines import (
    conv,
    delta_rule,
    diagonal,
    gates,
    grouped_matmul,
    linear_recurrence,
    long_conv,
    rank_one,
    select,
    selective_scan,
    softmax,
    wkv,
)
from models.engines.select import available
from models.engines.softmax import Mask
from models.mixers.short_conv import ShortConv

B = 2


def randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def assert_same(
    fast: Callable[..., Any], naive: Callable[..., Any], inputs: Sequence[Tensor]
) -> None:
    """Equal outputs, and equal gradients of a random linear function of them."""
    results = []
    for form in (fast, naive):
        outputs = form(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = sum((out * randn(*out.shape, seed=7).detach()).sum() for out in outputs)
        results.append((outputs, torch.autograd.grad(loss, inputs)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-9)


def documents(length: int) -> Tensor:
    """Two rows cut into documents at different places."""
    cuts = torch.zeros(B, length, dtype=torch.long)
    cuts[0, length // 3 :] += 1
    cuts[0, length // 2 :] += 1
    cuts[1, length - 1 :] += 1
    return cuts


def starts_of(segments: Tensor) -> Tensor:
    starts = torch.zeros_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments.diff(dim=1) != 0
    return starts


MASKS = [
    Mask(),
    Mask(causal=False),
    Mask(window=3),
    Mask(window=5),
    Mask(causal=False, window=3),
    Mask(stride=4, local=2),
    Mask(window=2, n_global=2),
    Mask(chunk=5),
    Mask(causal=False, chunk=3),
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length", [1, 12, 17])
@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_softmax(mask: Mask, length: int, packed: bool) -> None:
    inputs = [randn(B, length, 4, 8), randn(B, length, 2, 8), randn(B, length, 2, 8, seed=1)]
    segments = (documents(length), documents(length)) if packed else None

    def run(form: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda q, k, v: form(q, k, v, mask, scale=0.3, segments=segments)

    assert_same(run(softmax.attend), run(softmax.naive), inputs)


@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize("length", [1, 2, 13])
def test_pairs_are_what_the_mask_shows(mask: Mask, length: int) -> None:
    shown = softmax.visible(mask, length, length, torch.device("cpu"))
    assert mask.pairs(length, length) == shown.sum()


def test_softmax_with_bias() -> None:
    inputs = [randn(B, 9, 4, 8), randn(B, 9, 4, 8, seed=1), randn(B, 9, 4, 8, seed=2)]
    bias = randn(4, 9, 9)

    def run(form: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda q, k, v, b: form(q, k, v, Mask(), scale=0.3, bias_HTS=b)

    assert_same(run(softmax.attend), run(softmax.naive), [*inputs, bias])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("length", "chunk"), [(1, 4), (16, 4), (19, 4), (19, 64)])
def test_linear_recurrence(length: int, chunk: int, packed: bool) -> None:
    q, k = randn(B, length, 2, 3), randn(B, length, 2, 3, seed=1)
    v, decay, state = randn(B, length, 4, 5), randn(B, length, 4), randn(B, 4, 3, 5)
    starts = starts_of(documents(length)) if packed else None

    def run(form: Callable[..., Any], **options: int) -> Callable[..., Any]:
        return lambda q, k, v, d, s: form(q, k, v, -d.exp(), starts, s, **options)

    assert_same(
        run(linear_recurrence.chunked, chunk=chunk),
        run(linear_recurrence.naive),
        [q, k, v, decay, state],
    )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length", [1, 2, 16, 19])
def test_selective_scan(length: int, packed: bool) -> None:
    I, S = 5, 3
    x, delta, A = randn(B, length, I), randn(B, length, I, seed=1), randn(I, S)
    Bs, Cs, state = randn(B, length, S), randn(B, length, S, seed=1), randn(B, I, S)
    starts = starts_of(documents(length)) if packed else None

    def run(form: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x, d, A, Bs, Cs, s: form(x, d.exp(), -A.exp(), Bs, Cs, starts, s)

    assert_same(
        run(selective_scan.chunked), run(selective_scan.naive), [x, delta, A, Bs, Cs, state]
    )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("length", "chunk"), [(1, 4), (16, 4), (19, 4), (19, 64)])
def test_delta_rule(length: int, chunk: int, packed: bool) -> None:
    q, k = randn(B, length, 2, 3), randn(B, length, 2, 3, seed=1)
    v, decay, rate = randn(B, length, 2, 5), randn(B, length, 2), randn(B, length, 2, seed=1)
    state, starts = randn(B, 2, 3, 5), starts_of(documents(length)) if packed else None

    def run(form: Callable[..., Any], **options: int) -> Callable[..., Any]:
        return lambda q, k, v, d, r, s: form(
            q, k / k.norm(dim=-1, keepdim=True), v, -d.exp(), r.sigmoid(), starts, s, **options
        )

    assert_same(
        run(delta_rule.chunked, chunk=chunk), run(delta_rule.naive), [q, k, v, decay, rate, state]
    )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("steps", "apart", "chunk"), [(1, 1, 4), (13, 1, 4), (7, 3, 2)])
def test_linear_recurrence_of_runs(steps: int, apart: int, chunk: int, packed: bool) -> None:
    length = steps * apart
    q, k = randn(B, length, 2, 3), randn(B, length, 2, 3, seed=1)
    v, decay, state = randn(B, length, 4, 5), randn(B, length, 4), randn(B, 4, 3, 5)
    first = (torch.arange(length) % apart == 0).double()[None, :, None]
    segments = documents(steps).repeat_interleave(apart, 1)
    starts = starts_of(segments) if packed else None

    def run(form: Callable[..., Any], **options: int) -> Callable[..., Any]:
        return lambda q, k, v, d, s: form(
            q, k, v, -d.exp() * first, starts, s, apart=apart, **options
        )

    assert_same(
        run(linear_recurrence.chunked, chunk=chunk),
        run(linear_recurrence.naive),
        [q, k, v, decay, state],
    )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", [torch.float64, torch.complex128])
@pytest.mark.parametrize("length", [1, 2, 16, 19])
def test_diagonal(length: int, kind: torch.dtype, packed: bool) -> None:
    n = 2 if kind.is_complex else 1
    inputs = [randn(B, length, 5 * n), randn(B, length, 5 * n, seed=1), randn(B, 5 * n)]
    starts = starts_of(documents(length)) if packed else None

    def plain(x: Tensor) -> Tensor:
        return torch.view_as_complex(x.view(*x.shape[:-1], 5, 2)) if kind.is_complex else x

    def run(form: Callable[..., Any]) -> Callable[..., Any]:
        def outputs(u: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, ...]:
            found = form(plain(u), plain(torch.tanh(a)), starts, plain(s))
            return tuple(torch.view_as_real(x) if kind.is_complex else x for x in found)

        return outputs

    assert_same(run(diagonal.scan), run(diagonal.naive), inputs)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("length", [1, 2, 16, 19])
def test_wkv(length: int, started: bool, packed: bool) -> None:
    k, v, w, u = randn(B, length, 5), randn(B, length, 5, seed=1), randn(5), randn(5, seed=1)
    a, b, m = randn(B, 5), randn(B, 5, seed=1), randn(B, 5, seed=2).detach()
    starts = starts_of(documents(length)) if packed else None

    def run(form: Callable[..., Any]) -> Callable[..., Any]:
        def outputs(k: Tensor, v: Tensor, w: Tensor, u: Tensor, *state: Tensor) -> Tensor:
            states = (state[0], state[1].exp(), m) if started else None
            y, (a, b, top) = form(5 * k, v, w.exp(), u, starts, states)
            return torch.cat([y, (a * top.exp())[:, None], (b * top.exp())[:, None]], 1)

        return outputs

    inputs = [k, v, w, u, *([a, b] if started else [])]
    assert_same(run(wkv.chunked), run(wkv.naive), inputs)


def test_exponential_gates_never_exceed_one() -> None:
    decay, inputs = -randn(B, 19, 5).exp(), 1000 * randn(B, 19, 5, seed=1)
    starts = starts_of(documents(19))
    factors = gates.stabilized(decay, inputs, starts, torch.full((B, 5), 300.0))
    assert (factors[0] <= 1e-9).all()
    assert (factors[1] <= 0).all()
    y, _ = wkv.chunked(inputs, decay, torch.ones(5), torch.ones(5), starts)
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("length", "chunk"), [(1, 4), (16, 4), (19, 4), (19, 64)])
def test_rank_one(length: int, chunk: int, packed: bool) -> None:
    q, k, z, b = (randn(B, length, 2, 3, seed=i) for i in range(4))
    v, decay, state = randn(B, length, 2, 5), randn(B, length, 2, 3, seed=4), randn(B, 2, 3, 5)
    starts = starts_of(documents(length)) if packed else None

    def run(form: Callable[..., Any], **options: int) -> Callable[..., Any]:
        return lambda q, k, v, d, z, b, s: form(
            q, k, v, -d.sigmoid(), z / 3, b / 3, starts, s, **options
        )

    assert_same(
        run(rank_one.chunked, chunk=chunk), run(rank_one.naive), [q, k, v, decay, z, b, state]
    )


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_recurrences_survive_any_decay(size: float) -> None:
    x, Bs = randn(B, 33, 4), randn(B, 33, 3)
    A = -torch.full((4, 3), size, dtype=torch.float64)
    y, _ = selective_scan.chunked(x, torch.ones_like(x), A, Bs, Bs)
    grads = torch.autograd.grad(y.sum(), [x, Bs])
    assert all(torch.isfinite(tensor).all() for tensor in (y, *grads))
    q, v, decay = randn(B, 33, 1, 3), randn(B, 33, 2, 4), torch.full((B, 33, 2), -size)
    y, _ = linear_recurrence.chunked(q, q, v, decay.double(), chunk=8)
    grads = torch.autograd.grad(y.sum(), [q, v])
    assert all(torch.isfinite(tensor).all() for tensor in (y, *grads))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length", [1, 3, 11])
def test_conv(length: int, packed: bool) -> None:
    segments = documents(length) if packed else None

    def run(form: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x, w, b: form(x, w, b, segments)

    assert_same(run(conv.conv), run(conv.naive), [randn(B, length, 5), randn(5, 4), randn(5)])


@pytest.mark.parametrize("n_taps", [1, 2, 4])
def test_a_short_convolution_remembers_its_last_inputs(n_taps: int) -> None:
    layer = ShortConv(5, n_taps).double()
    torch.nn.init.normal_(layer.weight_IQ)
    torch.nn.init.zeros_(layer.bias)
    x, state = randn(B, 7, 5), {}
    parts = [layer(part, Context(state=state)) for part in (x[:, :3], x[:, 3:4], x[:, 4:])]
    torch.testing.assert_close(torch.cat(parts, 1), layer(x, Context()))
    assert state["conv"].shape == (B, n_taps - 1, 5)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length", [1, 3, 12])
def test_long_conv(length: int, packed: bool) -> None:
    segments = documents(length) if packed else None
    lengths = None if segments is None else long_conv.documents(segments)
    inputs = [randn(B, length, 5), randn(5, length)]
    assert_same(
        lambda x, kernel: long_conv.conv(x, kernel, lengths),
        lambda x, kernel: long_conv.naive(x, kernel, segments),
        inputs,
    )


@pytest.mark.parametrize("counts", [[3, 0, 2], [0, 0, 5], [5, 0, 0]])
def test_grouped_matmul(counts: list[int]) -> None:
    counts_E = torch.tensor(counts)
    inputs = [randn(5, 4), randn(3, 4, 6)]
    assert_same(
        lambda x, w: grouped_matmul.grouped(x, w, counts_E),
        lambda x, w: grouped_matmul.naive(x, w, counts_E),
        inputs,
    )


def test_a_kernel_says_what_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "_find", lambda package: (object(), f"{package} is installed"))
    report = available()
    assert report["selective_scan"]["why"] == (
        "mamba_ssm.ops.selective_scan_interface is installed, for rows of one document, from no "
        "state; otherwise torch, √T chunks side by side"
    )
    assert report["wkv"]["chosen"] == "torch, one diagonal recurrence"


def test_every_engine_says_what_runs_and_why() -> None:
    for report in available().values():
        assert report["chosen"]
        assert report["why"]

"""How optional CUDA packages are called: stand-ins of the same signatures check what the packages'
own code would refuse, and compute by the naive forms. No GPU is needed; none of this is a kernel."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from models import Recipe, build
from models.context import Context
from models.engines import conv, long_conv, selective_scan, softmax
from models.engines.softmax import Mask
from models.mixers.softmax import _pieces
from tests.models.test_engines import B, documents, randn


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Tensor:
    """flash_attn 2.8: windows are how far a query sees to the left and to the right."""
    assert q.shape[-1] == k.shape[-1] == v.shape[-1] <= 256
    assert softmax_scale is not None
    left, right = window_size
    assert right in (-1, 0, left)
    mask = Mask(causal, None if left < 0 else left + 1)
    return softmax.naive(q, k, v, mask, scale=softmax_scale, softcap=softcap or None)


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    **options: Any,
) -> Tensor:
    """Rows one after the other; each document for itself."""
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    ends = cu_seqlens_q.tolist()
    assert (ends[0], ends[-1]) == (0, len(q))
    lengths = [b - a for a, b in pairwise(ends)]
    assert 0 < max(lengths) <= max_seqlen_q == max_seqlen_k
    parts = zip(*(torch.split(x[None], lengths, 1) for x in (q, k, v)), strict=True)
    return torch.cat([flash_attn_func(*part, **options)[0] for part in parts])


FLASH = SimpleNamespace(
    flash_attn_func=flash_attn_func, flash_attn_varlen_func=flash_attn_varlen_func
)
Patch = pytest.MonkeyPatch


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize(
    "mask", [Mask(), Mask(causal=False), Mask(window=3), Mask(causal=False, window=3)], ids=str
)
def test_flash_attention(
    mask: Mask, softcap: float | None, packed: bool, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(softmax, "kernel", lambda package: FLASH)
    q, k, v = randn(B, 12, 4, 8), randn(B, 12, 2, 8), randn(B, 12, 2, 8, seed=1)
    segments = documents(12) if packed else None
    found = softmax._flash(q, k, v, mask, 0.3, softcap or 0.0, segments)
    both = None if segments is None else (segments, segments)
    expected = softmax.naive(q, k, v, mask, scale=0.3, segments=both, softcap=softcap)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("mask", "k_width", "v_width", "dtype", "takes"),
    [
        (Mask(), 64, 64, torch.bfloat16, True),
        (Mask(window=4), 256, 256, torch.float16, True),
        (Mask(), 64, 64, torch.float32, False),
        (Mask(), 192, 128, torch.bfloat16, False),  # latent attention
        (Mask(), 320, 320, torch.bfloat16, False),
        (Mask(chunk=4), 64, 64, torch.bfloat16, False),
        (Mask(stride=2), 64, 64, torch.bfloat16, False),
        (Mask(window=4, n_global=1), 64, 64, torch.bfloat16, False),
    ],
)
def test_flash_attention_is_asked_for_what_it_can_do(
    mask: Mask, k_width: int, v_width: int, dtype: torch.dtype, takes: bool, monkeypatch: Patch
):
    monkeypatch.setattr(softmax, "kernel", lambda package: FLASH)
    shapes: list[Any] = [
        SimpleNamespace(dtype=dtype, is_cuda=True, shape=(1, 8, 2, width))
        for width in (k_width, k_width, v_width)
    ]
    assert softmax._flash_takes(*shapes, mask) == takes


def causal_conv1d_fn(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, seq_idx: Tensor | None = None
) -> Tensor:
    """causal_conv1d 1.7: channels last, aligned for loads of eight."""
    assert x.stride(1) == 1
    assert x.shape[1] % 8 == x.stride(0) % 8 == x.stride(2) % 8 == x.storage_offset() % 8 == 0
    assert 2 <= weight.shape[1] <= 4
    if seq_idx is not None:
        assert seq_idx.dtype == torch.int32
        assert seq_idx.shape == (x.shape[0], x.shape[2])
    return conv.naive(x.transpose(1, 2), weight, bias, seq_idx).transpose(1, 2)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("first", [0, 3, 8])
def test_short_convolution(first: int, packed: bool) -> None:
    """Of a part of a projection that is wider by a number of heads."""
    wide, weight, bias = randn(B, 12, 29), randn(16, 4), randn(16)
    x, segments = wide[..., first : first + 16], documents(12) if packed else None
    cuda = SimpleNamespace(causal_conv1d_fn=causal_conv1d_fn)
    found = conv._by_kernel(cuda, x, weight, bias, segments)
    torch.testing.assert_close(found, conv.naive(x, weight, bias, segments))


def selective_scan_fn(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, return_last_state: bool = False
) -> tuple[Tensor, Tensor]:
    """mamba_ssm 2.3: one type but for A, time last and contiguous; no gradient of the state."""
    assert u.dtype == delta.dtype == B.dtype == C.dtype
    assert A.dtype == torch.float32
    assert all(x.stride(-1) == 1 for x in (u, delta, B, C))
    steps = [x.transpose(1, 2).float() for x in (u, delta, B, C)]
    y, last = selective_scan.naive(steps[0], steps[1], A, steps[2], steps[3])
    return y.transpose(1, 2).to(u.dtype), last.detach()


def test_selective_scan() -> None:
    x, delta = torch.randn(B, 9, 4), torch.rand(B, 9, 4)
    A, b, c = -torch.rand(4, 3), torch.randn(B, 9, 3), torch.randn(B, 9, 3)
    cuda = SimpleNamespace(selective_scan_fn=selective_scan_fn)
    mixed = (x.bfloat16(), delta, A, b.bfloat16(), c)  # norms may leave some of them in float32
    y, last = selective_scan._by_kernel(cuda, *mixed)
    expected, state = selective_scan.naive(x, delta, A, b, c)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.1)
    torch.testing.assert_close(last, state, rtol=0.05, atol=0.1)


def test_a_state_that_is_handed_on_is_computed_where_it_has_a_gradient(monkeypatch: Patch) -> None:
    called = []
    monkeypatch.setattr(selective_scan, "kernel", lambda package: object())
    monkeypatch.setattr(selective_scan, "_by_kernel", lambda *given: called.append(given))
    monkeypatch.setattr(Tensor, "is_cuda", property(lambda tensor: True))
    given = (randn(B, 5, 4), randn(B, 5, 4), randn(4, 3), randn(B, 5, 3), randn(B, 5, 3))
    selective_scan.scan(*given, hands_on=True)
    assert not called
    selective_scan.scan(*given)
    with torch.no_grad():
        selective_scan.scan(*given, hands_on=True)
    assert len(called) == 2


def test_documents_are_told_apart_once_for_all_layers() -> None:
    """Of layers that see whole documents and of those that see chunks, in turn."""
    softmax._ends.cache_clear()
    context = Context(segments_BT=documents(12), positions_BT=torch.arange(12).expand(B, 12))
    for _ in range(3):
        whole, chunks = (_pieces(Mask(chunk=chunk), context)[1] for chunk in (None, 5))
        assert whole is not None
        assert chunks is not None
        assert softmax._ends(whole).tolist() == [0, 4, 6, 12, 23, 24]
        assert softmax._ends(chunks).tolist() == [0, 4, 5, 6, 10, 12, 17, 22, 23, 24]
    assert softmax._ends.cache_info().misses == 2


def test_a_long_convolution_waits_for_its_documents_once(monkeypatch: Patch) -> None:
    calls, find = [], long_conv.documents
    monkeypatch.setattr(long_conv, "documents", lambda given: calls.append(1) or find(given))
    recipe = Recipe.from_dict({"pattern": "s4+mlp"})
    model = build(recipe.at(width=8, n_layers=3, vocab_size=8))
    model.init_weights(0)
    model(torch.zeros(B, 12, dtype=torch.long), documents(12))
    assert len(calls) == 1

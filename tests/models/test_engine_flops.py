"""The FLOPs of every engine, counted operation by operation.

Each engine's equation is written out in numbers that count what is done to them. The results are
the engine's own, so that what was counted is what it computes. Exponentials, which no count of
matmul FLOPs has, and shifts against overflow are left out.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from models.engines import (
    conv,
    delta_rule,
    diagonal,
    linear_recurrence,
    long_conv,
    rank_one,
    selective_scan,
    softmax,
    wkv,
)
from models.engines.softmax import Mask

T, H, K, V, I, S = 5, 2, 3, 4, 3, 2


class Counter:
    """Makes numbers that add to `flops` what arithmetic on them takes."""

    def __init__(self) -> None:
        self.flops = 0

    def __call__(self, tensor: Tensor) -> Any:
        """Nested lists of counted numbers."""
        if tensor.dim():
            return [self(part) for part in tensor]
        return Number(tensor.item(), self)

    def zeros(self, *shape: int) -> Any:
        return self(torch.zeros(shape))


class Number:
    """A real or complex number; sums of complex ones take 2 operations, products 6."""

    def __init__(self, value: complex, counter: Counter) -> None:
        self.value, self.counter = value, counter

    def _count(self, value: complex, of_complex: int) -> Number:
        self.counter.flops += of_complex if isinstance(value, complex) else 1
        return Number(value, self.counter)

    def __add__(self, other: Number) -> Number:
        return self._count(self.value + other.value, 2)

    def __sub__(self, other: Number) -> Number:
        return self._count(self.value - other.value, 2)

    def __mul__(self, other: Number) -> Number:
        return self._count(self.value * other.value, 6)

    def __truediv__(self, other: Number) -> Number:
        return self._count(self.value / other.value, 11)

    def exp(self) -> Number:
        is_complex = isinstance(self.value, complex)
        return Number(cmath.exp(self.value) if is_complex else math.exp(self.value), self.counter)


def dot(count: Counter, a: list[Number], b: list[Number]) -> Number:
    total = Number(0.0, count)
    for x, y in zip(a, b, strict=True):
        total = total + x * y
    return total


def column(state_KV: list[list[Number]], v: int) -> list[Number]:
    return [row[v] for row in state_KV]


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def decays(*shape: int) -> Tensor:
    return -torch.rand(*shape, dtype=torch.float64)


Case = tuple[Tensor, int, Callable[[Counter], list[Any]]]
"""What the engine's naive form gives, its FLOPs, and the equation in counted numbers."""


def linear_recurrence_case() -> Case:
    q, k, v, g = random(T, H, K), random(T, H, K), random(T, H, V), decays(T, H)

    def equation(count: Counter) -> list[Any]:
        rows, state = [], count.zeros(H, K, V)
        for t in range(T):
            qt, kt, vt, gt = (count(x[t]) for x in (q, k, v, g))
            for h in range(H):
                for i in range(K):
                    for j in range(V):
                        state[h][i][j] = gt[h].exp() * state[h][i][j] + kt[h][i] * vt[h][j]
            rows.append(
                [[dot(count, qt[h], column(state[h], j)) for j in range(V)] for h in range(H)]
            )
        return rows

    y, _ = linear_recurrence.naive(q[None], k[None], v[None], g[None])
    return y[0], linear_recurrence.flops(T, H, K, V), equation


def delta_rule_case() -> Case:
    q, k, v = random(T, H, K), random(T, H, K), random(T, H, V)
    g, rate = decays(T, H), torch.rand(T, H, dtype=torch.float64)

    def equation(count: Counter) -> list[Any]:
        rows, state = [], count.zeros(H, K, V)
        for t in range(T):
            qt, kt, vt, gt, rt = (count(x[t]) for x in (q, k, v, g, rate))
            for h in range(H):
                held = [[gt[h].exp() * x for x in row] for row in state[h]]
                change = [rt[h] * (vt[h][j] - dot(count, kt[h], column(held, j))) for j in range(V)]
                state[h] = [[held[i][j] + kt[h][i] * change[j] for j in range(V)] for i in range(K)]
            rows.append(
                [[dot(count, qt[h], column(state[h], j)) for j in range(V)] for h in range(H)]
            )
        return rows

    y, _ = delta_rule.naive(*(x[None] for x in (q, k, v, g, rate)))
    return y[0], delta_rule.flops(T, H, K, V), equation


def rank_one_case() -> Case:
    q, k, z, b = (random(T, H, K) for _ in range(4))
    v, g = random(T, H, V), decays(T, H, K)

    def equation(count: Counter) -> list[Any]:
        rows, state = [], count.zeros(H, K, V)
        for t in range(T):
            qt, kt, vt, gt, zt, bt = (count(x[t]) for x in (q, k, v, g, z, b))
            for h in range(H):
                read = [dot(count, zt[h], column(state[h], j)) for j in range(V)]
                state[h] = [
                    [
                        gt[h][i].exp() * state[h][i][j] + bt[h][i] * read[j] + kt[h][i] * vt[h][j]
                        for j in range(V)
                    ]
                    for i in range(K)
                ]
            rows.append(
                [[dot(count, qt[h], column(state[h], j)) for j in range(V)] for h in range(H)]
            )
        return rows

    y, _ = rank_one.naive(*(x[None] for x in (q, k, v, g, z, b)))
    return y[0], rank_one.flops(T, H, K, V), equation


def selective_scan_case() -> Case:
    x, delta, a = random(T, I), torch.rand(T, I, dtype=torch.float64), -random(I, S).exp()
    b, c = random(T, S), random(T, S)

    def equation(count: Counter) -> list[Any]:
        rows, state, a_ = [], count.zeros(I, S), count(a)
        for t in range(T):
            xt, dt, bt, ct = (count(z[t]) for z in (x, delta, b, c))
            for i in range(I):
                fed = dt[i] * xt[i]
                for s in range(S):
                    state[i][s] = (dt[i] * a_[i][s]).exp() * state[i][s] + fed * bt[s]
            rows.append([dot(count, state[i], ct) for i in range(I)])
        return rows

    y, _ = selective_scan.naive(x[None], delta[None], a, b[None], c[None])
    return y[0], selective_scan.flops(T, I, S), equation


def wkv_case() -> Case:
    k, v, w, u = random(T, I), random(T, I), random(I).exp(), random(I)

    def equation(count: Counter) -> list[Any]:
        rows, a, b = [], count.zeros(I), count.zeros(I)
        kept, first = count((-w).exp()), u
        for t in range(T):
            vt, now, new = count(v[t]), count((first + k[t]).exp()), count(k[t].exp())
            rows.append([(a[i] + now[i] * vt[i]) / (b[i] + now[i]) for i in range(I)])
            a = [kept[i] * a[i] + new[i] * vt[i] for i in range(I)]
            b = [kept[i] * b[i] + new[i] for i in range(I)]
        return rows

    y, _ = wkv.naive(k[None], v[None], w, u)
    return y[0], wkv.flops(T, I), equation


def diagonal_case(is_complex: bool) -> Case:
    u, decay = random(T, I), decays(T, I).exp()
    if is_complex:
        u, decay = torch.complex(u, random(T, I)), torch.polar(decay, random(T, I))

    def equation(count: Counter) -> list[Any]:
        rows, state = [], count(torch.zeros_like(u[0]))
        for t in range(T):
            ut, dt = count(u[t]), count(decay[t])
            state = [dt[i] * state[i] + ut[i] for i in range(I)]
            rows.append(state)
        return rows

    y, _ = diagonal.naive(u[None], decay[None])
    return y[0], diagonal.flops(T, I, complex_valued=is_complex), equation


def conv_case(n_taps: int) -> Case:
    x, weight = random(T, I), random(I, n_taps)

    def equation(count: Counter) -> list[Any]:
        past, taps = count(x), count(weight)
        seen = [range(max(0, t - n_taps + 1), t + 1) for t in range(T)]
        return [
            [
                dot(count, [past[s][i] for s in seen[t]], taps[i][n_taps - len(seen[t]) :])
                for i in range(I)
            ]
            for t in range(T)
        ]

    return conv.naive(x[None], weight, None)[0], conv.flops(T, n_taps, I), equation


def long_conv_case() -> Case:
    x, kernel = random(T, I), random(I, T)

    def equation(count: Counter) -> list[Any]:
        past, taps = count(x), count(kernel)
        return [
            [dot(count, [past[s][i] for s in range(t + 1)], taps[i][t::-1]) for i in range(I)]
            for t in range(T)
        ]

    return long_conv.naive(x[None], kernel)[0], long_conv.flops(T, I), equation


def softmax_case(mask: Mask) -> Case:
    """Scores and weighted values; the scale and the weights' sum are of no matmul."""
    q, k, v = random(T, H, K), random(T, H, K), random(T, H, V)

    def equation(count: Counter) -> list[Any]:
        rows = []
        for t in range(T):
            seen = mask.visible(torch.tensor([t]), torch.arange(T))[0].nonzero()[:, 0].tolist()
            heads = []
            for h in range(H):
                scores = [dot(count, count(q[t, h]), count(k[s, h])).value for s in seen]
                weights = count(torch.tensor(scores, dtype=torch.float64).softmax(0))
                values = [count(v[s, h]) for s in seen]
                heads.append([dot(count, weights, [row[j] for row in values]) for j in range(V)])
            rows.append(heads)
        return rows

    y = softmax.naive(q[None], k[None], v[None], mask, scale=1.0)
    return y[0], softmax.flops(mask, T, T, H, K, V), equation


CASES: dict[str, Callable[[], Case]] = {
    "linear_recurrence": linear_recurrence_case,
    "delta_rule": delta_rule_case,
    "rank_one": rank_one_case,
    "selective_scan": selective_scan_case,
    "wkv": wkv_case,
    "diagonal": lambda: diagonal_case(False),
    "complex diagonal": lambda: diagonal_case(True),
    "conv": lambda: conv_case(3),
    "conv longer than the row": lambda: conv_case(T + 2),
    "long_conv": long_conv_case,
    "softmax causal": lambda: softmax_case(Mask()),
    "softmax full": lambda: softmax_case(Mask(causal=False)),
    "softmax window": lambda: softmax_case(Mask(window=2)),
    "softmax window, both ways": lambda: softmax_case(Mask(causal=False, window=2)),
    "softmax strided": lambda: softmax_case(Mask(stride=2, local=2)),
    "softmax global": lambda: softmax_case(Mask(window=2, n_global=1)),
    "softmax chunks": lambda: softmax_case(Mask(chunk=2)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_an_engine_takes_the_flops_of_its_equation(case: Callable[[], Case]) -> None:
    torch.manual_seed(0)
    expected, flops, equation = case()
    count = Counter()
    rows = equation(count)
    values = torch.tensor(_values(rows), dtype=expected.dtype)
    torch.testing.assert_close(values, expected, atol=1e-9, rtol=1e-9)
    assert count.flops == flops


def _values(rows: Any) -> Any:
    return [_values(row) for row in rows] if isinstance(rows, list) else rows.value

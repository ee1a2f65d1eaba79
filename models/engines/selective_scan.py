"""Selective scan of Mamba (2312.00752, equations 2 and 4, zero-order hold on A, Euler on B):

    h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t x_t,    y_t = C_t · h_t     for every channel

The fast form runs all chunks of about √T positions side by side, twice: once for what each chunk
adds to the state, once more from the right state. The state of a position never leaves the cache,
every factor is an exponential of something negative, and the backward pass recomputes the states
from those at the chunks' starts.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.engines.select import kernel

KERNEL_STATES = 256
"""The most states that mamba_ssm's kernel takes."""


def flops(length: int, n_channels: int, n_states: int) -> int:
    """Per state ΔA, (Δx)B, decay and sum, read-out (2); per channel Δx."""
    return length * n_channels * (6 * n_states + 1)


def naive(
    x_BTI: Tensor,
    delta_BTI: Tensor,
    A_IS: Tensor,
    B_BTS: Tensor,
    C_BTS: Tensor,
    starts_BT: Tensor | None = None,
    state_BIS: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step at a time; gives y_BTI and the last state."""
    state = x_BTI.new_zeros(x_BTI.shape[0], *A_IS.shape) if state_BIS is None else state_BIS
    rows = []
    for t in range(x_BTI.shape[1]):
        if starts_BT is not None:
            state = state.masked_fill(starts_BT[:, t, None, None], 0.0)
        delta_BI1 = delta_BTI[:, t, :, None]
        state = (delta_BI1 * A_IS).exp() * state
        state = state + delta_BI1 * x_BTI[:, t, :, None] * B_BTS[:, t, None, :]
        rows.append(torch.einsum("bis,bs->bi", state, C_BTS[:, t]))
    return torch.stack(rows, 1), state


def chunked(
    x_BTI: Tensor,
    delta_BTI: Tensor,
    A_IS: Tensor,
    B_BTS: Tensor,
    C_BTS: Tensor,
    starts_BT: Tensor | None = None,
    state_BIS: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`naive` with about 3√T steps instead of T, and an analytic backward pass."""
    if state_BIS is None:
        state_BIS = x_BTI.new_zeros(x_BTI.shape[0], *A_IS.shape)
    y_BTI, last_BIS = _Scan.apply(  # type: ignore[no-untyped-call]
        delta_BTI * x_BTI, delta_BTI, A_IS, B_BTS, C_BTS, starts_BT, state_BIS
    )
    return y_BTI, last_BIS


class _Scan(torch.autograd.Function):
    """Tensors inside are laid out (Q, B·C, …): one position of every chunk is one block."""

    @staticmethod
    def forward(
        ctx: Any,
        u_BTI: Tensor,
        delta_BTI: Tensor,
        A_IS: Tensor,
        B_BTS: Tensor,
        C_BTS: Tensor,
        starts_BT: Tensor | None,
        state_BIS: Tensor,
    ) -> tuple[Tensor, Tensor]:
        batch, T, _ = u_BTI.shape
        Q = max(1, round(math.sqrt(T)))
        u, delta, B, C = (_by_chunk(x, Q) for x in (u_BTI, delta_BTI, B_BTS, C_BTS))
        keep = None if starts_BT is None else _by_chunk(~starts_BT[..., None], Q, True).to(u.dtype)
        across = _across(delta, A_IS, keep)
        h = u.new_zeros(u.shape[1], *A_IS.shape)
        decay = torch.empty_like(h)
        for i in range(len(u)):
            _step(h, decay, i, u, delta, A_IS, B, keep)
        start, last_BIS = _hand_on(h, across, state_BIS)
        y = torch.empty_like(u)
        h = start.clone()
        for i in range(len(u)):
            _step(h, decay, i, u, delta, A_IS, B, keep)
            torch.bmm(h, C[i][:, :, None], out=y[i][:, :, None])
        ctx.save_for_backward(u, delta, A_IS, B, C, keep, across, start)
        ctx.batch, ctx.length = batch, T
        return _by_row(y, batch, T), last_BIS

    @staticmethod
    def backward(ctx: Any, dy_BTI: Tensor, dlast_BIS: Tensor) -> Any:
        u, delta, A_IS, B, C, keep, across, start = ctx.saved_tensors
        Q = len(u)
        dy = _by_chunk(dy_BTI, Q)
        states, decays = _states(start, u, delta, A_IS, B, keep)
        g = torch.zeros_like(start)
        for i in reversed(range(Q)):
            torch.addcmul(g, dy[i][:, :, None], C[i][:, None, :], out=g).mul_(decays[i])
        g, dstate_BIS = _hand_back(g, across, dlast_BIS)
        du, ddelta = torch.empty_like(u), torch.empty_like(delta)
        dB, dC, dA = torch.empty_like(B), torch.empty_like(C), torch.zeros_like(A_IS)
        for i in reversed(range(Q)):
            before = states[i - 1] if i else start
            torch.bmm(dy[i][:, None, :], states[i], out=dC[i][:, None, :])
            torch.addcmul(g, dy[i][:, :, None], C[i][:, None, :], out=g)
            torch.bmm(g, B[i][:, :, None], out=du[i][:, :, None])
            torch.bmm(u[i][:, None, :], g, out=dB[i][:, None, :])
            g.mul_(decays[i])
            through = before * g
            torch.sum(through * A_IS, -1, out=ddelta[i])
            dA += torch.einsum("nis,ni->is", through, delta[i])
        du, ddelta, dB, dC = (_by_row(x, ctx.batch, ctx.length) for x in (du, ddelta, dB, dC))
        return du, ddelta, dA, dB, dC, None, dstate_BIS


def _by_chunk(x: Tensor, Q: int, fill: bool = False) -> Tensor:
    """(B, T, …) to (Q, B·C, …), padded with positions that leave the state alone."""
    batch, T = x.shape[:2]
    C = -(-T // Q)
    x = F.pad(x, (0, 0, 0, C * Q - T), value=fill)
    return x.view(batch, C, Q, -1).permute(2, 0, 1, 3).reshape(Q, batch * C, -1)


def _by_row(x: Tensor, batch: int, T: int) -> Tensor:
    Q, n, width = x.shape
    x = x.view(Q, batch, n // batch, width).permute(1, 2, 0, 3)
    return x.reshape(batch, -1, width)[:, :T]


def _step(
    h: Tensor, decay: Tensor, i: int, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, keep: Any
) -> None:
    """h ← exp(Δ_i A) h + u_i B_i in place, for position i of every chunk."""
    torch.mul(delta[i][:, :, None], A, out=decay).exp_()
    if keep is not None:
        decay.mul_(keep[i][:, :, None])
    h.mul_(decay).addcmul_(u[i][:, :, None], B[i][:, None, :])


def _states(
    start: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, keep: Any
) -> tuple[Tensor, Tensor]:
    """Every state and every decay again, for the backward pass."""
    states = start.new_empty(len(u), *start.shape)
    decays = torch.empty_like(states)
    h = start.clone()
    for i in range(len(u)):
        _step(h, decays[i], i, u, delta, A, B, keep)
        states[i] = h
    return states, decays


def _across(delta: Tensor, A: Tensor, keep: Any) -> Tensor:
    """What is left at a chunk's end of the state at its start."""
    across = (delta.sum(0)[:, :, None] * A).exp_()
    return across if keep is None else across.mul_(keep.prod(0)[:, :, None])


def _hand_on(added: Tensor, across: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """States at the start of every chunk, and the last of all."""
    batch = len(state)
    added, across = (x.view(batch, -1, *x.shape[1:]) for x in (added, across))
    start = torch.empty_like(added)
    current = state.clone()
    for c in range(added.shape[1]):
        start[:, c] = current
        current.mul_(across[:, c]).add_(added[:, c])
    return start.flatten(0, 1), current


def _hand_back(added: Tensor, across: Tensor, dlast: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the states at the end of every chunk, and of the first of all."""
    batch = len(dlast)
    added, across = (x.view(batch, -1, *x.shape[1:]) for x in (added, across))
    end = torch.empty_like(added)
    current = dlast.clone()
    for c in reversed(range(added.shape[1])):
        end[:, c] = current
        current.mul_(across[:, c]).add_(added[:, c])
    return end.flatten(0, 1), current


def _by_kernel(
    cuda: Any, x_BTI: Tensor, delta_BTI: Tensor, A_IS: Tensor, B_BTS: Tensor, C_BTS: Tensor
) -> tuple[Tensor, Tensor]:
    """By mamba_ssm, which wants A in float32 and all else in the type of x."""
    inputs = (x_BTI, delta_BTI, B_BTS, C_BTS)
    x, delta, B, C = (t.to(x_BTI.dtype).transpose(1, 2).contiguous() for t in inputs)
    y, last = cuda.selective_scan_fn(x, delta, A_IS.float(), B, C, return_last_state=True)
    return y.transpose(1, 2), last


def scan(
    x_BTI: Tensor,
    delta_BTI: Tensor,
    A_IS: Tensor,
    B_BTS: Tensor,
    C_BTS: Tensor,
    starts_BT: Tensor | None = None,
    state_BIS: Tensor | None = None,
    hands_on: bool = False,
) -> tuple[Tensor, Tensor]:
    """`naive` by the fastest form for the device; computes in float32 at least. `hands_on`: the
    last state is used, and so perhaps differentiated, which the CUDA kernel cannot do."""
    cuda = kernel("mamba_ssm.ops.selective_scan_interface") if x_BTI.is_cuda else None
    is_plain = starts_BT is None and state_BIS is None and A_IS.shape[1] <= KERNEL_STATES
    if cuda is not None and is_plain and not (hands_on and torch.is_grad_enabled()):
        return _by_kernel(cuda, x_BTI, delta_BTI, A_IS, B_BTS, C_BTS)
    dtype = torch.promote_types(x_BTI.dtype, torch.float32)
    wide = [t.to(dtype) for t in (x_BTI, delta_BTI, A_IS, B_BTS, C_BTS)]
    y_BTI, last = chunked(wide[0], wide[1], wide[2], wide[3], wide[4], starts_BT, state_BIS)
    return y_BTI.to(x_BTI.dtype), last

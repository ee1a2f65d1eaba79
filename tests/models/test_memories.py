"""Mixers against their papers' equations written out step by step, without their engine."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.branch import Frame
from models.context import Context
from models.engines import selective_scan
from models.mixers.mamba import Mamba
from models.mixers.mamba3 import Mamba3
from models.mixers.mlstm import Mlstm
from models.mixers.slstm import Slstm

FRAME = Frame(width=12, n_layers=2, n_branches=2, layer=1)


def random(branch: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in branch.parameters():
            parameter.normal_(0.0, 0.5, generator=generator)
    return branch.double()


def test_mlstm_is_its_equations() -> None:
    branch = random(Mlstm(FRAME, n_heads=2, gate_softcap=None, chunk=4))
    x = torch.randn(1, 9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    H, K, V = branch.n_heads, branch.k_width, branch.head_width
    q, k, v, o = torch.split(branch.into(x[0]), [H * K, H * K, H * V, H * V], -1)
    i, f = branch.gates(x[0]).chunk(2, -1)
    C, n, rows = torch.zeros(H, K, V).double(), torch.zeros(H, K).double(), []
    for t in range(9):
        q_t, k_t, v_t = q[t].view(H, K) / K**0.5, k[t].view(H, K), v[t].view(H, V)
        keep, new = f[t].sigmoid()[:, None], i[t].exp()[:, None]
        C = keep[..., None] * C + (new * k_t)[..., None] * v_t[:, None]
        n = keep * n + new * k_t
        size = (n * q_t).sum(-1).abs().clamp(min=1)[:, None]
        rows.append(torch.einsum("hkv,hk->hv", C, q_t) / size)
    h = F.layer_norm(torch.stack(rows), (V,), eps=branch.eps).flatten(1)
    expected = branch.out(o.sigmoid() * h * branch.norm_I)
    torch.testing.assert_close(branch(x, Context())[0], expected, rtol=1e-4, atol=1e-5)


def test_slstm_is_its_equations() -> None:
    branch = random(Slstm(FRAME, n_heads=2))
    x = torch.randn(1, 9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plain, gates = branch.plain(x[0]), branch.gates(F.silu(branch.conv(x, Context()))[0])
    h, c, n = (torch.zeros(2, 6).double() for _ in range(3))
    rows: list[Tensor] = []
    for t in range(9):
        again = torch.einsum("hk,hkl->hl", h, branch.again_HKL).view(2, 4, 6)
        inputs = torch.cat([plain[t], gates[t]]).view(4, 2, 6).transpose(0, 1) + again
        z, o, i, f = inputs.unbind(1)
        c = f.sigmoid() * c + i.exp() * z.tanh()
        n = f.sigmoid() * n + i.exp()
        h = o.sigmoid() * c / n
        rows.append(h)
    expected = F.layer_norm(torch.stack(rows), (6,), eps=branch.eps).flatten(1) * branch.norm_D
    torch.testing.assert_close(branch(x, Context())[0], expected, rtol=1e-9, atol=1e-9)


def test_mamba3_is_a_complex_state_by_the_trapezoidal_rule() -> None:
    """Of B and C's pairs (first, second) as complex numbers, and states that do not turn."""
    branch = random(Mamba3(FRAME, n_states=8, head_width=6, rank=2, rotated=0.5, chunk=4))
    H, R, S, P, n = branch.n_heads, branch.rank, branch.n_states, branch.head_width, 2
    u = torch.randn(1, 9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z, x, B, C, dt, A, trap, theta = torch.split(branch.into(u[0]), branch.widths, -1)
    delta, share = F.softplus(dt + branch.dt_bias), trap.sigmoid()
    into_r, gate_r, out_r = branch.factors_3RHP

    def paired(part: Tensor, norm: Any, offset_RHS: Tensor) -> Tensor:
        full = norm(part.view(R, 1, S)) + offset_RHS
        turned = torch.complex(full[..., :n], full[..., n : 2 * n])
        return torch.cat([turned, full[..., 2 * n :].to(turned.dtype)], -1)

    h = torch.zeros(H, S - n, P, dtype=torch.complex128)
    before = torch.zeros_like(h)
    rows = []
    for t in range(9):
        B_t = paired(B[t], branch.B_norm, branch.offsets_2RHS[0])
        C_t = paired(C[t], branch.C_norm, branch.offsets_2RHS[1])
        x_t = x[t].view(1, H, P) * into_r
        added = torch.einsum("rhs,rhp->hsp", B_t, x_t.to(B_t.dtype))
        log_a = -F.softplus(A[t]).clamp(min=1e-4) * delta[t]
        angle = F.pad(delta[t][:, None] * theta[t], (0, S - 2 * n))
        a = torch.polar(log_a.exp()[:, None].expand_as(angle), -angle)[..., None]
        weight = (share[t] * delta[t])[:, None, None]
        h = a * (h + ((1 - share[t]) * delta[t])[:, None, None] * before) + weight * added
        before = added
        y = torch.einsum("rhs,hsp->rhp", C_t.conj(), h).real + branch.skip_H[:, None] * x_t
        rows.append((y * F.silu(z[t].view(1, H, P) * gate_r) * out_r).sum(0).flatten())
    expected = branch.out(torch.stack(rows))
    torch.testing.assert_close(branch(u, Context())[0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_mambas_steps_are_made_in_float32_at_least(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """As Mamba's own kernel does: a step of a thousandth is small beside its bias."""
    given: list[Tensor] = []

    def scan(x: Tensor, delta: Tensor, A: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        given.extend((delta, A))
        return x, x

    monkeypatch.setattr(selective_scan, "scan", scan)
    random(branch := Mamba(FRAME, n_states=2)).to(dtype)
    found: list[Tensor] = []
    branch.dt.register_forward_hook(lambda _module, _args, out: found.append(out))
    branch(torch.ones(1, 3, 12, dtype=dtype), Context())
    wide = torch.promote_types(dtype, torch.float32)
    assert [part.dtype for part in given] == [wide, wide]
    torch.testing.assert_close(
        given[0], F.softplus(found[0].to(wide) + branch.dt_bias.to(wide)), rtol=1e-6, atol=0
    )

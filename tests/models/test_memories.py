"""Memories with exponential gates against their equations written out, without a stabilizer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.branch import Frame
from models.context import Context
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

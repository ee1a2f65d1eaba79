"""How long fits take, on one core: run with OMP_NUM_THREADS=1.

    python benchmarks/bench_fit.py [--quick]

Prints one JSON object: seconds for a fit of 240 runs, for 4,000 resamples of it, and for a table
of 10,000 rows, beside the limit of each, and the same fit by scipy's L-BFGS-B from one start for
scale.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

from analysis.laws.chinchilla import CHINCHILLA
from analysis.parametric import fit
from analysis.robust import DELTA, huber
from analysis.synthetic import BESIROGLU, isoflop_grid
from analysis.table import Table

LIMITS = {"fit_240": 0.3, "resamples_4000_of_240": 10.0, "fit_10000_rows": 5.0}


def best_of(repeats: int, work: Callable[[], object]) -> float:
    """Seconds of the fastest of several runs."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def one_quasi_newton_descent(table: Table) -> None:
    """What most published code does a few hundred times over."""
    log_loss = np.log(table.column("loss"))
    problem = CHINCHILLA.problem(table.columns(CHINCHILLA.columns), log_loss)

    def objective(theta: np.ndarray) -> float:
        predicted, _ = problem.log_predict(theta[None])
        return float(huber(predicted[0] - log_loss, DELTA).sum())

    start = problem.starts(log_loss)[-1]
    minimize(
        objective,
        start,
        method="L-BFGS-B",
        bounds=list(zip(problem.low_P, problem.high_P, strict=True)),
    )


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, to try it out")
    scale = 0.1 if parser.parse_args().quick else 1.0
    budgets = np.geomspace(1e18, 1e22, 12)
    small = Table.read(isoflop_grid(BESIROGLU, budgets, 20, 6, noise=0.005))
    large = isoflop_grid(BESIROGLU, budgets, round(10_000 * scale) // 12 + 1, 6, noise=0.005)
    resamples = round(4000 * scale)
    plain = best_of(3, lambda: fit(small, resamples=0))
    found = {
        "fit_240": plain,
        "resamples_4000_of_240": best_of(2, lambda: fit(small, resamples=resamples)) - plain,
        "fit_10000_rows": best_of(1, lambda: fit(large, resamples=0)),
    }
    print(
        json.dumps(
            {
                "seconds": {name: round(value, 4) for name, value in found.items()},
                "limits": LIMITS,
                "within": {name: found[name] <= LIMITS[name] for name in found},
                "one_lbfgs_descent_of_240": round(
                    best_of(3, lambda: one_quasi_newton_descent(small)), 4
                ),
                "scale": scale,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()

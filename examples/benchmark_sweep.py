"""Times the sweep over every number of clusters, on one core, and compares its deviation with the package `kmedoids`.

    OMP_NUM_THREADS=1 python examples/benchmark_sweep.py

`kmedoids` (GPL-3.0) is an oracle here and in the tests; the library does not use it.
"""

import statistics
import time

import numpy as np
from scipy.spatial.distance import pdist, squareform

from cahp_plugin.selectors.cahp.clustering import sweep_kmedoids
from cahp_plugin.table import format_table


def main() -> None:
    rows = []
    for heads, runs in ((72, 5), (144, 5), (384, 3), (1024, 1)):
        seconds, worst = [], []
        for seed in range(runs):
            distances = squareform(pdist(np.random.default_rng(seed).normal(size=(heads, 2))))
            start = time.perf_counter()
            found = sweep_kmedoids(distances)
            seconds.append(time.perf_counter() - start)
            worst.append(worst_ratio(distances, found, step=1 if heads < 200 else 25))
        rows.append(
            {
                "heads": str(heads),
                "values of k": str(heads - 2),
                "runs": str(runs),
                "seconds (median)": f"{statistics.median(seconds):.2f}",
                "slowest": f"{max(seconds):.2f}",
                "worst deviation / kmedoids": f"{max(worst):.4f}",
            }
        )
    print(format_table(rows, markdown=True))


def worst_ratio(distances: np.ndarray, found: dict, step: int) -> float:
    """Largest ratio of our total deviation to FasterPAM's of the package `kmedoids`; NaN where it is not installed."""
    try:
        import kmedoids
    except ImportError:
        return float("nan")
    return max(
        found[k].deviation(distances) / kmedoids.fasterpam(distances, k, random_state=0).loss
        for k in range(2, len(distances), step)
        if found[k].deviation(distances) > 0
    )


if __name__ == "__main__":
    main()

"""How well do a search's cheap scores foretell the full ones?

    wmdd tune cifar10-quick --tune.stop_early false --tune.levels "0.5:0.25:0.25 1:0.25:0.25 1:0.5:0.5 1:1:1" --run RUN
    python -m benchmarks.fidelity RUN >> benchmarks/results/fidelity.jsonl

For each level of a search whose trials all went to the end: Spearman's rank correlation between the level's scores and
the last level's, and whether the best of the last level would have been among the better half and third.
"""

from __future__ import annotations

import argparse
import json

from scipy.stats import spearmanr

from benchmarks.common import report
from wmdd.storage.folder import Folder
from wmdd.storage.parquet import read_table


def main() -> None:
    """Compare every level with the last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of the search")
    folder = Folder(parser.parse_args().run)
    table = read_table(folder.read("trials.parquet") or b"")
    options = json.loads(folder.read("tune.json") or b"{}")["tune"]
    rows = [row for row in table.to_pylist() if row["stop"] == "finished"]
    last = [row[f"score_{len(options['levels'])}"] for row in rows]
    best = max(range(len(rows)), key=last.__getitem__)
    for level, shares in enumerate(options["levels"], 1):
        scores = [row[f"score_{level}"] for row in rows]
        place = sorted(scores, reverse=True).index(scores[best]) + 1
        report(
            "fidelity",
            classes=shares[0],
            iterations=shares[1],
            epochs=shares[2],
            trials=len(rows),
            rank_correlation=round(float(spearmanr(scores, last).statistic), 3),
            place_of_the_best=place,
        )


if __name__ == "__main__":
    main()

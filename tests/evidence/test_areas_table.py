"""The table of a sweep of classifiers: the columns of Gupta et al. 2019, Tables 2 and 3."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from evidence.sweeps import experiment
from ganatomy.evidence.ablation import ablation_table
from ganatomy.experiment import Score, TrialResult
from ganatomy.measures.reader_studies import areas, interval
from ganatomy.reports.tabulated import cells, headers
from ganatomy.reports.text import render_text

LESION = np.arange(40) < 15


def said(gain, seed):
    """Probabilities of 40 patients: the same hard ones for all, and luck."""
    hard = np.random.default_rng(0).standard_normal(40)
    luck = np.random.default_rng(seed + 1).standard_normal(40)
    return 1 / (1 + np.exp(-(hard + 0.3 * luck + gain * LESION)))


def classifier(arm, gain, seed):
    made = experiment(arm=arm, seed=seed).with_values({"downstream.task": "classification", "method": "unit_lesion"})
    scores = tuple(
        Score(f"s{n:02d}", f"p{n:02d}", "probability", "lesion" if shown else "normal", float(p))
        for n, (shown, p) in enumerate(zip(LESION, said(gain, seed)))
    )
    kept = {"work/kept_images": 1300.0 + seed, "work/updates": 10.0} if arm == "offline" else {"work/updates": 10.0}
    return TrialResult(f"{arm}{seed}", made, "finished", scores=scores, summary=kept)


def test_areas_have_intervals_kept_images_and_an_operating_point():
    arms = {"real": 0.8, "offline": 1.6}
    table = ablation_table([classifier(arm, gain, seed) for arm, gain in arms.items() for seed in range(3)])
    assert headers(table)[5:10] == ["AUC 95 %", "kept", "sens.", "spec.", "OP"]
    for row in table.rows:
        gain = arms[row.arm]
        trainings = np.stack([said(gain, seed) for seed in range(3)])
        low, high = interval(areas(trainings, LESION))
        assert row.dice == pytest.approx(np.mean([roc_auc_score(LESION, one) for one in trainings]))
        shown = dict(zip(headers(table), cells(table, row)))
        assert shown["AUC 95 %"] == f"{low:.3f}–{high:.3f}"
        assert low < row.dice < high
        assert shown["kept"] == ("1301" if row.arm == "offline" else "–")
        assert 0.5 < float(shown["sens."]) <= 1
        assert 0.5 < float(shown["spec."]) <= 1
    text = render_text(table)
    assert "chosen on these very patients" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 120
    alone = ablation_table([classifier("real", 0.8, 0)])
    assert cells(alone, alone.rows[0])[5] == "–"  # one training: nothing tells its luck

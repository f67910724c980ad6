"""The ablation table as it is shown: text, JSON, and a page."""

from __future__ import annotations

import html.parser
import json
from dataclasses import replace

import pytest

from evidence.sweeps import LOST, experiment, sweep, trial
from ganatomy.evidence import report
from ganatomy.experiment import TrialResult


@pytest.mark.parametrize("patients", [3, 12])
def test_text_fits_120_columns_with_nothing_cut_off(patients):
    crowded = experiment(arm="offline", mixing__order="synthetic_first", filter__min_dice=0.25,
                         labels__fraction=0.125, downstream__network="refinenet")  # fmt: skip
    synthesis = {"synthesis/s_score/flair": 0.5, "synthesis/s_score_reference/flair": 0.75}
    long = trial("z", crowded, patients=patients, device_seconds=123456.0, summary=synthesis)
    text = report.render_text(report.ablation_table([*sweep(patients), long, *LOST]))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 120
    assert "…" not in text
    table = lines[2 : next(index for index, line in enumerate(lines) if line.startswith("Dice, HD95"))]
    words = " ".join(table)
    assert words.count("verdict") + words.count("helps") + words.count("harms") + words.count("undecided") == 4
    assert "network=refinenet" in text
    assert "123456" in text
    for word in ("baseline", "0.50/0.75", "mr 0.90", "Dice 0.75 in flair", "missed", "worst", "device"):
        assert word in text


def test_json_is_standard_and_keeps_every_patient():
    values = json.loads(report.to_json(report.ablation_table(sweep())), parse_constant=pytest.fail)
    best = values["rows"][0]
    assert len(best["patients"]) == 12
    assert best["reading"] == best["finding"]["answer"] == "helps"
    assert best["finding"]["patients"] == len(best["finding"]["pairs"]) == 12
    assert best["finding"]["p"] < 0.05
    assert best["finding"]["sentence"] in values["conclusion"]
    assert next(row for row in values["rows"] if row["name"] == "classical")["finding"] is None
    assert next(row for row in values["rows"] if row["name"] == "real")["finding"]["low"] is None


class Links(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [(tag, name, value) for name, value in attrs if name in ("src", "href", "srcset", "data")]


def test_html_is_one_file_without_outside_resources_and_escapes_names(tmp_path):
    failed = TrialResult("x", experiment(arm="joint", seed=9), "failed", "<script>alert(1)</script>")
    table = replace(report.ablation_table([*sweep(), failed]), aftermath=("Not promoted.",))
    path = report.write_html(
        table, tmp_path / "report" / "index.html", title="a <b> sweep", facts={"cohort": "phantom"},
        panels={"a panel": b"\x89PNG"},
    )  # fmt: skip
    page = path.read_text(encoding="utf-8")
    parser = Links()
    parser.feed(page)
    assert len(parser.found) == 4  # three figures and the panel
    assert all(value.startswith("data:image/png;base64,") for _, _, value in parser.found)
    assert "http" not in page
    assert "@import" not in page
    assert "<script>" not in page
    assert "a &lt;b&gt; sweep" in page
    assert table.conclusion in page.replace("&lt;", "<")
    assert [item.name for item in path.parent.iterdir()] == ["index.html"]

"""The ablation table as it is shown: text, JSON, and a page."""

from __future__ import annotations

import html.parser
import json

import pytest
from evidence.sweeps import LOST, experiment, sweep, trial
from reports.materials import page_of

from ganatomy.evidence.ablation import ablation_table
from ganatomy.experiment import TrialResult
from ganatomy.reports.tabulated import to_json
from ganatomy.reports.text import render_text
from ganatomy.writers.page import SORTING


@pytest.mark.parametrize("patients", [3, 12])
def test_text_fits_120_columns_with_nothing_cut_off(patients):
    crowded = experiment(arm="offline", mixing__order="synthetic_first", filter__min_dice=0.25,
                         labels__fraction=0.125, downstream__network="refinenet")  # fmt: skip
    synthesis = {"synthesis/s_score/flair": 0.5, "synthesis/s_score_reference/flair": 0.75}
    long = trial("z", crowded, patients=patients, device_seconds=123456.0, summary=synthesis)
    text = render_text(ablation_table([*sweep(patients), long, *LOST]))
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
    values = json.loads(to_json(ablation_table(sweep())), parse_constant=pytest.fail)
    best = values["rows"][0]
    assert len(best["patients"]) == 12
    assert best["reading"] == best["finding"]["answer"] == "helps"
    assert best["finding"]["patients"] == len(best["finding"]["pairs"]) == 12
    assert best["finding"]["p"] < 0.05
    assert best["finding"]["sentence"] in values["conclusion"]
    assert next(row for row in values["rows"] if row["name"] == "real · augmentation=strong")["finding"] is None
    assert next(row for row in values["rows"] if row["name"] == "real · augmentation=none")["finding"]["low"] is None


class Elements(html.parser.HTMLParser):
    """What a page would fetch or lead to, its scripts, and whether what is opened is closed again."""

    def __init__(self):
        super().__init__()
        self.found, self.ids, self.open, self.scripts = [], set(), [], []

    def handle_starttag(self, tag, attrs):
        self.found += [(tag, name, value) for name, value in attrs if name in ("src", "href", "srcset", "data")]
        self.ids |= {value for name, value in attrs if name == "id"}
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


def read(page):
    parser = Elements()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def test_a_page_is_one_file_that_asks_for_nothing_and_escapes_what_it_is_given():
    failed = TrialResult("x", experiment(arm="joint", seed=9), "failed", "<script>alert(1)</script>")
    page = page_of([*sweep(), failed])
    parser = read(page)
    assert parser.scripts == [SORTING]
    images = [value for tag, _, value in parser.found if tag == "img"]
    assert len(images) > 3
    assert all(value.startswith("data:image/png;base64,") for value in images)
    others = {value for tag, _, value in parser.found if tag != "img"}
    assert all(value == "data:," or value.removeprefix("#") in parser.ids for value in others)
    assert "http" not in page.replace("http-equiv", "")
    assert "@import" not in page
    assert "url(" not in page
    assert "default-src 'none'" in page
    assert "&lt;script&gt;alert(1)" in page


def test_no_place_of_this_machine_stands_in_a_page(tmp_path):
    given = {"store": str(tmp_path / "stores" / "gone"), "cohort": str(tmp_path / "phantom")}
    page = page_of(sweep(), workspace=tmp_path, **given)
    assert "phantom" in page
    assert "Left out, cohort: no store at gone" in page
    assert str(tmp_path) not in page
    assert str(tmp_path.parent) not in page

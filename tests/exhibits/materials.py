"""Sweeps as exhibits are given them."""

from __future__ import annotations

import io
import json
from pathlib import Path

from evidence.sweeps import BASE
from PIL import Image

from ganatomy.evidence.ablation import ablation_table
from ganatomy.evidence.results import SweepPlan
from ganatomy.exhibits.material import Material


def material(results, workspace=Path(), table=None, tell=lambda why: None, **plan):
    """Of trials that are written nowhere; a store, and so facts of the cohort, it has none."""
    given = {"store": "", "cohort": "/data/phantom", "cohort_digest": "0123abcd", "trials": len(results), **plan}
    made = SweepPlan("ct-mr", "shape_consistent", given.pop("base", BASE), **given)
    return Material(workspace, made, tuple(results), table or ablation_table(results, declared=made.family), tell)


def material_of(results, workspace=Path("nowhere"), store="", heard=None):
    """heard: a list of what was told."""
    return material(results, workspace, tell=([] if heard is None else heard).append, store=str(store))


def write_history(workspace, kind, key, records):
    folder = workspace / "stages" / kind / key
    folder.mkdir(parents=True)
    (folder / "history.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def size_of(picture):
    """Pixels, of what can be read as a PNG and is no blank."""
    image = Image.open(io.BytesIO(picture.png))
    assert image.format == "PNG"
    assert len(set(image.convert("L").resize((64, 64)).get_flattened_data())) > 3
    return image.size

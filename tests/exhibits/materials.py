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


def material_of(results, workspace=Path("nowhere"), store="", heard=None):
    """heard: a list of what was told."""
    plan = SweepPlan("sweep", "space", BASE, str(store), "cohort", "digest", len(results))
    tell = [] if heard is None else heard
    return Material(workspace, plan, tuple(results), ablation_table(results), tell.append)


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

"""What a sweep found, as data frames of pandas."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ganatomy.evidence.ablation import Ablation
from ganatomy.experiment import TrialResult

if TYPE_CHECKING:
    import pandas


def table_frame(ablation: Ablation) -> pandas.DataFrame:
    """One row a configuration, as ``Sweep.table`` says."""
    import pandas

    from ganatomy.reports.tabulated import to_dict

    rows = []
    left_out = ("trials", "patients", "parameters", "finding")
    for row in to_dict(ablation)["rows"]:
        found = row["finding"] or {}
        row = {name: value for name, value in row.items() if name not in left_out} | {
            "seeds": len(row["seeds"]),
            "difference": found.get("estimate"),
            **{name: found.get(name) for name in ("low", "high", "p", "least_shown", "reason")},
            **{f"parameters.{name}": _cell(value) for name, value in row["parameters"].items()},
            "baseline": row["configuration"] == ablation.baseline,
            "candidate": row["configuration"] == ablation.candidate,
        }
        row[ablation.measure.lower()] = row.pop("dice")
        rows.append(_flat(row))
    columns = dict.fromkeys(name for row in rows for name in row)
    first = [name for name in ("name", "arm", "seeds", ablation.measure.lower()) if name in columns]
    return pandas.DataFrame(rows, columns=[*first, *(name for name in columns if name not in first)])


def scores_frame(ablation: Ablation, results: Sequence[TrialResult]) -> pandas.DataFrame:
    """One row a trial, subject, metric and structure, as ``Sweep.scores`` says."""
    import pandas

    row_of = {trial: row for row in ablation.rows for trial in row.trials}
    rows: list[dict[str, Any]] = []
    for result in results:
        if (row := row_of.get(result.trial)) is not None:
            about = {"name": row.name, "configuration": row.configuration, "arm": row.arm}
            trial = {"seed": result.experiment.seed, "trial": result.trial}
            rows += [{**about, **trial, **vars(score)} for score in result.scores]
    usual = ["name", "configuration", "arm", "seed", "trial", "patient", "subject", "metric", "label", "value"]
    return pandas.DataFrame(rows, columns=[*usual, "missed"])


def trials_frame(ablation: Ablation, results: Sequence[TrialResult]) -> pandas.DataFrame:
    """One row a trial, as ``Sweep.trials`` says."""
    import pandas

    rows = [
        _flat(
            {
                "trial": result.trial,
                "name": ablation.name_of(result.experiment),
                "arm": result.experiment.arm,
                "seed": result.experiment.seed,
                "status": result.status,
                "error": result.error,
                "device_seconds": result.device_seconds,
                "run_id": result.run_id,
                "summary": dict(result.summary),
            }
        )
        for result in results
    ]
    return pandas.DataFrame(rows)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Mappings in mappings as names with dots; None as NaN."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = float("nan") if value is None else value
    return found


def _cell(value: Any) -> Any:
    """A parameter as one cell."""
    return json.dumps(value) if isinstance(value, list | dict) else value

"""Views in MLflow's UI: which runs of an experiment it shows, sorted by what, in which columns and charts.

MLflow keeps a view that somebody saves as a tag of the experiment, lists it under "Views", and opens it by a link. Here
the tag is written instead of clicked. Its JSON is the state of MLflow 3.17's own front end; a server of another version
shows its usual page at the worst. What a link can open is told in ``docs/ui.md``, and what it cannot.
"""

from __future__ import annotations

import base64
import json
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ganatomy.tracking.outbox import now
from ganatomy.tracking.server import is_served, shown

if TYPE_CHECKING:
    from ganatomy.tracking.runs import Tracking

TAG = "mlflow.sharedViewState."
"""Begins the tag of an experiment that holds a view."""

PLAIN = 3000
"""Characters that a view may have to be kept as plain JSON; some databases hold no more than 5000 in a tag."""

PORT = 5000
"""Where ``ganatomy ui`` serves a store on disk, unless told otherwise."""

SCORE = "score"
"""The metric that runs are ranked by, whatever it is of, to four places: it stands in front."""

TRAINING = "workflowType=machine_learning"
"""What every link must say: MLflow's page for training runs is meant, not the one that it opens by itself."""


# --- where to look -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Links:
    """Where MLflow's UI shows a sweep, each without the address of the server: ``#/experiments/…``.

    table: its trials, sorted by score.  charts: the same as parallel coordinates, scatter, curves and panels.  run: the
    sweep's own run.  report: its page, in the artifact viewer.
    """

    table: str
    charts: str
    run: str
    report: str

    def at(self, base: str) -> Links:
        """The same as whole addresses below ``base``, such as http://127.0.0.1:5000."""
        return Links(*(f"{base.rstrip('/')}/{link}" for link in vars(self).values()))


def views_of(experiment_id: str, run_id: str) -> Links:
    """Links to the view and the run of the sweep ``run_id``; the first two open what ``share`` has kept."""
    place = f"#/experiments/{experiment_id}"
    table, run = f"{place}/runs?{TRAINING}&viewStateShareKey={run_id}", f"{place}/runs/{run_id}"
    return Links(table, f"{table}&compareRunsMode=CHART", f"{run}?{TRAINING}",
                 f"{run}/artifacts/report.html?{TRAINING}")  # fmt: skip


def base_of(uri: str, port: int = PORT) -> str:
    """Where a browser finds the store ``uri``: its server, or the one that ``ganatomy ui --port`` starts."""
    return shown(uri) if is_served(uri) else f"http://127.0.0.1:{port}"


def share(tracking: Tracking, run_id: str, name: str, view: Mapping[str, Any]) -> None:
    """Keep the view of the sweep ``run_id`` with its experiment, as ``name``, in the place of an earlier one."""
    state = json.dumps(view, separators=(",", ":"))
    if len(state) > PLAIN:  # as MLflow's own Save button does
        state = "deflate;" + base64.b64encode(zlib.compress(state.encode(), 9)).decode()
    text = json.dumps({"name": name, "createdAt": now(), "updatedAt": now(), "state": state}, separators=(",", ":"))
    tracking.ask(lambda: tracking.client.set_experiment_tag(tracking.experiment_id, f"{TAG}{run_id}", text))


# --- what is shown -----------------------------------------------------------------------------------------------


NAME, NAME_WIDTH = "attributes.`Run Name`", 320
"""The first column of a table, and its pixels: by itself it cuts off what tells trainings apart."""

WIDE = {"params.`method`": 130, "tags.`reading`": 100}
"""Columns whose values are longer than their names, in pixels."""


METRICS = "Model metrics"
"""What the UI calls its section of metrics without a prefix."""


def param(name: str) -> str:
    """A parameter as the UI names its column."""
    return f"params.`{name}`"


def metric(name: str) -> str:
    """A metric, likewise."""
    return f"metrics.`{name}`"


def tag(name: str) -> str:
    """A tag, likewise."""
    return f"tags.`{name}`"


def table_view(wanted: str, columns: Sequence[str], order: str) -> dict[str, Any]:
    """Runs that the filter ``wanted`` finds, all of them in one list, highest ``order`` first, with these columns."""
    widths = {column: max(70, 21 + 7 * len(column.partition("`")[2])) for column in columns} | WIDE
    return {
        "searchFilter": wanted, "orderByKey": order, "orderByAsc": False, "startTime": "ALL",
        "lifecycleFilter": "Active", "modelVersionFilter": "All Runs", "datasetsFilter": [],
        "selectedColumns": list(columns), "columnOrder": [NAME, *columns], "columnWidths": {NAME: NAME_WIDTH, **widths},
        "runsHiddenMode": "SHOW_ALL", "viewMaximized": False, "runListHidden": False,
    }  # fmt: skip


def chart_view(
    table: Mapping[str, Any], title: str, charts: Sequence[Mapping[str, Any]], folded: Sequence[str]
) -> dict[str, Any]:
    """The runs of a table as ``charts`` under ``title``; other metrics below, those with the prefixes ``folded`` in
    closed sections."""
    mine = _id(title)
    sections = [
        _section(title, True) | {"columns": 2},
        _section(METRICS, True),
        *(_section(name, False) for name in sorted(folded)),
    ]
    cards = [{**card, "uuid": _id(f"{title} {number}"), "metricSectionId": mine, "deleted": False, "isGenerated": False}
             for number, card in enumerate(charts)]  # fmt: skip
    return {**table, "compareRunCharts": cards, "compareRunSections": sections, "isAccordionReordered": True,
            "hideEmptyCharts": True}  # fmt: skip


def parallel(params: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
    """Parallel coordinates; a run that lacks one of them is not drawn, and the last one gives the colour."""
    return {"type": "PARALLEL", "selectedParams": list(params), "selectedMetrics": list(metrics), "showAllRuns": True,
            "runsCountToCompare": 1000}  # fmt: skip


def scatter(x: str, y: str, *, by_param: bool = False) -> dict[str, Any]:
    """The metric ``y`` over a metric, or a parameter, ``x``."""
    kind = "PARAM" if by_param else "METRIC"
    return {"type": "SCATTER", "xaxis": {"key": x, "type": kind}, "yaxis": {"key": y, "type": "METRIC"},
            "runsCountToCompare": 1000}  # fmt: skip


def line(name: str) -> dict[str, Any]:
    """A metric over its steps."""
    return {"type": "LINE", "metricKey": name, "selectedMetricKeys": [name], "lineSmoothness": 0,
            "xAxisScaleType": "linear", "scaleType": "linear", "range": {}, "xAxisKey": "step", "yAxisKey": "metric",
            "yAxisExpressions": [], "selectedXAxisMetricKey": "", "ignoreOutliers": False, "useGlobalXaxisKey": True,
            "useGlobalLineSmoothing": True, "runsCountToCompare": 1000}  # fmt: skip


def pictures(name: str, step: int) -> dict[str, Any]:
    """Logged pictures of one name, each run's beside the others, with a slider over the steps that begins at ``step``;
    parameters would hide them."""
    return {"type": "IMAGE", "imageKeys": [name], "step": step, "showRunParams": False,
            "runsCountToCompare": 100}  # fmt: skip


def _section(name: str, display: bool) -> dict[str, Any]:
    return {"uuid": _id(name), "name": name, "display": display, "isReordered": False, "deleted": False,
            "isGenerated": True}  # fmt: skip


def _id(name: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_OID, name).hex

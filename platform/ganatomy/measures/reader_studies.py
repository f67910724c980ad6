"""Areas under the ROC curve of several trained classifiers on the same patients, and how patients move them together.

The area of one training: the share of pairs (lesion, normal) in which the lesion is given the higher probability, ties
counting half. How far an image pulls it is DeLong's structural component, the share of the others' images that it beats
or is beaten by; images of one patient pull together (Obuchowski's clustered components), and each patient counts once
in each class, however many images there are of him. ``crossed.contrast`` makes an analysis of the sides made here.
Sources: DeLong, DeLong & Clarke-Pearson, Biometrics 44, 1988; Obuchowski, Biometrics 53, 1997.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from ganatomy.measures.crossed import Side, contrast, quantile


def interval(side: Side, alpha: float = 0.025) -> tuple[float, float]:
    """Lower and upper limit of the mean area, over patients and trainings, each at a one-sided ``alpha``.

    Error and degrees of freedom are those of ``crossed.contrast``, the limits symmetric on the scale of the logit, as
    an area ends at 1: logit A ± t · error / (A (1 - A)). NaN of one training alone, whose luck nothing tells, and where
    nothing varies. Source: Pepe, The Statistical Evaluation of Medical Tests, 2003, section 5.2.
    """
    if side.trainings < 2 or not (found := contrast(side)).error > 0:
        return math.nan, math.nan
    area = float(found.estimate)
    reach = float(quantile(found.freedom, alpha) * found.error) / (area * (1 - area))
    low, high = special.expit(special.logit(area) + np.array([-reach, reach]))
    return float(low), float(high)


def areas(probabilities: ArrayLike, truth: ArrayLike, patients: Sequence[Hashable] | None = None) -> Side:
    """The side of a classifier's trainings, to be judged by its areas.

    probabilities: [..., trainings, images], of being a lesion; no NaN among them.  truth: [images], whether it is one.
    patients: whose image each is, everybody's own by default; the pulls are in the order of their first standing. A
    class of one patient pulls nothing. Raises ValueError where a class is missing.
    """
    said, lesion = np.asarray(probabilities, np.float64), np.asarray(truth, bool)
    owners = _numbered(range(len(lesion)) if patients is None else patients)
    groups = [owners[lesion], owners[~lesion]]
    if not all(map(len, groups)):
        raise ValueError("an area under the ROC curve needs images with a lesion and images without")
    shares = [1 / np.bincount(group)[group] / len(np.unique(group)) for group in groups]
    higher, lower = said[..., lesion], said[..., ~lesion]
    beaten = (np.sign(higher[..., :, None] - lower[..., None, :]) + 1) / 2
    components = [beaten @ shares[1], np.einsum("...pn,p->...n", beaten, shares[0])]
    area = components[0] @ shares[0]
    pulls, freedom = [], []
    for component, group, share in zip(components, groups, shares):
        n = len(np.unique(group))
        belongs = np.zeros((len(group), int(owners.max()) + 1))
        belongs[np.arange(len(group)), group] = share * math.sqrt(n / max(n - 1, 1))
        pulls.append((component - area[..., None]) @ belongs)
        freedom.append(n - 1.0)
    return Side(area, np.stack(pulls, axis=-3), np.array(freedom))


def _numbered(names: Sequence[Hashable]) -> NDArray[np.intp]:
    """Each name's number, in order of their first standing."""
    place = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([place[name] for name in names], np.intp)

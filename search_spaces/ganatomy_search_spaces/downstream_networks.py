"""Which network the synthetic data is for: sampled by every method's space, in every arm, as the papers claim to help
any segmentor."""

from __future__ import annotations

from collections.abc import Callable

from ganatomy.search_space import Suggest

PLAIN = ("pspnet", "unet", "refinenet")
"""Those of Cai et al. 2019: without normalisation unless told."""

SEGMENTORS = (*PLAIN, "residual_unet", "dynunet", "segresnet")
CLASSIFIERS = ("drn_d_22", "densenet121")


def suggest_segmentor(trial: Suggest, *, width: int | None = None, norm: str = "") -> None:
    """Suggest a segmentor. Another one leaves the settings of the base's behind, so what is to hold for all is said.

    width: channels at full resolution, by default each network's own.  norm: of the plain ones; "" leaves it at
    ``none``, as in their paper.
    """
    name = trial.suggest_categorical("downstream.network", list(SEGMENTORS))
    if width is not None:
        trial.suggest_categorical("downstream.network.width", [width])
    if norm and name in PLAIN:
        trial.suggest_categorical("downstream.network.norm", [norm])


def with_segmentor(
    sample: Callable[[Suggest], None], trial: Suggest, *, width: int | None = None, norm: str = ""
) -> None:
    """Suggest a segmentor, then what ``sample`` does. With ``functools.partial`` a space's sampler, at either of its
    sizes: narrow segmentors for the small one.

    width, norm: as in ``suggest_segmentor``.
    """
    suggest_segmentor(trial, width=width, norm=norm)
    sample(trial)


def suggest_classifier(trial: Suggest) -> None:
    """Suggest a classifier of whole images."""
    trial.suggest_categorical("downstream.network", list(CLASSIFIERS))

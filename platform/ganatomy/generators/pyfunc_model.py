"""A generator as MLflow serves it: "models from code", loaded by this file's path, so that nothing is ever pickled.

>>> mlflow.pyfunc.load_model("models:/ct-mr@champion").predict(images)
"""

from __future__ import annotations

from typing import Any

import mlflow
import numpy as np

from ganatomy.contracts import InputError
from ganatomy.generators.generator import load_generator

ARTIFACT = "generator"
"""The artifact that holds the bundle's folder."""


class GeneratorModel(mlflow.pyfunc.PythonModel):
    """images -> images of the domain that the generator was promoted for."""

    def load_context(self, context: Any) -> None:
        """Load the bundle that lies among the model's artifacts."""
        self.generator = load_generator(context.artifacts[ARTIFACT])

    # Without hints: MLflow reads them as a schema of the input, and the model's signature already is one.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """float32 [N, 1, *S] in [-1, 1], sides of any size -> float32 [N, 1, *S] in [-1, 1].

        S is (H, W) or (D, H, W) as the generator's networks take it; a 2D one takes volumes too, slice by slice.
        params: ``source`` and ``target``, a role or domain each; by default what leads to the promoted target.
        Synthesis is deterministic: the parameter ``seed``, where the signature has one, changes nothing.
        """
        images, given = np.asarray(model_input, np.float32), params or {}
        ndim = self.generator.experiment.sampling.ndim
        if images.ndim not in {ndim + 2, 5} or images.shape[1] != 1:
            raise InputError(f"images of shape {images.shape}", expected=f"[N, 1, *S] with {ndim} spatial axes")
        source, target = self.generator.route(given.get("source") or None, given.get("target") or None)
        volumes = images.reshape(len(images), -1, *images.shape[-2:])
        made = [self.generator.synthesize(volume, source)[target] for volume in volumes]
        return np.stack(made).reshape(images.shape)


mlflow.models.set_model(GeneratorModel())

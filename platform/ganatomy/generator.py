"""Where models look for ``load_generator`` that were registered before the platform's files lay in packages.

MLflow keeps a model's code as it was: without this name ``mlflow.pyfunc`` could load none of them any more.
"""

from ganatomy.generators.generator import load_generator

__all__ = ["load_generator"]

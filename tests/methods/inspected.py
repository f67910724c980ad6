"""An update in which nothing learns."""

from contextlib import contextmanager


class Inspected:
    """Keeps the objectives that would be minimised, in their order: names of networks -> loss."""

    def __init__(self, phase="constant"):
        self.phase, self.objectives = phase, {}

    @contextmanager
    def __call__(self, *names):
        yield lambda loss: self.objectives.update({names: loss})

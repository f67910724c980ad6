"""A network that cannot be built before a file is there: a fault that passes, as those of machines do."""

import os
from pathlib import Path

from ganatomy_methods.common.segmentors import UNet

PASSED = "BREAKING_UNTIL"
"""Environment variable: the file."""


class Net(UNet):
    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        if not Path(os.environ[PASSED]).exists():
            {}["C"]

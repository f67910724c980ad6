"""``ganatomy generate``: synthetic images of a cohort or a file, here or spread over Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from ganatomy.commands.console import DONE, UNDONE, Command, progress
from ganatomy.generation.request import GenerationRequest


@dataclass(frozen=True, kw_only=True)
class Generate(GenerationRequest, Command):
    """Make synthetic NIfTI of real images, on their own grid, with labels, maps and a provenance sidecar each.

    $ ganatomy generate models:/ct-mr@champion --cohort my-cohort --out synthetic
    $ ganatomy generate models:/ct-mr@champion --image scan.nii.gz --label seg.nii.gz --out synthetic
    $ ganatomy generate models:/mr-from-noise@champion --count 200 --cohort my-cohort --out synthetic

    A method that puts lesions into films without any; their boxes come with them, as a table and as COCO JSON. In a
    cohort they go where lesions of its own lie, in a single film where --box says:
    $ ganatomy generate models:/lesions@champion --cohort my-films --count 50 --out with-boxes
    $ ganatomy generate models:/lesions@champion --image film.png --box 400 310 520 430 --out with-a-lesion

    A method that works with states of one domain, such as slices with and without a lesion, the other way round:
    $ ganatomy generate models:/healthy@champion --cohort my-cohort --source healthy --out with-lesions

    The result is itself a cohort, which names patients by pseudonym; `ganatomy cohort who` undoes that for whoever has
    the cohort. The same command goes on where it was interrupted; files of others are left alone.
    """

    model: Positional[str]
    """models:/NAME@champion, models:/NAME/VERSION, or the folder of a generator."""
    box: Annotated[tuple[float, float, float, float] | None, arg(metavar="X0 Y0 X1 Y1")] = None
    """Where a lesion may lie in --image, in its pixels from the top left: nothing outside changes. It is put into the
    largest square within; where that leaves a choice, --seed makes it."""

    def run(self) -> int:
        """Make them, and say which file goes by which pseudonym: on this screen only, which is the user's own."""
        generated = self.carried_out(progress)
        for file, pseudonym in generated.who.items():
            print(f"{file} is {pseudonym}")
        print(generated.summary)
        return DONE if generated.whole else UNDONE

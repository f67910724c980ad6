"""Images of the multi-modal method: all modalities of one structure and label, each drawn brain its own."""

import pytest
import torch

from ganatomy.contracts import Images, InputError
from ganatomy_methods.multimodal_mr import structure as maps
from methods.multimodal_mr.small import CLASSES, SIDE, batch, brains, make


def test_synthetic_images_of_all_modalities_come_from_one_structure_and_label():
    method, given = make(), batch()
    made = method.synthesize({"T1c": given["T1c"]})
    assert [(item.role, item.kind) for item in made] == [
        ("T1", "translated"), ("T2", "translated"), ("T1c", "reconstructed"), ("FLAIR", "translated"),
    ]  # fmt: skip
    inverted = Images(maps.signed(1 - maps.unit(given["T1c"].image)), given["T1c"].label)
    f = [maps.structure_map(maps.unit(images.image), 0.12) for images in (given["T1c"], inverted)]
    assert torch.equal(*f)  # only structure and label are looked at, so contrast plays no part
    for one, other in zip(made, method.synthesize({"T1c": inverted}), strict=True):
        torch.testing.assert_close(one.image, other.image)
    elsewhere = Images(given["T1c"].image, given["T1c"].label.flip(-1))
    assert any(
        (one.image - other.image).abs().max() > 1e-4
        for one, other in zip(made, method.synthesize({"T1c": elsewhere}), strict=True)
    )
    assert len(make(use_reconstructed=False).synthesize(given)) == 12


def test_brains_from_noise_are_registered_and_each_its_own():
    method = make(filter_tries=3)
    pool = brains(3, 5).label
    drawn = method.draw(pool, range(3), seed=7)
    assert set(drawn.images) == set(method.roles)
    for image in drawn.images.values():
        assert image.shape == (3, 1, SIDE, SIDE)
        assert image.dtype == torch.float32
        assert image.abs().max() <= 1
        assert (image[:, 0][drawn.outside] == -1).all()
    assert not (drawn.outside & (drawn.label > 0)).any()
    assert len(drawn.closed) == len(drawn.whole) == len(drawn.donors) == 3
    assert drawn.accepted == tuple(c and w for c, w in zip(drawn.closed, drawn.whole))
    outside = drawn.outside[:, None].float()
    errors = torch.tensor(drawn.figures["structure_error"])
    torch.testing.assert_close(maps.contour_error(drawn.structure, outside), errors)
    threshold = maps.error_threshold((SIDE, SIDE))
    assert drawn.closed == tuple(error <= threshold for error in drawn.figures["structure_error"])
    fewer, others = method.draw(pool, range(2), seed=7), method.draw(pool, range(3), seed=8)
    for role, image in drawn.images.items():
        torch.testing.assert_close(fewer.images[role], image[:2])
        assert not torch.equal(others.images[role], image)


def test_a_brain_is_a_function_of_the_seed_and_its_number():
    """Alone, among others, in another order: so that what was interrupted can go on, and anybody can make it again."""
    method, pool = make(filter_tries=3), brains(3, 5).label
    drawn, alone = method.draw(pool, (4, 0, 9), seed=7), method.draw(pool, (9,), seed=7)
    for role, image in drawn.images.items():
        assert torch.equal(alone.images[role][0], image[2])
    assert torch.equal(alone.label[0], drawn.label[2])
    assert (alone.donors[0], alone.accepted[0]) == (drawn.donors[2], drawn.accepted[2])


def test_a_drawn_label_is_made_of_the_one_that_is_named_as_its_donor():
    """Classes tell whose label it is: variation moves a lesion, and never makes a class of another."""
    method = make(filter_tries=1)
    pool = torch.stack([c * (brains(1, 5).label[0] > 0) for c in range(1, CLASSES)])
    drawn = method.draw(pool, range(12), seed=3)
    assert len(set(drawn.donors)) > 1
    for label, donor, whole in zip(drawn.label, drawn.donors, drawn.whole):
        assert set(label.unique().tolist()) - {0} <= {donor + 1}
        assert not whole or (label > 0).any()


@pytest.mark.parametrize(("count", "shape"), [(0, (1, 16, 16)), (1, (0, 16, 16)), (1, (1, 20, 16)), (1, (16, 16))])
def test_what_cannot_be_drawn_is_refused(count, shape):
    with pytest.raises(InputError, match="images from labels"):
        make().draw(torch.zeros(shape, dtype=torch.int64), range(count), seed=0)

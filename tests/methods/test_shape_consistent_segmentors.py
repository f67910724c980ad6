"""The shape-consistent GAN where a domain has no label, and where nobody needs its segmentors."""

import torch
from torch import nn

from ganatomy.contracts import UNLABELLED, Images, labelled
from ganatomy_methods.shape_consistent import ShapeConsistent, ShapeConsistentConfig
from methods.test_shape_consistent import Inspected, batch, make


def without_labels_of_b():
    images = batch()
    return {**images, "B": Images(images["B"].image, torch.full_like(images["B"].label, UNLABELLED))}


def test_where_a_domain_has_no_label_the_others_segmentor_alone_teaches_the_generators():
    """γ · CE(S_A(G_A(G_B(x_A))), y_A), by hand; what S_B is does not matter."""
    images, update = without_labels_of_b(), Inspected(make(unlabelled="B", cycle_weight=0, shape_weight=2.0))
    with torch.no_grad():
        for parameter in update.method.S_B.parameters():
            parameter.fill_(float("nan"))
    method = update.method
    plain = Inspected(make(unlabelled="B", cycle_weight=0, shape_weight=0.0))
    plain.method.step(images, plain)
    method.step(images, update)
    method.zero_grad(set_to_none=True)
    method.requires_grad_(True)
    rec_A = method.G_A(method.G_B(images["A"].image))
    (2 * nn.functional.cross_entropy(method.S_A(rec_A), images["A"].label)).backward()
    for name in ("G_A", "G_B"):
        own = torch.cat([p.grad.flatten() for p in getattr(method, name).parameters() if p.grad is not None])
        torch.testing.assert_close(update.steps[name] - plain.steps[name], own, rtol=1e-3, atol=1e-5)


def test_a_segmentor_without_labels_learns_the_sources_images_and_then_their_translations():
    def gradients(images, phase, ratio=1.0):
        update = Inspected(make(unlabelled="B", use_reconstructed=False, ratio=ratio), phase)
        with torch.no_grad():
            for own, other in zip(update.method.S_B.parameters(), update.method.S_A.parameters()):
                own.copy_(other)
        update.method.step(images, update)
        return update.method, update.steps

    images = without_labels_of_b()
    _, before = gradients(images, "pretrain_segmentors")
    torch.testing.assert_close(before["S_B"], before["S_A"])  # as the source's own
    method, joint = gradients(images, "joint")
    method.zero_grad(set_to_none=True)
    method.requires_grad_(True)
    fake_B = method.G_B(images["A"].image).detach()
    nn.functional.cross_entropy(method.S_B(fake_B), images["A"].label).backward()
    own = torch.cat([p.grad.flatten() for p in method.S_B.parameters() if p.grad is not None])
    torch.testing.assert_close(joint["S_B"], own)
    _, doubled = gradients(images, "joint", ratio=2.0)
    torch.testing.assert_close(doubled["S_B"], 2 * own)


def test_an_update_of_equal_size_has_translations_alone_where_a_domain_has_no_label():
    """And a reconstruction in the place that the other's real images leave: its translations have no label."""
    images, update = without_labels_of_b(), Inspected(make(unlabelled="B", ratio=2.0))
    x_A, y_A, method = images["A"].image, images["A"].label, update.method
    losses = method.step({**images, labelled("A"): Images(x_A[:1], y_A[:1], vacant=(0,))}, update)
    method.requires_grad_(True)
    with torch.no_grad():
        fake_B = method.G_B(x_A)
        half = torch.cat([x_A[:1], method.G_A(fake_B)[1:]])
    for name, seen in (("S_A", half), ("S_B", fake_B)):
        method.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(getattr(method, name)(seen), y_A)
        loss.backward()
        own = [p.grad.flatten() for p in getattr(method, name).parameters() if p.grad is not None]
        torch.testing.assert_close(update.steps[name], torch.cat(own))
        told = losses["segmentation_mixed" if name == "S_A" else "segmentation_synthetic"]
        torch.testing.assert_close(told, loss.detach())


def test_without_shape_term_generators_learn_the_same_with_segmentors_and_without():
    """In every phase that trains them, to the last bit; with it they cannot be without."""
    with_them, without = make(shape_weight=0), make(shape_weight=0, segmentors=False)
    assert not any(name.startswith("S_") for name in without.networks())
    assert without.networks().keys() == {"G_A", "G_B", "D_A", "D_B"}
    for phase in ("pretrain_generators", "joint", "decay"):
        updates = [Inspected(method, phase) for method in (with_them, without)]
        for update in updates:
            update.method.step(batch(), update)
        assert all(torch.equal(updates[0].steps[name], updates[1].steps[name]) for name in without.networks())
    lengths = [[(phase.name, phase.steps) for phase in method.phases(160, 200)] for method in (with_them, without)]
    assert lengths[1] == lengths[0][1:]
    needs = ShapeConsistent.needs_segmentors
    assert (needs(ShapeConsistentConfig()), needs(ShapeConsistentConfig(shape_weight=0))) == (True, False)

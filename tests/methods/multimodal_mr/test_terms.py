"""Every term of Qu et al. 2019 against its equation, on networks of a line each whose images are single values."""

from itertools import permutations

import pytest
import torch
from torch import nn

from ganatomy.contracts import Images, Task
from ganatomy_methods.common.segmentors import UNet
from ganatomy_methods.multimodal_mr import MultimodalMR, MultimodalMRConfig
from ganatomy_methods.multimodal_mr import structure as maps
from ganatomy_methods.multimodal_mr.losses import category_loss
from methods.inspected import Inspected

K, CLASSES, SIDE = 4, 3, 16
PAIRS, TRIPLES = list(permutations(range(K), 2)), list(permutations(range(K), 3))
RENDERED = (0.1, 0.15, 0.3, 0.25)
"""What DC_M adds for each modality."""
REAL = (0.2, 0.7, 0.4, 0.9)
"""The one value of each modality's real images."""


class Says(nn.Module):
    """A network that is a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *given):
        return self.function(*given)


def make(**settings):
    torch.manual_seed(0)
    small = {"width": 0.05, "discriminator_layers": 1, "residual_blocks": 1}
    config = MultimodalMRConfig(**{**small, **settings})
    return MultimodalMR(config, Task(2, CLASSES, lambda: UNet(2, 1, CLASSES, 4)))


def rendered(code):
    """DC_M: half of the code, and what the modality adds."""
    adds = torch.tensor(RENDERED).view(1, K, 1, 1)
    return nn.functional.interpolate(0.5 * code[:, :1] + (code[:, 1:] * adds).sum(1, keepdim=True), scale_factor=4)


def flat(value, sides=(SIDE, SIDE), count=2):
    return torch.full((count, 1, *sides), float(value))


def by_hand(**settings):
    """EC_R gives 0.2, EC_M the image's value + 0.1; D_M says the value and the value + 0.5; FD_R twice the value."""
    method = make(**settings)
    method.EC_R = Says(lambda fusion: flat(0.2, (SIDE // 4, SIDE // 4), len(fusion)))
    method.EC_M = Says(lambda image: nn.functional.avg_pool2d(image, 4) + 0.1)
    method.DC_M = Says(rendered)
    method.D_M = Says(lambda image: [image, image + 0.5])
    method.FD_R = Says(lambda code: [2 * code])
    method.guide = Says(lambda images: [torch.zeros(len(x), CLASSES, SIDE, SIDE) for x in images])
    return method


def mask_of(share):
    """1 outside: in the first ``share`` of the columns."""
    mask = torch.zeros(2, 1, SIDE, SIDE)
    mask[..., : round(share * SIDE)] = 1
    return mask


def square(*values):
    return sum(value**2 for value in values)


# --- stage 2, from structure and label (sections 2.6 and 2.7) ----------------------------------------------------


def test_the_terms_of_synthetic_images_are_those_worked_out_by_hand():
    method, label = by_hand(), torch.zeros(2, SIDE, SIDE, dtype=torch.int64)
    f, mask = flat(1.0), mask_of(0.25)
    losses, code_g, images = method.generation_losses(f, label, mask)
    x_g = [0.5 * 0.2 + adds for adds in RENDERED]
    for image, value in zip(images, x_g, strict=True):
        torch.testing.assert_close(image, flat(value))
    code = [value + 0.1 for value in x_g]
    x_gt = {(i, j): 0.5 * code[i] + RENDERED[j] for i, j in PAIRS}
    flat_map = float(maps.soft_structure_map(flat(0.3), method.config.image_beta).mean())
    thirds = (2.5 * (1 / 3 - 1) ** 2 + (25 + 125) * (1 / 3) ** 2) * K
    expected = {
        "adversarial": square(*(value - 1 for value in x_g)),
        "category": square(*(value + 0.5 - i for i, value in enumerate(x_g))),
        "code_adversarial": (2 * 0.2 - 1) ** 2,
        "structure": K * (flat_map - 1) ** 2,
        "structure_pairs": 0.0,
        "lesion": thirds,
        "registration": square(*(x_g[j] - value for (_, j), value in x_gt.items())),
        "registration_pairs": square(*(x_gt[j, i] - x_gt[k, i] for i, j, k in TRIPLES)),
        "semantic": square(*(value - 0.2 for value in code)),
        "semantic_pairs": square(*(code[i] - code[j] for i, j in PAIRS)),
        "outside": 0.25 * square(*x_g),
        "outside_translated": 0.25 * square(*x_gt.values()),
    }
    assert {name: float(loss) for name, loss in losses.items()} == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(code_g, flat(0.2, (4, 4)))


def test_structure_is_compared_outside_the_new_lesion_alone():
    """Its edges belong in the image, and not in f."""
    method = by_hand()
    label = torch.zeros(2, SIDE, SIDE, dtype=torch.int64)
    label[:, :, :8] = 2
    ring = maps.soft_structure_map(flat(0.3), method.config.image_beta)
    losses, _, _ = method.generation_losses(flat(0.0), label, mask_of(0))
    torch.testing.assert_close(losses["structure"], K * (ring**2).mean() / 2)


# --- stage 2, from real images (section 2.4) ---------------------------------------------------------------------


def test_the_terms_of_real_images_are_those_worked_out_by_hand():
    """Each modality has a mask of its own: what is made of it may not leave *its* brain."""
    method, shares = by_hand(), (0.0, 0.25, 0.5, 0.75)
    losses, codes, images = method.real_losses([flat(x) for x in REAL], [mask_of(share) for share in shares])
    code = [x + 0.1 for x in REAL]
    x_r = [0.5 * code[i] + RENDERED[i] for i in range(K)]
    x_t = {(i, j): 0.5 * code[i] + RENDERED[j] for i, j in PAIRS}
    code_t = {pair: value + 0.1 for pair, value in x_t.items()}
    x_cr = {(i, j): 0.5 * code_t[i, j] + RENDERED[i] for i, j in PAIRS}
    expected = {
        "assist_adversarial": square(*(value - 1 for value in x_t.values())),
        "assist_category": square(*(value + 0.5 - j for (_, j), value in x_t.items())),
        "reconstruction": square(*(x_r[i] - REAL[i] for i in range(K))),
        "cycle": square(*(value - REAL[i] for (i, _), value in x_cr.items())),
        "cycle_consistency": square(*(x_cr[i, j] - x_cr[i, k] for i, j, k in TRIPLES)),
        "code_consistency": square(*(code_t[i, j] - code[i] for i, j in PAIRS)),
        "code_pairs": square(*(code_t[i, j] - code_t[i, k] for i, j, k in TRIPLES)),
        "outside_real": sum(shares[i] * x_t[i, j] ** 2 for i, j in PAIRS)
        + sum(share * value**2 for share, value in zip(shares, x_r)),
    }
    assert {name: float(loss) for name, loss in losses.items()} == pytest.approx(expected, abs=1e-5)
    for i, j in PAIRS:
        torch.testing.assert_close(images[i, j], flat(x_t[i, j]))
    torch.testing.assert_close(codes[2], flat(code[2], (4, 4)))


def test_the_discriminators_terms_are_those_worked_out_by_hand():
    """Real images to 1 with weight 100, synthetic ones to 0 with 70, translated ones with 10; modalities with 100."""
    method, x_g, x_t = by_hand(), (0.3, 0.5, 0.1, 0.8), {pair: 0.1 * sum(pair) for pair in PAIRS}
    losses = method.discriminator_losses(
        [flat(x) for x in REAL], [flat(x) for x in x_g], {pair: flat(value) for pair, value in x_t.items()}
    )
    expected = {
        "discriminator_real": 100 * square(*(x - 1 for x in REAL)),
        "discriminator_generated": 70 * square(*x_g),
        "discriminator_translated": 10 * square(*x_t.values()),
        "discriminator_category": 100 * square(*(x + 0.5 - i for i, x in enumerate(REAL))),
    }
    assert {name: float(loss) for name, loss in losses.items()} == pytest.approx(expected, rel=1e-5)


def test_a_modality_may_be_one_of_k():
    said = torch.zeros(2, K, 3, 3)
    said[:, 1] = 2.0
    expected = nn.functional.cross_entropy(torch.tensor([[0.0, 2.0, 0.0, 0.0]]), torch.tensor([1]))
    torch.testing.assert_close(category_loss(said, 1, "cross_entropy"), expected)
    assert category_loss(said, 3, "cross_entropy") > category_loss(said, 1, "cross_entropy")


# --- stage 1 (section 2.3) ---------------------------------------------------------------------------------------


def structure_by_hand():
    """EC_f gives codes N(0.5, 0.2²), DC_f maps of the code's mean, MASK says σ of the map's value."""
    method = make()
    length = method.EC_f.mean.out_features
    deviation = 2 * torch.log(torch.tensor(0.2))
    method.EC_f = Says(lambda f: (torch.full((len(f), length), 0.5), torch.full((len(f), length), deviation)))
    method.DC_f = Says(lambda code, sides: code.mean(dim=1).view(-1, 1, 1, 1).expand(-1, 1, *sides))
    method.MASK = Says(lambda f: f)
    method.D_f = Says(lambda f: [f])
    method.FD_f = Says(lambda code: [code.mean(dim=(2, 3))])
    return method, length


def test_the_terms_of_structure_are_those_worked_out_by_hand():
    """Noise 1 makes the code 0.7, and so the map; random codes of -0.4 make maps of -0.4."""
    method, length = structure_by_hand()
    f, mask = flat(1.0), mask_of(0.25)
    noise, code_g = torch.ones(2, length), torch.full((2, length), -0.4)
    losses, code, f_g = method.structure_losses(f, mask, noise, code_g)
    torch.testing.assert_close(code, torch.full((2, length), 0.7))
    torch.testing.assert_close(f_g, flat(-0.4))
    mask_r, mask_g = (float(torch.sigmoid(torch.tensor(value))) for value in (1.0, -0.4))
    expected = {
        "map_code_adversarial": (0.7 - 1) ** 2,
        "map_adversarial": (-0.4 - 1) ** 2,
        "map_normal": 0.5**2 + (0.2 - 1) ** 2,
        "map_reconstruction": (0.7 - 1) ** 2,
        "map_outside": 0.25 * 0.7**2,
        "mask": 0.25 * (mask_r - 1) ** 2 + 0.75 * mask_r**2,
        "mask_outside": mask_r**2 + (0.7 * mask_r) ** 2 + (-0.4 * mask_g) ** 2,
    }
    assert {name: float(loss) for name, loss in losses.items()} == pytest.approx(expected, abs=1e-5)


# --- steps -------------------------------------------------------------------------------------------------------


def batch():
    label = torch.zeros(2, SIDE, SIDE, dtype=torch.int64)
    label[:, 7:9, 7:9] = 1
    return {role: Images(maps.signed(flat(x)), label) for role, x in zip(MultimodalMR.roles, REAL, strict=True)}


def test_the_judges_of_structure_take_maps_of_images_and_noise_for_real():
    """A code of 0.5, without noise, and maps of flat images, which are 0: told apart from what the generators make."""
    method, length = structure_by_hand()
    method.EC_f = Says(lambda f: (torch.full((len(f), length), 5.0), torch.full((len(f), length), -100.0)))
    method.DC_f = Says(lambda code, sides: flat(0.7, sides, len(code)))
    update = Inspected("structure")
    losses = method.step(batch(), update)
    assert float(losses["map_discriminator"]) == pytest.approx((1 + 0.7**2) / 2, abs=1e-5)  # f is 0: (0 - 1)²
    noise = 2 * float(losses["map_code_discriminator"]) - 5.0**2  # mean (m - 1)², m the mean of a normal code
    assert noise == pytest.approx(1, abs=0.6)
    assert list(update.objectives) == [("EC_f", "DC_f", "MASK"), ("D_f", "FD_f")], "generators first"
    judged = losses["map_discriminator"] + losses["map_code_discriminator"]
    torch.testing.assert_close(update.objectives["D_f", "FD_f"], judged)


def test_the_judge_of_codes_takes_those_of_real_images_for_real():
    method, update = by_hand(), Inspected("images")
    losses = method.step(batch(), update)
    real = sum((2 * (x + 0.1) - 1) ** 2 for x in REAL) / K
    assert float(losses["code_discriminator"]) == pytest.approx((real + (2 * 0.2) ** 2) / 2, abs=1e-5)
    assert list(update.objectives) == [("EC_R", "EC_M", "DC_M"), ("D_M", "FD_R"), ("guide",)]
    judged = sum(losses[f"discriminator_{kind}"] for kind in ("real", "generated", "translated", "category"))
    torch.testing.assert_close(update.objectives["D_M", "FD_R"], judged + losses["code_discriminator"])
    torch.testing.assert_close(update.objectives["guide",], losses["lesion_real"])


@pytest.mark.parametrize(("phase", "beta"), [("structure", 0.07), ("images", 0.12)])
def test_each_stage_has_a_threshold_of_its_own_and_generation_that_of_images(phase, beta, monkeypatch):
    asked = []
    plain = maps.structure_map
    monkeypatch.setattr(maps, "structure_map", lambda x, beta: asked.append(beta) or plain(x, beta))
    method = by_hand() if phase == "images" else structure_by_hand()[0]
    method.step(batch(), Inspected(phase))
    assert asked == [beta]
    by_hand().synthesize({"T1": batch()["T1"]})
    assert asked == [beta, 0.12]


# --- what the settings are -------------------------------------------------------------------------------------


def test_the_weights_are_those_of_the_programs_of_september_2019():
    config = MultimodalMRConfig()
    stage_one = ("map_code_adversarial", "map_adversarial", "map_normal", "map_reconstruction", "map_outside", "mask",
                 "mask_outside")  # fmt: skip
    assert [getattr(config, name) for name in stage_one] == [0.1, 100, 0.1, 50, 5, 25, 5]
    generated = ("adversarial", "category", "code_adversarial", "structure", "structure_pairs", "lesion",
                 "registration", "registration_pairs", "semantic", "semantic_pairs", "outside",
                 "outside_translated")  # fmt: skip
    assert [getattr(config, name) for name in generated] == [70, 100, 4, 15, 5, 1, 20, 5, 1, 0.2, 1.5, 1]
    real = ("assist_adversarial", "assist_category", "reconstruction", "cycle", "cycle_consistency",
            "code_consistency", "code_pairs", "outside_real", "discriminator_real")  # fmt: skip
    assert [getattr(config, name) for name in real] == [10, 100, 5, 10, 2, 5, 1, 0.5, 100]
    assert config.lesion_weights == (2.5, 25, 125, 125, 125)
    rules = ("structure_beta", "image_beta", "tau", "margin", "filter_error", "filter_tries", "input_dropout")
    assert [getattr(config, name) for name in rules] == [0.07, 0.12, 0.02, 5, 0.05, 50, 0.1]
    assert (config.guidance, config.class_on_fakes, config.initialisation) == ("4seg", False, "normal")
    assert {(one.lr, one.betas, one.weight_decay) for one in make().optimisers().values()} == {(1e-4, (0.5, 0.999), 0)}


def test_the_networks_at_full_size_are_those_of_the_page():
    with torch.device("meta"):
        method = MultimodalMR(MultimodalMRConfig(), Task(2, 5, lambda: UNet(2, 1, 5)))
    counts = {name: sum(p.numel() for p in network.parameters()) for name, network in method.networks().items()}
    assert counts == {
        "EC_f": 127_387_136, "DC_f": 64_479_233, "MASK": 1_946_305, "EC_R": 10_782_848, "EC_M": 10_770_304,
        "DC_M": 13_148_033, "D_f": 2_762_689, "D_M": 2_770_882, "FD_f": 371_969, "FD_R": 369_985, "guide": 7_785_748,
    }  # fmt: skip

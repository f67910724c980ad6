"""What every method must keep, whoever wrote it: run on each that is installed, in 2D and 3D where it claims both."""

import copy
import dataclasses
import json
import os
import typing
from contextlib import contextmanager, nullcontext

import pytest
import torch

from ganatomy.contracts import UNLABELLED, Images, InputError, Method, Task
from ganatomy.core.plugins import available
from ganatomy.experiment import Choice, Experiment, Training
from ganatomy.training.loop import Loop
from ganatomy.training.optimisation import OptimisationStep
from ganatomy_methods.common.networks import InstanceNorm
from ganatomy_methods.common.segmentors import UNet

VARIANTS = {
    "paired_translation, regression": ("paired_translation", {"adversarial_weight": 0.0}),
    "pseudo_healthy, unpaired, wgan_gp": ("pseudo_healthy", {"supervision": "unpaired", "adversarial": "wgan_gp",
                                                             "discriminator_updates": 2, "long_skips": True}),
    "pseudo_healthy, mixed, first_norm off": ("pseudo_healthy", {"supervision": "mixed", "long_skips": True,
                                                                 "discriminator_first_norm": False}),
}  # fmt: skip
"""Name -> method and settings: what of a method takes another way through its step than its defaults do."""

SIDES = {2: (16, 16), 3: (16, 16, 8)}
CLASSES = 3
SMALL = {"width": 0.05, "discriminator_layers": 1, "residual_blocks": 1, "segmentor_scales": 1, "sampling_steps": 2}
"""Settings, where a method has them, that make it small enough for these tests."""


def experiment(name, **settings):
    method, own = VARIANTS.get(name, (name, {}))
    plain = Experiment("", {}, method=Choice(method))
    fields = {field.name for field in dataclasses.fields(plain.method_class().Config)}
    settings = {**{key: value for key, value in SMALL.items() if key in fields}, **own, **settings}
    return dataclasses.replace(plain, method=Choice(method, settings))


METHODS = os.environ.get("CONTRACT_METHODS", "").split() or sorted({*available("methods"), *VARIANTS})
"""All that is installed, or those of ``CONTRACT_METHODS``: names or dotted paths ``package.module:Class``."""

CASES = [
    pytest.param(name, ndim, id=f"{name}-{ndim}d")
    for name in METHODS
    for ndim in sorted(experiment(name).method_class().ndims)[: 1 if name in VARIANTS else None]
]


def lowest(name):
    """The smaller of the method's dimensions, for what does not depend on them."""
    return min(experiment(name).method_class().ndims)


def make(name, ndim, seed=0, **settings):
    torch.manual_seed(seed)
    task = Task(ndim, CLASSES, lambda: UNet(ndim, 1, CLASSES, width=4))
    chosen = experiment(name, **settings)
    return chosen.method_class()(chosen.method_config(), task)


def batch_for(method, ndim, count=2, seed=0, dtype=torch.float32, sides=None):
    generator = torch.Generator().manual_seed(seed)
    sides = sides or SIDES[ndim]
    return {
        role: Images(
            torch.rand(count, 1, *sides, generator=generator, dtype=dtype) * 2 - 1,
            torch.randint(0, CLASSES, (count, *sides), generator=generator),
            tuple(f"{role}{i}" for i in range(count)),
        )
        for role in (*method.roles, *method.second_draws)
    }


def part(batch, which):
    return {role: Images(images.image[which], images.label[which]) for role, images in batch.items()}


def weights(module):
    """Copies of all tensors; replay pools, which are no tensors, apart."""
    return {key: value.clone() for key, value in module.state_dict().items() if isinstance(value, torch.Tensor)}


def phases_of(method):
    return method.phases(40, 40)


class Watched:
    """The loop's own update, which also records what each step did to every network."""

    def __init__(self, method, phase, learn=True):
        self.method, self.phase, self.learn = method, phase, learn
        self.inner = OptimisationStep(method.networks(), method.optimisers())
        self.steps = []  # (named networks, networks that changed, network -> parameter name -> gradient)

    @contextmanager
    def __call__(self, *names):
        networks = self.method.networks()
        for parameter in self.method.parameters():
            parameter.grad = None
        before = {name: weights(network) for name, network in networks.items()}
        if self.learn:
            with self.inner(*names) as minimise:
                yield minimise
        else:
            for name, network in networks.items():
                network.requires_grad_(name in names)
            yield lambda loss: loss.backward()
            self.method.requires_grad_(True)
        changed = {
            name
            for name, network in networks.items()
            if any(not torch.equal(value, before[name][key]) for key, value in network.state_dict().items())
        }
        gradients = {
            name: {key: None if p.grad is None else p.grad.clone() for key, p in network.named_parameters()}
            for name, network in networks.items()
        }
        self.steps.append((set(names), changed, gradients))


def steps_in_every_phase(method, batch, learn=True):
    """(phase, what its one step recorded, losses) for each phase of the schedule."""
    for phase in phases_of(method):
        update = Watched(method, phase.name, learn)
        losses = method.step(batch, update)
        yield phase, update.steps, losses


def test_there_are_methods_to_test():
    assert {"shape_consistent", "cyclegan"} <= set(available("methods"))


@pytest.mark.parametrize(("name", "ndim"), CASES)
def test_only_the_named_networks_change_and_all_are_named_somewhere(name, ndim):
    method = make(name, ndim)
    batch, learnt = batch_for(method, ndim), set()
    for _, steps, losses in steps_in_every_phase(method, batch):
        assert steps
        for named, changed, _ in steps:
            assert changed == named
            learnt |= named
        for loss in losses.values():
            assert loss.dim() == 0
            assert torch.isfinite(loss)
    assert learnt == set(method.networks())


@pytest.mark.parametrize(("name", "ndim"), CASES)
def test_gradients_reach_every_parameter_in_its_own_step_and_none_in_another(name, ndim):
    """T-A8. A bias before an instance normalisation is exempt: the normalisation takes it out again."""
    method = make(name, ndim)
    for phase, steps, _ in steps_in_every_phase(method, batch_for(method, ndim)):
        for named, _, gradients in steps:
            for network, parameters in gradients.items():
                modules = method.networks()[network].modules()
                normalised = any(isinstance(m, InstanceNorm) for m in modules)
                for key, gradient in parameters.items():
                    where = f"{network}.{key} in the step of {sorted(named)}, phase {phase.name}"
                    if network not in named:
                        assert gradient is None, where
                        continue
                    assert gradient is not None, where
                    assert torch.isfinite(gradient).all(), where
                    assert gradient.abs().max() > 0 or (normalised and gradient.dim() == 1), where


@pytest.mark.parametrize(("name", "ndim"), CASES)
def test_gradient_of_a_batch_is_the_mean_of_its_samples_gradients(name, ndim):
    """T-A6 in one process: what makes N workers equal one worker on the N batches together, unlabelled images too."""
    method = make(name, ndim).double().eval()  # without the noise of training: it differs from sample to sample
    batch = batch_for(method, ndim, dtype=torch.float64)
    batch[method.roles[-1]].label[1] = UNLABELLED
    shares = (batch, part(batch, slice(0, 1)), part(batch, slice(1, 2)))
    together, first, second = (
        [steps for _, steps, _ in steps_in_every_phase(copy.deepcopy(method), share, learn=False)] for share in shares
    )
    for phase in range(len(together)):
        for (named, _, whole), (_, _, one), (_, _, other) in zip(
            together[phase], first[phase], second[phase], strict=True
        ):
            for network in named:
                for key, gradient in whole[network].items():
                    mean = (one[network][key] + other[network][key]) / 2
                    torch.testing.assert_close(gradient, mean, rtol=1e-5, atol=1e-9, msg=f"{network}.{key}")


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("steps", [(40, 40), (41, 40), (60, 73)])
def test_the_schedule_spends_exactly_the_budget(name, steps):
    generator_steps, segmentor_steps = steps
    ndim = lowest(name)
    method = make(name, ndim)
    batch, updates = batch_for(method, ndim), dict.fromkeys(method.networks(), 0)
    for phase in method.phases(generator_steps, segmentor_steps):
        assert phase.steps > 0
        update = Watched(method, phase.name)
        method.step(batch, update)
        for named, _, _ in update.steps:
            for network in named:
                updates[network] += phase.steps
    assert {updates[network] for network in method.generators} == {generator_steps}
    segmentors = [f"S_{role}" for role in method.roles] if method.trains_segmentors else []
    assert {updates[network] for network in segmentors} <= {segmentor_steps}


@pytest.mark.parametrize("name", METHODS)
def test_networks_have_optimisers_and_generators_and_segmentors_exist(name):
    method = make(name, lowest(name))
    assert isinstance(method, Method)
    assert set(method.optimisers()) == set(method.networks())
    assert set(method.generators) <= set(method.networks())
    for role in method.roles:
        with nullcontext() if method.trains_segmentors else pytest.raises(InputError):
            assert method.segmentor(role) is method.networks()[f"S_{role}"]


@pytest.mark.parametrize("name", METHODS)
def test_settings_survive_json_and_cannot_be_changed(name):
    chosen = experiment(name)
    config = chosen.method_config()
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    full = dataclasses.replace(chosen, method=Choice(chosen.method.name, values))
    read = Experiment.from_dict(json.loads(json.dumps(full.to_dict())))
    assert read.method_config() == config
    assert read.digest() == full.digest()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, next(iter(values)), None)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in VARIANTS])
def test_every_choice_that_the_settings_offer_trains(name):
    config = experiment(name).method_config()
    for setting, hint in typing.get_type_hints(type(config)).items():
        choices = (False, True) if hint is bool else typing.get_args(hint)
        for choice in choices if typing.get_origin(hint) is typing.Literal or hint is bool else ():
            if (setting, choice) == ("final_activation", "sigmoid") and getattr(config, "adversarial", "") == "wgan_gp":
                continue  # refused, see test_pseudo_healthy
            method = make(name, lowest(name), **{setting: choice})
            for _, steps, _ in steps_in_every_phase(method, batch_for(method, lowest(name), count=1)):
                assert all(changed == named for named, changed, _ in steps)


@pytest.mark.parametrize(("name", "ndim"), CASES)
def test_synthetic_images_keep_the_geometry_and_say_where_they_come_from(name, ndim):
    method = make(name, ndim)
    sides = (16, 24) if ndim == 2 else (16, 8, 24)
    batch = batch_for(method, ndim, sides=sides)
    before = weights(method)
    made = method.synthesize(batch)
    assert made
    for item in made:
        assert item.image.shape == batch[item.source].image.shape
        assert item.image.dtype == torch.float32
        assert item.image.abs().max() <= 1
        assert not item.image.requires_grad
        assert item.role in method.roles
        assert (item.kind == "reconstructed") == (item.role == item.source)
    for again, item in zip(method.synthesize(batch), made, strict=True):
        assert torch.equal(again.image, item.image)
    assert all(torch.equal(value, before[key]) for key, value in weights(method).items())


@pytest.mark.parametrize(("name", "ndim"), CASES)
def test_one_role_alone_is_translated_as_in_company(name, ndim):
    method = make(name, ndim).eval()
    batch = batch_for(method, ndim)
    company = method.synthesize(batch)
    for role in method.roles:
        alone = method.synthesize({role: batch[role]})
        expected = [item for item in company if item.source == role]
        assert [(item.role, item.kind) for item in alone] == [(item.role, item.kind) for item in expected]
        for one, other in zip(alone, expected, strict=True):
            assert torch.equal(one.image, other.image)


@pytest.mark.parametrize(("name", "ndim"), CASES)
def test_a_batch_of_two_is_two_batches_of_one(name, ndim):
    """T-A5, on whole methods; and to the last bit the same in training as in evaluation."""
    method = make(name, ndim)
    batch = batch_for(method, ndim)
    together = method.synthesize(batch)
    for trained, evaluated in zip(together, method.eval().synthesize(batch), strict=True):
        assert torch.equal(trained.image, evaluated.image)
    first, second = (method.synthesize(part(batch, slice(i, i + 1))) for i in range(2))
    for whole, one, other in zip(together, first, second, strict=True):
        torch.testing.assert_close(torch.cat([one.image, other.image]), whole.image, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "ndim"), CASES)
def test_what_is_drawn_from_noise_is_registered_and_a_function_of_seed_and_number(name, ndim):
    method = make(name, ndim).eval()
    labels = torch.zeros(2, *SIDES[ndim], dtype=torch.int64)
    labels[(slice(None), *(slice(side // 2 - 2, side // 2 + 2) for side in SIDES[ndim]))] = 1
    if not method.draws_from_noise:
        with pytest.raises(InputError, match="draws no images of noise"):
            method.draw(labels, (0,), seed=0)
        return
    drawn, one = method.draw(labels, (2, 0, 1), seed=5), method.draw(labels, (0,), seed=5)
    assert set(drawn.images) <= set(method.roles)
    for role, images in drawn.images.items():
        assert images.dtype == torch.float32
        assert images.shape == (3, 1, *SIDES[ndim])
        assert images.abs().max() <= 1
        assert torch.equal(one.images[role][0], images[1])
        assert not torch.equal(images[0], images[1])
    assert torch.equal(one.label[0], drawn.label[1])
    assert drawn.label.shape == (3, *SIDES[ndim])
    assert drawn.outside is None or drawn.outside.shape == drawn.label.shape
    assert set(drawn.donors) <= {0, 1}
    assert {len(drawn.accepted), len(drawn.donors), *map(len, drawn.figures.values())} == {3}


class Interrupted(Exception):
    pass


class Folder:
    """A reporter that keeps checkpoints in a folder and can stop the training after one of them."""

    def __init__(self, directory, stop=False):
        self.directory, self.stop = directory, stop

    def report(self, history, save):
        self.directory.mkdir(exist_ok=True)
        save(self.directory)
        if self.stop:
            raise Interrupted

    def latest(self):
        return nullcontext(self.directory if self.directory.exists() else None)


class Draws:
    def __init__(self, method, ndim):
        self.method, self.ndim = method, ndim

    def batch(self, step, rank=0, world=1):
        return batch_for(self.method, self.ndim, count=1, seed=step)


@pytest.mark.parametrize(("name", "ndim"), CASES)
def test_training_is_the_same_for_the_same_seed_and_when_resumed(name, ndim, tmp_path):
    """T-A7: an interrupted run ends with the same bits as one that was not, replay pools included."""

    def train(directory, stop=False):
        settings = {"pool_size": 2} if hasattr(experiment(name).method_config(), "pool_size") else {}
        method = make(name, ndim, **settings)
        loop = Loop(
            method,
            Draws(method, ndim),
            method.phases(6, 6),
            training=Training(precision="fp32"),
            batch=1,
            reports=2,
            seed=0,
        )
        return loop.run(Folder(directory, stop))

    whole = train(tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(tmp_path / "parts", stop=True)
    resumed = train(tmp_path / "parts")
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[key], value, rtol=0, atol=0, msg=key)


def test_a_dimension_that_a_method_does_not_know_is_refused():
    for name in METHODS:
        with pytest.raises(InputError, match="cannot work in 4D"):
            make(name, 4)

"""Moving averages of weights: whose they are, how they begin, and that training goes on with its own."""

import pytest
import torch

from ganatomy.experiment import Training

from .test_loop import Forgetful, make_loop


@pytest.mark.parametrize(("ema", "average", "averaged"), [(0.9, 0.0, "G"), (0.0, 0.9, "D"), (0.9, 0.5, "GD")])
def test_moving_averages_are_the_recursion_each_of_its_own_networks(ema, average, averaged):
    """Of generators, and of what the synthetic data is for; the first of a training's weights soon forgotten."""
    loop = make_loop(steps=30, training=Training(ema=ema), reports=1, average=average)
    decays = {"G": ema, "D": average}
    start = loop.final_weights()
    expected = {name: value.clone() for name, value in start.items() if name[0] in averaged}
    for step in range(30):
        loop._one_step()
        for name, value in expected.items():
            decay = min(decays[name[0]], (1 + step) / (10 + step))
            value.lerp_(loop.method.state_dict()[name], 1 - decay)
    final = loop.final_weights()
    for name, value in final.items():
        torch.testing.assert_close(value, expected.get(name, loop.method.state_dict()[name]))
    assert sorted({name[0] for name in expected}) == sorted(averaged)


def test_an_average_forgets_how_a_training_began():
    final = []
    for further in (0.0, 1.0):
        loop = make_loop(steps=60, training=Training(ema=0.99), reports=1)
        loop.average = {name: value + further for name, value in loop.average.items()}
        for _ in range(60):
            loop._one_step()
        final.append(loop.final_weights()["G.0.weight"])
    first, second = final
    assert float((first - second).abs().max()) < 1e-4 < 0.99**60


@pytest.mark.parametrize(("ema", "average", "name"), [(0.99, 0.0, "G.0.weight"), (0.0, 0.99, "D.weight")])
def test_validation_sees_averaged_weights_and_training_goes_on_with_its_own(ema, average, name):
    seen = []

    def validate(method, step):
        seen.append(method.state_dict()[name].clone())
        assert not method.training
        torch.rand(5)  # validation must not disturb the training's random stream
        return {"val/dice": 0.5}

    loop = make_loop(training=Training(ema=ema), average=average, validate=validate)
    loop.run(Forgetful())
    assert torch.equal(seen[-1], loop.average[name])
    assert not torch.equal(seen[-1], loop.method.state_dict()[name])
    plain = make_loop(training=Training(ema=ema), average=average)
    plain.run(Forgetful())
    assert torch.equal(plain.method.state_dict()[name], loop.method.state_dict()[name])
    assert torch.equal(plain.average[name], loop.average[name])

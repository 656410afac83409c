"""Classifier-free guidance against closed forms: mixtures whose components are the classes."""

import pytest
import torch

from betadiffusion.guidance import guided
from betadiffusion.levels import uniform
from betadiffusion.oracle import MixtureOracle, example_path
from betadiffusion.samplers import METHODS, sample

A, SIGMA = example_path()
WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)
MEANS = torch.tensor([[2.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
COVARIANCES = torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.1, 0.0], [0.0, 0.4]]], dtype=torch.float64)
EVERY = MixtureOracle(WEIGHTS, MEANS, COVARIANCES, A, SIGMA)
CLASSES = [MixtureOracle(torch.ones(1, dtype=torch.float64), MEANS[k, None], COVARIANCES[k, None], A, SIGMA)
           for k in (0, 1)]  # fmt: skip


def noise(count=64, seed=0):
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_condition(calls=None):
    """The mixture as a network: condition (B,) is a class, or -1 for none; notes the size of every pass."""

    def predict(z, t, s, condition):
        if calls is not None:
            calls.append(len(z))
        eps, delta = EVERY.predict(z, t, s)
        for k, oracle in enumerate(CLASSES):
            own = (condition == k)[:, None]
            eps, delta = (torch.where(own, a, b) for a, b in zip(oracle.predict(z, t, s), (eps, delta), strict=True))
        return eps, delta

    return predict


def guided_by(one, other, weight, interval=(0.0, 1.0)):
    """`guided` for two functions of (z, t, s): the conditional prediction and the unconditional one."""

    def network(z, t, s, condition):
        parts = [predict(z[condition == k], t, s) for k, predict in ((1, one), (0, other)) if (condition == k).any()]
        return tuple(map(torch.cat, zip(*parts, strict=True)))

    return lambda z, t, s: guided(network, torch.ones(len(z)), torch.zeros(len(z)), weight, interval)(z, t, s)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("level", [0.2, 0.5, 0.9])
def test_guided_eps_is_the_score_of_the_sharpened_density(weight, level):
    t, z = torch.tensor(level, dtype=torch.float64), noise().requires_grad_()
    eps, _ = guided_by(CLASSES[0].predict, EVERY.predict, weight)(z, t, t / 2)
    log_p, log_p_class = EVERY.log_density(z, t), CLASSES[0].log_density(z, t)
    sharpened = log_p + weight * (log_p_class - log_p)  # of p(z) (p(z|c) / p(z))^weight, up to a constant
    (score,) = torch.autograd.grad(sharpened.sum(), z)
    torch.testing.assert_close(eps, -SIGMA(t) * score)


def test_guided_delta_is_the_change_of_encoding_of_the_guided_eps():
    # E[x | z] = (z - sigma eps) / a for every one of them, so it must hold for the mixture of two
    t, s, z, weight = torch.tensor(0.6, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64), noise(), 3.0
    eps, delta = guided_by(CLASSES[0].predict, EVERY.predict, weight)(z, t, s)
    torch.testing.assert_close(delta, (A(s) - A(t)) * (z - SIGMA(t) * eps) / A(t))


@pytest.mark.parametrize("method", METHODS)
def test_weight_1_is_conditional_and_weight_0_unconditional_sampling(method):
    levels = uniform(8).double()
    for weight, alone in ((1.0, CLASSES[1]), (0.0, EVERY)):
        predict = guided_by(CLASSES[1].predict, EVERY.predict, weight)
        walked = sample(predict, noise(), levels, SIGMA, method=method)
        torch.testing.assert_close(walked, sample(alone.predict, noise(), levels, SIGMA, method=method))


@pytest.mark.parametrize("high", [0.3, 0.6, 0.8, 0.9])
@pytest.mark.parametrize("method", METHODS)
def test_the_ends_of_the_interval_are_guided_whatever_the_method(method, high):
    asked = []

    def unconditional(z, t, s):
        asked.append(float(t))
        return EVERY.predict(z, t, s)

    predict = guided_by(CLASSES[0].predict, unconditional, 2.0, (0.0, high))
    sample(predict, noise(4), uniform(4, high).double(), SIGMA, method=method)
    assert max(asked) == pytest.approx(high)


def test_conditional_samples_are_of_the_class_and_guided_ones_nearer_its_own_side():
    levels, z = uniform(40).double(), noise(2000)
    means = [sample(guided_by(CLASSES[0].predict, EVERY.predict, w), z, levels, SIGMA).mean(0) for w in (0.0, 1.0, 3.0)]
    torch.testing.assert_close(means[1], MEANS[0], atol=0.06, rtol=0)
    away = MEANS[0] - MEANS[1]
    assert means[0] @ away < means[1] @ away < means[2] @ away


def test_one_pass_equals_two_and_costs_twice_the_batch_only_where_it_must():
    t, s, z = torch.tensor(0.6, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64), noise(5)
    condition, null = torch.tensor([0, 1, 1, 0, -1]), torch.full((5,), -1)
    for weight, interval, passes in (
        (2.5, (0.0, 1.0), [10]),
        (2.5, (0.5, 0.6001), [10]),
        (2.5, (0.7, 1.0), [5]),
        (1.0, (0.0, 1.0), [5]),
    ):
        calls = []
        eps, delta = guided(by_condition(calls), condition, null, weight, interval)(z, t, s)
        assert calls == passes
        two = guided_by(
            lambda z, t, s: by_condition()(z, t, s, condition), EVERY.predict, weight, interval
        )(z, t, s)  # fmt: skip
        torch.testing.assert_close((eps, delta), two)


def test_guidance_holds_within_the_interval_and_the_condition_alone_outside():
    z = noise()
    predict = guided_by(CLASSES[0].predict, EVERY.predict, 3.0, (0.3, 0.7))
    for level, inside in ((0.2, False), (0.3, True), (0.5, True), (0.7, True), (0.8, False)):
        t = torch.tensor(level, dtype=torch.float64)
        same = torch.equal(predict(z, t, t / 2)[0], CLASSES[0].predict(z, t, t / 2)[0])
        assert same is not inside


@pytest.mark.parametrize("interval", [(0.7, 0.3), (-0.1, 1.0), (0.0, 1.5)])
def test_an_interval_that_is_none_is_refused(interval):
    with pytest.raises(ValueError, match="guidance interval is two levels"):
        guided(by_condition(), torch.zeros(1), torch.zeros(1), 2.0, interval)

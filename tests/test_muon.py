"""Muon: steps are orthogonal, of AdamW's size, and of convolutions alone."""

import pytest
import torch
from torch import nn

from betadiffusion.training.muon import Muon, filters, orthogonalised


def random_matrix(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (32, 32), (16, 200)])
def test_singular_values_become_about_one_and_singular_vectors_stay(shape: tuple[int, int]) -> None:
    u, _, vh = torch.linalg.svd(random_matrix(*shape), full_matrices=False)
    values = torch.logspace(0, -1.5, len(vh))
    made = u.T @ orthogonalised(u @ torch.diag(values) @ vh) @ vh.T
    assert made.diagonal().min() > 0.65
    assert made.diagonal().max() < 1.25
    assert (made - torch.diag(made.diagonal())).abs().max() < 1e-3


def test_orthogonalised_is_the_newton_schulz_iteration_as_it_is_written() -> None:
    x = random_matrix(12, 50).double()
    made = orthogonalised(x)
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    assert torch.allclose(made, x, atol=1e-9)


def test_orthogonalised_knows_no_scale_and_commutes_with_the_transpose() -> None:
    x = random_matrix(10, 30)
    assert torch.allclose(orthogonalised(1e-6 * x), orthogonalised(x), atol=1e-4)
    assert torch.allclose(orthogonalised(x.T), orthogonalised(x).T, atol=1e-5)
    assert torch.equal(orthogonalised(torch.zeros(4, 6)), torch.zeros(4, 6))


def group(weight: nn.Parameter, **given: float) -> dict[str, object]:
    return {"params": [weight], "lr": 0.1, "weight_decay": 0.0} | given


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (16, 4, 4, 4)])
def test_a_step_has_the_size_of_adamws(shape: tuple[int, ...]) -> None:
    weight = nn.Parameter(torch.zeros(shape))
    weight.grad = 1e3 * random_matrix(*shape)
    Muon([group(weight)]).step()
    assert 0.75 < weight.square().mean().sqrt() / (0.1 * 0.2) < 1.15
    assert (weight * weight.grad).sum() < 0


def test_a_filter_bank_moves_as_its_matrix_does_however_it_lies_in_memory() -> None:
    gradient = random_matrix(16, 8, 4, 4)
    moved = []
    filters = torch.zeros(16, 8, 4, 4)
    for zeros in (torch.zeros(16, 128), filters, filters.to(memory_format=torch.channels_last)):
        weight = nn.Parameter(zeros)
        weight.grad = gradient.reshape(weight.shape)
        Muon([group(weight)]).step()
        moved.append(weight.detach().reshape(16, 128))
    assert torch.equal(moved[0], moved[1])
    assert torch.allclose(moved[0], moved[2], atol=1e-6)


def test_decay_is_apart_from_the_step_and_what_has_no_gradient_stays() -> None:
    still, decayed = nn.Parameter(torch.ones(8, 8)), nn.Parameter(torch.ones(8, 8))
    decayed.grad = torch.zeros(8, 8)
    Muon([group(still, weight_decay=0.5), group(decayed, weight_decay=0.5)]).step()
    assert torch.equal(still, torch.ones(8, 8))
    assert torch.allclose(decayed, torch.full((8, 8), 0.95))


def test_momentum_outlasts_a_gradient_that_is_gone() -> None:
    weight = nn.Parameter(torch.zeros(8, 32))
    optimizer = Muon([group(weight)])
    weight.grad = random_matrix(8, 32)
    optimizer.step()
    first = weight.detach().clone()
    weight.grad = torch.zeros(8, 32)
    optimizer.step()
    assert torch.allclose(weight, 2 * first, atol=1e-5)  # the same direction, and a direction has no length


def test_it_finds_the_least_squares_of_a_badly_scaled_problem_sooner_than_gradient_descent() -> None:
    """|A W - B|^2 with columns of A from 1 to 0.01: Muon moves along weak directions as along strong ones."""
    a = random_matrix(64, 16) * torch.logspace(0, -2, 16)
    target = random_matrix(16, 24, seed=1)
    errors = {}
    for name, make in (("muon", lambda w: Muon([group(w)])), ("sgd", lambda w: torch.optim.SGD([w], lr=1e-2))):
        weight = nn.Parameter(torch.zeros(16, 24))
        optimizer = make(weight)
        for step in range(200):
            for of in optimizer.param_groups:
                of["lr"] *= 1 - 1 / (200 - step + 1)
            weight.grad = a.T @ (a @ weight.detach() - a @ target)
            optimizer.step()
        errors[name] = float((weight.detach() - target).square().mean() / target.square().mean())
    assert errors["muon"] < 0.2 * errors["sgd"]


def test_filters_are_of_convolutions_and_not_thin() -> None:
    model = nn.ModuleDict({
        "conv": nn.Conv2d(8, 16, 3), "up": nn.ConvTranspose2d(16, 8, 4), "linear": nn.Linear(16, 8),
        "norm": nn.GroupNorm(2, 8), "pixels": nn.Conv2d(16, 3, 3),
    })  # fmt: skip
    assert filters(model) == {model["conv"].weight, model["up"].weight}


def test_momentum_looks_ahead_as_nesterovs() -> None:
    weight, gradients = nn.Parameter(torch.zeros(10, 30)), [random_matrix(10, 30, seed=seed) for seed in (0, 1)]
    optimizer = Muon([group(weight)])
    for gradient in gradients:
        before, weight.grad = weight.detach().clone(), gradient
        optimizer.step()
    momentum = torch.zeros(10, 30).lerp(gradients[0], 0.05).lerp(gradients[1], 0.05)
    expected = orthogonalised(gradients[1].lerp(momentum, 0.95))
    torch.testing.assert_close(before - weight, 0.1 * 0.2 * 30**0.5 * expected, rtol=1e-4, atol=1e-6)

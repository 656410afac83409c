"""A flow map that learns from another denoiser's walks: the closed form, where it lands, resuming, what is refused."""

import copy
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from betadiffusion import samplers
from betadiffusion.cli.checks import check
from betadiffusion.data import Subset, load
from betadiffusion.models.denoiser import NonlinearDenoiser
from betadiffusion.models.vae import MultiBetaVAE
from betadiffusion.pipelines.walk_levels import walk_levels
from betadiffusion.training.config import OptimisationConfig, RunConfig
from betadiffusion.training.distillation_stage import PART, WALK_STEPS, DistillationStage
from betadiffusion.training.trainer import Trainer
from gaussian_cases import KNOTS, untrained
from test_conditioning import generator, scatter
from test_denoising import CPU, whole_and_resumed

SHAPE = {"latent_shape": (4, 1, 1), "width": 32, "depth": 2, "knots": KNOTS, "sigma_knots": 1025}


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return MultiBetaVAE(sample_size=16, channels=(8, 16), latent_channels=4, embedding_dim=16, knots=1025).eval()


def stage_of(vae, teacher, count=PART + 200, seed=0):
    """A flow map that so far is the Gaussian part of f = cos(pi t / 2) x, and what teaches it."""
    torch.manual_seed(0)
    images = Subset(load("shapes", size=16), np.arange(0, 480_000, 12_000)).keep()
    model = NonlinearDenoiser(**SHAPE, prediction="flow_map")
    held_out = Subset(images, np.arange(4))
    stage = DistillationStage(model, vae, images, held_out, CPU, copy.deepcopy(teacher), count=count, seed=seed)
    model.preconditioning.load_state_dict(untrained("flow_map").preconditioning.state_dict())
    return stage


def bent():
    """A teacher whose network says something: its walks are no Gaussian's."""
    teacher = NonlinearDenoiser(**SHAPE)
    teacher.preconditioning.load_state_dict(untrained("velocity").preconditioning.state_dict())
    scatter(teacher.network)
    return teacher


def test_the_exact_flow_map_has_no_error(vae):
    """The Gaussian part of "velocity" walks to where that of "flow_map" lands, which is the ODE's closed form."""
    errors = []
    for teacher in (untrained("velocity"), bent()):
        stage = stage_of(vae, teacher)
        draws = stage.draw(2_000, generator())
        with torch.no_grad():
            errors.append(stage.losses(stage.model, None, draws))
    exact, wrong, near = *errors, draws[1] == draws[2]
    for steps in (near, ~near):
        assert exact[steps].mean() < 1e-3 * wrong[steps].mean()
        assert exact[steps].max() < 0.1 * wrong[steps].mean()


def test_steps_go_down_a_walk_from_every_place_to_every_other(vae):
    stage = stage_of(vae, untrained("velocity"), count=2 * PART)
    walk, start, land = stage.draw(50_000, generator())
    assert (walk.min(), walk.max()) == (0, 2 * PART - 1)
    far = start < land
    assert float(far.float().mean()) == pytest.approx(0.75, abs=0.01)
    assert (start <= land).all()
    assert len(set(zip(start[far].tolist(), land[far].tolist(), strict=True))) == WALK_STEPS * (WALK_STEPS + 1) // 2
    assert stage.walks.shape == (2 * PART, WALK_STEPS + 1, 4, 1, 1)
    one, other = stage.walk_levels
    assert (one[0], one[-1]) == (other[0], other[-1]) == (1, 0)
    assert (one.diff() < 0).all()
    assert (one[1:-1] != other[1:-1]).all()
    again = stage_of(vae, untrained("velocity"), count=2 * PART)
    again.draw(1, generator())
    assert torch.equal(again.walks, stage.walks)


OPTIMISATION = OptimisationConfig(
    images=60_000, batch_size=256, learning_rate=5e-3, muon_rate=0, warmup_images=2_560, ema_images=2_000,
    validate_images=60_000, checkpoint_images=30_000,
)  # fmt: skip


def trained(vae, folder, count=3 * PART, **changes):
    stage = stage_of(vae, bent(), count)
    config = OptimisationConfig(**(vars(OPTIMISATION) | changes))
    return Trainer(stage, config, folder, accelerator=Accelerator(cpu=True), seed=0, identity={})


def test_one_evaluation_lands_where_the_teachers_walk_ends(vae, tmp_path):
    trainer = trained(vae, tmp_path)
    teacher, noise = trainer.stage.teacher, torch.randn(500, 4, 1, 1, generator=generator())
    levels = walk_levels(teacher, vae.schedule, "fitted", 50)
    expected = samplers.sample(teacher.predict, noise, levels, teacher.sigma, method="heun")

    def error(model):
        landed = samplers.sample(model.predict, noise, torch.tensor([1.0, 0.0]), model.sigma, method="euler")
        return float((landed - expected).square().mean())

    before = error(trainer.plain)  # by the teacher's weights
    assert error(trainer.fit()) < 0.2 * before


def test_a_killed_training_goes_on_to_the_same_weights(vae, tmp_path):
    few = {"count": 64, "images": 1_024, "validate_images": 1_024, "checkpoint_images": 512}
    whole_and_resumed(partial(trained, vae, **few), tmp_path, 512)


@pytest.mark.parametrize("count", [1, 3])
def test_a_walk_is_of_what_its_image_is_asked_for(vae, count):
    stage = stage_of(vae, untrained("velocity"))
    stage.draw(1, generator())  # the first one walks
    stage.conditions = SimpleNamespace(at=lambda images, draws: torch.from_numpy(images) + draws)
    stage.walk_draws = torch.zeros(len(stage.walk_images), dtype=torch.int64)
    walks = torch.arange(count)
    assert stage._condition(walks).tolist() == stage.walk_images[:count].tolist()


def test_a_teacher_that_does_not_fit_is_refused(vae):
    with pytest.raises(ValueError, match="a denoiser of the velocity teaches a flow map"):
        stage_of(vae, untrained("flow"))


@pytest.mark.parametrize(
    ("changes", "stages", "text"),
    [
        ({"prediction": "velocity"}, ["diffusion"], "teaches diffusion.prediction 'flow_map', not 'velocity'"),
        ({"teacher": "nowhere"}, ["diffusion"], "must be the folder of a run with a pipeline, not nowhere"),
        ({}, ["vae", "diffusion"], "has a VAE of its own: leave stage 'vae' out"),
        ({"weighting": "sigma"}, ["diffusion"], "diffusion.weighting has no effect with diffusion.teacher"),
        ({"teacher": None, "walks": 7}, ["diffusion"], "diffusion.walks has no effect without diffusion.teacher"),
        ({"walks": 0}, ["diffusion"], "diffusion.walks must be positive, not 0"),
    ],
)
def test_options_that_do_not_go_together(changes, stages, text, tmp_path):
    (tmp_path / "teacher" / "pipeline").mkdir(parents=True)
    config = RunConfig(stages=stages, out=str(tmp_path / "run"))
    for key, value in ({"prediction": "flow_map", "teacher": str(tmp_path / "teacher")} | changes).items():
        setattr(config.diffusion, key, value)
    with pytest.raises(ValueError, match=text):
        check(config)

"""Configurations: what cannot work is refused in one sentence before any work, and the committed files can work."""

from pathlib import Path

import pytest
import yaml

from betadiffusion.cli import checks, commands, parsing
from betadiffusion.training.config import RunConfig
from betadiffusion.training.files import flat

CONFIGS = sorted(Path(__file__).parents[1].joinpath("configs").glob("*.yaml"))
NUMERIC = [
    key
    for key, value in flat(RunConfig()).items()
    if isinstance(value, (int, float, list, tuple))
    and not isinstance(value, bool)
    and key not in ("stages", "trackers")
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def changed(**values):
    """A RunConfig with some keys changed; a double underscore stands for the dot."""
    config = RunConfig()
    for key, value in values.items():
        *sections, name = key.split("__")
        owner = config
        for section in sections:
            owner = getattr(owner, section)
        assert hasattr(owner, name)
        setattr(owner, name, value)
    return config


@pytest.mark.parametrize("key", NUMERIC)
@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf")])
def test_every_number_has_a_range(key, bad):
    value = flat(RunConfig())[key]
    bad = type(value)([bad, bad]) if isinstance(value, (list, tuple)) else bad
    with pytest.raises(ValueError, match=key):
        checks.check(changed(**{key.replace(".", "__"): bad}))


@pytest.mark.parametrize("key", [key for key in NUMERIC if key.rpartition(".")[2] not in checks.MAY_BE_ZERO])
def test_sizes_and_counts_are_not_zero(key):
    with pytest.raises(ValueError, match=f"{key} must be positive, not 0"):
        checks.check(changed(**{key.replace(".", "__"): 0}))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"vae_training__batch_size": 100, "vae_training__accumulation": 3}, "batch_size 100 cannot be divided into"),
        ({"data__limit": 2000}, "data.held_out 2000 must be below data.limit 2000"),
        ({"stages": []}, "stages must be one or more of"),
        ({"stages": ["diffusion", "vae"]}, "in this order"),
        ({"stages": ["vae", "vae"]}, "each once"),
        ({"report__levels": []}, "report.levels must be one or more levels from 0 to 1"),
        ({"report__count": 1}, "report.count must be at least 2, not 1"),
        ({"report__feature_size": 4096}, "report.feature_size must be at most 1024 pixels"),
        ({"stages": ["vae", "decoder"], "decoder__walked": 0.5}, "decoder.walked needs a denoiser"),
        (
            {"vae__sigma_from": "level", "stages": ["joint"], "levels__start_power": 1.0, "levels__free_nats": 1.0},
            "levels.free_nats has no effect with stage 'joint'",
        ),
        ({"cache__levels": 0, "cache__limit_gb": 3.0}, "cache.limit_gb has no effect with cache.levels 0"),
        ({"condition__kind": "labels", "condition__text_tokens": 3}, "condition.text_tokens has no effect"),
        ({"diffusion_training__encoder_rate": 0.5}, "diffusion_training.encoder_rate has no effect"),
        ({"diffusion_training__muon_rate": 3.0}, "diffusion_training.muon_rate has no effect"),
        ({"decoder__adversarial": 0.0, "decoder__start_images": 50}, "decoder.start_images has no effect"),
        ({"decoder__walk_steps": 3}, "decoder.walk_steps has no effect"),
        ({"diffusion__velocity": "exact"}, "diffusion.velocity has no effect with the latent cache"),
        ({"report__levels": [0.5, 1.01]}, "report.levels must be one or more levels from 0 to 1"),
        ({"cache__levels": 3}, "cache.levels must be 0 (no cache) or at least 4, not 3"),
        ({"vae_training__adam_betas": (0.9, 1.0)}, "vae_training.adam_betas must be below 1"),
        ({"seed": 2**63}, "seed must be below"),
        ({"vae__beta_min": 200.0, "vae__beta_max": 100.0}, "vae.beta_min 200 must be below vae.beta_max 100"),
        ({"compile": True, "perceptual__adversarial": 0.5}, "compile cannot go with an adversarial loss"),
        ({"trackers": ["wandb"]}, "pip install 'betadiffusion[wandb]'"),
        ({"denoiser__preset": "celeba64"}, "denoiser.preset 'celeba64' does not fit the latents of vae.preset 'demo'"),
        ({"vae__preset": "celeba64", "denoiser__preset": "toy"}, "does not fit the latents"),
        ({"vae__dropout": 0.1}, "dropout"),
        ({"denoiser__channels": [8, 8]}, "channels"),
        ({"vae__preset": "celeba64", "denoiser__width": 8}, "width"),
        (
            {"vae__schedule": "linear", "vae__beta_max": 50.0},
            "vae.beta_max has no effect unless vae.schedule is 'log_beta': leave it out",
        ),
        (
            {"vae__sigma_from": "level", "vae__channel_noise": True},
            "vae.channel_noise has no effect unless vae.sigma_from is 'image': leave it out",
        ),
        ({"cache__levels": 0, "cache__tolerance": 0.1}, "cache.tolerance has no effect with cache.levels 0"),
        ({"diffusion_training__curve_rate": 2.0}, "diffusion_training.curve_rate has no effect"),
        ({"out": ""}, "out must name a folder"),
        ({"out": "file"}, "out must be a folder, but file is a file"),
        ({"out": "file/below/it"}, "is a file"),
        ({"out": "/proc/run"}, "/proc is not writable"),
        ({"resume": "yes"}, "resume must be 'auto', 'never' or a checkpoint"),
        ({"resume": "runs"}, "resume must be 'auto', 'never' or a checkpoint"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(values, text, monkeypatch):
    Path("file").touch()
    Path("runs").mkdir()
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    monkeypatch.setattr(checks.os, "access", lambda path, mode: Path(path) != Path("/proc"))  # root may write anywhere
    with pytest.raises(ValueError, match=r"^(?!.*\n)") as error:
        checks.check(changed(**values))
    assert text in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"data__limit": None},
        {"cache__levels": 0, "seed": 0, "vae_training__warmup_images": 0, "vae_training__weight_decay": 0.0},
        {"vae__schedule": "log_beta", "vae__beta_max": 50.0},
        {"vae__preset": "celeba64", "vae__dropout": 0.1},
        {"resume": "never"},
        {"resume": "runs/a/vae/checkpoints/000001"},
        {"report__levels": [1.0, 0.0]},
    ],
)
def test_what_can_work_passes(values):
    checkpoint = Path("runs/a/vae/checkpoints/000001")
    checkpoint.mkdir(parents=True)
    checkpoint.joinpath("state.json").touch()
    checks.check(changed(**values))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_configs_pass_every_check_and_build(file):
    config = parsing.parse("train", commands.train, ["--config", str(file)])["config"]
    checks.check(config)
    commands._build_on_meta(config)
    if file.stem == "demo":
        assert config == RunConfig()
        written = parsing._lines(yaml.compose(file.read_text()), flat(RunConfig()), "")
        keys = {key for key in flat(RunConfig()) if not key.startswith("baseline.")}
        assert keys <= written.keys()  # all that its models have, with their comments
    else:
        assert config.out == f"runs/{file.stem}"


@pytest.mark.parametrize("file", [file for file in CONFIGS if file.stem != "demo"], ids=lambda file: file.stem)
def test_configs_hold_only_what_differs(file):
    config = parsing.parse("train", commands.train, ["--config", str(file)])["config"]
    defaults, values = flat(RunConfig()), flat(config)
    written = parsing._lines(yaml.compose(file.read_text()), defaults, "").keys() & defaults.keys()
    assert {key for key in written if values[key] == defaults[key]} <= {"data.source", "data.size"}


def test_ldm256_is_table_6():
    file = next(file for file in CONFIGS if file.stem == "ldm256")
    training = parsing.parse("train", commands.train, ["--config", str(file)])["config"].diffusion_training
    assert (training.batch_size, training.learning_rate) == (98, 5.6e-5)
    assert training.images == 120_000 * 98

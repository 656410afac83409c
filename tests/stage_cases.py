"""Training a small stage in tests: to its end, or stopped dead on the way."""

import copy

import pytest
from accelerate import Accelerator

from betadiffusion.training.trainer import Trainer


def fit(config, folder, made, stop_at=None, **changes):
    """Trains a stage, or stops it dead after so many images; a folder that holds checkpoints goes on from them."""
    config = copy.copy(config)
    for name, value in changes.items():
        setattr(config, name, value)
    trainer = Trainer(made, config, folder, accelerator=Accelerator(cpu=True), seed=0, identity={})
    trainer.resume()
    if stop_at is None:
        trainer.fit()
        return trainer
    losses = made.losses

    def dead(*arguments):
        if trainer.images >= stop_at:
            raise KeyboardInterrupt
        return losses(*arguments)

    made.losses = dead
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    return trainer

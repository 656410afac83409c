"""What can end a training run early."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step and the last good checkpoint."""


class Interrupted(Exception):
    """A signal asked the run to stop, and a checkpoint has been written. `signal_number` is the signal."""

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.signal_number = signal_number

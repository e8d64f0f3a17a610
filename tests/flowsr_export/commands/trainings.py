"""Options of short training runs, and a check of refusals."""

from click.testing import Result

__all__ = ["LOOP", "PRIOR", "STILL", "assert_refused"]

LOOP = (
    *("--steps", "4", "--save-every", "2", "--batch", "2", "--crop", "8"),
    *("--scale-range", "1,2", "--learning-rate", "1e-3", "--threads", "1", "--seed", "3"),
)
PRIOR = ("--depth", "1", "--dim", "4", "--vgg-layer", "conv1_1", "--vgg-layer", "conv2_1")
STILL = ("--steps", "1", "--learning-rate", "1e-12", "--ema-decay", "0")


def assert_refused(done: Result, exit_code: int, words: str) -> None:
    assert done.exit_code == exit_code
    assert done.stdout == ""
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr

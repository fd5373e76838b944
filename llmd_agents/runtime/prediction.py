"""What is expected of a duration."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prediction:
    """A log-normal duration: median in seconds, standard deviation of ln, and how many were seen."""

    median: float
    sigma: float
    observations: int = 0

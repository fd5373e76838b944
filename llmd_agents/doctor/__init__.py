"""The doctor: finds out, by trying, what the server in front of an application does with hints."""

from .diagnosis import diagnose
from .finding import Diagnosis, Finding, Unusable, Verdict

__all__ = ["Diagnosis", "Finding", "Unusable", "Verdict", "diagnose"]

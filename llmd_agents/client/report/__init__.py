"""What a program did and what to change about it, made from its history."""

from .model import Advice
from .report import Report, report_of

__all__ = ["Advice", "Report", "report_of"]

"""The OpenAI Agents SDK: what it runs becomes the program that hints tell of.

from llmd_agents_openai_agents import install

install()
"""

from .install import install, model_provider
from .processor import ProgramProcessor

__all__ = ["ProgramProcessor", "install", "model_provider"]

"""Tells servers how the model calls of a LlamaIndex program belong together.

llmd_agents_llama_index.install()
llm = OpenAI(model="…", api_base="…", **hooked())
"""

from .http_clients import hooked
from .install import install, uninstall

__all__ = ["hooked", "install", "uninstall"]

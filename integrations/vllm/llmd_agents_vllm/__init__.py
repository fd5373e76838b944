"""Lets vLLM act on the hints of `llmd-agents`: what stays in which tier, and who is served next.

Nothing is imported here, so that vLLM's processes load only the parts they are configured with.
"""

"""What tests, demonstration and benchmarks share to run real vLLM engines on a small machine.

Needs an environment with vLLM, and nothing from a network: the model is made on the spot.
"""

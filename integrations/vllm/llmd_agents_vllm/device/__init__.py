"""The blocks of the device: which contexts they hold, and in which order vLLM gives them up."""

"""What stays in the host tier of vLLM's own offloading, by what requests declare of themselves.

vLLM moves the bytes between device, host and file system. `policy.AgentOffloadPolicy` decides what the host
tier gives up first; `spec.AgentOffloadSpec` takes the options, and lets the CPU backend take part.
"""

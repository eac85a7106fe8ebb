"""Compiles ``chain.c`` when the package is built, where there is a C compiler; without one numpy does its work."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags

# IEEE arithmetic without fused products, so that machines agree, but for what nobody looks at: errno and traps.
# Sums are reordered where the source says so.
_ARITHMETIC = ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd"]
_FLAGS = ["-std=gnu11", "-O3", *_ARITHMETIC, "-fPIC", "-shared"]


class Hook(BuildHookInterface):  # type: ignore[type-arg]
    """Puts ``chain.so`` into wheels; for editable installations beside its source."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        source = Path(self.root, "percepnet", "native", "chain.c")
        if version == "editable":
            compile_library(source, source.with_suffix(".so"))
            return
        self._folder = tempfile.TemporaryDirectory()
        library = Path(self._folder.name, "chain.so")
        if compile_library(source, library):
            build_data["force_include"][str(library)] = "percepnet/native/chain.so"
            build_data["pure_python"] = False
            # It needs no certain Python. The first tag that is no promise about other systems is this one's.
            platform = next(
                tag for tag in platform_tags() if "manylinux" not in tag and "musllinux" not in tag
            )
            build_data["tag"] = f"py3-none-{platform}"


def compile_library(source: Path, library: Path) -> bool:
    """Whether ``library`` could be made of ``source``; the compiler is ``CC``, or the first that there is.

    One that is there is replaced in one step, for processes may be using it, and stays if the compiler fails.
    """
    found = [path for path in map(shutil.which, ("cc", "gcc", "clang")) if path]
    checksum = f"-DSOURCE={zlib.crc32(source.read_bytes())}u"
    try:
        compiler = shlex.split(os.environ.get("CC", "")) or found[:1]
        if not compiler:
            raise FileNotFoundError("there is none")
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            made = Path(folder, library.name)
            subprocess.run([*compiler, *_FLAGS, checksum, str(source), "-o", str(made), "-lm"], check=True)
            made.replace(library)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"numpy will do the signal processing, for the C compiler failed: {error}", file=sys.stderr)
        return False
    return True

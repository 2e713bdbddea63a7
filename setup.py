"""Builds the C++ extension with CMake and maps the top-level folder ``kernels/`` to ``fastssl.kernels``.

Without a C++ compiler the installation succeeds with the reference backend alone; FASTSSL_REQUIRE_KERNELS=1
makes that an error. FASTSSL_MANYLINUX=1 builds for all systems with glibc 2.28 and later (manylinux_2_28).
The kernels need no Python: FASTSSL_KERNELS=/path/to/libfastssl.kernels.so stores them there, and the build for the
next version of Python uses them again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def find_compiler() -> str | None:
    """The C++ compiler that CMake will find, or None."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    return next((path for name in names if (path := shutil.which(name))), None)


class CMakeBuild(build_ext):
    def run(self) -> None:
        # setuptools builds as if it were elsewhere, and copies the extension alone into the sources after that.
        self.in_sources = bool(self.inplace) or getattr(self, "editable_mode", False)
        super().run()

    def build_extension(self, ext: Extension) -> None:
        try:
            self.build_with_cmake(ext)
        except Exception as error:
            if os.environ.get("FASTSSL_REQUIRE_KERNELS") == "1":
                raise
            bar = "*" * 100
            print(
                f"{bar}\nfastssl: the kernels were NOT built: {error}\n"
                f"fastssl installs with the slow reference backend; `fastssl info` says how to get the kernels.\n{bar}",
                file=sys.stderr,
            )

    def build_with_cmake(self, ext: Extension) -> None:
        if find_compiler() is None:
            raise RuntimeError("no C++ compiler was found (Debian: apt install g++)")
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(self.build_temp).resolve() / "cmake"
        build.mkdir(parents=True, exist_ok=True)
        bin_dirs = [str(Path(sys.executable).parent)]
        for module in ("cmake", "ninja"):
            with contextlib.suppress(ImportError):
                bin_dirs.append(str(Path(__import__(module).__file__).parent / "data" / "bin"))
        env = {**os.environ, "PATH": os.pathsep.join([*bin_dirs, os.environ.get("PATH", "")])}
        if shutil.which("ninja", path=env["PATH"]) is None:
            raise RuntimeError("ninja was not found (pip install ninja)")
        options = [
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DFASTSSL_SANITIZE={'ON' if os.environ.get('FASTSSL_SANITIZE') == '1' else 'OFF'}",
            f"-DFASTSSL_MANYLINUX={'ON' if os.environ.get('FASTSSL_MANYLINUX') == '1' else 'OFF'}",
            "-DCMAKE_BUILD_TYPE=Release",
        ]
        kept = os.environ.get("FASTSSL_KERNELS", "")
        built_before = kept if Path(kept).is_file() else ""
        options.append(f"-DFASTSSL_KERNELS={built_before}")
        with contextlib.suppress(ImportError) if built_before else contextlib.nullcontext():  # only kernels need torch
            import torch
            from torch.utils.cpp_extension import include_paths

            options.append(f"-DFASTSSL_TORCH_INCLUDE={';'.join(include_paths())}")
            options.append(f"-DFASTSSL_TORCH_LIB={Path(torch.__file__).parent / 'lib'}")
        subprocess.run(["cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(build), *options], check=True, env=env)
        subprocess.run(["cmake", "--build", str(build), "--parallel", "--target", "_C"], check=True, env=env)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(build / target.name, target)
        kernels = Path(built_before) if built_before else next(build.glob("libfastssl.kernels.[sd]*"))
        if kept and not built_before:
            Path(kept).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(kernels, kept)
        shutil.copy2(kernels, self.library_folder(target) / f"libfastssl.kernels{kernels.suffix}")
        self.build_cuda(build, self.library_folder(target), env)

    def library_folder(self, target: Path) -> Path:
        """Where libraries beside the extension belong."""
        return ROOT / "fastssl" if self.in_sources else target.parent

    def build_cuda(self, build: Path, into: Path, env: dict[str, str]) -> None:
        """The CUDA kernels, where CMake found nvcc: a library beside the extension, without which the rest works."""
        if "cuda_kernels" not in (build / "build.ninja").read_text():
            return
        try:
            subprocess.run(["cmake", "--build", str(build), "--target", "cuda_kernels"], check=True, env=env)
            shutil.copy2(build / "_cuda.kernels.so", into / "_cuda.kernels.so")
        except (OSError, subprocess.CalledProcessError) as error:
            if os.environ.get("FASTSSL_REQUIRE_CUDA") == "1":
                raise
            print(f"fastssl: the CUDA kernels were NOT built: {error}", file=sys.stderr)


setup(
    packages=[*find_packages(include=["fastssl", "fastssl.*"]), "fastssl.kernels"],
    package_dir={"fastssl.kernels": "kernels"},
    package_data={
        "fastssl": ["py.typed", "_C.pyi"],
        "fastssl.kernels": ["*.json"],
        "fastssl.bench": ["*.npz"],
        "fastssl.data": ["audio/*", "emoji/*", "text/*"],
        "fastssl.report": ["*.html", "*.css"],
        "fastssl.train": ["recipes/*.toml"],
    },
    ext_modules=[Extension("fastssl._C", sources=[], optional=True)],
    cmdclass={"build_ext": CMakeBuild},
)

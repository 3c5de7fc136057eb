"""Compiles the .pyx files below minigrad/_core; the rest of the build is in pyproject.toml."""

import os
import sys
from pathlib import Path
from runpy import run_path
from shutil import which
from sysconfig import get_path

import Cython
import numpy
from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("MINIGRAD_DEBUG") == "1"  # enables C's assert() and Cython's checks
SANITIZE = os.environ.get("MINIGRAD_SANITIZE", "")  # address,undefined or thread, gcc's names
# Nothing here reads errno or FP flags, and without them sqrt and selections vectorise. Stack
# guards, the default of Debian's Python, cost every operation 3 per cent, and functions that are
# not aligned to cache lines up to 8. Never -ffast-math: it drops NaN handling, and sets the FP
# mode of the process. (MSVC: its own /O2.)
FAST = "-O3 -g0 -fno-math-errno -fno-trapping-math -fno-stack-protector -falign-functions=64"
FAST += " -fopenmp-simd"  # for the `#pragma omp simd` of derived loops; it starts no threads
FLAGS = "-O1 -g -UNDEBUG" if DEBUG else FAST
if SANITIZE:  # -O0, or gcc takes minutes; Python's -fwrapv would make integer overflow defined
    FLAGS = "-O0 -g1 -UNDEBUG -fno-wrapv -fno-omit-frame-pointer -fno-sanitize-recover=all "
    # Null pointers are passed to memcmp and memcpy only with size 0, which C2y defines (N3322).
    FLAGS += f"-fsanitize={SANITIZE} -fno-sanitize=nonnull-attribute"
MACROS = [(f"NPY_{key}", "NPY_2_0_API_VERSION") for key in ("NO_DEPRECATED_API", "TARGET_VERSION")]
FORCED = dict.fromkeys(["boundscheck", "wraparound", "initializedcheck", "nonecheck"] * DEBUG, True)
parse = Options.parse_directive_list  # the head of a .pyx must not override FORCED
Options.parse_directive_list = lambda *args, **kwargs: parse(*args, **kwargs) | FORCED
# If a list cannot grow, comprehensions of Cython 3.3.0 and 3.3.1 release an item twice: here, and
# with the other temporaries of the function. (Cython 3.2 does not, but its small operations take
# 4 per cent longer.)
TWICE = b"int result = PyList_Append(list, x);\n    Py_DECREF(x);"
ONCE = b"int result = PyList_Append(list, x);\n    if (result == 0) Py_DECREF(x);"
# If NumPy 2.4 has no memory for an iterator, it fails without an exception, and Python raises a
# SystemError "... without ...". This code, which handles all compiled errors, raises MemoryError.
# A TypeError without a traceback was raised right here, often by the arguments of the function: the
# table of spellings knows what to write instead. (Where nothing fails this costs nothing.)
PASSING = b"    PyObject *ptype, *pvalue, *ptraceback;\n    if (c_line) {\n"
CHECKED = b"""    PyObject *ptype, *pvalue, *ptraceback, *text;
    const char *words;
    if (!PyErr_Occurred()) PyErr_NoMemory();
    else if (PyErr_ExceptionMatches(PyExc_SystemError)) {
        PyErr_Fetch(&ptype, &pvalue, &ptraceback);
        PyErr_NormalizeException(&ptype, &pvalue, &ptraceback);
        text = PyObject_Str(pvalue);
        words = text ? PyUnicode_AsUTF8(text) : NULL;
        PyErr_Restore(ptype, pvalue, ptraceback);
        if (!words || strstr(words, " without ")) PyErr_NoMemory();
        Py_XDECREF(text);
    } else if (PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Fetch(&ptype, &pvalue, &ptraceback);
        PyErr_NormalizeException(&ptype, &pvalue, &ptraceback);
        text = ptraceback ? NULL : PyImport_ImportModule("minigrad.spellings");
        if (text) Py_XDECREF(PyObject_CallMethod(text, "lead_on", "Os", pvalue, funcname));
        Py_XDECREF(text);
        PyErr_Restore(ptype, pvalue, ptraceback);
    }
    if (c_line) {
"""
MENDS = (TWICE, ONCE), (PASSING, CHECKED)
DIRECTIVES = {"language_level": 3, "binding": True, "annotation_typing": False, **FORCED}


class BuildExt(build_ext):
    def build_extensions(self):
        needs = [*getattr(self.compiler, "compiler_so", [])[:1], get_path("include") + "/Python.h"]
        if missing := [need for need in needs if not which(need, os.F_OK)]:
            how = "`apt install build-essential python3-dev` or `xcode-select --install`"
            raise SystemExit(f"minigrad: cannot compile without {missing[0]}; try {how}")
        if self.editable_mode:  # pip uses a new folder each time, where everything would be stale
            self.build_lib = f"build/lib.{self.plat_name}-{sys.implementation.cache_tag}"
        versions = f"NumPy {numpy.__version__} Cython {Cython.__version__}"
        built, now = Path("build/flags"), f"{FLAGS} {DIRECTIVES} {versions} {MENDS}"
        self.force = self.force or not built.exists() or built.read_text() != now
        self.parallel, options = 2, {"force": self.force, "compiler_directives": DIRECTIVES}
        c_files = cythonize(self.extensions, nthreads=2, build_dir="build", **options)
        for ext, c_file in zip(self.extensions, c_files, strict=True):
            for source in map(Path, c_file.sources):
                code = mended = source.read_bytes()
                for before, after in MENDS:
                    mended = mended.replace(before, after)
                if mended != code:
                    source.write_bytes(mended)
            ext.sources, ext.include_dirs = c_file.sources, [numpy.get_include()]
            ext.define_macros, ext.extra_compile_args = MACROS, FLAGS.split() * (os.name != "nt")
            if ext.name.endswith("derived"):  # a formula rounds as its definition does
                ext.extra_compile_args += ["-ffp-contract=off"] * (os.name != "nt")
            ext.extra_link_args = ["-pthread"] * (os.name != "nt")
            ext.extra_link_args += [f"-fsanitize={SANITIZE}"] * bool(SANITIZE)
        super().build_extensions()
        built.write_text(now)  # time stamps do not reflect other flags


if __name__ == "__main__":  # not in the processes of cythonize
    src = Path("minigrad/_core")
    for maker in ("generate", "stubs"):
        run_path(str(src / f"fast/{maker}.py"), run_name="__main__")
    near = [str(path) for path in src.rglob("*") if path.suffix in (".pxd", ".pxi", ".h")]
    ext = [
        Extension(".".join(f.with_suffix("").parts), [str(f)], depends=near)
        for f in sorted(src.rglob("*.pyx"))
    ]
    setup(cmdclass={"build_ext": BuildExt}, ext_modules=ext)

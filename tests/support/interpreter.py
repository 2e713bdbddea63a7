"""Triton's interpreter, without what it does again and again at every call."""

from __future__ import annotations

import functools
import inspect
from typing import Any


def without_repeated_patches() -> None:
    """A launch puts the interpreter's functions in the place of those of `triton.language`; so does every call of a
    function within a kernel, where it finds nothing left to replace, which took a third of a launch's time.

    Where another version of Triton works otherwise, nothing changes."""
    from triton import language
    from triton.runtime import interpreter

    if not hasattr(interpreter, "_LangPatchScope") or hasattr(interpreter._patch_lang, "__wrapped__"):
        return
    patch, empty = interpreter._patch_lang, interpreter._LangPatchScope
    replaced: set[str] = set()  # modules, as long as a launch lasts

    class Launch:
        def __init__(self, scope: Any, names: set[str]) -> None:
            self.scope, self.names = scope, names
            replaced.update(names)

        def restore(self) -> None:
            replaced.difference_update(self.names)
            self.scope.restore()

    @functools.cache
    def modules(function: Any) -> set[str]:
        seen = (m for m in function.__globals__.values() if inspect.ismodule(m))
        return {m.__name__ for m in seen if m in (language, language.core)}

    @functools.wraps(patch)
    def once(function: Any) -> Any:
        names = modules(function) - replaced
        return Launch(patch(function), names) if names else empty()

    in_numpy, known = interpreter._get_np_dtype, {}

    def looked_up(dtype: Any) -> Any:  # of tiles, of which there are many, as of their elements
        name = dtype.scalar.name
        return known[name] if name in known else known.setdefault(name, in_numpy(dtype))

    interpreter._patch_lang, interpreter._get_np_dtype = once, looked_up

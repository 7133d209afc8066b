"""Our docstrings name things as Sphinx does; the site's pages are Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

__all__ = ["Roles"]


class Roles(griffe.Extension):
    """Turns roles such as ``:class:`Client` `` into code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrites the docstring of one module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", obj.docstring.value)

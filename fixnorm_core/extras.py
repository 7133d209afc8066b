"""How an extra is installed: from a checkout or a wheel, since no package index has this project yet."""

from __future__ import annotations

__all__ = ["install_command"]


def install_command(extra: str) -> str:
    """What installs ``extra``, in words that are true for who has a checkout and for who has a wheel.

    Args:
        extra: One or more extras of ``pyproject.toml``, with commas between them.
    """
    return f"pip install '.[{extra}]' in a checkout, or pip install 'WHEEL[{extra}]' with the path of a wheel"

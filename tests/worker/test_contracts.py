"""Amounts of resources."""

from __future__ import annotations

from worker.contracts import Resources


def test_amounts_add_up_and_fit_despite_rounding() -> None:
    tenth = Resources(0.0, 0.1)
    held = sum([tenth] * 10, start=Resources(0.0, 0.0))
    assert held.fits_in(Resources(0.0, 1.0))
    assert not (held + tenth).fits_in(Resources(0.0, 1.0))


def test_they_read_as_words() -> None:
    assert f"{Resources(1.0, 0.5)}" == "1 CPU and 0.5 GPUs"

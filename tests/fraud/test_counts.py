"""Counts with their noun read as their examples say."""

from __future__ import annotations

import doctest

from fraud import counts


def test_counts_read_as_their_examples_say():
    assert doctest.testmod(counts).failed == 0 and doctest.testmod(counts).attempted > 0

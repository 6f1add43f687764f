"""Blocks of checked rows on Ray Data, in bounded memory."""

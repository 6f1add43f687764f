"""What a trial keeps in its folder: the state that it goes on from after a kill, and the scores of its best candidates.

Tensors and arrays, read without pickle.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tuning.search.fits import Candidate

STATE, SCORES = "state.pt", "scores.npz"
# Candidates of a trial whose scores are kept, for the pairing.
BEST = 3


def keep_state(folder: Path, fit: dict[str, Any], candidates: Sequence[Candidate], seconds: float) -> None:
    """Keep what the trial goes on from. fit: the state of its fit; seconds: of work so far."""
    import torch

    told = [candidate.to_dict() for candidate in candidates]
    _write(folder / STATE, lambda draft: torch.save({"fit": fit, "candidates": told, "seconds": seconds}, draft))


def best_with_scores(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The same candidates, of which only the best keep their scores."""
    order = sorted(range(len(candidates)), key=lambda place: -candidates[place].objective)
    return [
        candidate if place in order[:BEST] else replace(candidate, scores=None)
        for place, candidate in enumerate(candidates)
    ]


def keep_scores(folder: Path, candidates: Sequence[Candidate]) -> None:
    """Keep the scores that the candidates have, by their places."""
    arrays = {
        f"{place}.{fold}": scores
        for place, candidate in enumerate(candidates)
        for fold, scores in enumerate(candidate.scores or ())
    }

    def put(draft: Path) -> None:
        with draft.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    _write(folder / SCORES, put)


def restore(folder: Path) -> tuple[dict[str, Any], list[Candidate], float] | None:
    """State of the fit, candidates and seconds of work as a killed process kept them; None where there is nothing."""
    import torch

    file = folder / STATE
    if not zipfile.is_zipfile(file):  # not there, or cut short: then it lacks the directory at its end
        return None
    kept = torch.load(file, map_location="cpu", weights_only=True)
    scores = read_scores(folder)
    candidates = [
        Candidate(told["settings"], told["by_fold"], told["scoring_cost"], scores.get(place))
        for place, told in enumerate(kept["candidates"])
    ]
    return kept["fit"], candidates, float(kept["seconds"])


def read_scores(folder: Path) -> dict[int, list[np.ndarray]]:
    """Scores of the best candidates: {place: one float64 (n_judged,) a fold}; empty where there are none."""
    file = folder / SCORES
    if not zipfile.is_zipfile(file):
        return {}
    found: dict[int, list[np.ndarray]] = {}
    with np.load(file, allow_pickle=False) as arrays:
        for name in sorted(arrays.files, key=lambda name: [int(part) for part in name.split(".")]):
            found.setdefault(int(name.split(".")[0]), []).append(arrays[name])
    return found


def _write(path: Path, put: Callable[[Path], object]) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        put(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)

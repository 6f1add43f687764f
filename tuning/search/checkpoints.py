"""Checkpoints of a trial: the state to resume from after a kill, and the scores of its best candidates. No pickle."""

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
# Candidates of a trial whose scores are saved, for pairing forests with autoencoders.
BEST = 3


def save_state(folder: Path, fit: dict[str, Any], candidates: Sequence[Candidate], seconds: float) -> None:
    """Save what the trial resumes from. fit: the state of its fit; seconds: of work so far."""
    import torch

    content = {"fit": fit, "candidates": [candidate.to_dict() for candidate in candidates], "seconds": seconds}
    _write(folder / STATE, lambda draft: torch.save(content, draft))


def best_with_scores(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The same candidates; all but the best lose their scores."""
    ranking = sorted(range(len(candidates)), key=lambda index: -candidates[index].objective)
    return [
        candidate if index in ranking[:BEST] else replace(candidate, scores=None)
        for index, candidate in enumerate(candidates)
    ]


def save_scores(folder: Path, candidates: Sequence[Candidate]) -> None:
    """Save the candidates' scores under "index.fold"."""
    arrays = {
        f"{index}.{fold}": scores
        for index, candidate in enumerate(candidates)
        for fold, scores in enumerate(candidate.scores or ())
    }

    def write(draft: Path) -> None:
        with draft.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    _write(folder / SCORES, write)


def restore(folder: Path) -> tuple[dict[str, Any], list[Candidate], float] | None:
    """State of the fit, candidates and seconds of work that a killed process saved; None without a checkpoint."""
    import torch

    file = folder / STATE
    if not zipfile.is_zipfile(file):  # missing, or cut short: then it lacks the directory at its end
        return None
    saved = torch.load(file, map_location="cpu", weights_only=True)
    scores = read_scores(folder)
    candidates = [
        Candidate(entry["settings"], entry["by_fold"], entry["scoring_cost"], scores.get(index))
        for index, entry in enumerate(saved["candidates"])
    ]
    return saved["fit"], candidates, float(saved["seconds"])


def read_scores(folder: Path) -> dict[int, list[np.ndarray]]:
    """Scores of the best candidates, {index: one float64 (n_judged,) per fold}; empty without a checkpoint."""
    file = folder / SCORES
    if not zipfile.is_zipfile(file):
        return {}
    scores: dict[int, list[np.ndarray]] = {}
    with np.load(file, allow_pickle=False) as arrays:
        for name in sorted(arrays.files, key=lambda name: [int(part) for part in name.split(".")]):
            scores.setdefault(int(name.split(".")[0]), []).append(arrays[name])
    return scores


def _write(path: Path, write: Callable[[Path], object]) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)

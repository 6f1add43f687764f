"""Ray Tune: the search space, one trial, the sweep."""

"""The detectors as plain arrays, the features they see, and the compiled loops that score them."""

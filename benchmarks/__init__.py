"""Speed, memory and detection figures, as ratios against peers measured in the same run. Never part of the tests."""

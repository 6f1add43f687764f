"""How detectors are fitted: the configuration and the steps, without saying where they run."""

"""The peers, each written as in its own documentation; started by benchmarks.serving.servers."""

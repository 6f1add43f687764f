"""What is measured beside ours, each as its own documentation writes it; started by benchmarks.serving.servers."""

"""One sweep at work: which trial comes next, what a trial does, who wins."""

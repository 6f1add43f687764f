"""What each stage costs at one and two CPUs, and what that foretells for a hundred nodes."""

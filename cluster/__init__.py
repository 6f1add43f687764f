"""What every job on Ray shares, below the role folders: how a process joins the cluster and leaves it."""

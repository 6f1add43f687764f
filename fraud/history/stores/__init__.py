"""Where the live history is kept: in this process, on this node, or in Redis."""

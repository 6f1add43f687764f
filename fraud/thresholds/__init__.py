"""Where a score becomes a decision: policies, cut points, and the threshold that a policy chooses."""

"""Labels that arrive after their transactions: the label store, and the join as of a day."""

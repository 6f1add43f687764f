"""Labels that come later than their transactions: stored as they came, joined as of a day."""

"""A request becomes numbers, or problems that name the field, the value and the remedy."""

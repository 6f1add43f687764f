"""Entity history: what is normal for a card, how risky a terminal has been, at the moment of a transaction."""

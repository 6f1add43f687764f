"""How good a ranking of transactions is, and how sure that is."""

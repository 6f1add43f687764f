"""Entity history: statistics of a card's or terminal's earlier transactions, as of each transaction."""

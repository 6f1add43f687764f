"""The live entity history of a replica: begun, kept up to date, told of labels."""

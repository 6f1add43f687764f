"""The live entity history of a replica: bootstrap, maintenance and labels."""

"""The whole system on this machine: `python -m deploy.local`."""

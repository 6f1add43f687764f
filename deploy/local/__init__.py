"""Run the system on this machine: `python -m deploy.local`."""

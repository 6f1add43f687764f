"""Start and stop the system: on this machine, in containers and on clusters."""

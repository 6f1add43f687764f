"""Ray Serve: the FastAPI app that answers /score."""

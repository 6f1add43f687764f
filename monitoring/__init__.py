"""Monitor data and model: drift, volume, live performance, alerts."""

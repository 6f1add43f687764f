"""/score under load during model changes, process kills, faulty challengers, scaling and a long soak."""

"""Detection quality on published data, beside measured peers and published figures."""

"""Transactions in files: found, read, written, split by time, simulated; on disks and in object stores."""

"""Reading, writing, splitting and simulating transactions, on disks and in object stores."""

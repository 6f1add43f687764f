"""What /score does while models change, processes die, a challenger misbehaves, and for half an hour under load."""

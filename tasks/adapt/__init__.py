"""Training DaD: the loop, its data and its sample sheets."""

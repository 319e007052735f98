"""Makes the shipped starting weights; run by hand, never by a stage."""

"""Which pictures go on: measuring, the rules for bodies, near-duplicates, reasons."""

"""Stage `caption`: new sentences for the pictures that passed the screening. See `shard`."""

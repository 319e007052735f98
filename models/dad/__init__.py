"""Domain-aware Diffusion: a frozen text-to-image model and an adapter that carries a look."""

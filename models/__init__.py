"""Models: pure torch, diffusers and transformers; tensors in, tensors out.

No files except ``from_pretrained`` and ``save_pretrained`` folders, no Prefect, no Parquet.
`models.mra` is the retrieval model and its objectives, `models.dad` the diffusion side;
`models/tiny` holds the weights that the embedded default starts from.
"""

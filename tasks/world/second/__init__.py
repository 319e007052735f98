"""A second target of the built-in world: another network of cameras, other people, other writers.

For tests of cross-domain retrieval, as from CUHK-PEDES to ICFG-PEDES and back. Nothing here reaches
the first target or the shipped models: no module outside imports this one but
`tasks.ingest.worlds`, and the shipped models saw `looks.random_look` and people of nobody's target.

- `cameras`: vivid and hard, steep from above, by night full of noise, with cast shadows, haze,
  motion and frames that cut or miss a person; every camera outside the range of random looks;
- `places`: backgrounds of its own;
- `wording`: one caption a picture, long and thorough, in careful sentences;
- `dataset`: people of its own and the folder on disk.
"""

"""How near restyled pictures come to the target, and what of their content is left: by arms.

An *arm* is the section ``restyle`` with some fields changed, under a name: no diffusion, colour
matching, the base without DaD, other strengths, new pictures from captions. All arms render the
same source pictures with the same seeds, and all are measured in the same way, against pictures of
the target that no training has seen. Reading order: `tasks.gap.arms` (what is compared),
`tasks.gap.picking` (which pictures), `tasks.gap.rendering` (an arm), `tasks.gap.measuring` (its
figures), `tasks.gap.results` (the files). The report draws them (`tasks.report.gap`).

What is unusual: no distance stands alone. Half of the held-out target pictures against the other
half is the floor, the source the start, and beside every distance stands how much of what the
captions name a judge that has seen target pictures only still reads off the pictures. What a
number means is in docs/gap.md.

This module imports nothing: the digest of a rendered arm covers what its own modules import, and an
edit of a measure must not render all arms again.
"""

"""An ablation on any domain: an experiment file, its runs, and what they show.

How it is computed: `tasks.ablate.experiment` (the file), `tasks.ablate.plan` (what it costs),
`tasks.ablate.runs`. What came out: `tasks.ablate.records` (what a run leaves),
`tasks.ablate.statistics` (intervals, p-values, power), `tasks.ablate.tables`,
`tasks.ablate.paper` (the paper's rows), `tasks.ablate.mentions` and `tasks.ablate.disagreement`
(who fails, and where two arms differ), `tasks.ablate.figures`, `tasks.ablate.pages` (the pages).
"""

"""Why `screen` refuses a picture: every slug that stands in column ``reason``, in words.

Apart from the rules, so that the report explains them without loading what they compute with.
"""

REASONS = {
    "upstream": "refused by an earlier stage",
    "unreadable": "its bytes are no picture",
    "file-small": "compresses too well: blank",
    "file-large": "compresses too badly: noise",
    "grey": "hardly any colour: grey or blank",
    "no-person": "no person, or neither head nor torso nor legs",
    "several-people": "a second person nearly as large as the first",
    "no-head": "neither nose nor eye nor ear",
    "no-torso": "no shoulder, or no hip",
    "no-legs": "no knee, or no ankle",
    "disorder": "all parts, not arranged as a person",
    "ambiguous": "joints that are in two places at once",
    "unsure": "the joints are seen, but hardly",
    "duplicate": "nearly the same picture as another",
}
"""Every reason there is, in words. Where several apply all are listed in this order, and the first
counts."""

"""The one exception of this project for mistakes that a user can mend.

Every message carries the value that was found, the rule that it breaks and the remedy, so that
nobody has to read the source to get going again.
"""

from __future__ import annotations


class PedAlignError(Exception):
    """A fault in the user's input, parameters or files.

    Attributes:
        found: What was found, with the offending value.
        rule: The rule that it breaks.
        remedy: What to do about it.
    """

    def __init__(self, found: str, rule: str, remedy: str) -> None:
        """Build the message from its three parts."""
        self.found, self.rule, self.remedy = found, rule, remedy
        super().__init__(f"{found}\n  rule:   {rule}\n  remedy: {remedy}")

    def __reduce__(self) -> tuple[type[PedAlignError], tuple[str, str, str]]:
        """Pickle by the three parts, so that a worker's fault arrives whole."""
        return type(self), (self.found, self.rule, self.remedy)

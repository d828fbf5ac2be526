"""Which form of a file is taken that a server sends compressed although it was asked not to."""

from __future__ import annotations

from ..model.http import Coding


class CodedForm:
    """The form of a coded file; only a digest shows which one the manifest means.

    Attributes:
        wanted: the form to request, None for the one that seems right.
    """

    def __init__(self) -> None:
        self.wanted: Coding | None = None

    def try_other(self, used: Coding) -> bool:
        """Want the other form, because the one that was `used` has the wrong digest.

        Args:
            used: what became of the coding of the reply.

        Returns:
            Whether there is another form that was not tried yet.
        """
        if used is Coding.NONE or self.wanted is not None:
            return False
        self.wanted = Coding.KEPT if used is Coding.DECODED else Coding.DECODED
        return True

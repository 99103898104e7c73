"""A bar below a notebook's cell, as HTML and as text, which a notebook that is run by nbconvert keeps as well.

It needs no widgets: Jupyter replaces what it shows, by its display id, whichever thread asks for it.
"""

from __future__ import annotations

import sys
from html import escape
from typing import TYPE_CHECKING, Any

from tqdm import tqdm


def is_notebook() -> bool:
    """Whether this process is the kernel of one."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return hasattr(shell, "kernel")


if TYPE_CHECKING:  # at run time it takes no arguments
    _Bar = tqdm[Any]
else:
    _Bar = tqdm


class NotebookBar(_Bar):
    """Tqdm's numbers, shown below the cell that made it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._shown: Any = None
        super().__init__(*args, **{**options, "gui": True})  # which writes nothing to stderr
        self.display()

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Show it as it is now."""
        from IPython.display import display

        values = self.format_dict
        text = tqdm.format_meter(**{**values, "ncols": None})
        numbers = text.rpartition("|")[2].strip()
        whole = f' max="{self.total}" value="{min(self.n, self.total)}"' if self.total else ""
        shown = {"text/html": f"<progress{whole}></progress> {escape(numbers)}", "text/plain": text}
        if self._shown is None:
            self._shown = display(shown, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._shown.update(shown, raw=True)

    def close(self) -> None:
        """Leave it as it is."""
        if not self.disable:
            self.display()
        super().close()

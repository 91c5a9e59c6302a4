"""The playground: Gradio tabs that show the engine's stream of events.

>>> import playground
>>> playground.build(playground.ServerOptions(port=7861)).launch()
"""

import os
from typing import TYPE_CHECKING

# Gradio reads this when it is imported. The playground opens no connection to another machine.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
# torch reads this when it is imported. A waiting thread that spins would take a core from the page.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from playground import address
from playground.options import ServerOptions, StartError

if TYPE_CHECKING:
    from playground.page import Playground

__all__ = ["ServerOptions", "StartError", "build"]


def build(options: ServerOptions | None = None) -> "Playground":
    """Load the model and build the page. Raises StartError, one sentence."""
    options = options or ServerOptions()
    address.require_free(options.host, options.port)
    # Imported here: `app.py --help` and most errors in the options need neither torch nor Gradio.
    from playground.page import Playground

    return Playground(options)

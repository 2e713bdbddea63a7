"""The documentation site: ``make docs``, without network. A broken link or a public name without a page is an error."""

import sys
from pathlib import Path

import fastssl

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "FastSSL"
author = copyright = "FastSSL's authors"
version = release = fastssl.__version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
    "sphinx_copybutton",
    "api",
    "links",
    "loss_pages",
    "mathml",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_ext", "_templates"]
nitpicky = False

autosummary_generate = True
autosummary_imported_members = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # docstrings name shapes and dtypes, which types do not
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Inputs", "params_style"), "Source"]

nb_execution_mode = "cache"  # a tutorial runs again when it has changed
nb_execution_raise_on_error = True
nb_execution_timeout = 300
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "dollarmath"]

html_theme = "furo"
html_title = f"FastSSL {release}"
html_math_renderer = "mathml"
html_show_sphinx = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

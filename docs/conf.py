# Sphinx configuration; `make docs` builds the site with warnings as errors.
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# autodoc imports the work tree, so the site describes the files beside it.
sys.path.insert(0, str(ROOT))

project = "bridges"
author = "The bridges maintainers"
copyright = "2026, The bridges maintainers"
release = re.search(  # type: ignore[union-attr]  # a missing version must fail the build
    r'^__version__(?:: \w+)? = "([^"]+)"', (ROOT / "bridges/__init__.py").read_text(), re.M
).group(1)
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_member_order = "bysource"
# Sections the project's docstrings have beside Google's own.
napoleon_custom_sections = [("Source", "notes_style"), "Threads", "Guarantees"]
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"bridges {release}"

"""How Sphinx builds the site of docs/: see CONTRIBUTING.md."""

from importlib.metadata import version as version_of

from sphinx.util.nodes import make_refnode

project = "hvdspark"
author = "the hvdspark developers"
release = version = version_of("hvdspark")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "benchmarks/*", "examples/*"]  # the last two are programs; pages link to them

html_theme = "furo"
html_title = f"hvdspark {version}"
html_copy_source = False
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]

myst_heading_anchors = 3  # links to sections of Markdown pages, as GitHub has them

# A name in single backticks links to its entry where there is one; else it is shown as code.
default_role = "py:obj"
add_module_names = False
toc_object_entries_show_parents = "hide"
python_maximum_signature_line_length = 88
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "model_config"}  # pydantic's own
autodoc_typehints = "none"  # the docstrings say more: shapes, units, what is allowed
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True


def link_class(app, env, node, contents):
    """Link the bare name of a class to its entry, in whichever module that stands."""
    name = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not name[:1].isupper():
        return None
    domain = env.domains.python_domain
    found = {
        entry.docname: entry.node_id
        for full, entry in domain.objects.items()
        if full.endswith(f".{name}") and not entry.aliased
    }
    if len(found) != 1:
        return None
    ((page, anchor),) = found.items()
    return make_refnode(app.builder, node["refdoc"], page, anchor, contents, name)


def setup(app):
    """Tell Sphinx of the handler."""
    app.connect("missing-reference", link_class)

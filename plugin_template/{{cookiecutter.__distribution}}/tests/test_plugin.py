{% include [cookiecutter.role ~ "/test_plugin.py.jinja", "any/test_plugin.py.jinja"] -%}

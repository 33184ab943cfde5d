{% include [cookiecutter.role ~ "/plugin.py.jinja", "any/plugin.py.jinja"] -%}

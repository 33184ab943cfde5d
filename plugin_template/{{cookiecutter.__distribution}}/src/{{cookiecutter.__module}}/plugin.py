{% include cookiecutter.role ~ "/plugin.py.jinja" -%}

{% include cookiecutter.role ~ "/test_plugin.py.jinja" -%}

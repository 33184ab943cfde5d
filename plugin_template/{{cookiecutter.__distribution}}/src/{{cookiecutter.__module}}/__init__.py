"""{% filter trim %}{% include [cookiecutter.role ~ "/summary", "any/summary"] %}{% endfilter %}"""

from .plugin import {{ cookiecutter.__class }}

__all__ = ["{{ cookiecutter.__class }}"]

"""Refuse answers that no project can be made of; the rules are those of `ringfence plugins new`."""

import re
import sys

ANSWERS = {
    "name": {{ cookiecutter.name | tojson }},
    "author": {{ cookiecutter.author | tojson }},
}

for question, pattern, advice in {{ cookiecutter._checks | tojson }}:
    if not re.fullmatch(pattern, ANSWERS[question]):
        sys.exit(f"{question} {ANSWERS[question]!r} cannot be used; {advice}")

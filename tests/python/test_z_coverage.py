"""What the other files have exercised; named so that it runs last."""

import pathlib
import re


def test_every_offered_operation_was_seen(checker):
    """The list of docs/lambda-api.md is what was exercised above, each answer checked against the model."""
    text = (pathlib.Path(__file__).parents[2] / "docs/lambda-api.md").read_text()
    offered = set(re.findall(r"^\| `(\w+)` \|", text, re.M))
    assert offered, "the document has a table of operations"
    assert offered - checker.seen == set()
    assert checker.seen - offered == set()

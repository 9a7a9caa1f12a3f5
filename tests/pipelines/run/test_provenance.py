"""Versions and command of a run."""

from pipelines.run import publication


def test_run_tags_have_versions() -> None:
    tags = publication.run_tags()
    assert tags["version.torch"].split(".")[0].isdigit()
    assert "version.python" in tags and tags["command"]

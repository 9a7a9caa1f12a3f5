"""The files of a report: Markdown, JSON and one HTML page with SVG charts."""

"""Parts that all reports share: tables, files, charts and contact sheets."""

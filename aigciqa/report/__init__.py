"""The report: scores, groups, charts and a gallery as one HTML file that works from disk, without network.

`write_report` makes it of rows, `Report` of rows as they come. Needs the extra `report`.
"""

from aigciqa.report.page import Report, check_target, write_report

__all__ = ["Report", "check_target", "write_report"]

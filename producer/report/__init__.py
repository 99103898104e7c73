"""A job's record and timeline as one page of HTML that needs nothing else: `celeriac report`.

Redis --gather--> JobFacts --lanes, figures--> charts as plain values --page--> HTML, with plotly's script in it
"""

from producer.report.gather import JobFacts, gather
from producer.report.page import make_page

__all__ = ["JobFacts", "gather", "make_page"]

"""A job's record and timeline as one page of HTML that needs nothing else: `celeriac report`.

Redis --gather--> JobFacts --lanes, figures--> charts as plain values --page--> HTML, with plotly's script in it
"""

from producer.report.figures import charts
from producer.report.gather import JobFacts, gather
from producer.report.page import make_page

__all__ = ["JobFacts", "charts", "gather", "make_page"]

"""This package makes of a job's traces one page of HTML that needs nothing else: `celeriac report`.

Redis --gather--> Told --lanes, figures--> charts as plain values --page--> HTML, with plotly's script in it
"""

from producer.report.gather import JobFacts, gather
from producer.report.page import make_page

__all__ = ["JobFacts", "gather", "make_page"]
